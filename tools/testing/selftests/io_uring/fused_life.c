// SPDX-License-Identifier: GPL-2.0
/*
 * IORING_OP_FUSED_CMD among other requests: order, links, cancellation, exit,
 * credentials, and the corners of the two rings.
 */
#include "fixture.h"
#include <sys/prctl.h>
#include <linux/filter.h>
#include <linux/io_uring/bpf_filter.h>

static int cancel(struct ring *r, __u64 user_data, __u32 flags)
{
	struct io_uring_sync_cancel_reg reg = {
		.addr = user_data,
		.fd = -1,
		.flags = flags,
		.timeout = { .tv_sec = -1, .tv_nsec = -1 },
	};

	return ring_register(r, IORING_REGISTER_SYNC_CANCEL, &reg, 1);
}

/* A worker that is canceled while it waits is interrupted. */
static bool canceled(int res)
{
	return res == -ECANCELED || res == -EINTR;
}

/* Links -------------------------------------------------------------------- */

static int opens_at(struct ring *r, const struct io_uring_sqe *sqe)
{
	ring_push(r, sqe, r->p.flags & IORING_SETUP_SQE128);
	return 0;
}

/* uapi: what is linked behind the group starts when the primary completes */
TEST_F(fused, link)
{
	struct log log = { };
	int fd[2];

	ASSERT_EQ(0, pipe(fd));
	push_nop(&self->ring, UD_OTHER, IOSQE_IO_LINK);
	LEND_DEST(4096);
	self->g.primary->flags = IOSQE_IO_LINK;
	ADD(IORING_OP_READ, fd[0], 0, 100, -1);
	group_push(&self->g);
	push_nop(&self->ring, UD_OTHER + 1, IOSQE_IO_LINK);
	push_nop(&self->ring, UD_OTHER + 2, 0);
	ASSERT_LT(0, ring_submit(&self->ring));
	ASSERT_EQ(0, log_until(&log, &self->ring, UD_OTHER));
	log_rest(&log, &self->ring, 20);
	ASSERT_EQ(1, log.nr);
	ASSERT_EQ(100, write(fd[1], self->buf, 100));
	ASSERT_EQ(0, log_until(&log, &self->ring, UD_OTHER + 2));
	EXPECT_EQ(100, log_res(&log, UD_PRIMARY));
	EXPECT_EQ(100, log_res(&log, 0));
	EXPECT_EQ(0, log_res(&log, UD_OTHER + 1));
	EXPECT_LT(log_index(&log, 0), log_index(&log, UD_PRIMARY));
	EXPECT_LT(log_index(&log, UD_PRIMARY), log_index(&log, UD_OTHER + 1));
	close(fd[0]);
	close(fd[1]);
}

/* uapi: a failed primary breaks the chain, unless it is a hard link */
TEST_F(fused, link_fails)
{
	struct log log = { };

	LEND_DEST(4096);
	self->g.primary->flags = IOSQE_IO_LINK;
	ADD_READ(4096, 512, 0);
	group_push(&self->g);
	push_nop(&self->ring, UD_OTHER, 0);
	ASSERT_LT(0, ring_submit(&self->ring));
	ASSERT_EQ(-ECANCELED, log_until(&log, &self->ring, UD_OTHER));
	EXPECT_EQ(-EFAULT, log_res(&log, UD_PRIMARY));

	log.nr = 0;
	LEND_DEST(4096);
	self->g.primary->flags = IOSQE_IO_HARDLINK;
	ADD_READ(4096, 512, 0);
	group_push(&self->g);
	push_nop(&self->ring, UD_OTHER, 0);
	ASSERT_LT(0, ring_submit(&self->ring));
	ASSERT_EQ(0, log_until(&log, &self->ring, UD_OTHER));
	EXPECT_EQ(-EFAULT, log_res(&log, UD_PRIMARY));

	/* refused by the driver */
	log.nr = 0;
	INIT(OP_REFUSE, 0, 0);
	group_cmd(&self->g)->arg = ENOENT;
	self->g.primary->flags = IOSQE_IO_LINK;
	ADD_READ(0, 512, 0);
	group_push(&self->g);
	push_nop(&self->ring, UD_OTHER, 0);
	ASSERT_LT(0, ring_submit(&self->ring));
	ASSERT_EQ(-ECANCELED, log_until(&log, &self->ring, UD_OTHER));
	EXPECT_EQ(-ENOENT, log_res(&log, UD_PRIMARY));
	EXPECT_EQ(-ECANCELED, log_res(&log, 0));
}

