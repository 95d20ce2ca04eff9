// SPDX-License-Identifier: GPL-2.0
/*
 * SQE groups among other requests: links, drain, credentials, filters.
 */
#include "group.h"
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/io_uring/bpf_filter.h>

/* uapi: IO_LINK on the leader is for the group */
TEST_F(fused, link)
{
	struct log log = { };
	int fd[2], async;

	for (async = 0; async < 2; async++) {
		log.nr = 0;
		ASSERT_EQ(0, pipe(fd));
		push_nop(&self->ring, UD_OTHER, IOSQE_IO_LINK);
		LEAD_NOP(5)->flags |= IOSQE_IO_LINK | (async ? IOSQE_ASYNC : 0);
		ADD(IORING_OP_READ, fd[0], (uintptr_t)self->buf, 4, -1);
		ADD_NOP(6);
		PUSH_GROUP();
		push_nop(&self->ring, UD_OTHER + 1, IOSQE_IO_LINK);
		push_nop(&self->ring, UD_OTHER + 2, 0);
		SUBMIT();
		EXPECT_EQ(6, log_until(&log, &self->ring, 1));
		log_rest(&log, &self->ring, 20);
		ASSERT_EQ(2, log.nr);
		ASSERT_EQ(4, write(fd[1], "good", 4));
		EXPECT_EQ(0, log_until(&log, &self->ring, UD_OTHER + 2));
		EXPECT_EQ(0, log_index(&log, UD_OTHER));
		EXPECT_EQ(2, log_index(&log, 0));
		EXPECT_EQ(3, log_index(&log, UD_PRIMARY));
		EXPECT_EQ(4, log_index(&log, UD_OTHER + 1));
		EXPECT_EQ(5, log_res(&log, UD_PRIMARY));
		close(fd[0]);
		close(fd[1]);
	}
}

/* uapi: the group is not started before what it is linked to is done */
TEST_F(fused, behind_a_link)
{
	struct log log = { };
	int fd[2];

	ASSERT_EQ(0, pipe(fd));
	push_gate(&self->ring, fd[0], self->buf, IOSQE_IO_LINK);
	LEAD_NOP(5);
	ADD_NOP(6);
	ADD_NOP(7);
	PUSH_GROUP();
	SUBMIT();
	log_rest(&log, &self->ring, 20);
	ASSERT_EQ(0, log.nr);
	ASSERT_EQ(4, write(fd[1], "good", 4));
	EXPECT_EQ(5, log_until(&log, &self->ring, UD_PRIMARY));
	EXPECT_EQ(0, log_index(&log, UD_OTHER));
	EXPECT_EQ(3, log_index(&log, UD_PRIMARY));
	close(fd[0]);
	close(fd[1]);
}

/* uapi: a failed member breaks the links behind the group; a hard link does not break */
TEST_F(fused, member_fails)
{
	const struct { int flags, leader, member, leader_res, member_res, nop; } t[] = {
		{ IOSQE_IO_LINK, 5, 6, 5, 6, 0 },
		{ IOSQE_IO_LINK, 5, -EIO, 5, -EIO, -ECANCELED },
		{ IOSQE_IO_HARDLINK, 5, -EIO, 5, -EIO, 0 },
		{ IOSQE_IO_LINK, -EIO, 6, -EIO, -ECANCELED, -ECANCELED },
		{ IOSQE_IO_HARDLINK, -EIO, 6, -EIO, -ECANCELED, 0 },
		/* the CQE of the first that failed, only; but the leader has to tell */
		{ IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS, 5, -EIO, 5, -EIO, NO_CQE },
		{ IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS, 5, 6, NO_CQE, 6, 0 },
	};
	struct log log = { };
	int i, async;

	for (i = 0; i < (int)ARRAY_SIZE(t) * 2; i++) {
		async = i & 1 ? IOSQE_ASYNC : 0;
		log.nr = 0;
		LEAD_NOP(t[i / 2].leader)->flags |= t[i / 2].flags | async;
		ADD_NOP(t[i / 2].member);
		ADD_NOP(0);
		PUSH_GROUP();
		push_nop(&self->ring, UD_OTHER, 0);
		SUBMIT();
		log_until(&log, &self->ring, t[i / 2].nop == NO_CQE ? UD_PRIMARY : UD_OTHER);
		log_rest(&log, &self->ring, 20);
		EXPECT_EQ(t[i / 2].leader_res, log_res(&log, UD_PRIMARY)) TH_LOG("%d", i);
		EXPECT_EQ(t[i / 2].member_res, log_res(&log, 0)) TH_LOG("%d", i);
		EXPECT_EQ(t[i / 2].nop, log_res(&log, UD_OTHER)) TH_LOG("%d", i);
		EXPECT_TRUE(log_index(&log, UD_PRIMARY) < 0 || log_index(&log, UD_PRIMARY) == 2)
			TH_LOG("%d", i);
	}
}

