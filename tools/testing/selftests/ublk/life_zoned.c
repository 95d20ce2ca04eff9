// SPDX-License-Identifier: GPL-2.0
/*
 * life_zoned: a server of a zoned disk is asked for the zones, when the device
 * starts, when its size changes and when somebody wants to know, and answers
 * nonsense or not at all.
 */
#include <signal.h>
#include <time.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <linux/blkzoned.h>
#include <linux/fs.h>
#include <linux/nvme_ioctl.h>
#include "life.h"
#include "kselftest_harness.h"

/* more zones than the driver asks for at once; the last one is half of one */
#define ZONE		16ULL
#define NR_ZONES	2500
#define SECTORS		(ZONE * NR_ZONES - ZONE / 2)
#define NR_CONV		2
/* of a disk that an NVMe namespace can be: all zones are alike */
#define NR_EQUAL	8

/* What the server does about a question */
enum answer {
	RIGHT,
	SILENCE,		/* nothing: who asks waits */
	ERROR,
	NOTHING,		/* no zone */
	ONE_LESS,		/* not the last zone */
	MANY,			/* what fits in the request, not only what was asked for */
	BAD_START,
	BAD_LEN,
	BAD_CAPACITY,
	BAD_WP,
	BAD_TYPE,
	BAD_COND,
	ALL_CONV,
};

struct zoned {
	struct srv s;
	struct blk_zone *zones;
	unsigned int nr_zones;
	char *data;
	enum answer answer;
	int questions;
	/* what the server adds to where it says it has appended */
	__u64 lie;
};

static struct ublk_params zoned_params(void)
{
	struct ublk_params p = default_params();

	p.types |= UBLK_PARAM_TYPE_ZONED;
	p.basic.chunk_sectors = ZONE;
	p.basic.dev_sectors = SECTORS;
	p.zoned.max_zone_append_sectors = ZONE;
	return p;
}

static void fill_zones(struct zoned *z, __u64 sectors, unsigned int nr_conv)
{
	unsigned int i;

	z->nr_zones = (sectors + ZONE - 1) / ZONE;
	free(z->zones);
	z->zones = calloc(z->nr_zones, sizeof(*z->zones));
	if (!z->zones)
		give_up("memory", -ENOMEM);
	for (i = 0; i < z->nr_zones; i++) {
		struct blk_zone *zone = &z->zones[i];

		zone->start = i * ZONE;
		zone->len = sectors - zone->start < ZONE ? sectors - zone->start : ZONE;
		zone->capacity = zone->len;
		zone->wp = zone->start;
		zone->type = BLK_ZONE_TYPE_SEQWRITE_REQ;
		zone->cond = BLK_ZONE_COND_EMPTY;
		if (i < nr_conv) {
			zone->type = BLK_ZONE_TYPE_CONVENTIONAL;
			zone->cond = BLK_ZONE_COND_NOT_WP;
		}
	}
}

static void zoned_open(struct zoned *z, __u64 flags, bool equal)
{
	struct ublk_params p = zoned_params();

	memset(z, 0, sizeof(*z));
	if (equal)
		p.basic.dev_sectors = NR_EQUAL * ZONE;
	fill_zones(z, p.basic.dev_sectors, equal ? 0 : NR_CONV);
	z->data = calloc(SECTORS, 1024);
	if (!z->data)
		give_up("memory", -ENOMEM);
	srv_open(&z->s, UBLK_F_ZONED | UBLK_F_USER_COPY | UBLK_F_UPDATE_SIZE | flags, &p);
	srv_fetch(&z->s, 0, z->s.depth);
}

static void zoned_free(struct zoned *z)
{
	free(z->zones);
	free(z->data);
}

static off_t pos_of(int tag)
{
	return UBLKSRV_IO_BUF_OFFSET + ((__u64)tag << UBLK_TAG_OFF);
}

