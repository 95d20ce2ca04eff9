// SPDX-License-Identifier: GPL-2.0
/* parity: zoned devices: parameters, and what the server is told and may say. */
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <linux/blkzoned.h>
#include <linux/fs.h>
#include "parity.h"

#define FEATURES	(UBLK_F_USER_COPY | UBLK_F_ZONED)
#define ZONE		4096U
#define NR_ZONES	(DEV_SECTORS / ZONE)
/* so small that a report of all of them takes several requests */
#define SMALL_ZONE	64U
#define MAX_ZONES	(DEV_SECTORS / SMALL_ZONE)
#define POS(tag)	(UBLKSRV_IO_BUF_OFFSET + ((__u64)(tag) << UBLK_TAG_OFF))

static struct ublk_params zoned_params(void)
{
	struct ublk_params p = default_params();

	p.types |= UBLK_PARAM_TYPE_ZONED;
	p.basic.chunk_sectors = ZONE;
	p.zoned.max_zone_append_sectors = 8;
	return p;
}

static void param_case(int id, const struct ublk_params *p, const char *arg)
{
	struct ublk_params got = { .len = sizeof(got) };
	int res = set_params(id, p);

	ctrl_simple(id, UBLK_U_CMD_GET_PARAMS, &got, sizeof(got), 0);
	put("zoned", "SET_PARAMS", arg, "%s; types %x: %u %u %u %u %u", res_name(res),
	    got.types, got.basic.chunk_sectors, got.zoned.max_open_zones,
	    got.zoned.max_active_zones, got.zoned.max_zone_append_sectors,
	    got.zoned.reserved[19]);
}

#define CHANGE(id, ...) do {				\
	struct ublk_params p = zoned_params();		\
							\
	__VA_ARGS__;					\
	param_case(id, &p, #__VA_ARGS__);		\
} while (0)

static void params(const void *arg)
{
	static const unsigned int zones[] = { 0, 1, NR_ZONES - 1, NR_ZONES, NR_ZONES + 1,
					      INT_MAX, UINT_MAX };
	static const unsigned int chunk[] = { 0, 1, 3, 8, 4095, 4096, DEV_SECTORS,
					      2 * DEV_SECTORS, 1U << 31, UINT_MAX };
	struct ublk_params p;
	unsigned int i, j;
	int id = add(FEATURES);

	for (i = 0; i < ARRAY_SIZE(zones); i++) {
		for (j = 0; j < ARRAY_SIZE(zones); j++) {
			p = zoned_params();
			p.zoned.max_open_zones = zones[i];
			p.zoned.max_active_zones = zones[j];
			param_case(id, &p, str("open %u active %u", zones[i], zones[j]));
		}
	}
	for (i = 0; i < ARRAY_SIZE(chunk); i++) {
		p = zoned_params();
		p.basic.chunk_sectors = chunk[i];
		param_case(id, &p, str("chunk_sectors %u", chunk[i]));
		p.zoned.max_open_zones = 1;
		param_case(id, &p, str("chunk_sectors %u, one may be open", chunk[i]));
	}
	CHANGE(id, p.zoned.max_zone_append_sectors = 0);
	CHANGE(id, p.zoned.max_zone_append_sectors = ~0U);
	CHANGE(id, p.zoned.reserved[19] = 7);
	CHANGE(id, p.basic.dev_sectors = 0);
	CHANGE(id, p.basic.dev_sectors = ZONE - 1);
	CHANGE(id, p.basic.dev_sectors = ZONE + 1);
	CHANGE(id, p.types = UBLK_PARAM_TYPE_BASIC);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_DISCARD);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_DMA_ALIGN, p.dma.alignment = 511);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_DMA_ALIGN, p.dma.alignment = 512);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_SEGMENT);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_INTEGRITY);
	/* a device without the feature */
	id = add(UBLK_F_USER_COPY);
	CHANGE(id, p.basic.attrs = 0);
}

/* The zones as a server would have them */
static void fill(struct blk_zone *zones, unsigned int size)
{
	unsigned int i;

	memset(zones, 0, MAX_ZONES * sizeof(*zones));
	for (i = 0; i < DEV_SECTORS / size; i++) {
		zones[i].start = i * size;
		zones[i].wp = zones[i].start;
		zones[i].len = size;
		zones[i].capacity = size;
		zones[i].type = i ? BLK_ZONE_TYPE_SEQWRITE_REQ : BLK_ZONE_TYPE_CONVENTIONAL;
		zones[i].cond = i ? BLK_ZONE_COND_EMPTY : BLK_ZONE_COND_NOT_WP;
	}
}

static void spoil(struct blk_zone *zones, const char *how)
{
	if (!strcmp(how, "conventional last"))
		zones[NR_ZONES - 1].type = BLK_ZONE_TYPE_CONVENTIONAL;
	if (!strcmp(how, "len"))
		zones[2].len--;
	if (!strcmp(how, "gap"))
		zones[2].start++;
	if (!strcmp(how, "capacity 0"))
		zones[2].capacity = 0;
	if (!strcmp(how, "capacity too large"))
		zones[2].capacity++;
	if (!strcmp(how, "capacities differ"))
		zones[2].capacity--;
	if (!strcmp(how, "type 0"))
		zones[2].type = 0;
	if (!strcmp(how, "type 3"))
		zones[2].type = 3;
	if (!strcmp(how, "condition 5"))
		zones[2].cond = 5;
	if (!strcmp(how, "condition of another type"))
		zones[2].cond = BLK_ZONE_COND_NOT_WP;
	if (!strcmp(how, "full"))
		zones[2].cond = BLK_ZONE_COND_FULL;
	if (!strcmp(how, "offline"))
		zones[2].cond = BLK_ZONE_COND_OFFLINE;
	if (!strcmp(how, "closed")) {
		zones[2].cond = BLK_ZONE_COND_CLOSED;
		zones[2].wp += 8;
	}
	/* a zone without a length says that there are no more */
	if (!strcmp(how, "no zones"))
		zones[0].len = 0;
	if (!strcmp(how, "no more zones"))
		zones[2].len = 0;
}