/* what breaks a link alone breaks the group's: the end of a file, or of a pipe's data */
TEST_F(fused, link_short)
{
	const struct { int flags, nop; } want[] = {
		{ IOSQE_IO_LINK, -ECANCELED },
		{ IOSQE_IO_HARDLINK, 0 },
		/* and asks for the CQE of the first that failed, only */
		{ IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS, NO_CQE },
	};
	struct log log = { };

	for (int i = 0; i < 3; i++) {
		log.nr = 0;
		LEND_DEST(4096);
		self->g.primary->flags = want[i].flags;
		ADD_READ(0, 512, FILE_LEN - 100);
		group_push(&self->g);
		push_nop(&self->ring, UD_OTHER, 0);
		ASSERT_LT(0, ring_submit(&self->ring));
		EXPECT_EQ(100, log_until(&log, &self->ring, UD_PRIMARY));
		log_rest(&log, &self->ring, 50);
		EXPECT_EQ(100, log_res(&log, 0));
		EXPECT_EQ(want[i].nop, log_res(&log, UD_OTHER));
	}
}

/* linked behind a group of which all is skipped: the last CQE says that all is well */
TEST_F(fused, link_skip)
{
	struct log log = { };

	LEND_DEST(4096);
	self->g.primary->flags = IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS;
	ADD_READ(0, 512, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
	group_push(&self->g);
	push_nop(&self->ring, UD_OTHER, 0);
	ASSERT_LT(0, ring_submit(&self->ring));
	EXPECT_EQ(0, log_until(&log, &self->ring, UD_OTHER));
	log_rest(&log, &self->ring, 20);
	EXPECT_EQ(1, log.nr);
}

/* a link that breaks before the group: canceled, with all CQEs */
TEST_F(fused, link_broken_before)
{
	struct io_uring_sqe bad[2] = { { .opcode = IORING_OP_READ, .flags = IOSQE_IO_LINK,
					 .fd = -1, .user_data = UD_OTHER } };
	struct log log = { };

	opens_at(&self->ring, bad);
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	ADD_READ(0, 512, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
	group_push(&self->g);
	ASSERT_LT(0, ring_submit(&self->ring));
	ASSERT_EQ(-EBADF, log_until(&log, &self->ring, UD_OTHER));
	ASSERT_EQ(-ECANCELED, log_until(&log, &self->ring, UD_PRIMARY));
	EXPECT_EQ(-ECANCELED, log_res(&log, 0));
	EXPECT_EQ(-ECANCELED, log_res(&log, 1));
	GET_BUFFER(0);
}

/* a malformed group in a link fails the link, and is consumed */
TEST_F(fused, link_malformed)
{
	struct log log = { };

	push_nop(&self->ring, UD_OTHER, IOSQE_IO_LINK);
	LEND_DEST(4096);
	self->g.primary->flags = IOSQE_IO_LINK;
	ADD_READ(0, 512, 0);
	ADD(IORING_OP_NOP, -1, 0, 0, 0);
	group_push(&self->g);
	push_nop(&self->ring, UD_OTHER + 1, 0);
	ASSERT_LT(0, ring_submit(&self->ring));
	ASSERT_NE(NO_CQE, log_until(&log, &self->ring, UD_OTHER + 1));
	EXPECT_EQ(-ECANCELED, log_res(&log, UD_OTHER));
	EXPECT_EQ(-EINVAL, log_res(&log, UD_PRIMARY));
	EXPECT_EQ(-ECANCELED, log_res(&log, UD_OTHER + 1));
	EXPECT_EQ(-ECANCELED, log_res(&log, 0));
	EXPECT_EQ(-ECANCELED, log_res(&log, 1));
}

/* uapi: a link time-out ends the primary only before its secondaries started */
TEST_F(fused, link_timeout)
{
	struct __kernel_timespec ts = { .tv_nsec = 1000000 };
	struct io_uring_sqe sqe[2] = { { .opcode = IORING_OP_LINK_TIMEOUT, .len = 1,
					 .addr = (uintptr_t)&ts, .user_data = UD_OTHER } };
	struct log log = { };
	int fd[2];

	ASSERT_EQ(0, pipe(fd));
	LEND_DEST(4096);
	self->g.primary->flags = IOSQE_IO_LINK;
	ADD(IORING_OP_READ, fd[0], 0, 4096, -1);
	group_push(&self->g);
	opens_at(&self->ring, sqe);
	ASSERT_LT(0, ring_submit(&self->ring));
	ASSERT_NE(NO_CQE, log_until(&log, &self->ring, UD_OTHER));
	ASSERT_EQ(100, write(fd[1], self->buf, 100));
	ASSERT_NE(NO_CQE, log_until(&log, &self->ring, UD_PRIMARY));
	/* all of it, or nothing */
	if (log_res(&log, UD_PRIMARY) != -ECANCELED)
		EXPECT_EQ(100, log_res(&log, UD_PRIMARY));
	EXPECT_EQ(log_res(&log, UD_PRIMARY), log_res(&log, 0));
	close(fd[0]);
	close(fd[1]);
}

/* uapi: IO_DRAIN on the primary waits for what is before, for all of the group */
TEST_F(fused, drain)
{
	struct io_uring_sqe rd[2] = { { .opcode = IORING_OP_READ, .len = 100, .off = -1,
					.user_data = UD_OTHER } };
	struct log log = { };
	int fd[2];

	ASSERT_EQ(0, pipe(fd));
	rd->fd = fd[0];
	rd->addr = (uintptr_t)self->buf;
	opens_at(&self->ring, rd);
	LEND_DEST(4096);
	self->g.primary->flags = IOSQE_IO_DRAIN;
	ADD_READ(0, 512, 0);
	ADD_READ(512, 512, 0);
	group_push(&self->g);
	push_nop(&self->ring, UD_OTHER + 1, 0);
	ASSERT_LT(0, ring_submit(&self->ring));
	log_rest(&log, &self->ring, 20);
	ASSERT_EQ(0, log.nr);
	ASSERT_EQ(4, write(fd[1], "good", 4));
	ASSERT_EQ(0, log_until(&log, &self->ring, UD_OTHER + 1));
	log_until(&log, &self->ring, UD_PRIMARY);
	EXPECT_EQ(4, log_res(&log, UD_OTHER));
	EXPECT_EQ(1024, log_res(&log, UD_PRIMARY));
	EXPECT_EQ(0, log_index(&log, UD_OTHER));
	/* and what drains later waits for all of the group */
	log.nr = 0;
	LEND_DEST(4096);
	ADD(IORING_OP_READ, fd[0], 0, 512, -1);
	group_push(&self->g);
	push_nop(&self->ring, UD_OTHER + 2, IOSQE_IO_DRAIN);
	ASSERT_LT(0, ring_submit(&self->ring));
	log_rest(&log, &self->ring, 20);
	ASSERT_EQ(0, log.nr);
	ASSERT_EQ(4, write(fd[1], "more", 4));
	ASSERT_EQ(0, log_until(&log, &self->ring, UD_OTHER + 2));
	ASSERT_EQ(3, log.nr);
	EXPECT_EQ(2, log_index(&log, UD_OTHER + 2));
	EXPECT_EQ(4, log_res(&log, UD_PRIMARY));
	close(fd[0]);
	close(fd[1]);
}

/* uapi: ASYNC on the primary works: the driver runs in a worker */
TEST_F(fused, primary_async)
{
	LEND_DEST(4096);
	self->g.primary->flags = IOSQE_ASYNC;
	ADD_READ(0, 512, 0);
	ADD_READ(512, 512, 0)->flags |= IOSQE_ASYNC;
	EXPECT_GROUP(1024, 512, 512);
	INIT(OP_REFUSE, 0, 0);
	group_cmd(&self->g)->arg = ENOENT;
	self->g.primary->flags = IOSQE_ASYNC;
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(-ENOENT, -ECANCELED);
	/* what the SQEs said is kept: they may be overwritten */
	INIT(OP_LEND, LEND_BLOCKING, 4096);
	self->g.primary->flags = IOSQE_ASYNC;
	ADD_READ(0, 512, 100);
	group_push(&self->g);
	ring_publish(&self->ring);
	ASSERT_LT(0, ring_enter(&self->ring, self->ring.tail - *self->ring.sq_head));
	if (!IS_SQPOLL)
		memset(self->ring.sqes, 0xff, self->ring.sqes_len);
	{
		struct log log = { };

		EXPECT_CQES(&log, 512, 512);
	}
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf, 0, 100, 512));
}