/* Let the question be about the zones from @first on: spoil the third one */
static void spoil(struct zoned *z, struct blk_zone *zones, unsigned int nr)
{
	struct blk_zone *bad = &zones[2];
	unsigned int i;

	if (nr < 4)
		return;
	switch (z->answer) {
	case BAD_START:
		/* far behind the end of whatever the kernel keeps about zones */
		bad->start = ZONE << 40;
		break;
	case BAD_LEN:
		bad->len++;
		break;
	case BAD_CAPACITY:
		bad->capacity = bad->len + 1;
		break;
	case BAD_WP:
		/* 32 bits of it look right */
		bad->cond = BLK_ZONE_COND_CLOSED;
		bad->wp = bad->start + 1 + (1ULL << 32);
		break;
	case BAD_TYPE:
		bad->type = 0x77;
		break;
	case BAD_COND:
		bad->cond = 5;
		break;
	case ALL_CONV:
		for (i = 0; i < nr; i++) {
			zones[i].type = BLK_ZONE_TYPE_CONVENTIONAL;
			zones[i].cond = BLK_ZONE_COND_NOT_WP;
		}
		break;
	default:
		break;
	}
}

/* What the server answers to a question; false if it does not answer */
static bool answer(struct zoned *z, int tag)
{
	const struct ublksrv_io_desc *d = srv_desc(&z->s, tag);
	unsigned int first = d->start_sector / ZONE, nr = d->nr_sectors, room = nr;
	struct blk_zone *zones;
	ssize_t len;

	z->questions++;
	switch (z->answer) {
	case SILENCE:
		return false;
	case ERROR:
		srv_commit(&z->s, tag, -ENOSPC);
		return true;
	case NOTHING:
		srv_commit(&z->s, tag, 0);
		return true;
	case MANY:
		room = 2 * nr + 64;
		break;
	default:
		break;
	}
	if (first >= z->nr_zones || nr > z->nr_zones - first || !nr)
		give_up("asked for zones that there are not", nr);
	if (z->answer == ONE_LESS && first + nr == z->nr_zones)
		nr--;
	zones = calloc(room, sizeof(*zones));
	if (!zones)
		give_up("memory", -ENOMEM);
	memcpy(zones, z->zones + first, nr * sizeof(*zones));
	if (z->answer == MANY)
		memset(zones + nr, 0xff, (room - nr) * sizeof(*zones));
	spoil(z, zones, nr);
	len = pwrite(z->s.cdev, zones, room * sizeof(*zones), pos_of(tag));
	free(zones);
	if (len < (ssize_t)(nr * sizeof(*zones)))
		give_up("pwrite", len < 0 ? -errno : (int)len);
	srv_commit(&z->s, tag, len);
	return true;
}

static int write_zone(struct zoned *z, int tag, const struct ublksrv_io_desc *d)
{
	struct blk_zone *zone = &z->zones[d->start_sector / ZONE];
	int bytes = d->nr_sectors << 9;

	if (pread(z->s.cdev, z->data + (d->start_sector << 9), bytes, pos_of(tag)) != bytes)
		return -EIO;
	if (zone->type == BLK_ZONE_TYPE_CONVENTIONAL)
		return bytes;
	if (d->start_sector != zone->wp)
		return -EIO;
	zone->wp += d->nr_sectors;
	zone->cond = zone->wp == zone->start + zone->len ? BLK_ZONE_COND_FULL :
		     BLK_ZONE_COND_IMP_OPEN;
	return bytes;
}

/* Append; where that was goes to @at */
static int append(struct zoned *z, int tag, const struct ublksrv_io_desc *d, __u64 *at)
{
	struct ublksrv_io_desc there = *d;

	there.start_sector = z->zones[d->start_sector / ZONE].wp;
	*at = there.start_sector + z->lie;
	return write_zone(z, tag, &there);
}

/* Commit an append */
static void commit_append(struct zoned *z, int tag)
{
	struct io io = {
		.op = UBLK_U_IO_COMMIT_AND_FETCH_REQ,
		.tag = tag,
	};
	__u64 at;
	int res;

	io.result = append(z, tag, srv_desc(&z->s, tag), &at);
	io.addr = at;
	/* 0: there is the next request already */
	res = srv_do(&z->s, &io);
	if (res != BLOCKS && res)
		give_up("COMMIT of an append", res);
}

static void set_zone(struct blk_zone *zone, int cond)
{
	if (zone->type == BLK_ZONE_TYPE_CONVENTIONAL)
		return;
	zone->cond = cond;
	if (cond == BLK_ZONE_COND_EMPTY)
		zone->wp = zone->start;
	if (cond == BLK_ZONE_COND_FULL)
		zone->wp = zone->start + zone->len;
}

