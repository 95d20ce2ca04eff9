// SPDX-License-Identifier: GPL-2.0
/*
 * IORING_OP_FUSED_CMD: cancellation, exit, and primaries that the driver keeps.
 */
#include "fixture.h"

/* Cancel and exit ---------------------------------------------------------- */

/* A group that waits: one silent socket, one read that is done */
#define PENDING_GROUP(sock) ({						\
	int *sock_ = (sock);						\
									\
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock_));	\
	LEND_DEST(4096);						\
	ADD(IORING_OP_RECV, sock_[0], 0, 512, 0);			\
	ADD_READ(512, 512, 0);						\
	group_push(&self->g);						\
	ASSERT_LT(0, ring_submit(&self->ring));				\
	ASSERT_EQ(512, log_until(&log, &self->ring, 1));		\
})

/* uapi: ASYNC_CANCEL on a secondary ends it, and the group completes */
TEST_F(fused, cancel_secondary)
{
	struct log log = { };
	int sock[2];

	PENDING_GROUP(sock);
	ASSERT_EQ(0, cancel_one(&log, &self->ring, 0));
	ASSERT_NE(NO_CQE, log_until(&log, &self->ring, UD_PRIMARY));
	EXPECT_TRUE(canceled(log_res(&log, 0)));
	EXPECT_EQ(log_res(&log, 0), log_res(&log, UD_PRIMARY));
	EXPECT_EQ(2, log_index(&log, UD_PRIMARY));
	GET_BUFFER(0);
	close(sock[0]);
	close(sock[1]);
}

/* a primary whose secondaries run is not there to be canceled */
TEST_F(fused, cancel_primary)
{
	struct log log = { };
	int sock[2], ret;

	PENDING_GROUP(sock);
	ret = ring_cancel(&self->ring, UD_PRIMARY, -1, 0);
	/* 0: gone after a wait; the worker that issued it had not yet let go */
	EXPECT_TRUE(ret == -ENOENT || ret == 0) TH_LOG("%d", ret);
	ASSERT_EQ(3, send(sock[1], "abc", 3, 0));
	ASSERT_EQ(515, log_until(&log, &self->ring, UD_PRIMARY));
	close(sock[0]);
	close(sock[1]);
}

TEST_F(fused, cancel_all)
{
	struct log log = { };
	int sock[2];

	PENDING_GROUP(sock);
	ASSERT_TRUE(canceled(cancel_all(&log, &self->ring, UD_PRIMARY)));
	EXPECT_TRUE(canceled(log_res(&log, 0)));
	GET_BUFFER(0);
	close(sock[0]);
	close(sock[1]);
}

/* a primary that waits in a link can be canceled with what it is linked to */
TEST_F(fused, cancel_before_start)
{
	struct log log = { };
	struct io_uring_sqe rd[2] = { { .opcode = IORING_OP_READ, .len = 100, .off = -1,
					.flags = IOSQE_IO_LINK, .user_data = UD_OTHER } };
	int fd[2];

	ASSERT_EQ(0, pipe(fd));
	rd->fd = fd[0];
	rd->addr = (uintptr_t)self->buf;
	push_sqe(&self->ring, rd);
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	group_push(&self->g);
	ASSERT_LT(0, ring_submit(&self->ring));
	ASSERT_EQ(0, cancel_one(&log, &self->ring, UD_OTHER));
	ASSERT_EQ(-ECANCELED, log_until(&log, &self->ring, UD_PRIMARY));
	EXPECT_EQ(-ECANCELED, log_res(&log, 0));
	close(fd[0]);
	close(fd[1]);
}

/* uapi: the ring is closed with secondaries in flight; the driver gets its buffer */
TEST_F(fused, close_ring)
{
	struct log log = { };
	long end = now_ms() + TIMEOUT_MS;
	int sock[2];

	PENDING_GROUP(sock);
	ring_exit(&self->ring);
	while (pread(self->dev, self->buf, 512, 0) != 512) {
		ASSERT_EQ(EBUSY, errno);
		ASSERT_LT(now_ms(), end);
		usleep(1000);
	}
	/* it was written by the read, and by nobody after that */
	EXPECT_TRUE(all_are(self->buf, 0, 512));
	send(sock[1], "abc", 3, 0);
	ASSERT_EQ(512, pread(self->dev, self->buf, 512, 0));
	EXPECT_TRUE(all_are(self->buf, 0, 512));
	close(sock[0]);
	close(sock[1]);
	ASSERT_EQ(0, mode_ring(&variant->mode, &self->ring, 8));
}

/* uapi: the task is killed with secondaries in flight */
TEST_F(fused, kill)
{
	struct log log = { };
	long end = now_ms() + TIMEOUT_MS;
	struct mode mode = variant->mode;
	int sock[2], ready[2], status;
	char c;
	pid_t pid;

	ASSERT_EQ(0, pipe(ready));
	ring_exit(&self->ring);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		ASSERT_EQ(0, mode_ring(&mode, &self->ring, 8));
		PENDING_GROUP(sock);
		ASSERT_EQ(1, write(ready[1], "x", 1));
		pause();
	}
	ASSERT_EQ(1, read(ready[0], &c, 1));
	EXPECT_EQ(-1, pread(self->dev, self->buf, 512, 0));
	kill(pid, SIGKILL);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	while (pread(self->dev, self->buf, 512, 0) != 512) {
		ASSERT_EQ(EBUSY, errno);
		ASSERT_LT(now_ms(), end);
		usleep(1000);
	}
	ASSERT_EQ(0, mode_ring(&variant->mode, &self->ring, 8));
}

/* the driver's file is closed meanwhile: the primary holds it */
TEST_F(fused, close_file)
{
	struct log log = { };
	int sock[2];

	PENDING_GROUP(sock);
	close(self->dev);
	ASSERT_EQ(3, send(sock[1], "abc", 3, 0));
	ASSERT_EQ(515, log_until(&log, &self->ring, UD_PRIMARY));
	close(sock[0]);
	close(sock[1]);
	self->dev = open_device();
	ASSERT_LE(0, self->dev);
}

/* exec() cancels, too: nothing to see but that it ends */
TEST_F(fused, exec)
{
	struct log log = { };
	struct mode mode = variant->mode;
	int sock[2], status;
	pid_t pid;

	ring_exit(&self->ring);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		ASSERT_EQ(0, mode_ring(&mode, &self->ring, 8));
		PENDING_GROUP(sock);
		execl("/bin/true", "true", NULL);
		_exit(1);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	ASSERT_EQ(0, mode_ring(&variant->mode, &self->ring, 8));
}

TEST_HARNESS_MAIN