/* Credentials -------------------------------------------------------------- */

/* The uid of who sent what is next on @fd */
static int sender(int fd)
{
	char buf[16], control[CMSG_SPACE(sizeof(struct ucred))];
	struct iovec iov = { buf, sizeof(buf) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1,
			      .msg_control = control, .msg_controllen = sizeof(control) };
	struct ucred cred;

	if (recvmsg(fd, &msg, MSG_DONTWAIT) <= 0 || !CMSG_FIRSTHDR(&msg))
		return -1;
	memcpy(&cred, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(cred));
	return cred.uid;
}

static int personality(struct ring *r, uid_t uid)
{
	int ret;

	/* raw: of this thread only */
	if (syscall(__NR_setresuid, uid, uid, -1))
		return -errno;
	ret = ring_register(r, IORING_REGISTER_PERSONALITY, NULL, 0);
	syscall(__NR_setresuid, 0, 0, -1);
	return ret;
}

/* uapi: each secondary has its own personality, and not that of the primary */
TEST_F(fused, personalities)
{
	int sock[2], one = 1, p[2], i, defer;

	if (IS_SQPOLL)
		SKIP(return, "the SQPOLL thread has credentials of its own");
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_DGRAM, 0, sock));
	ASSERT_EQ(0, setsockopt(sock[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)));
	for (i = 0; i < 2; i++) {
		p[i] = personality(&self->ring, 1000 + i);
		ASSERT_LT(0, p[i]);
	}
	for (defer = 0; defer < 3; defer++) {
		struct io_uring_sqe sqe[2] = { {
			.opcode = IORING_OP_NOP,
			.personality = p[1],
			.flags = IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS,
		} };

		/* behind a link whose head has another one */
		if (defer == 1)
			opens_at(&self->ring, sqe);
		LEND_SRC(4096);
		self->g.primary->personality = p[0];
		if (defer == 2)
			self->g.primary->flags = IOSQE_ASYNC;
		ADD(IORING_OP_SEND, sock[0], 0, 3, 0);
		EXPECT_GROUP(3, 3);
		EXPECT_EQ(0, sender(sock[1])) TH_LOG("deferred: %d", defer);
		if (defer == 1)
			opens_at(&self->ring, sqe);
		LEND_SRC(4096);
		if (defer == 2)
			self->g.primary->flags = IOSQE_ASYNC;
		ADD(IORING_OP_SEND, sock[0], 0, 3, 0)->personality = p[1];
		EXPECT_GROUP(3, 3);
		EXPECT_EQ(1001, sender(sock[1])) TH_LOG("deferred: %d", defer);
	}
	close(sock[0]);
	close(sock[1]);
}