/* Serve one request; false if it is not answered */
static bool serve_one(struct zoned *z, int tag)
{
	const struct ublksrv_io_desc *d = srv_desc(&z->s, tag);
	unsigned int op = ublksrv_get_op(d), i;
	int bytes = d->nr_sectors << 9, res = 0;
	struct blk_zone *zone;

	if (op == UBLK_IO_OP_REPORT_ZONES)
		return answer(z, tag);
	/* a flush is of no sector */
	if (op != UBLK_IO_OP_FLUSH && d->start_sector >= SECTORS)
		give_up("behind the end of the disk", 0);
	zone = op == UBLK_IO_OP_FLUSH ? NULL : &z->zones[d->start_sector / ZONE];
	switch (op) {
	case UBLK_IO_OP_READ:
		res = pwrite(z->s.cdev, z->data + (d->start_sector << 9), bytes, pos_of(tag));
		break;
	case UBLK_IO_OP_WRITE:
		res = write_zone(z, tag, d);
		break;
	case UBLK_IO_OP_ZONE_APPEND:
		commit_append(z, tag);
		return true;
	case UBLK_IO_OP_ZONE_OPEN:
		set_zone(zone, BLK_ZONE_COND_EXP_OPEN);
		break;
	case UBLK_IO_OP_ZONE_CLOSE:
		set_zone(zone, BLK_ZONE_COND_CLOSED);
		break;
	case UBLK_IO_OP_ZONE_FINISH:
		set_zone(zone, BLK_ZONE_COND_FULL);
		break;
	case UBLK_IO_OP_ZONE_RESET:
		set_zone(zone, BLK_ZONE_COND_EMPTY);
		break;
	case UBLK_IO_OP_ZONE_RESET_ALL:
		for (i = 0; i < z->nr_zones; i++)
			set_zone(&z->zones[i], BLK_ZONE_COND_EMPTY);
		break;
	case UBLK_IO_OP_FLUSH:
		break;
	default:
		res = -EOPNOTSUPP;
	}
	srv_commit(&z->s, tag, res);
	return true;
}

