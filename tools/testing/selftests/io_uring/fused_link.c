// SPDX-License-Identifier: GPL-2.0
/*
 * IORING_OP_FUSED_CMD among other requests: links, drain, credentials, filters.
 */
#include "fixture.h"
#include "sockets.h"
#include <linux/filter.h>
#include <linux/io_uring/bpf_filter.h>

/* Links -------------------------------------------------------------------- */

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

	push_sqe(&self->ring, bad);
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

/* uapi: a LINK_TIMEOUT is a part of the request before it, and a group has several */
TEST_F(fused, link_timeout)
{
	struct __kernel_timespec ts = { .tv_sec = 10 };
	struct io_uring_sqe sqe[2] = { { .opcode = IORING_OP_LINK_TIMEOUT, .len = 1,
					 .addr = (uintptr_t)&ts, .user_data = UD_OTHER } };
	unsigned int i, nr, flags[] = { IOSQE_IO_LINK, IOSQE_IO_HARDLINK };
	struct log log = { };

	SET_BUFFER(0, 9);
	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		for (nr = 1; nr <= 2; nr++) {
			log.nr = 0;
			LEND_DEST(4096);
			self->g.primary->flags = flags[i];
			ADD_READ(0, 512, 0);
			if (nr == 2)
				ADD_READ(512, 512, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
			group_push(&self->g);
			push_sqe(&self->ring, sqe);
			ASSERT_LT(0, ring_submit(&self->ring));
			EXPECT_EQ(-EINVAL, log_until(&log, &self->ring, UD_OTHER));
			EXPECT_EQ(-ECANCELED, log_until(&log, &self->ring, UD_PRIMARY));
			EXPECT_EQ(-ECANCELED, log_res(&log, 0));
			EXPECT_EQ(nr == 2 ? -ECANCELED : NO_CQE, log_res(&log, 1));
		}
	}
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf, 9, 0, BUFFER_LEN));
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
	push_sqe(&self->ring, rd);
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

/* What waits with a group may have more requests than it has SQEs: a notification. */
TEST_F(fused, drain_with_send_zc)
{
	struct io_uring_sqe rd[2] = { { .opcode = IORING_OP_READ, .len = 100, .off = -1,
					.user_data = UD_OTHER } };
	struct io_uring_sqe zc[2] = { { .opcode = IORING_OP_SEND_ZC, .len = 100,
					.user_data = UD_OTHER + 1 } };
	struct log log = { };
	int fd[2], sock[2];

	ASSERT_EQ(0, pipe(fd));
	ASSERT_EQ(0, tcp_pair(sock));
	rd->fd = fd[0];
	rd->addr = (uintptr_t)self->buf;
	push_sqe(&self->ring, rd);
	LEND_DEST(4096);
	self->g.primary->flags = IOSQE_IO_DRAIN | IOSQE_IO_LINK;
	ADD_READ(0, 512, 0);
	group_push(&self->g);
	zc->fd = sock[0];
	zc->addr = (uintptr_t)self->buf;
	push_sqe(&self->ring, zc);
	ASSERT_LT(0, ring_submit(&self->ring));
	log_rest(&log, &self->ring, 20);
	ASSERT_EQ(0, log.nr);
	ASSERT_EQ(4, write(fd[1], "good", 4));
	ASSERT_EQ(100, log_until(&log, &self->ring, UD_OTHER + 1));
	EXPECT_EQ(0, log_index(&log, UD_OTHER));
	EXPECT_EQ(512, log_res(&log, UD_PRIMARY));
	EXPECT_LT(log_index(&log, UD_PRIMARY), log_index(&log, UD_OTHER + 1));
	close(fd[0]);
	close(fd[1]);
	close2(sock);
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
			push_sqe(&self->ring, sqe);
		LEND_SRC(4096);
		self->g.primary->personality = p[0];
		if (defer == 2)
			self->g.primary->flags = IOSQE_ASYNC;
		ADD(IORING_OP_SEND, sock[0], 0, 3, 0);
		EXPECT_GROUP(3, 3);
		EXPECT_EQ(0, sender(sock[1])) TH_LOG("deferred: %d", defer);
		if (defer == 1)
			push_sqe(&self->ring, sqe);
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
	push_sqe(&self->ring, rd);
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

TEST_HARNESS_MAIN