/* a group that is deferred runs as who submitted it, whoever that is by then */
TEST_F(fused, creds_of_submission)
{
	struct io_uring_sqe rd[2] = { { .opcode = IORING_OP_READ, .len = 4, .off = -1,
					.flags = IOSQE_IO_LINK, .user_data = UD_OTHER } };
	int sock[2], fd[2], one = 1;
	struct log log = { };

	if (IS_SQPOLL)
		SKIP(return, "the SQPOLL thread has credentials of its own");
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_DGRAM, 0, sock));
	ASSERT_EQ(0, setsockopt(sock[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)));
	ASSERT_EQ(0, pipe(fd));
	rd->fd = fd[0];
	rd->addr = (uintptr_t)self->buf;
	opens_at(&self->ring, rd);
	LEND_SRC(4096);
	ADD(IORING_OP_SEND, sock[0], 0, 3, 0);
	group_push(&self->g);
	ASSERT_LT(0, ring_submit(&self->ring));
	ASSERT_EQ(0, syscall(__NR_setresuid, 1000, 1000, -1));
	ASSERT_EQ(4, write(fd[1], "good", 4));
	EXPECT_EQ(3, log_until(&log, &self->ring, UD_PRIMARY));
	ASSERT_EQ(0, syscall(__NR_setresuid, 0, 0, -1));
	EXPECT_EQ(0, sender(sock[1]));
	close(fd[0]);
	close(fd[1]);
	close(sock[0]);
	close(sock[1]);
}