/* Serve until the child ends; its exit status */
static int zoned_serve(struct zoned *z, pid_t pid)
{
	int status, tag;

	while (waitpid(pid, &status, WNOHANG) != pid) {
		tag = srv_request(&z->s, 20);
		/* one that is kept is not looked at again */
		if (tag >= 0 && !serve_one(z, tag))
			z->s.owned[tag] = false;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Wait until the server is asked */
static int zoned_asked(struct zoned *z)
{
	int tag;

	while ((tag = srv_request(&z->s, 1000)) < 0)
		;
	if (ublksrv_get_op(srv_desc(&z->s, tag)) != UBLK_IO_OP_REPORT_ZONES)
		give_up("not a question for zones", 0);
	return tag;
}

/* A child that sends one control command and exits with what it returned */
static pid_t command(int id, __u32 op, __u64 data)
{
	pid_t pid = child();

	if (pid)
		return pid;
	_exit(-ctrl_simple(id, op, NULL, 0, data));
}

/* The same for UPDATE_SIZE, as soon as nobody, for instance udev, has the disk open */
static pid_t resize(int id, __u64 sectors)
{
	pid_t pid = child();
	int res;

	if (pid)
		return pid;
	do {
		res = ctrl_simple(id, UBLK_U_CMD_UPDATE_SIZE, NULL, 0, sectors);
	} while (res == -EBUSY && !usleep(1000));
	_exit(-res);
}

static int zoned_start(struct zoned *z)
{
	return zoned_serve(z, command(z->s.id, UBLK_U_CMD_START_DEV, getpid()));
}

/* An NVMe namespace that is the disk: nobody else can append -------------------- */

#define NVMET	"/sys/kernel/config/nvmet/"
#define NQN	"ublk-zoned"
#define FABRIC	"transport=loop,nqn=" NQN

static bool put_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return done;
}

/* The number of our controller, or -1 */
static int nvme_number(void)
{
	int fd, nr;

	for (nr = 0; nr < 64; nr++) {
		char text[8] = "";

		fd = open(str("/sys/class/nvme/nvme%d/transport", nr), O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		if (read(fd, text, sizeof(text) - 1) > 0 && !strncmp(text, "loop", 4)) {
			close(fd);
			return nr;
		}
		close(fd);
	}
	return -1;
}

static void nvme_remove(void)
{
	int nr = nvme_number();

	if (nr >= 0)
		put_file(str("/sys/class/nvme/nvme%d/delete_controller", nr), "1");
	unlink(NVMET "ports/77/subsystems/" NQN);
	put_file(NVMET "subsystems/" NQN "/namespaces/1/enable", "0");
	rmdir(NVMET "subsystems/" NQN "/namespaces/1");
	rmdir(NVMET "subsystems/" NQN);
	rmdir(NVMET "ports/77");
}

FIXTURE(zoned) {
	struct zoned z;
};

FIXTURE_SETUP(zoned)
{
	__u64 features = 0;

	memset(&self->z, 0, sizeof(self->z));
	self->z.s.id = -1;
	if (why_not())
		SKIP(return, "%s", why_not());
	ASSERT_EQ(0, ctrl_simple(-1, UBLK_U_CMD_GET_FEATURES, &features, sizeof(features), 0));
	if (!(features & UBLK_F_ZONED))
		SKIP(return, "no zoned devices");
	/* of a test that has failed */
	nvme_remove();
	zoned_open(&self->z, 0, false);
}

FIXTURE_TEARDOWN(zoned)
{
	if (self->z.s.id < 0)
		return;
	if (self->z.s.cdev >= 0)
		srv_close(&self->z.s);
	EXPECT_EQ(0, delete_dev(self->z.s.id));
	zoned_free(&self->z);
}

/* In a child: what is asked of the disk */
static pid_t user(struct zoned *z, int (*use)(int fd, struct zoned *z))
{
	pid_t pid = child();
	int fd;

	if (pid)
		return pid;
	fd = open(str("/dev/ublkb%d", z->s.id), O_RDWR | O_CLOEXEC);
	if (fd < 0)
		_exit(100);
	_exit(use(fd, z));
}

/* All zones from @first on, in one go: how many, or an error */
static int report(int fd, struct blk_zone_report *rep, __u64 sector, unsigned int nr)
{
	rep->sector = sector;
	rep->nr_zones = nr;
	return ioctl(fd, BLKREPORTZONE, rep) ? -errno : (int)rep->nr_zones;
}

static struct blk_zone_report *report_of(unsigned int nr)
{
	struct blk_zone_report *rep = calloc(1, sizeof(*rep) + nr * sizeof(rep->zones[0]));

	if (!rep)
		give_up("memory", -ENOMEM);
	return rep;
}

/* A child says what did not hold */
static void need(bool holds, int line)
{
	if (holds)
		return;
	printf("# life_zoned.c:%d: %s\n", line, strerror(errno));
	fflush(stdout);
	_exit(101);
}

#define NEED(cond)	need(cond, __LINE__)

static int all_zones(int fd, struct zoned *z)
{
	struct blk_zone_report *rep = report_of(NR_ZONES + 9);
	__u32 n = 0;

	NEED(!ioctl(fd, BLKGETNRZONES, &n) && n == NR_ZONES);
	NEED(!ioctl(fd, BLKGETZONESZ, &n) && n == ZONE);
	NEED(report(fd, rep, 0, NR_ZONES + 9) == NR_ZONES);
	NEED(!memcmp(rep->zones, z->zones, NR_ZONES * sizeof(rep->zones[0])));
	/* in the middle of a zone */
	NEED(report(fd, rep, 5 * ZONE + 3, 7) == 7);
	NEED(!memcmp(rep->zones, z->zones + 5, 7 * sizeof(rep->zones[0])));
	NEED(report(fd, rep, SECTORS - 1, 7) == 1);
	NEED(report(fd, rep, SECTORS, 7) == 0);
	return 0;
}

static int manage_zones(int fd, struct zoned *z)
{
	struct blk_zone_range two = { .sector = 4 * ZONE, .nr_sectors = 2 * ZONE };
	struct blk_zone_range all = { .nr_sectors = SECTORS };
	struct blk_zone_report *rep = report_of(10);
	char *buf = aligned_alloc(4096, 4096);

	NEED(buf);
	memset(buf, 0x42, 4096);
	NEED(!ioctl(fd, BLKOPENZONE, &two));
	NEED(report(fd, rep, 0, 8) == 8);
	NEED(rep->zones[4].cond == BLK_ZONE_COND_EXP_OPEN);
	NEED(rep->zones[3].cond == BLK_ZONE_COND_EMPTY);
	NEED(!ioctl(fd, BLKCLOSEZONE, &two));
	NEED(!ioctl(fd, BLKFINISHZONE, &two));
	NEED(report(fd, rep, 0, 8) == 8);
	NEED(rep->zones[5].cond == BLK_ZONE_COND_FULL);
	NEED(!ioctl(fd, BLKRESETZONE, &two));
	NEED(pwrite(fd, buf, 4096, 4 * ZONE << 9) == 4096);
	NEED(!fsync(fd));
	NEED(report(fd, rep, 0, 8) == 8);
	NEED(rep->zones[4].cond == BLK_ZONE_COND_IMP_OPEN);
	NEED(rep->zones[4].wp == 4 * ZONE + 8);
	/* conventional zones are written anywhere */
	NEED(pwrite(fd, buf, 4096, 8 << 9) == 4096);
	NEED(!fsync(fd));
	NEED(!ioctl(fd, BLKRESETZONE, &all));
	NEED(report(fd, rep, 0, 8) == 8);
	NEED(rep->zones[0].cond == BLK_ZONE_COND_NOT_WP);
	NEED(rep->zones[4].cond == BLK_ZONE_COND_EMPTY);
	return 0;
}

TEST_F_TIMEOUT(zoned, zones_are_known_and_managed, 120)
{
	ASSERT_EQ(0, zoned_start(&self->z));
	EXPECT_LT(1, self->z.questions);
	EXPECT_EQ(0, zoned_serve(&self->z, user(&self->z, all_zones)));
	EXPECT_EQ(0, zoned_serve(&self->z, user(&self->z, manage_zones)));
	self->z.answer = MANY;
	EXPECT_EQ(0, zoned_serve(&self->z, user(&self->z, all_zones)));
}

static int ask(int fd, struct zoned *z)
{
	return -report(fd, report_of(NR_ZONES), 0, NR_ZONES);
}

/* A user of the disk never sees nonsense, nor does the kernel believe it */
TEST_F_TIMEOUT(zoned, nonsense_is_an_error, 120)
{
	static const struct {
		enum answer answer;
		int start, user;
	} cases[] = {
		{ ERROR, ENOSPC, ENOSPC },
		{ NOTHING, ENODEV, 0 },
		{ ONE_LESS, ENODEV, 0 },
		{ BAD_START, ENODEV, ENODEV },
		{ BAD_LEN, ENODEV, ENODEV },
		{ BAD_CAPACITY, ENODEV, ENODEV },
		{ BAD_WP, ENODEV, ENODEV },
		{ BAD_TYPE, ENODEV, ENODEV },
		{ BAD_COND, ENODEV, ENODEV },
		{ ALL_CONV, ENODEV, 0 },
	};
	struct zoned *z = &self->z;
	unsigned int i;
	int res;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		z->answer = cases[i].answer;
		EXPECT_EQ(cases[i].start, zoned_start(z))
			TH_LOG("answer %d", cases[i].answer);
		EXPECT_STREQ("DEAD", dev_state(z->s.id));
	}
	/* it may be tried again */
	z->answer = RIGHT;
	ASSERT_EQ(0, zoned_start(z));
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		z->answer = cases[i].answer;
		res = zoned_serve(z, user(z, ask));
		/* less than all is no error, but it is less */
		if (cases[i].user)
			EXPECT_EQ(cases[i].user, res) TH_LOG("answer %d", cases[i].answer);
	}
	z->answer = RIGHT;
	EXPECT_EQ(0, zoned_serve(z, user(z, all_zones)));
}

