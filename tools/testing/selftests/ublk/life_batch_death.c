// SPDX-License-Identifier: GPL-2.0
/*
 * life_batch_death: servers that work on batches (UBLK_F_BATCH_IO) and are killed
 * in each state.
 */
#include <fcntl.h>
#include <signal.h>
#include "life.h"
#include "parity_bsrv.h"
#include "kselftest_harness.h"

/* What a server has when it is killed */
enum moment {
	IDLE_FETCH,	/* a command that waits */
	OWNS,		/* a request */
	UNTOLD,		/* a request that it was not told of: no command */
	RAN_OUT,	/* the same, because the command ended */
	OWNS_AND_UNTOLD,
	NR_MOMENTS,
};

FIXTURE(death) {
	int id;
};

FIXTURE_VARIANT(death) {
	__u64 flags;
	/* what becomes of a request that it had, and of one that it was not told of */
	int owned, untold;
};

FIXTURE_VARIANT_ADD(death, final) {
	.owned = -EIO,
	.untold = -EIO,
};

FIXTURE_VARIANT_ADD(death, recovery) {
	.flags = UBLK_F_USER_RECOVERY,
	.owned = -EIO,
	.untold = 1,
};

FIXTURE_VARIANT_ADD(death, reissue) {
	.flags = UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE,
	.owned = 1,
	.untold = 1,
};

FIXTURE_VARIANT_ADD(death, fail_io) {
	.flags = UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_FAIL_IO,
	.owned = -EIO,
	.untold = -EIO,
};

FIXTURE_SETUP(death)
{
	self->id = -1;
	if (why_not())
		SKIP(return, "%s", why_not());
}

FIXTURE_TEARDOWN(death)
{
	if (self->id >= 0)
		EXPECT_EQ(0, delete_dev(self->id));
}

/* A server that comes to such a moment; tells its device, and when it is there */
static pid_t server(enum moment moment, __u64 flags, int to_parent)
{
	pid_t pid = child();
	struct bring b;
	struct srv s;
	__u64 fetch;
	int tag;

	if (pid)
		return pid;
	batch_live(&b, &s, flags);
	if (write(to_parent, &s.id, sizeof(s.id)) != sizeof(s.id))
		give_up("write", -errno);
	switch (moment) {
	case IDLE_FETCH:
		bring_provide(&b, 0, 1, NULL);
		bring_fetch(&b, 0);
		break;
	case OWNS:
		bring_provide(&b, 0, 1, NULL);
		if (batch_request(&b, bring_fetch(&b, 0), INT_MAX, &tag) != 2)
			give_up("request", 0);
		break;
	case UNTOLD:
		break;
	case RAN_OUT:
		if (bring_wait(&b, bring_fetch(&b, 0), INT_MAX, NULL) != -ENOBUFS)
			give_up("no buffers", 0);
		break;
	case OWNS_AND_UNTOLD:
		bring_provide(&b, 0, 1, NULL);
		fetch = bring_fetch(&b, 0);
		if (batch_request(&b, fetch, INT_MAX, &tag) != 2)
			give_up("request", 0);
		tell(to_parent);
		if (bring_wait(&b, fetch, INT_MAX, NULL) != -ENOBUFS)
			give_up("no buffers", 0);
		break;
	default:
		break;
	}
	tell(to_parent);
	for (;;)
		pause();
}

/* The requests of the disk that have not ended */
static int in_flight(int id)
{
	unsigned int reads = 0, writes = 0;
	FILE *f = fopen(str("/sys/block/ublkb%d/inflight", id), "r");

	if (!f)
		return 0;
	if (fscanf(f, "%u %u", &reads, &writes) != 2)
		reads = 0;
	fclose(f);
	return reads + writes;
}

static void wait_in_flight(int id, int nr)
{
	while (in_flight(id) != nr)
		usleep(1000);
}

/* A new server takes the disk over and serves all that comes, until the users end */
static int take_over(int id, __u64 flags, struct blk_io *io, int nr, int *got)
{
	struct srv s = { .id = id, .flags = flags | UBLK_F_BATCH_IO, .queues = 1,
			 .depth = DEPTH, .desc_size = 24 };
	struct bring b;
	__u64 fetch;
	int i, tag, res, left = nr;

	while (ctrl_simple(id, UBLK_U_CMD_START_USER_RECOVERY, NULL, 0, 0))
		usleep(1000);
	attach(&s);
	bring_init(&b, &s, false);
	for (i = 0; i < NR_TAG_BUFS; i++)
		bring_provide(&b, i, 1, NULL);
	/* before the slots are there */
	fetch = bring_fetch(&b, 0);
	res = batch_prep(&b, 0, 0, s.depth);
	if (res)
		return res;
	res = ctrl_simple(id, UBLK_U_CMD_END_USER_RECOVERY, NULL, 0, getpid());
	if (res)
		return res;
	while (left) {
		res = batch_request(&b, fetch, 20, &tag);
		if (res == 2)
			batch_commit(&b, 0, tag, srv_desc(&s, tag)->nr_sectors << 9);
		else if (res != BLOCKS)
			return res;
		for (i = 0; i < nr; i++) {
			if (got[i] != BLOCKS)
				continue;
			got[i] = block_wait(&io[i], 0);
			left -= got[i] != BLOCKS;
		}
	}
	srv_close(&s);
	return 0;
}