/* uapi: the ring's BPF filter sees each secondary, as it was submitted */
TEST_F(fused, bpf_filter)
{
	/* deny what has the user_data 1: that is the second secondary */
	struct sock_filter insns[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct io_uring_bpf_ctx, user_data)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 0),
		BPF_STMT(BPF_RET | BPF_K, 1),
	};
	struct io_uring_bpf reg = {
		.cmd_type = IO_URING_BPF_CMD_FILTER,
		.filter = {
			.opcode = IORING_OP_READ,
			.filter_len = ARRAY_SIZE(insns),
			.filter_ptr = (uintptr_t)insns,
		},
	};
	int ret = ring_register(&self->ring, IORING_REGISTER_BPF_FILTER, &reg, 1);

	if (ret == -EINVAL)
		SKIP(return, "no BPF filters in this kernel");
	ASSERT_EQ(0, ret);
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(512, 512);
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(-EACCES, -ECANCELED, -ECANCELED);
	/* it is about READ; this one is executed as the same opcode as READ */
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	ADD(IORING_OP_READ_FIXED, self->file, 0, 512, 0);
	EXPECT_GROUP(1024, 512, 512);
	/* the primary is filtered, too */
	insns[1].k = UD_PRIMARY;
	reg.filter.opcode = IORING_OP_FUSED_CMD;
	ASSERT_EQ(0, ring_register(&self->ring, IORING_REGISTER_BPF_FILTER, &reg, 1));
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(-EACCES, -ECANCELED);
}

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
	ASSERT_EQ(0, cancel(&self->ring, 0, 0));
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
	int sock[2];

	PENDING_GROUP(sock);
	EXPECT_EQ(-ENOENT, cancel(&self->ring, UD_PRIMARY, 0));
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
	ASSERT_LE(0, cancel(&self->ring, 0, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL));
	ASSERT_NE(NO_CQE, log_until(&log, &self->ring, UD_PRIMARY));
	EXPECT_TRUE(canceled(log_res(&log, 0)));
	GET_BUFFER(0);
	close(sock[0]);
	close(sock[1]);
}