/* Answer requests until the child has ended; its exit status */
static int serve(struct srv *s, pid_t pid, const char *how, unsigned int size)
{
	static struct blk_zone zones[MAX_ZONES];
	const struct ublksrv_io_desc *d;
	int status, tag, res;

	fill(zones, size);
	spoil(zones, how);
	while (waitpid(pid, &status, WNOHANG) != pid) {
		tag = srv_request(s, 20);
		if (tag < 0)
			continue;
		d = srv_desc(s, tag);
		res = 0;
		put("zoned", "descriptor", how, "op %x sectors %u at %llu addr %llx", d->op_flags,
		    d->nr_sectors, (unsigned long long)d->start_sector,
		    (unsigned long long)d->addr);
		if (ublksrv_get_op(d) == UBLK_IO_OP_REPORT_ZONES) {
			res = pwrite(s->cdev, zones + d->start_sector / size,
				     d->nr_sectors * sizeof(*zones), POS(tag));
			if (!strcmp(how, "error"))
				res = -EPERM;
		}
		srv_commit(s, tag, res);
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* START_DEV by a child */
static int start_served(struct srv *s, const char *how, unsigned int size)
{
	pid_t pid = fork();

	if (!pid)
		_exit(-start(s->id, getppid()));
	return serve(s, pid, how, size);
}

static void starts(const void *arg)
{
	struct ublk_params p = zoned_params();
	struct srv s;

	srv_open(&s, FEATURES, &p);
	srv_fetch(&s, 0, DEPTH);
	put("zoned", "START_DEV", arg, "%s", res_name(-start_served(&s, arg, ZONE)));
	put("zoned", "state", arg, "%s", dev_state(s.id));
}

static void manage(const void *arg)
{
	static const struct {
		const char *name;
		unsigned long cmd;
		unsigned int start, len;
	} ops[] = {
		{ "reset", BLKRESETZONE, ZONE, ZONE }, { "open", BLKOPENZONE, ZONE, ZONE },
		{ "close", BLKCLOSEZONE, ZONE, ZONE }, { "finish", BLKFINISHZONE, ZONE, 2 * ZONE },
		{ "reset all", BLKRESETZONE, 0, DEV_SECTORS }, { "open 1", BLKOPENZONE, 1, ZONE },
		{ "open half", BLKOPENZONE, ZONE, ZONE / 2 },
		{ "open too much", BLKOPENZONE, ZONE, DEV_SECTORS },
	};
	struct ublk_params p = zoned_params();
	struct srv s;
	unsigned int i;
	int res;

	srv_open(&s, FEATURES, &p);
	srv_fetch(&s, 0, DEPTH);
	res = start_served(&s, "", ZONE);
	if (res)
		give_up("START_DEV", -res);
	for (i = 0; i < ARRAY_SIZE(ops); i++) {
		struct blk_zone_range range = { ops[i].start, ops[i].len };
		pid_t pid = fork();

		if (!pid) {
			int fd = open(str("/dev/ublkb%d", s.id), O_RDWR);

			_exit(ioctl(fd, ops[i].cmd, &range) ? errno : 0);
		}
		put("zoned", "ioctl", ops[i].name, "%s",
		    res_name(-serve(&s, pid, ops[i].name, ZONE)));
	}
}

/* ERANGE unless each zone is in the report, and where it should be */
static int report_all(int id)
{
	struct blk_zone_report *r = calloc(1, sizeof(*r) + MAX_ZONES * sizeof(r->zones[0]));
	int fd = open(str("/dev/ublkb%d", id), O_RDONLY);
	unsigned int i, right = 0;

	if (!r || fd < 0)
		return errno;
	r->nr_zones = MAX_ZONES;
	if (ioctl(fd, BLKREPORTZONE, r))
		return errno;
	for (i = 0; i < r->nr_zones; i++)
		right += r->zones[i].start == i * SMALL_ZONE;
	return right == MAX_ZONES ? 0 : ERANGE;
}

static void reports(const void *arg)
{
	struct ublk_params p = zoned_params();
	struct srv s;
	pid_t pid;
	int res;

	p.basic.chunk_sectors = SMALL_ZONE;
	p.basic.max_sectors = 8;
	srv_open(&s, FEATURES, &p);
	srv_fetch(&s, 0, DEPTH);
	res = start_served(&s, "small", SMALL_ZONE);
	if (res)
		give_up("START_DEV", -res);
	pid = fork();
	if (!pid)
		_exit(report_all(s.id));
	put("zoned", "ioctl", "report of several requests", "%s",
	    res_name(-serve(&s, pid, "report", SMALL_ZONE)));
}

void group_zoned(void)
{
	static const char *const how[] = {
		"good", "error", "conventional last", "len", "gap", "capacity 0",
		"capacity too large", "capacities differ", "type 0", "type 3", "condition 5",
		"condition of another type", "full", "offline", "closed",
		"no zones", "no more zones",
	};
	unsigned int i;

	run("zoned params", params, NULL);
	for (i = 0; i < ARRAY_SIZE(how); i++)
		run("zoned start", starts, how[i]);
	run("zoned ops", manage, NULL);
	run("zoned reports", reports, NULL);
}