/* the same of one whose opcode does not say that it has failed, and of a time-out */
TEST_F(fused, member_fails_silently)
{
	static const struct { int flags, nop; } t[] = {
		{ IOSQE_IO_LINK, -ECANCELED },
		{ IOSQE_IO_HARDLINK, 0 },
		/* nothing may hide that the group failed */
		{ IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS, NO_CQE },
		{ IOSQE_CQE_SKIP_SUCCESS, 0 },
	};
	struct __kernel_timespec ts = { .tv_nsec = 1000000 };
	int fd[2], i;

	ASSERT_EQ(0, pipe(fd));
	for (i = 0; i < (int)ARRAY_SIZE(t) * 4; i++) {
		int nop = t[i / 4].nop, times_out = i & 2;
		struct log log = { };

		LEAD_NOP(5)->flags |= t[i / 4].flags | (i & 1 ? IOSQE_ASYNC : 0);
		if (times_out)
			ADD(IORING_OP_TIMEOUT, -1, (uintptr_t)&ts, 1, 0);
		else
			ADD(IORING_OP_FSYNC, fd[0], 0, 0, 0);
		ADD_NOP(6);
		PUSH_GROUP();
		push_nop(&self->ring, UD_OTHER, 0);
		SUBMIT();
		ASSERT_EQ(5, log_until(&log, &self->ring, UD_PRIMARY)) TH_LOG("%d", i);
		if (nop != NO_CQE)
			log_until(&log, &self->ring, UD_OTHER);
		log_rest(&log, &self->ring, 20);
		EXPECT_EQ(times_out ? -ETIME : -EINVAL, log_res(&log, 0)) TH_LOG("%d", i);
		EXPECT_EQ(6, log_res(&log, 1)) TH_LOG("%d", i);
		EXPECT_EQ(nop, log_res(&log, UD_OTHER)) TH_LOG("%d", i);
		EXPECT_LT(log_index(&log, 0), log_index(&log, UD_PRIMARY)) TH_LOG("%d", i);
		EXPECT_LT(log_index(&log, 1), log_index(&log, UD_PRIMARY)) TH_LOG("%d", i);
		EXPECT_EQ(nop == NO_CQE ? 3 : 4, log.nr) TH_LOG("%d", i);
	}
	close(fd[0]);
	close(fd[1]);
}

