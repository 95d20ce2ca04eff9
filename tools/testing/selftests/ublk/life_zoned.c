// SPDX-License-Identifier: GPL-2.0
/*
 * life_zoned: a server of a zoned disk is asked for the zones, when the device
 * starts, when its size changes and when somebody wants to know, and answers
 * nonsense. Appends say where the data are, or the server lies about that.
 */
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <linux/fs.h>
#include <linux/nvme_ioctl.h>
#include "zoned_srv.h"
#include "kselftest_harness.h"

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
	zoned_nvme_remove();
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

/*
 * While the driver asks for the zones, the disk has no number yet. Who hears that
 * the device is live may ask for that, so it is not.
 */
TEST_F_TIMEOUT(zoned, not_live_without_a_disk, 120)
{
	struct ublksrv_ctrl_dev_info info = {};
	struct srv *s = &self->z.s;
	pid_t starter = zoned_command(s->id, UBLK_U_CMD_START_DEV, getpid());
	int tag = zoned_asked(&self->z);

	EXPECT_EQ(0, get_info(s->id, &info));
	EXPECT_EQ(UBLK_S_DEV_DEAD, info.state);
	EXPECT_EQ(-1, info.ublksrv_pid);
	srv_commit(s, tag, -EIO);
	EXPECT_EQ(EIO, zoned_serve(&self->z, starter));
	ASSERT_EQ(0, zoned_start(&self->z));
	EXPECT_EQ(0, get_info(s->id, &info));
	EXPECT_EQ(UBLK_S_DEV_LIVE, info.state);
	EXPECT_EQ(getpid(), info.ublksrv_pid);
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

/* Less than all is no error, but it is less */
static int ask(int fd, struct zoned *z)
{
	int nr = report(fd, report_of(NR_ZONES), 0, NR_ZONES);

	if (nr < 0)
		return -nr;
	switch (z->answer) {
	case NOTHING:
		NEED(!nr);
		break;
	case NOTHING_MORE:
		NEED(nr > 0 && nr < NR_ZONES);
		break;
	case ONE_LESS:
		NEED(nr == NR_ZONES - 1);
		break;
	default:
		NEED(nr == NR_ZONES);
		break;
	}
	return 0;
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
		{ NOTHING_MORE, ENODEV, 0 },
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
	EXPECT_EQ(EBUSY, zoned_serve(z, zoned_command(id, UBLK_U_CMD_UPDATE_SIZE, sectors)));
	EXPECT_EQ(0, z->questions);
	close(fd);

	fill_zones(z, sectors, NR_CONV);
	EXPECT_EQ(0, zoned_serve(z, zoned_resize(id, sectors)));
	fd = open(str("/dev/ublkb%d", id), O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, fd);
	EXPECT_EQ(0, ioctl(fd, BLKGETSIZE64, &bytes));
	EXPECT_EQ(sectors << 9, bytes);
	close(fd);

	/* without zones there is nothing to read or write */
	z->answer = BAD_LEN;
	EXPECT_EQ(ENODEV, zoned_serve(z, zoned_resize(id, sectors)));
	fd = open(str("/dev/ublkb%d", id), O_RDONLY | O_CLOEXEC);
	ASSERT_LE(0, fd);
	EXPECT_EQ(0, ioctl(fd, BLKGETSIZE64, &bytes));
	EXPECT_EQ(0, bytes);
	close(fd);

	z->answer = RIGHT;
	fill_zones(z, SECTORS, NR_CONV);
	EXPECT_EQ(0, zoned_serve(z, zoned_resize(id, SECTORS)));
	EXPECT_EQ(0, zoned_serve(z, user(z, all_zones)));
}

/* Appends ------------------------------------------------------------------- */

static int clean_up(int fd, struct zoned *z)
{
	close(fd);
	zoned_nvme_remove();
	return 0;
}

/* The namespace, or -1 */
static int nvme_open(int id)
{
	int i, fd;

	if (mkdir(NVMET "subsystems/" NQN, 0755) ||
	    !zoned_put(NVMET "subsystems/" NQN "/attr_allow_any_host", "1") ||
	    mkdir(NVMET "subsystems/" NQN "/namespaces/1", 0755) ||
	    !zoned_put(NVMET "subsystems/" NQN "/namespaces/1/device_path",
		      str("/dev/ublkb%d", id)) ||
	    !zoned_put(NVMET "subsystems/" NQN "/namespaces/1/enable", "1") ||
	    mkdir(NVMET "ports/77", 0755) ||
	    !zoned_put(NVMET "ports/77/addr_trtype", "loop") ||
	    symlink(NVMET "subsystems/" NQN, NVMET "ports/77/subsystems/" NQN))
		return -1;
	fd = open("/dev/nvme-fabrics", O_RDWR | O_CLOEXEC);
	if (fd < 0 || write(fd, FABRIC, strlen(FABRIC)) < 0)
		return -1;
	close(fd);
	for (i = 0; i < 1000; i++) {
		/* appends pass the page cache by, and somebody may have filled it */
		fd = open(str("/dev/nvme%dn1", zoned_nvme()), O_RDWR | O_DIRECT | O_CLOEXEC);
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

static void appends(struct __test_metadata *_metadata, struct zoned *z, __u64 flags)
{
	static const __u64 lies[] = { ZONE, -ZONE, 9, 1ULL << 40, -1ULL };
	unsigned int i;

	srv_close(&z->s);
	ASSERT_EQ(0, delete_dev(z->s.id));
	zoned_free(z);
	zoned_open(z, flags, true);
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

TEST_F_TIMEOUT(zoned, appends_say_where, 120)
{
	if (access(NVMET, F_OK))
		SKIP(return, "no NVMe target");
	appends(_metadata, &self->z, 0);
}

TEST_F_TIMEOUT(zoned, appends_of_batches_say_where, 120)
{
	if (access(NVMET, F_OK))
		SKIP(return, "no NVMe target");
	appends(_metadata, &self->z, UBLK_F_BATCH_IO);
}

TEST_HARNESS_MAIN