TEST_F_TIMEOUT(zoned, size_changes_while_closed, 120)
{
	struct zoned *z = &self->z;
	const __u64 sectors = SECTORS / 2 / ZONE * ZONE;
	int id = z->s.id, fd;
	__u64 bytes = 0;

	ASSERT_EQ(0, zoned_start(z));
	fd = open(str("/dev/ublkb%d", id), O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, fd);
	z->questions = 0;
	EXPECT_EQ(EBUSY, zoned_serve(z, command(id, UBLK_U_CMD_UPDATE_SIZE, sectors)));
	EXPECT_EQ(0, z->questions);
	close(fd);

	fill_zones(z, sectors, NR_CONV);
	EXPECT_EQ(0, zoned_serve(z, resize(id, sectors)));
	fd = open(str("/dev/ublkb%d", id), O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, fd);
	EXPECT_EQ(0, ioctl(fd, BLKGETSIZE64, &bytes));
	EXPECT_EQ(sectors << 9, bytes);
	close(fd);

	/* without zones there is nothing to read or write */
	z->answer = BAD_LEN;
	EXPECT_EQ(ENODEV, zoned_serve(z, resize(id, sectors)));
	fd = open(str("/dev/ublkb%d", id), O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, fd);
	EXPECT_EQ(0, ioctl(fd, BLKGETSIZE64, &bytes));
	EXPECT_EQ(0, bytes);
	close(fd);

	z->answer = RIGHT;
	fill_zones(z, SECTORS, NR_CONV);
	EXPECT_EQ(0, zoned_serve(z, resize(id, SECTORS)));
	EXPECT_EQ(0, zoned_serve(z, user(z, all_zones)));
}