/* its error is not lost with its CQE, though the opcode does not say that it has failed */
TEST_F(fused, skipped_member_fails)
{
	int fd[2], i;

	ASSERT_EQ(0, pipe(fd));
	for (i = 0; i < 4; i++) {
		bool leads = i & 2;
		struct log log = { };

		if (leads)
			LEAD(IORING_OP_FSYNC, fd[0], 0, 0, 0);
		else
			LEAD_NOP(5);
		self->g.primary->flags |= IOSQE_CQE_SKIP_SUCCESS | (i & 1 ? IOSQE_ASYNC : 0);
		if (leads)
			ADD_NOP(6)->flags |= IOSQE_CQE_SKIP_SUCCESS;
		else
			ADD(IORING_OP_FSYNC, fd[0], 0, 0, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS |
				(i & 1 ? IOSQE_ASYNC : 0);
		PUSH_GROUP();
		SUBMIT();
		EXPECT_EQ(leads ? -EINVAL : 5, log_until(&log, &self->ring, UD_PRIMARY))
			TH_LOG("%d", i);
		EXPECT_EQ(leads ? -ECANCELED : -EINVAL, log_res(&log, 0)) TH_LOG("%d", i);
		EXPECT_EQ(2, log.nr) TH_LOG("%d", i);
	}
	close(fd[0]);
	close(fd[1]);
}

/* A wait for a futex, as one or as one of several */
static void futex_wait(struct io_uring_sqe *sqe, bool vec)
{
	static unsigned int futex;
	static struct futex_waitv waitv = { .flags = 2 };

	waitv.uaddr = (uintptr_t)&futex;
	if (vec) {
		sqe->opcode = IORING_OP_FUTEX_WAITV;
		sqe->addr = (uintptr_t)&waitv;
		sqe->len = 1;
	} else {
		sqe->opcode = IORING_OP_FUTEX_WAIT;
		sqe->fd = 2;
		sqe->addr = (uintptr_t)&futex;
		sqe->addr3 = ~0U;
	}
}

/* nor is that of one which ends later, and says nothing of a failure either */
TEST_F(fused, skipped_wait_canceled)
{
	int i;

	for (i = 0; i < 4; i++) {
		bool leads = i & 2;
		struct log log = { };

		if (leads) {
			futex_wait(LEAD(IORING_OP_NOP, 0, 0, 0, 0), i & 1);
			self->g.primary->flags |= IOSQE_IO_LINK;
			ADD_NOP(6)->flags |= IOSQE_CQE_SKIP_SUCCESS;
		} else {
			LEAD_NOP(5);
			futex_wait(ADD(IORING_OP_NOP, 0, 0, 0, 0), i & 1);
			self->g.secondary[0]->flags |= IOSQE_CQE_SKIP_SUCCESS;
		}
		self->g.primary->flags |= IOSQE_CQE_SKIP_SUCCESS;
		PUSH_GROUP();
		if (leads)
			push_nop(&self->ring, UD_OTHER, 0);
		SUBMIT();
		EXPECT_LE(0, cancel_one(&log, &self->ring, leads ? UD_PRIMARY : 0));
		EXPECT_EQ(leads ? -ECANCELED : 5, log_until(&log, &self->ring, UD_PRIMARY))
			TH_LOG("%d", i);
		EXPECT_EQ(-ECANCELED, log_res(&log, 0)) TH_LOG("%d", i);
		/* what is linked behind one that skips goes without a CQE, as ever */
		log_rest(&log, &self->ring, 10);
		EXPECT_EQ(2, log.nr) TH_LOG("%d", i);
	}
}

/* a member that comes short, too, and it posts its CQE */
TEST_F(fused, member_short)
{
	int skip;

	for (skip = 0; skip < 2; skip++) {
		struct log log = { };

		LEAD_NOP(5)->flags |= IOSQE_IO_LINK;
		ADD(IORING_OP_READ, self->file, (uintptr_t)self->buf, 512,
		    FILE_LEN - 100)->flags |= skip ? IOSQE_CQE_SKIP_SUCCESS : 0;
		PUSH_GROUP();
		push_nop(&self->ring, UD_OTHER, 0);
		SUBMIT();
		EXPECT_EQ(-ECANCELED, log_until(&log, &self->ring, UD_OTHER));
		EXPECT_EQ(100, log_res(&log, 0));
		EXPECT_EQ(5, log_res(&log, UD_PRIMARY));
	}
}

/* a link that breaks before the group: all of it is canceled, or goes without a CQE */
TEST_F(fused, broken_before)
{
	struct log log = { };
	int skip;

	for (skip = 0; skip < 2; skip++) {
		struct io_uring_sqe bad[2] = { {
			.opcode = IORING_OP_READ,
			.flags = IOSQE_IO_LINK | (skip ? IOSQE_CQE_SKIP_SUCCESS : 0),
			.fd = -1,
			.user_data = UD_OTHER,
		} };

		log.nr = 0;
		push_sqe(&self->ring, bad);
		LEAD_NOP(5)->flags |= IOSQE_IO_LINK;
		ADD_NOP(6);
		ADD_NOP(7)->flags |= IOSQE_CQE_SKIP_SUCCESS;
		PUSH_GROUP();
		push_nop(&self->ring, UD_OTHER + 1, 0);
		SUBMIT();
		EXPECT_EQ(-EBADF, log_until(&log, &self->ring, UD_OTHER));
		EXPECT_TRUE(skip ||
			    log_until(&log, &self->ring, UD_OTHER + 1) == -ECANCELED);
		log_rest(&log, &self->ring, 20);
		EXPECT_EQ(skip ? 1 : 5, log.nr);
		EXPECT_EQ(skip ? NO_CQE : -ECANCELED, log_res(&log, UD_PRIMARY));
		EXPECT_EQ(skip ? NO_CQE : -ECANCELED, log_res(&log, 0));
		EXPECT_EQ(skip ? NO_CQE : -ECANCELED, log_res(&log, 1));
	}
}

/* a malformed group in a link fails the link, and is consumed */
TEST_F(fused, link_malformed)
{
	struct log log = { };

	push_nop(&self->ring, UD_OTHER, IOSQE_IO_LINK);
	LEAD_NOP(5)->flags |= IOSQE_IO_LINK;
	ADD_NOP(6);
	ADD_NOP(7)->flags |= IOSQE_IO_LINK;
	ADD_NOP(8);
	PUSH_GROUP();
	push_nop(&self->ring, UD_OTHER + 1, 0);
	SUBMIT();
	EXPECT_EQ(-ECANCELED, log_until(&log, &self->ring, UD_OTHER + 1));
	EXPECT_EQ(-ECANCELED, log_res(&log, UD_OTHER));
	EXPECT_EQ(-EINVAL, log_res(&log, UD_PRIMARY));
	EXPECT_EQ(-ECANCELED, log_res(&log, 0));
	EXPECT_EQ(-ECANCELED, log_res(&log, 1));
	EXPECT_EQ(-ECANCELED, log_res(&log, 2));
	EXPECT_EQ(6, log.nr);
}

/* a group at the head of a link that is malformed behind it: nothing is issued */
TEST_F(fused, link_malformed_behind)
{
	struct log log = { };
	int fd[2];

	ASSERT_EQ(0, pipe2(fd, O_NONBLOCK));
	LEAD(IORING_OP_WRITE, fd[1], (uintptr_t)self->buf, 1, -1)->flags |= IOSQE_IO_LINK;
	ADD(IORING_OP_WRITE, fd[1], (uintptr_t)self->buf, 1, -1);
	PUSH_GROUP();
	push_nop(&self->ring, UD_OTHER, IOSQE_BUFFER_SELECT);
	SUBMIT();
	EXPECT_EQ(-EOPNOTSUPP, log_until(&log, &self->ring, UD_OTHER));
	EXPECT_EQ(-ECANCELED, log_until(&log, &self->ring, UD_PRIMARY));
	EXPECT_EQ(-ECANCELED, log_res(&log, 0));
	EXPECT_EQ(0, log_index(&log, 0));
	EXPECT_EQ(-1, read(fd[0], self->buf, 1));
	close(fd[0]);
	close(fd[1]);
}

/* a LINK_TIMEOUT is a part of the request before it, and a group has several */
TEST_F(fused, link_timeout)
{
	struct __kernel_timespec ts = { .tv_sec = 10 };
	struct io_uring_sqe sqe[2] = { { .opcode = IORING_OP_LINK_TIMEOUT, .len = 1,
					 .addr = (uintptr_t)&ts, .user_data = UD_OTHER } };
	struct log log = { };
	int lease;

	for (lease = 0; lease < 2; lease++) {
		log.nr = 0;
		if (lease)
			group_lead_cmd(&self->g, &self->ring, &variant->mode, self->dev,
				       OP_LEND, 0, 4096);
		else
			LEAD_NOP(5);
		self->g.primary->flags |= IOSQE_IO_LINK;
		ADD_READ(0, 512, 0)->flags |= lease ? IOSQE_IO_DRAIN : 0;
		if (!lease)
			self->g.secondary[0]->addr = (uintptr_t)self->buf;
		PUSH_GROUP();
		push_sqe(&self->ring, sqe);
		SUBMIT();
		EXPECT_EQ(-EINVAL, log_until(&log, &self->ring, UD_OTHER));
		EXPECT_EQ(-ECANCELED, log_until(&log, &self->ring, UD_PRIMARY));
		EXPECT_EQ(-ECANCELED, log_res(&log, 0));
	}
}

/* uapi: IO_DRAIN on the leader waits for what is before, for all of the group */
TEST_F(fused, drain)
{
	struct log log = { };
	int fd[2], async, i;

	for (async = 0; async < 2; async++) {
		log.nr = 0;
		ASSERT_EQ(0, pipe(fd));
		push_gate(&self->ring, fd[0], self->buf, 0);
		LEAD_NOP(5)->flags |= IOSQE_IO_DRAIN | (async ? IOSQE_ASYNC : 0);
		ADD_NOP(6);
		ADD(IORING_OP_READ, fd[0], (uintptr_t)self->buf, 4, -1);
		PUSH_GROUP();
		/* these wait for the group, though they do not say so */
		push_nop(&self->ring, UD_OTHER + 1, 0);
		push_nop(&self->ring, UD_OTHER + 2, 0);
		SUBMIT();
		log_rest(&log, &self->ring, 20);
		ASSERT_EQ(0, log.nr);
		ASSERT_EQ(4, write(fd[1], "good", 4));
		EXPECT_EQ(6, log_until(&log, &self->ring, 0));
		log_rest(&log, &self->ring, 20);
		EXPECT_EQ(NO_CQE, log_res(&log, UD_PRIMARY));
		EXPECT_EQ(NO_CQE, log_res(&log, UD_OTHER + 1));
		ASSERT_EQ(4, write(fd[1], "more", 4));
		EXPECT_EQ(0, log_until(&log, &self->ring, UD_OTHER + 1));
		EXPECT_EQ(0, log_until(&log, &self->ring, UD_OTHER + 2));
		EXPECT_EQ(0, log_index(&log, UD_OTHER));
		EXPECT_EQ(3, log_index(&log, UD_PRIMARY));
		EXPECT_EQ(5, log_res(&log, UD_PRIMARY));
		EXPECT_EQ(6, log.nr);
		/* the ring does not drain for ever */
		push_gate(&self->ring, fd[0], self->buf, 0);
		push_nop(&self->ring, UD_OTHER + 3, 0);
		SUBMIT();
		EXPECT_EQ(0, log_until(&log, &self->ring, UD_OTHER + 3));
		ASSERT_EQ(4, write(fd[1], "last", 4));
		for (i = 0; i < 500 && log.nr < 8; i++)
			log_rest(&log, &self->ring, 20);
		EXPECT_EQ(8, log.nr);
		close(fd[0]);
		close(fd[1]);
	}
}

/* what comes later waits for a group that drains, though its leader is done */
TEST_F(fused, drain_goes_on)
{
	struct log log = { };
	int fd[2], async;

	for (async = 0; async < 2; async++) {
		log.nr = 0;
		ASSERT_EQ(0, pipe(fd));
		LEAD_NOP(5)->flags |= IOSQE_IO_DRAIN | (async ? IOSQE_ASYNC : 0);
		ADD_NOP(6);
		ADD(IORING_OP_READ, fd[0], (uintptr_t)self->buf, 4, -1);
		PUSH_GROUP();
		SUBMIT();
		ASSERT_EQ(6, log_until(&log, &self->ring, 0));
		push_nop(&self->ring, UD_OTHER, 0);
		SUBMIT();
		log_rest(&log, &self->ring, 20);
		EXPECT_EQ(1, log.nr);
		ASSERT_EQ(4, write(fd[1], "good", 4));
		EXPECT_EQ(0, log_until(&log, &self->ring, UD_OTHER));
		EXPECT_EQ(2, log_index(&log, UD_PRIMARY));
		EXPECT_EQ(4, log.nr);
		close(fd[0]);
		close(fd[1]);
	}
}

/* and what drains later waits for all of the group, which may wait itself */
TEST_F(fused, behind_a_drain)
{
	struct log log = { };
	int fd[2];

	ASSERT_EQ(0, pipe(fd));
	LEAD_NOP(5);
	ADD(IORING_OP_READ, fd[0], (uintptr_t)self->buf, 4, -1);
	PUSH_GROUP();
	push_nop(&self->ring, UD_OTHER, IOSQE_IO_DRAIN);
	LEAD_NOP(7)->user_data = UD_PRIMARY + 1;
	ADD_NOP(8)->user_data = 10;
	ADD_NOP(9)->user_data = 11;
	PUSH_GROUP();
	push_nop(&self->ring, UD_OTHER + 1, IOSQE_IO_DRAIN);
	SUBMIT();
	log_rest(&log, &self->ring, 20);
	ASSERT_EQ(0, log.nr);
	ASSERT_EQ(4, write(fd[1], "good", 4));
	EXPECT_EQ(0, log_until(&log, &self->ring, UD_OTHER + 1));
	EXPECT_EQ(0, log_index(&log, 0));
	EXPECT_EQ(1, log_index(&log, UD_PRIMARY));
	EXPECT_EQ(2, log_index(&log, UD_OTHER));
	EXPECT_EQ(5, log_index(&log, UD_PRIMARY + 1));
	EXPECT_EQ(6, log_index(&log, UD_OTHER + 1));
	close(fd[0]);
	close(fd[1]);
}

/* what the SQEs say is kept: they may be overwritten when they are submitted */
TEST_F(fused, stable)
{
	struct log log = { };
	int fd[2];

	if (IS_SQPOLL)
		SKIP(return, "nobody tells when they are");
	ASSERT_EQ(0, pipe(fd));
	LEAD(IORING_OP_READ, fd[0], (uintptr_t)self->buf, 4, -1);
	group_add_cmd(&self->g, self->dev, 1234)->uring_cmd_flags = 0;
	ADD(IORING_OP_READ, self->file, (uintptr_t)self->buf, 100, 0);
	PUSH_GROUP();
	SUBMIT();
	memset(self->ring.sqes, 0xff, self->ring.sqes_len);
	ASSERT_EQ(4, write(fd[1], "good", 4));
	EXPECT_CQES(&log, 4, 1234, 100);
	close(fd[0]);
	close(fd[1]);
}

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

/* a member runs as who submitted it, or as its own personality, not the leader's */
TEST_F(fused, credentials)
{
	struct log log = { };
	int sock[2], fd[2], one = 1, p[2], i;

	if (IS_SQPOLL)
		SKIP(return, "the SQPOLL thread has credentials of its own");
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_DGRAM, 0, sock));
	ASSERT_EQ(0, setsockopt(sock[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)));
	for (i = 0; i < 2; i++) {
		/* raw: of this thread only */
		ASSERT_EQ(0, syscall(__NR_setresuid, 1000 + i, 1000 + i, -1));
		p[i] = ring_register(&self->ring, IORING_REGISTER_PERSONALITY, NULL, 0);
		ASSERT_EQ(0, syscall(__NR_setresuid, 0, 0, -1));
		ASSERT_LT(0, p[i]);
	}
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, pipe(fd));
		log.nr = 0;
		LEAD(IORING_OP_READ, fd[0], (uintptr_t)self->buf, 4, -1)->personality = p[0];
		ADD(IORING_OP_SEND, sock[0], (uintptr_t)self->buf, 3, 0)->personality =
			i ? p[1] : 0;
		PUSH_GROUP();
		SUBMIT();
		ASSERT_EQ(0, syscall(__NR_setresuid, 1002, 1002, -1));
		ASSERT_EQ(4, write(fd[1], "good", 4));
		EXPECT_EQ(4, log_until(&log, &self->ring, UD_PRIMARY));
		ASSERT_EQ(0, syscall(__NR_setresuid, 0, 0, -1));
		EXPECT_EQ(3, log_res(&log, 0));
		EXPECT_EQ(i ? 1001 : 0, sender(sock[1]));
		close(fd[0]);
		close(fd[1]);
	}
	close(sock[0]);
	close(sock[1]);
}

