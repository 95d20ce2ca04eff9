// SPDX-License-Identifier: GPL-2.0
/*
 * What waits behind a drain starts when that in front of it has ended, whoever
 * waits for it, and how. No fused command is needed, nor the option.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include "kselftest_harness.h"
#include "ring.h"
#include "sockets.h"

/* far more than the slowest machine takes for a few requests */
#define LATE_MS	20000

FIXTURE(drain)
{
	struct ring ring;
	int pipe[2];
	char buf[64];
};

FIXTURE_VARIANT(drain)
{
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(drain, default_ring) {
	.flags = 0,
};

FIXTURE_VARIANT_ADD(drain, coop) {
	.flags = IORING_SETUP_COOP_TASKRUN,
};

FIXTURE_VARIANT_ADD(drain, defer) {
	.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
};

FIXTURE_VARIANT_ADD(drain, defer_flag) {
	.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
		 IORING_SETUP_TASKRUN_FLAG,
};

FIXTURE_VARIANT_ADD(drain, sqpoll) {
	.flags = IORING_SETUP_SQPOLL,
};

FIXTURE_SETUP(drain)
{
	struct io_uring_params p = { .flags = variant->flags };

	ASSERT_EQ(0, ring_init(&self->ring, 32, &p));
	ASSERT_EQ(0, pipe(self->pipe));
}

FIXTURE_TEARDOWN(drain)
{
	ring_exit(&self->ring);
	close(self->pipe[0]);
	close(self->pipe[1]);
}

static void push(struct ring *r, int op, int fd, unsigned int flags, __u64 user_data,
		 void *addr, unsigned int len)
{
	struct io_uring_sqe sqe = {
		.opcode = op,
		.fd = fd,
		.flags = flags,
		.user_data = user_data,
		.addr = (uintptr_t)addr,
		.len = len,
	};

	if (op == IORING_OP_POLL_ADD) {
		sqe.poll32_events = POLLIN;
		sqe.addr = 0;
		sqe.len = 0;
	}
	if (op == IORING_OP_READ)
		sqe.off = -1;
	ring_push(r, &sqe, false);
}

#define PUSH(op, fd, flags, user_data, addr, len) \
	push(&self->ring, op, fd, flags, user_data, addr, len)
#define NOP(flags, user_data)	PUSH(IORING_OP_NOP, -1, flags, user_data, NULL, 0)

/* Write to the pipe, @bytes times one, when the caller sleeps. */
static pid_t write_later(int fd, int bytes)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	while (bytes--) {
		usleep(200000);
		if (write(fd, "x", 1) != 1)
			_exit(1);
	}
	_exit(0);
}

/* Submit what was pushed and sleep until there are @nr CQEs: how many are there? */
static int sleep_for(struct ring *r, unsigned int nr)
{
	struct __kernel_timespec ts = { .tv_sec = LATE_MS / 1000 };
	struct io_uring_getevents_arg arg = { .ts = (uintptr_t)&ts };
	unsigned int flags = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG;
	unsigned int submit = ring_publish(r);
	long start = now_ms();
	int ret;

	if (r->p.flags & IORING_SETUP_SQPOLL) {
		flags |= IORING_ENTER_SQ_WAKEUP;
		submit = 0;
	}
	ret = syscall(__NR_io_uring_enter, r->fd, submit, nr, flags, &arg, sizeof(arg));
	/* the end of the time-out runs task work, too */
	if (ret < 0 || now_ms() - start >= LATE_MS)
		return -1;
	return ring_nr_cqes(r);
}

/* A task that waits for all CQEs is woken by the one in front of the drain. */
TEST_F(drain, wakes_up)
{
	/* each is ended by task work that may be added lazily */
	static const int front[] = { IORING_OP_POLL_ADD, IORING_OP_READ };
	struct cqe cqe = { };
	int i, op, nr, status;
	pid_t pid;

	for (op = 0; op < 2; op++) {
		for (nr = 1; nr <= 3; nr += 2) {
			for (i = 0; i < nr; i++)
				PUSH(front[op], self->pipe[0], 0, i, self->buf + i, 1);
			NOP(IOSQE_IO_DRAIN, 10);
			NOP(0, 11);
			pid = write_later(self->pipe[1], nr);
			EXPECT_EQ(nr + 2, sleep_for(&self->ring, nr + 2))
				TH_LOG("opcode %d, %d in front", front[op], nr);
			ASSERT_EQ(pid, waitpid(pid, &status, 0));
			ASSERT_EQ(0, status);
			for (i = 0; i < nr + 2; i++) {
				ASSERT_TRUE(ring_wait(&self->ring, &cqe, LATE_MS));
				EXPECT_EQ(i < nr, cqe.user_data < 10);
				EXPECT_EQ(i < nr, cqe.res == 1);
			}
			EXPECT_EQ(11, cqe.user_data);
			for (i = 0; front[op] == IORING_OP_POLL_ADD && i < nr; i++)
				ASSERT_EQ(1, read(self->pipe[0], self->buf, 1));
		}
	}
}

