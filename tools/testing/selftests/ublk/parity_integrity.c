// SPDX-License-Identifier: GPL-2.0
/* parity: integrity metadata: its parameters, and pread() and pwrite() of it. */
#include <linux/fs.h>
#include "parity.h"

#define FEATURES	(UBLK_F_USER_COPY | UBLK_F_INTEGRITY)
#define AT(tag, off)	((UBLKSRV_IO_BUF_OFFSET + ((__u64)(tag) << UBLK_TAG_OFF) + (off)) | \
			 UBLKSRV_IO_INTEGRITY_FLAG)

static int err(long res)
{
	return res < 0 ? -errno : (int)res;
}

static struct ublk_params with(int csum, unsigned int flags, int size, int offset)
{
	struct ublk_params p = default_params();

	p.types |= UBLK_PARAM_TYPE_INTEGRITY;
	p.integrity.csum_type = csum;
	p.integrity.flags = flags;
	p.integrity.metadata_size = size;
	p.integrity.pi_offset = offset;
	p.integrity.interval_exp = 9;
	return p;
}

static void param_case(int id, const struct ublk_params *p, const char *arg)
{
	struct ublk_params got = { .len = sizeof(got) };
	const struct ublk_param_integrity *i = &got.integrity;
	int res = set_params(id, p);

	ctrl_simple(id, UBLK_U_CMD_GET_PARAMS, &got, sizeof(got), 0);
	put("integrity", "SET_PARAMS", arg, "%s; types %x: %x %u %u %u %u %u %u %u",
	    res_name(res), got.types, i->flags, i->max_integrity_segments, i->interval_exp,
	    i->metadata_size, i->pi_offset, i->csum_type, i->tag_size, i->pad[4]);
}

static void params(const void *arg)
{
	static const unsigned char csum[] = { 0, 1, 2, 3, 4, 5, 255 };
	static const unsigned int flags[] = { 0, 1, 2, 3, 4, 1U << 31 };
	static const unsigned char size[] = { 0, 1, 7, 8, 15, 16, 64, 255 };
	static const unsigned char offset[] = { 0, 1, 8, 48, 56, 239, 247, 255 };
	static const unsigned char interval[] = { 0, 8, 9, 10, 12, 13, 31, 32, 255 };
	static const unsigned char block[] = { 9, 12 };
	int id = add(FEATURES);
	struct ublk_params p;
	unsigned int c, i, j;

	for (c = 0; c < ARRAY_SIZE(csum); c++) {
		for (i = 0; i < ARRAY_SIZE(flags); i++) {
			p = with(csum[c], flags[i], 64, 0);
			param_case(id, &p, str("csum %u flags %x", csum[c], flags[i]));
		}
		for (i = 0; i < ARRAY_SIZE(size); i++) {
			for (j = 0; j < ARRAY_SIZE(offset); j++) {
				p = with(csum[c], 0, size[i], offset[j]);
				param_case(id, &p, str("csum %u size %u offset %u", csum[c],
						       size[i], offset[j]));
			}
		}
	}
	for (i = 0; i < ARRAY_SIZE(interval); i++) {
		for (j = 0; j < ARRAY_SIZE(block); j++) {
			p = with(0, 0, 8, 0);
			p.integrity.interval_exp = interval[i];
			p.basic.logical_bs_shift = block[j];
			param_case(id, &p, str("interval %u block %u", interval[i], block[j]));
		}
	}
	p = with(0, 0, 8, 0);
	p.integrity.tag_size = 255;
	p.integrity.max_integrity_segments = 65535;
	p.integrity.pad[4] = 7;
	param_case(id, &p, "tag size, segments, padding");
	p.types &= ~UBLK_PARAM_TYPE_INTEGRITY;
	p.integrity.csum_type = 99;
	param_case(id, &p, "type not set");
	/* a device without the feature, which may have been asked for */
	id = add(UBLK_F_USER_COPY);
	p = with(0, 0, 8, 0);
	param_case(id, &p, "without the feature");
}

/* What the block layer makes of the parameters */
static const struct kind {
	const char *name;
	unsigned char csum, size, offset, interval, block;
	unsigned int flags, segments, tag_size, virt_boundary;
} kinds[] = {
	{ "none", 0, 8, 0, 9, 9 }, { "none 255", 0, 255, 0, 9, 12 }, { "none 1", 0, 1, 1, 12, 12 },
	{ "capable", 0, 8, 0, 9, 9, 1 }, { "ip", 1, 8, 0, 9, 9, 2 },
	{ "ip 64", 1, 64, 56, 9, 9, 3 },
	{ "crc", 2, 8, 0, 9, 9, 2 }, { "crc type 3", 2, 16, 4, 9, 9, 0, 1, 2 },
	{ "crc 4k", 2, 8, 0, 12, 12, 2 }, { "crc64", 4, 16, 0, 9, 9, 2 },
	{ "crc64 tags", 4, 64, 48, 9, 9, 0, 65535, 255 },
	{ "boundary", 2, 8, 0, 9, 9, 2, 0, 0, 4095 },
};

static struct ublk_params kind_params(const struct kind *k)
{
	struct ublk_params p = with(k->csum, k->flags, k->size, k->offset);

	p.integrity.interval_exp = k->interval;
	p.integrity.max_integrity_segments = k->segments;
	p.integrity.tag_size = k->tag_size;
	p.basic.logical_bs_shift = k->block;
	p.basic.virt_boundary_mask = k->virt_boundary;
	return p;
}

