// SPDX-License-Identifier: GPL-2.0
/*
 * life_zoned_end: a server that is asked for the zones of its disk does not
 * answer, and is killed, or its device stopped or deleted.
 */
#include <signal.h>
#include <time.h>
#include <sys/wait.h>
#include "zoned_srv.h"
#include "kselftest_harness.h"

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

FIXTURE_VARIANT_ADD(zoned_end, kills_itself_auto) {
	.end = SERVER_KILLS_ITSELF,
	.flags = UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG,
};

FIXTURE_VARIANT_ADD(zoned_end, kills_itself_registered) {
	.end = SERVER_KILLS_ITSELF,
	.flags = UBLK_F_SUPPORT_ZERO_COPY,
};

FIXTURE_VARIANT_ADD(zoned_end, stopped_auto) {
	.end = STOPPED,
	.flags = UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG,
};

FIXTURE_VARIANT_ADD(zoned_end, stopped_registered) {
	.end = STOPPED,
	.flags = UBLK_F_SUPPORT_ZERO_COPY,
};

FIXTURE_VARIANT_ADD(zoned_end, resize_stopped_auto) {
	.end = STOPPED,
	.flags = UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG,
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
	zoned_nvme_remove();
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
	int tag;

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
	tag = zoned_asked(&z);
	if (flags & UBLK_F_SUPPORT_ZERO_COPY && !(flags & UBLK_F_AUTO_BUF_REG) &&
	    zoned_buffer(&z, UBLK_U_IO_REGISTER_IO_BUF, tag))
		give_up("REGISTER_IO_BUF", 0);
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
		asker = zoned_resize(self->id, SECTORS / 2);
	else if (variant->end != SERVER_KILLS_ITSELF)
		asker = zoned_command(self->id, UBLK_U_CMD_START_DEV, pid);
	hear(up[0]);
	since = time(NULL);

	switch (variant->end) {
	case STOPPED:
		ender = zoned_command(self->id, UBLK_U_CMD_STOP_DEV, 0);
		break;
	case DELETED:
		ender = zoned_command(self->id, UBLK_U_CMD_DEL_DEV, 0);
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
	EXPECT_TRUE(wait_dev_state(self->id, variant->resize &&
				   variant->flags & UBLK_F_USER_RECOVERY ?
				   UBLK_S_DEV_QUIESCED : UBLK_S_DEV_DEAD));
}

FIXTURE(zoned_zc) {
	struct zoned z;
};

FIXTURE_VARIANT(zoned_zc) {
	__u64 flags;
	bool early;
};

FIXTURE_VARIANT_ADD(zoned_zc, automatic) {
	.flags = UBLK_F_AUTO_BUF_REG,
};

FIXTURE_VARIANT_ADD(zoned_zc, registered) {
};

FIXTURE_VARIANT_ADD(zoned_zc, registered_after_commit) {
	.early = true,
};

FIXTURE_SETUP(zoned_zc)
{
	if (why_not())
		SKIP(return, "%s", why_not());
	zoned_open(&self->z, UBLK_F_SUPPORT_ZERO_COPY | variant->flags, false);
	self->z.early = variant->early;
}

FIXTURE_TEARDOWN(zoned_zc)
{
	srv_close(&self->z.s);
	EXPECT_EQ(0, delete_dev(self->z.s.id));
	zoned_free(&self->z);
}

/* The answer is read into a registered buffer */
TEST_F_TIMEOUT(zoned_zc, answers, 60)
{
	ASSERT_EQ(0, zoned_start(&self->z));
	EXPECT_EQ((NR_ZONES + 1023) / 1024, self->z.questions);
	fill_zones(&self->z, SECTORS / 2, NR_CONV);
	EXPECT_EQ(0, zoned_serve(&self->z, zoned_resize(self->z.s.id, SECTORS / 2)));
}

static int open_zones_limit(int id)
{
	FILE *f = fopen(str("/sys/block/ublkb%d/queue/max_open_zones", id), "r");
	int nr = -1;

	if (f && fscanf(f, "%d", &nr) != 1)
		nr = -1;
	if (f)
		fclose(f);
	return nr;
}

/* A limit that the disk can not reach, until it has grown */
TEST(limits_after_growth)
{
	struct ublk_params p = { .len = sizeof(p) };
	struct zoned z;

	if (why_not())
		SKIP(return, "%s", why_not());
	zoned_open(&z, 0, true);
	ASSERT_EQ(0, ctrl_simple(z.s.id, UBLK_U_CMD_GET_PARAMS, &p, sizeof(p), 0));
	p.types &= ~UBLK_PARAM_TYPE_DEVT;
	p.zoned.max_open_zones = NR_EQUAL;
	ASSERT_EQ(0, ctrl_simple(z.s.id, UBLK_U_CMD_SET_PARAMS, &p, sizeof(p), 0));
	ASSERT_EQ(0, zoned_start(&z));
	EXPECT_EQ(0, open_zones_limit(z.s.id));
	fill_zones(&z, 8 * NR_EQUAL * ZONE, 0);
	EXPECT_EQ(0, zoned_serve(&z, zoned_resize(z.s.id, 8 * NR_EQUAL * ZONE)));
	EXPECT_EQ(NR_EQUAL, open_zones_limit(z.s.id));
	srv_close(&z.s);
	EXPECT_EQ(0, delete_dev(z.s.id));
	zoned_free(&z);
}

TEST_HARNESS_MAIN