enum zc {
	DRAINS,		/* waits for what is in front of it */
	BEHIND,		/* behind one that does */
	LINKED,		/* in a link that does */
	LINKED_TWICE,
	NR_ZC
};

/* So does a zero-copy send, which is two requests. */
static void zero_copy(struct __test_metadata *_metadata, struct ring *r, int *pipe,
		      char *buf, int op, int sock)
{
	struct iovec iov = { .iov_base = buf, .iov_len = 5 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	void *addr = op == IORING_OP_SENDMSG_ZC ? (void *)&msg : buf;
	int len = op == IORING_OP_SENDMSG_ZC ? 1 : 5;
	int how, nr, i, sent;
	struct cqe cqe;

	for (how = DRAINS; how < NR_ZC; how++) {
		push(r, IORING_OP_READ, pipe[0], 0, 1, buf + 32, 1);
		nr = 3;
		switch (how) {
		case DRAINS:
			push(r, op, sock, IOSQE_IO_DRAIN, 2, addr, len);
			break;
		case BEHIND:
			push(r, IORING_OP_NOP, -1, IOSQE_IO_DRAIN, 3, NULL, 0);
			push(r, op, sock, 0, 2, addr, len);
			nr++;
			break;
		case LINKED:
			push(r, IORING_OP_NOP, -1, IOSQE_IO_DRAIN | IOSQE_IO_LINK, 3, NULL, 0);
			push(r, op, sock, 0, 2, addr, len);
			nr++;
			break;
		case LINKED_TWICE:
			push(r, op, sock, IOSQE_IO_DRAIN | IOSQE_IO_LINK, 2, addr, len);
			push(r, op, sock, IOSQE_IO_LINK, 2, addr, len);
			push(r, IORING_OP_NOP, -1, 0, 3, NULL, 0);
			nr += 3;
			break;
		}
		/* waits as well, and comes last */
		push(r, IORING_OP_NOP, -1, IOSQE_IO_DRAIN, 4, NULL, 0);
		nr++;
		ASSERT_LT(0, ring_submit(r));
		ASSERT_FALSE(ring_wait(r, &cqe, 50)) TH_LOG("%d early", (int)cqe.user_data);
		ASSERT_EQ(1, write(pipe[1], "x", 1));
		for (i = sent = 0; i < nr; i++) {
			ASSERT_TRUE(ring_wait(r, &cqe, LATE_MS))
				TH_LOG("opcode %d, way %d: %d of %d CQEs", op, how, i, nr);
			if (i == 0)
				EXPECT_EQ(1, cqe.user_data);
			if (cqe.user_data == 2 && !(cqe.flags & IORING_CQE_F_NOTIF)) {
				EXPECT_EQ(5, cqe.res);
				sent++;
			}
		}
		EXPECT_EQ(4, cqe.user_data);
		EXPECT_EQ(how == LINKED_TWICE ? 2 : 1, sent);
		ASSERT_FALSE(ring_wait(r, &cqe, 0));
	}
}

TEST_F(drain, send_zc)
{
	int sock[2];

	ASSERT_EQ(0, tcp_pair(sock));
	zero_copy(_metadata, &self->ring, self->pipe, self->buf, IORING_OP_SEND_ZC, sock[0]);
	close2(sock);
}

TEST_F(drain, sendmsg_zc)
{
	int sock[2];

	ASSERT_EQ(0, tcp_pair(sock));
	zero_copy(_metadata, &self->ring, self->pipe, self->buf, IORING_OP_SENDMSG_ZC, sock[0]);
	close2(sock);
}

/* One that could not be prepared has no second request, and counts as one. */
TEST_F(drain, send_zc_fails)
{
	struct cqe cqe = { };
	int i;

	PUSH(IORING_OP_READ, self->pipe[0], 0, 1, self->buf, 1);
	NOP(IOSQE_IO_DRAIN | IOSQE_IO_LINK, 2);
	/* not a flag that it knows, and not one that it may have */
	PUSH(IORING_OP_SEND_ZC, self->pipe[0], IOSQE_CQE_SKIP_SUCCESS | IOSQE_IO_LINK, 3,
	     self->buf, 1);
	NOP(0, 4);
	NOP(0, 5);
	ASSERT_LT(0, ring_submit(&self->ring));
	ring_wait(&self->ring, &cqe, 50);
	ASSERT_EQ(1, write(self->pipe[1], "x", 1));
	for (i = cqe.user_data ? 1 : 0; i < 5; i++)
		ASSERT_TRUE(ring_wait(&self->ring, &cqe, LATE_MS)) TH_LOG("%d of 5 CQEs", i);
}

TEST_HARNESS_MAIN