TEST_F_TIMEOUT(death, in_each_state, 240)
{
	int pipes[2], moment, i, owned, untold;

	for (moment = 0; moment < NR_MOMENTS; moment++) {
		struct blk_io io[2];
		int got[2] = { BLOCKS, BLOCKS };
		pid_t pid;

		owned = moment == OWNS || moment == OWNS_AND_UNTOLD;
		untold = moment == UNTOLD || moment == RAN_OUT || moment == OWNS_AND_UNTOLD;
		ASSERT_EQ(0, pipe(pipes));
		pid = server(moment, variant->flags, pipes[1]);
		close(pipes[1]);
		ASSERT_EQ((ssize_t)sizeof(self->id),
			  read(pipes[0], &self->id, sizeof(self->id)));
		if (owned) {
			block_start(&io[0], self->id, B_WRITE, 8, 4096);
			wait_in_flight(self->id, 1);
			if (moment == OWNS_AND_UNTOLD)
				hear(pipes[0]);
		}
		if (untold) {
			block_start(&io[owned], self->id, B_WRITE, 80, 4096);
			wait_in_flight(self->id, 1 + owned);
		}
		hear(pipes[0]);
		close(pipes[0]);
		kill(pid, SIGKILL);
		EXPECT_EQ(-1, exit_status(pid));
		if (variant->flags && owned + untold) {
			EXPECT_EQ(0, take_over(self->id, variant->flags, io, owned + untold, got));
		} else {
			for (i = 0; i < owned + untold; i++)
				got[i] = block_wait(&io[i], INT_MAX);
		}
		if (owned)
			EXPECT_EQ(variant->owned, got[0]);
		if (untold)
			EXPECT_EQ(variant->untold, got[owned]);
		EXPECT_EQ(0, delete_dev(self->id));
		self->id = -1;
	}
}

/* Killed when it has prepared one slot of two, and between PREP and END_USER_RECOVERY */
TEST_F_TIMEOUT(death, half_way, 240)
{
	__u64 flags = variant->flags | UBLK_F_BATCH_IO;
	int pipes[2], slots, got = BLOCKS;
	struct blk_io io;
	pid_t pid;

	ASSERT_EQ(0, pipe(pipes));
	pid = server(IDLE_FETCH, variant->flags, pipes[1]);
	close(pipes[1]);
	ASSERT_EQ((ssize_t)sizeof(self->id), read(pipes[0], &self->id, sizeof(self->id)));
	hear(pipes[0]);
	close(pipes[0]);
	kill(pid, SIGKILL);
	EXPECT_EQ(-1, exit_status(pid));
	if (!(variant->flags & UBLK_F_USER_RECOVERY))
		return;
	while (ctrl_simple(self->id, UBLK_U_CMD_START_USER_RECOVERY, NULL, 0, 0))
		usleep(1000);
	for (slots = 0; slots <= DEPTH; slots++) {
		ASSERT_EQ(0, pipe(pipes));
		pid = child();
		if (!pid) {
			struct srv s = { .id = self->id, .flags = flags, .queues = 1,
					 .depth = DEPTH, .desc_size = 24 };
			struct bring b;

			attach(&s);
			bring_init(&b, &s, false);
			bring_fetch(&b, 0);
			if (slots && batch_prep(&b, 0, 0, slots))
				give_up("PREP", slots);
			bring_fetch(&b, 0);
			tell(pipes[1]);
			for (;;)
				pause();
		}
		close(pipes[1]);
		hear(pipes[0]);
		close(pipes[0]);
		kill(pid, SIGKILL);
		EXPECT_EQ(-1, exit_status(pid));
	}
	if (!(variant->flags & UBLK_F_USER_RECOVERY_FAIL_IO)) {
		/* the disk is as good as new */
		block_start(&io, self->id, B_WRITE, 8, 4096);
		EXPECT_EQ(0, take_over(self->id, variant->flags, &io, 1, &got));
		EXPECT_EQ(1, got);
	}
}

/*
 * As life_exit: the server deletes its own disk, which waits for the server. Only
 * the timer of the request, 30 s, notices that the server is dying.
 */
TEST_F_TIMEOUT(death, own_device, 240)
{
	static const enum moment moments[] = { OWNS, UNTOLD, RAN_OUT };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(moments); i++) {
		int pipes[2], fd;
		struct blk_io io;
		pid_t pid;

		ASSERT_EQ(0, pipe(pipes));
		pid = child();
		if (!pid) {
			struct bring b;
			struct srv s;
			int tag;

			batch_live(&b, &s, variant->flags);
			if (write(pipes[1], &s.id, sizeof(s.id)) != sizeof(s.id))
				give_up("write", -errno);
			if (moments[i] == OWNS) {
				bring_provide(&b, 0, 1, NULL);
				batch_request(&b, bring_fetch(&b, 0), INT_MAX, &tag);
			} else if (moments[i] == RAN_OUT) {
				bring_wait(&b, bring_fetch(&b, 0), INT_MAX, NULL);
			} else {
				wait_in_flight(s.id, 1);
			}
			tell(pipes[1]);
			ctrl_simple(s.id, UBLK_U_CMD_STOP_DEV, NULL, 0, 0);
			give_up("the device was stopped under its user", 0);
		}
		close(pipes[1]);
		ASSERT_EQ((ssize_t)sizeof(self->id),
			  read(pipes[0], &self->id, sizeof(self->id)));
		block_start(&io, self->id, B_READ, 8, 4096);
		hear(pipes[0]);
		close(pipes[0]);
		/* it is being deleted when it can not be opened any more */
		while ((fd = open(str("/dev/ublkb%d", self->id), O_RDONLY | O_CLOEXEC)) >= 0)
			close(fd);
		ASSERT_EQ(0, kill(pid, SIGKILL));
		EXPECT_EQ(-1, exit_status(pid));
		EXPECT_EQ(-EIO, block_wait(&io, INT_MAX));
		EXPECT_EQ(0, delete_dev(self->id));
		self->id = -1;
	}
}

TEST_HARNESS_MAIN