/* Appends ------------------------------------------------------------------- */

static int clean_up(int fd, struct zoned *z)
{
	close(fd);
	nvme_remove();
	return 0;
}

/* The namespace, or -1 */
static int nvme_open(int id)
{
	int i, fd;

	if (mkdir(NVMET "subsystems/" NQN, 0755) ||
	    !put_file(NVMET "subsystems/" NQN "/attr_allow_any_host", "1") ||
	    mkdir(NVMET "subsystems/" NQN "/namespaces/1", 0755) ||
	    !put_file(NVMET "subsystems/" NQN "/namespaces/1/device_path",
		      str("/dev/ublkb%d", id)) ||
	    !put_file(NVMET "subsystems/" NQN "/namespaces/1/enable", "1") ||
	    mkdir(NVMET "ports/77", 0755) ||
	    !put_file(NVMET "ports/77/addr_trtype", "loop") ||
	    symlink(NVMET "subsystems/" NQN, NVMET "ports/77/subsystems/" NQN))
		return -1;
	fd = open("/dev/nvme-fabrics", O_RDWR | O_CLOEXEC);
	if (fd < 0 || write(fd, FABRIC, strlen(FABRIC)) < 0)
		return -1;
	close(fd);
	for (i = 0; i < 1000; i++) {
		/* appends pass the page cache by, and somebody may have filled it */
		fd = open(str("/dev/nvme%dn1", nvme_number()), O_RDWR | O_DIRECT | O_CLOEXEC);
		if (fd >= 0)
			return fd;
		usleep(10000);
	}
	return -1;
}

/* Append a block to zone @zno: the status, and where it was */
static int nvme_append(int fd, unsigned int zno, void *buf, __u64 *at)
{
	struct nvme_passthru_cmd64 cmd = {
		.opcode = 0x7d,
		.nsid = 1,
		.addr = (unsigned long)buf,
		.data_len = 4096,
		.cdw10 = zno * ZONE,
		.cdw12 = 4096 / 512 - 1,
	};
	int res = ioctl(fd, NVME_IOCTL_IO64_CMD, &cmd);

	*at = cmd.result;
	return res;
}