/* Kept primaries ----------------------------------------------------------- */

/* An ordinary command that completes the kept one with @arg */
static void push_release(struct ring *r, int dev, __u32 arg)
{
	struct io_uring_sqe sqe[2] = { };

	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = dev;
	sqe->cmd_op = OP_RELEASE;
	sqe->user_data = UD_OTHER;
	((struct device_cmd *)sqe->cmd)->arg = arg;
	ring_push(r, sqe, r->p.flags & IORING_SETUP_SQE128);
}

/* the driver may keep the primary when the group is over: no CQE before it says so */
TEST_F(fused, kept)
{
	struct log log = { };

	INIT(OP_KEEP, 0, 4096);
	ADD_READ(0, 512, 100);
	group_push(&self->g);
	ASSERT_LT(0, ring_submit(&self->ring));
	EXPECT_EQ(512, log_until(&log, &self->ring, 0));
	log_rest(&log, &self->ring, 50);
	EXPECT_EQ(1, log.nr);
	/* but the buffer is back */
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf, 0, 100, 512));

	push_release(&self->ring, self->dev, 77);
	ASSERT_LT(0, ring_submit(&self->ring));
	EXPECT_EQ(77, log_until(&log, &self->ring, UD_PRIMARY));
	/* the driver was told what the primary's result would have been */
	if (log_res(&log, UD_OTHER) == NO_CQE)
		log_until(&log, &self->ring, UD_OTHER);
	EXPECT_EQ(512, log_res(&log, UD_OTHER));
	log_rest(&log, &self->ring, 20);
	EXPECT_EQ(3, log.nr);
}

/* also after a failure, which is no failure of the primary then */
TEST_F(fused, kept_secondary_fails)
{
	struct log log = { };

	INIT(OP_KEEP, 0, 4096);
	ADD_READ(0, 512, 0);
	ADD_READ(4096, 512, 0);
	group_push(&self->g);
	ASSERT_LT(0, ring_submit(&self->ring));
	EXPECT_EQ(-EFAULT, log_until(&log, &self->ring, 1));
	log_rest(&log, &self->ring, 50);
	EXPECT_EQ(NO_CQE, log_res(&log, UD_PRIMARY));
	push_release(&self->ring, self->dev, 0);
	ASSERT_LT(0, ring_submit(&self->ring));
	EXPECT_EQ(0, log_until(&log, &self->ring, UD_PRIMARY));
	if (log_res(&log, UD_OTHER) == NO_CQE)
		log_until(&log, &self->ring, UD_OTHER);
	EXPECT_EQ(-EFAULT, log_res(&log, UD_OTHER));
}

/* a group that is refused is not kept */
TEST_F(fused, kept_refused)
{
	INIT(OP_KEEP, LEND_SOURCE, 4096);
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	INIT(OP_KEEP, 0, BUFFER_LEN + 1);
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	/* one whose result is no number of bytes */
	INIT(OP_KEEP, 0, 4096);
	{
		struct io_uring_sqe *sqe = ADD(IORING_OP_URING_CMD, self->dev, 0, 0, 0);

		sqe->cmd_op = OP_RESULT;
		sqe->uring_cmd_flags = IORING_URING_CMD_FIXED;
	}
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	/* and the buffer is back */
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(512, 512);
}