/* uapi: every member passes the BPF filter, as if it were submitted alone */
TEST_F(fused, bpf_filter)
{
	struct sock_filter insns[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct io_uring_bpf_ctx, user_data)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 0),
		BPF_STMT(BPF_RET | BPF_K, 1),
	};
	struct io_uring_bpf reg = {
		.cmd_type = IO_URING_BPF_CMD_FILTER,
		.filter = {
			.opcode = IORING_OP_NOP,
			.filter_len = ARRAY_SIZE(insns),
			.filter_ptr = (uintptr_t)insns,
		},
	};
	int ret = ring_register(&self->ring, IORING_REGISTER_BPF_FILTER, &reg, 1);

	if (ret == -EINVAL)
		SKIP(return, "no BPF filters in this kernel");
	ASSERT_EQ(0, ret);
	LEAD_NOP(5);
	ADD_NOP(6);
	EXPECT_GROUP(5, 6);
	LEAD_NOP(5);
	ADD_NOP(6);
	ADD_NOP(7);
	ADD_NOP(8);
	EXPECT_GROUP(-EACCES, -ECANCELED, -ECANCELED, -ECANCELED);
	/* the leader, too, and it takes its members with it */
	insns[1].k = UD_PRIMARY;
	ASSERT_EQ(0, ring_register(&self->ring, IORING_REGISTER_BPF_FILTER, &reg, 1));
	LEAD_NOP(5);
	ADD_NOP(6);
	EXPECT_GROUP(-EACCES, -ECANCELED);
}