static int append_some(int fd, struct zoned *z)
{
	char *buf = aligned_alloc(4096, 4096), *got = aligned_alloc(4096, 4096);
	int nvme;
	__u64 at;

	NEED(buf && got);
	close(fd);
	nvme = nvme_open(z->s.id);
	NEED(nvme >= 0);
	memset(buf, 0x11, 4096);
	NEED(!nvme_append(nvme, 3, buf, &at) && at == 3 * ZONE);
	memset(buf, 0x22, 4096);
	NEED(!nvme_append(nvme, 3, buf, &at) && at == 3 * ZONE + 8);
	NEED(pread(nvme, got, 4096, at << 9) == 4096);
	NEED(!memcmp(buf, got, 4096));
	/* the zone is full */
	NEED(nvme_append(nvme, 3, buf, &at));
	NEED(!nvme_append(nvme, 0, buf, &at) && at == 0);
	return 0;
}

static int append_to_liar(int fd, struct zoned *z)
{
	char *buf = aligned_alloc(4096, 4096);
	int nvme;
	__u64 at;

	NEED(buf);
	close(fd);
	nvme = nvme_open(z->s.id);
	NEED(nvme >= 0);
	NEED(nvme_append(nvme, 3, buf, &at));
	return 0;
}

TEST_F_TIMEOUT(zoned, appends_say_where, 120)
{
	static const __u64 lies[] = { ZONE, -ZONE, 9, 1ULL << 40, -1ULL };
	struct zoned *z = &self->z;
	unsigned int i;

	if (access(NVMET, F_OK))
		SKIP(return, "no NVMe target");
	srv_close(&z->s);
	ASSERT_EQ(0, delete_dev(z->s.id));
	zoned_free(z);
	zoned_open(z, 0, true);
	ASSERT_EQ(0, zoned_start(z));
	EXPECT_EQ(0, zoned_serve(z, user(z, append_some)));
	zoned_serve(z, user(z, clean_up));
	for (i = 0; i < ARRAY_SIZE(lies); i++) {
		z->lie = lies[i];
		fill_zones(z, NR_EQUAL * ZONE, 0);
		EXPECT_EQ(0, zoned_serve(z, user(z, append_to_liar))) TH_LOG("lie %u", i);
		zoned_serve(z, user(z, clean_up));
	}
}

/* Deaths -------------------------------------------------------------------- */

enum end {
	SERVER_KILLED,		/* START_DEV is sent by somebody else */
	SERVER_KILLS_ITSELF,	/* START_DEV is sent by a worker of its own */
	STOPPED,		/* by STOP_DEV, and the server is there */
	DELETED,		/* by DEL_DEV, likewise */
};

FIXTURE(zoned_end) {
	int id;
};

FIXTURE_VARIANT(zoned_end) {
	enum end end;
	__u64 flags;
	bool resize;		/* not in START_DEV, but in UPDATE_SIZE */
};

FIXTURE_VARIANT_ADD(zoned_end, killed) {
	.end = SERVER_KILLED,
};

FIXTURE_VARIANT_ADD(zoned_end, kills_itself) {
	.end = SERVER_KILLS_ITSELF,
};

FIXTURE_VARIANT_ADD(zoned_end, stopped) {
	.end = STOPPED,
};

FIXTURE_VARIANT_ADD(zoned_end, deleted) {
	.end = DELETED,
};

FIXTURE_VARIANT_ADD(zoned_end, killed_recover) {
	.end = SERVER_KILLED,
	.flags = UBLK_F_USER_RECOVERY,
};

FIXTURE_VARIANT_ADD(zoned_end, killed_reissue) {
	.end = SERVER_KILLED,
	.flags = UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE,
};

FIXTURE_VARIANT_ADD(zoned_end, kills_itself_reissue) {
	.end = SERVER_KILLS_ITSELF,
	.flags = UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE,
};

FIXTURE_VARIANT_ADD(zoned_end, resize_killed) {
	.end = SERVER_KILLED,
	.resize = true,
};

FIXTURE_VARIANT_ADD(zoned_end, resize_killed_reissue) {
	.end = SERVER_KILLED,
	.flags = UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE,
	.resize = true,
};

FIXTURE_VARIANT_ADD(zoned_end, resize_stopped) {
	.end = STOPPED,
	.resize = true,
};

FIXTURE_VARIANT_ADD(zoned_end, resize_deleted) {
	.end = DELETED,
	.resize = true,
};