static void starts(const void *arg)
{
	static const char *const files[] = {
		"integrity/format", "integrity/tag_size", "integrity/read_verify",
		"integrity/write_generate", "integrity/protection_interval_bytes",
		"integrity/device_is_integrity_capable", "queue/max_integrity_segments",
		"queue/max_sectors_kb", "queue/max_hw_sectors_kb", "queue/dma_alignment",
		"queue/stable_writes", "queue/max_segments",
	};
	const struct kind *k = arg;
	struct ublk_params p = kind_params(k);
	struct srv s;
	unsigned int i;
	int res;

	srv_open(&s, FEATURES, &p);
	srv_fetch(&s, 0, DEPTH);
	res = start(s.id, getpid());
	put(k->name, "START_DEV", "", "%s", res_name(res));
	for (i = 0; i < ARRAY_SIZE(files); i++) {
		int fd = open(str("/sys/block/ublkb%d/%s", s.id, files[i]), O_RDONLY);
		char text[64] = "";

		if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
			strcpy(text, res_name(-errno));
		text[strcspn(text, "\n")] = 0;
		put(k->name, "sysfs", files[i], "%s", text);
		close(fd);
	}
}

struct copy {
	const char *name;
	__u64 flags;
	bool metadata;
	enum block_op op;
};

static void copies(const void *arg)
{
	const struct copy *c = arg;
	struct ublk_params p = c->metadata ? with(0, 0, 24, 0) : default_params();
	/* a request of 16 intervals */
	static const struct {
		const char *name;
		unsigned int off, len;
	} at[] = {
		{ "all", 0, 384 }, { "half", 192, 192 }, { "too much", 192, 384 },
		{ "nothing", 0, 0 }, { "5 bytes at 21", 21, 5 }, { "1 byte at the end", 383, 1 },
		{ "from the end", 384, 8 }, { "behind the end", 385, 8 },
		{ "where data is", 4096, 8 }, { "last offset", (1 << 25) - 1, 8 },
	};
	char buf[512];
	struct blk_io io;
	unsigned int i;
	struct srv s;
	int own;

	p.types |= UBLK_PARAM_TYPE_DISCARD;
	p.discard.discard_granularity = 4096;
	p.discard.max_discard_sectors = 2048;
	p.discard.max_discard_segments = 1;
	srv_live(&s, c->flags, &p);
	put(c->name, "pread", "idle", "%s", res_name(err(pread(s.cdev, buf, 8, AT(0, 0)))));
	block_start(&io, s.id, c->op, 8, c->op == B_FLUSH ? 0 : 8192);
	own = srv_request(&s, 5000);
	if (own < 0)
		give_up("no request", block_wait(&io, 0));
	put(c->name, "descriptor", "", "%x", srv_desc(&s, own)->op_flags);
	memset(buf, 0, sizeof(buf));
	for (i = 0; i < ARRAY_SIZE(at); i++) {
		memset(buf, 0, sizeof(buf));
		put(c->name, "pread", at[i].name, "%s",
		    res_name(err(pread(s.cdev, buf, at[i].len, AT(own, at[i].off)))));
		put(c->name, "pwrite", at[i].name, "%s",
		    res_name(err(pwrite(s.cdev, buf, at[i].len, AT(own, at[i].off)))));
	}
	put(c->name, "pread", "other tag", "%s",
	    res_name(err(pread(s.cdev, buf, 8, AT(!own, 0)))));
	put(c->name, "pread", "tag = depth", "%s",
	    res_name(err(pread(s.cdev, buf, 8, AT(DEPTH, 0)))));
	put(c->name, "pread", "bad buffer", "%s",
	    res_name(err(pread(s.cdev, BAD_ADDR, 8, AT(own, 0)))));
	put(c->name, "pwrite", "bad buffer", "%s",
	    res_name(err(pwrite(s.cdev, BAD_ADDR, 8, AT(own, 0)))));
	srv_commit(&s, own, 8192);
	put(c->name, "end", "", "%s", res_name(block_wait(&io, 1000)));
	s.owned[own] = false;
	put(c->name, "pread", "after the end", "%s",
	    res_name(err(pread(s.cdev, buf, 8, AT(own, 0)))));
	ctrl_simple(s.id, UBLK_U_CMD_STOP_DEV, NULL, 0, 0);
	put(c->name, "pread", "stopped", "%s",
	    res_name(err(pread(s.cdev, buf, 8, AT(own, 0)))));
}

void group_integrity(void)
{
	static const struct copy copy[] = {
		{ "metadata, READ", FEATURES, true, B_READ },
		{ "metadata, WRITE", FEATURES, true, B_WRITE },
		{ "metadata, FLUSH", FEATURES, true, B_FLUSH },
		{ "metadata, DISCARD", FEATURES, true, B_DISCARD },
		{ "metadata and zero copy, WRITE", FEATURES | UBLK_F_SUPPORT_ZERO_COPY, true,
		  B_WRITE },
		{ "metadata and auto, READ", FEATURES | UBLK_F_AUTO_BUF_REG, true, B_READ },
		{ "no metadata, READ", FEATURES, false, B_READ },
		{ "no metadata, WRITE", FEATURES, false, B_WRITE },
		{ "no metadata, FLUSH", FEATURES, false, B_FLUSH },
		{ "no integrity, WRITE", UBLK_F_USER_COPY, false, B_WRITE },
	};
	unsigned int i;

	run("integrity parameters", params, NULL);
	for (i = 0; i < ARRAY_SIZE(kinds); i++)
		run(kinds[i].name, starts, &kinds[i]);
	for (i = 0; i < ARRAY_SIZE(copy); i++)
		run(copy[i].name, copies, &copy[i]);
}