/* it sees the flags that the SQE has */
TEST_F(fused, bpf_filter_flags)
{
	/* deny what has both flags */
	const unsigned int both = IOSQE_SQE_GROUP | IOSQE_IO_DRAIN;
	struct sock_filter insns[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct io_uring_bpf_ctx, opcode)),
		/* opcode, sqe_flags: bytes of one word */
		BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 8),
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, both),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, both, 0, 1),
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
	group_lead_cmd(&self->g, &self->ring, &variant->mode, self->dev, OP_LEND, 0, 4096);
	ADD_READ(0, 512, 0)->flags |= IOSQE_IO_DRAIN;
	EXPECT_GROUP(0, 512);
	group_lead_cmd(&self->g, &self->ring, &variant->mode, self->dev, OP_LEND, 0, 4096);
	ADD_READ(0, 512, 0)->flags |= IOSQE_IO_DRAIN;
	ADD_READ(0, 512, 0)->flags |= IOSQE_IO_DRAIN;
	EXPECT_GROUP(-EACCES, -ECANCELED, -ECANCELED);
}

/* uapi: every member passes the ring's restrictions: opcode and flags */
TEST_F(fused, restrictions)
{
	struct io_uring_restriction res[] = {
		{ .opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_NOP },
		{ .opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED,
		  .sqe_flags = IOSQE_SQE_GROUP | IOSQE_ASYNC },
	};
	struct io_uring_params p = {
		.flags = variant->mode.ring_flags | IORING_SETUP_R_DISABLED,
		.sq_thread_idle = 50,
	};
	int i;

	for (i = 0; i < 2; i++) {
		ring_exit(&self->ring);
		ASSERT_EQ(0, ring_init(&self->ring, 16, &p));
		if (i)
			res[1].sqe_flags = IOSQE_ASYNC;
		ASSERT_EQ(0, ring_register(&self->ring, IORING_REGISTER_RESTRICTIONS, res, 2));
		ASSERT_EQ(0, ring_register(&self->ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0));
		LEAD_NOP(5);
		ADD_NOP(6);
		ADD_NOP(7);
		if (i)
			EXPECT_GROUP(-EACCES, -ECANCELED, -ECANCELED);
		else
			EXPECT_GROUP(5, 6, 7);
	}
	res[1].sqe_flags = IOSQE_SQE_GROUP | IOSQE_ASYNC;
	ring_exit(&self->ring);
	ASSERT_EQ(0, ring_init(&self->ring, 16, &p));
	ASSERT_EQ(0, ring_register(&self->ring, IORING_REGISTER_RESTRICTIONS, res, 2));
	ASSERT_EQ(0, ring_register(&self->ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0));
	LEAD_NOP(5);
	ADD(IORING_OP_READ, self->file, (uintptr_t)self->buf, 10, 0);
	ADD_NOP(7);
	EXPECT_GROUP(-EACCES, -ECANCELED, -ECANCELED);
	LEAD_NOP(5);
	ADD_NOP(7)->flags |= IOSQE_CQE_SKIP_SUCCESS;
	EXPECT_GROUP(-EACCES, -ECANCELED);
}

TEST_HARNESS_MAIN