FIXTURE_SETUP(zoned_end)
{
	__u64 features = 0;

	self->id = -1;
	if (why_not())
		SKIP(return, "%s", why_not());
	ASSERT_EQ(0, ctrl_simple(-1, UBLK_U_CMD_GET_FEATURES, &features, sizeof(features), 0));
	if (!(features & UBLK_F_ZONED))
		SKIP(return, "no zoned devices");
	nvme_remove();
}

FIXTURE_TEARDOWN(zoned_end)
{
	if (self->id >= 0)
		EXPECT_EQ(0, delete_dev(self->id));
}

/* In a child: a server that tells when it is asked, and does not answer */
static pid_t silent(__u64 flags, bool resize, enum end end, int to_parent, int from_parent)
{
	pid_t pid = child();
	struct zoned z;

	if (pid)
		return pid;
	zoned_open(&z, flags, false);
	if (resize && zoned_start(&z))
		give_up("START_DEV", 0);
	if (write(to_parent, &z.s.id, sizeof(z.s.id)) != sizeof(z.s.id))
		give_up("write", -errno);
	if (end == SERVER_KILLS_ITSELF) {
		/* this ring has a worker thread, which waits for the server */
		struct io_uring ring;
		struct io_uring_params p = { .flags = IORING_SETUP_SQE128 };
		struct io_uring_sqe *sqe;
		struct ublksrv_ctrl_cmd *cmd;

		if (io_uring_queue_init_params(4, &ring, &p))
			give_up("ring", -errno);
		sqe = io_uring_get_sqe(&ring);
		if (!sqe)
			give_up("SQE", -ENOSPC);
		memset(sqe, 0, 2 * sizeof(*sqe));
		sqe->opcode = IORING_OP_URING_CMD;
		sqe->fd = open("/dev/ublk-control", O_RDWR);
		sqe->cmd_op = UBLK_U_CMD_START_DEV;
		cmd = (void *)sqe->cmd;
		cmd->dev_id = z.s.id;
		cmd->queue_id = -1;
		cmd->data[0] = getpid();
		io_uring_submit(&ring);
	}
	zoned_asked(&z);
	tell(to_parent);
	if (end == SERVER_KILLED || end == SERVER_KILLS_ITSELF)
		for (;;)
			pause();
	/* the server goes when its device is stopped */
	hear(from_parent);
	srv_close(&z.s);
	_exit(0);
}

TEST_F_TIMEOUT(zoned_end, while_asked, 120)
{
	int up[2], down[2];
	pid_t pid, asker = 0, ender = 0;
	time_t since;

	ASSERT_EQ(0, pipe(up));
	ASSERT_EQ(0, pipe(down));
	pid = silent(variant->flags, variant->resize, variant->end, up[1], down[0]);
	close(up[1]);
	close(down[0]);
	ASSERT_EQ((ssize_t)sizeof(self->id), read(up[0], &self->id, sizeof(self->id)));
	if (variant->resize)
		asker = resize(self->id, SECTORS / 2);
	else if (variant->end != SERVER_KILLS_ITSELF)
		asker = command(self->id, UBLK_U_CMD_START_DEV, pid);
	hear(up[0]);
	since = time(NULL);

	switch (variant->end) {
	case STOPPED:
		ender = command(self->id, UBLK_U_CMD_STOP_DEV, 0);
		break;
	case DELETED:
		ender = command(self->id, UBLK_U_CMD_DEL_DEV, 0);
		break;
	default:
		ASSERT_EQ(0, kill(pid, SIGKILL));
	}
	if (asker) {
		int status = exit_status(asker);

		EXPECT_TRUE(status == EIO || status == ENODEV) TH_LOG("%d", status);
	}
	if (ender) {
		tell(down[1]);
		EXPECT_EQ(0, exit_status(pid));
		EXPECT_EQ(0, exit_status(ender));
	} else {
		EXPECT_EQ(-1, exit_status(pid));
	}
	/* nobody has waited for the timer of the request, which takes 30 s */
	EXPECT_GT(25, time(NULL) - since);
	if (variant->end == DELETED) {
		self->id = -1;
		return;
	}
	/* only what had a disk can be recovered */
	EXPECT_TRUE(wait_dev_state(self->id, variant->resize && variant->flags ?
				   UBLK_S_DEV_QUIESCED : UBLK_S_DEV_DEAD));
}

TEST_HARNESS_MAIN