/* a kept primary goes with its ring: the fixture closes it, and must find the buffer */
TEST_F(fused, kept_ring_closed)
{
	struct log log = { };

	INIT(OP_KEEP, 0, 4096);
	ADD_READ(0, 512, 100);
	group_push(&self->g);
	ASSERT_LT(0, ring_submit(&self->ring));
	EXPECT_EQ(512, log_until(&log, &self->ring, 0));
	log_rest(&log, &self->ring, 20);
	EXPECT_EQ(NO_CQE, log_res(&log, UD_PRIMARY));
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
	opens_at(&self->ring, rd);
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	group_push(&self->g);
	ASSERT_LT(0, ring_submit(&self->ring));
	ASSERT_EQ(0, cancel(&self->ring, UD_OTHER, 0));
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
	self->dev = open(DEVICE, O_RDWR);
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

/* The corners of the rings ------------------------------------------------- */

/* a group that wraps around the ring, at each of its SQEs */
TEST_F(fused, wrap)
{
	int i;

	for (i = 0; i < 12; i++) {
		unsigned int to = RING_ENTRIES - 6 + i;

		while ((self->ring.tail & (RING_ENTRIES - 1)) != (to & (RING_ENTRIES - 1))) {
			push_nop(&self->ring, UD_OTHER, IOSQE_CQE_SKIP_SUCCESS);
			if (self->ring.tail - *self->ring.sq_tail > 64)
				ASSERT_LT(0, ring_submit(&self->ring));
		}
		ASSERT_LE(0, ring_submit(&self->ring));
		LEND_DEST(4096);
		ADD_READ(0, 512, i);
		ADD_READ(512, 512, i);
		ADD_READ(1024, 512, i);
		EXPECT_GROUP(1536, 512, 512, 512);
		LEND_DEST(4096);
		ADD_READ(0, 512, i);
		EXPECT_GROUP(512, 512);
	}
}

/* a bad entry of the SQ array in a group: dropped, and the group is refused */
TEST_F(fused, sq_array)
{
	struct log log = { };
	unsigned int mask = RING_ENTRIES - 1;

	if (!self->ring.sq_array || INLINE_FORM || IS_SQPOLL)
		SKIP(return, "no entries");
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	ADD_READ(0, 512, 0);
	ADD_READ(0, 512, 0);
	group_push(&self->g);
	self->ring.sq_array[(self->ring.tail - 2) & mask] = 1000000;
	ASSERT_LT(0, ring_submit(&self->ring));
	self->ring.sq_array[(self->ring.tail - 2) & mask] = (self->ring.tail - 2) & mask;
	EXPECT_CQES(&log, -EINVAL, -ECANCELED, NO_CQE, -ECANCELED);
	EXPECT_EQ(1, *self->ring.sq_dropped);
	/* nothing is lost, nothing is left */
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(512, 512);
}

/* more CQEs than the ring holds */
TEST_F(fused, cq_overflow)
{
	struct mode mode = variant->mode;
	struct io_uring_params p = {
		.flags = mode.ring_flags | IORING_SETUP_CQSIZE,
		.cq_entries = 8,
		.sq_thread_idle = 50,
	};
	struct log log = { };
	int i, last;

	ring_exit(&self->ring);
	ASSERT_EQ(0, ring_init(&self->ring, 8, &p));
	for (i = 0; i < 5; i++) {
		LEND_DEST(BUFFER_LEN);
		group_cmd(&self->g)->buffer = i;
		self->g.primary->user_data = UD_PRIMARY + i;
		for (last = 0; last < (INLINE_FORM ? 1 : 6); last++) {
			ADD_READ(last * 1000, 1000, 0);
			self->g.secondary[last]->user_data = i * 10 + last;
		}
		group_push(&self->g);
		ASSERT_LT(0, ring_submit(&self->ring));
	}
	for (i = 0; i < 5; i++)
		EXPECT_EQ(last * 1000, log_until(&log, &self->ring, UD_PRIMARY + i));
	log_rest(&log, &self->ring, 20);
	EXPECT_EQ(5 * (last + 1), log.nr);
	/* the order within a group holds */
	for (i = 0; i < 5 * last; i++) {
		int group = i / last;

		EXPECT_LT(log_index(&log, group * 10 + i % last),
			  log_index(&log, UD_PRIMARY + group));
	}
}

/* an SQPOLL thread takes 8 SQEs of a ring at a time if there are more rings */
TEST_F(fused, sqpoll_cap)
{
	struct io_uring_params p = {
		.flags = variant->mode.ring_flags | IORING_SETUP_ATTACH_WQ,
		.sq_thread_idle = 50,
		.wq_fd = self->ring.fd,
	};
	int i, n, want[20];
	struct ring other;

	if (!IS_SQPOLL)
		SKIP(return, "no SQPOLL");
	ASSERT_EQ(0, ring_init(&other, 8, &p));
	for (n = 6; n < 20; n++) {
		LEND_DEST(BUFFER_LEN);
		for (i = 0; i < n; i++) {
			ADD_READ(i * 1024, 1024, i * 1024);
			want[i] = 1024;
		}
		ASSERT_EQ(NULL, group_run(&self->g, n * 1024, n, want));
	}
	ring_exit(&other);
}

/* an SQPOLL thread that sees the first half of a group takes it as it is */
TEST_F(fused, sqpoll_halves)
{
	struct log log = { };
	int i;

	if (!IS_SQPOLL || INLINE_FORM)
		SKIP(return, "a group comes in one piece");
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	ADD(IORING_OP_NOP, -1, 0, 0, 0);
	group_push(&self->g);
	/* the primary and the first */
	self->ring.tail--;
	ASSERT_LT(0, ring_submit(&self->ring));
	ASSERT_EQ(-EINVAL, log_until(&log, &self->ring, UD_PRIMARY));
	EXPECT_EQ(-ECANCELED, log_res(&log, 0));
	self->ring.tail++;
	ASSERT_LT(0, ring_submit(&self->ring));
	ASSERT_EQ(0, log_until(&log, &self->ring, 1));
	for (i = 0; i < 3; i++) {
		LEND_DEST(4096);
		ADD_READ(0, 512, 0);
		EXPECT_GROUP(512, 512);
	}
}

/* without SUBMIT_ALL a malformed group ends the submission, with it not */
TEST_F(fused, submit_all)
{
	struct log log = { };
	int i;

	if (IS_SQPOLL)
		SKIP(return, "it goes on in any case");
	for (i = 0; i < 2; i++) {
		struct io_uring_params p = {
			.flags = variant->mode.ring_flags |
				(i ? IORING_SETUP_SUBMIT_ALL : 0),
		};

		log.nr = 0;
		ring_exit(&self->ring);
		ASSERT_EQ(0, ring_init(&self->ring, 16, &p));
		LEND_DEST(4096);
		ADD(IORING_OP_NOP, -1, 0, 0, 0);
		group_push(&self->g);
		push_nop(&self->ring, UD_OTHER, 0);
		ring_publish(&self->ring);
		ASSERT_LT(0, ring_enter(&self->ring, self->ring.tail));
		ASSERT_EQ(-EINVAL, log_until(&log, &self->ring, UD_PRIMARY));
		ASSERT_EQ(-ECANCELED, log_res(&log, 0));
		log_rest(&log, &self->ring, 10);
		EXPECT_EQ(i ? 0 : NO_CQE, log_res(&log, UD_OTHER));
	}
}

/* lengths and offsets of an io_uring that is full of groups: nothing is lost */
TEST_F(fused, again_and_again)
{
	int i;

	for (i = 0; i < 300; i++) {
		if (i % 3 == 0) {
			LEND_DEST(4096);
			ADD_READ(0, 512, i);
			EXPECT_GROUP(512, 512);
		} else if (i % 3 == 1) {
			LEND_DEST(4096);
			ADD_READ(0, 512, i);
			ADD_READ(4096, 1, i);
			EXPECT_GROUP(-EFAULT, 512, -EFAULT);
		} else {
			INIT(OP_REFUSE, 0, 0);
			group_cmd(&self->g)->arg = EPERM;
			ADD_READ(0, 512, i);
			EXPECT_GROUP(-EPERM, -ECANCELED);
		}
	}
}

TEST_HARNESS_MAIN
