// SPDX-License-Identifier: GPL-2.0
/*
 * SQE groups whose leader is a command to a driver that lends its buffer to the
 * members that ask for it, which IOSQE_IO_DRAIN says.
 */
#include <sys/uio.h>
#include "group.h"
#include "sockets.h"

/* Start a group led by command @op */
#define LEAD_CMD(op, flags, len) \
	group_lead_cmd(&self->g, &self->ring, &variant->mode, self->dev, op, flags, len)
/* A member that takes its buffer from the lease */
#define ADD_LEASED(op, fd, addr, len, off) ({				\
	struct io_uring_sqe *leased_ = ADD(op, fd, addr, len, off);	\
									\
	leased_->flags |= IOSQE_IO_DRAIN;				\
	leased_;							\
})
#define ADD_LEASED_READ(addr, len, off) \
	ADD_LEASED(IORING_OP_READ, self->file, addr, len, off)

/* uapi: addr is an offset; reads of all kinds write the buffer; the leader has 0 */
TEST_F(fused, reads)
{
	const struct iovec vec[] = { { (void *)2048, 100 }, { (void *)1536, 412 } };
	const struct iovec fixed[] = { { (void *)3000, 300 }, { (void *)2500, 212 } };

	SET_BUFFER(0, 9);
	LEAD_CMD(OP_LEND, 0, 4096);
	ADD_LEASED_READ(0, 512, 0);
	ADD_LEASED(IORING_OP_READ_FIXED, self->file, 512, 512, 1000);
	ADD_LEASED(IORING_OP_READV, self->file, (uintptr_t)vec, 2, 5000);
	ADD_LEASED(IORING_OP_READV_FIXED, self->file, (uintptr_t)fixed, 2, 7000);
	EXPECT_GROUP(0, 512, 512, 512, 512);
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf, 0, 0, 512));
	EXPECT_TRUE(is_pattern(self->buf + 512, 0, 1000, 512));
	EXPECT_TRUE(is_pattern(self->buf + 1024, 9, 1024, 512));
	EXPECT_TRUE(is_pattern(self->buf + 2048, 0, 5000, 100));
	EXPECT_TRUE(is_pattern(self->buf + 1536, 0, 5100, 412));
	EXPECT_TRUE(is_pattern(self->buf + 3000, 0, 7000, 300));
	EXPECT_TRUE(is_pattern(self->buf + 2500, 0, 7300, 212));
	EXPECT_TRUE(is_pattern(self->buf + 3300, 9, 3300, BUFFER_LEN - 3300));
}

TEST_F(fused, writes)
{
	const struct iovec vec[] = { { (void *)3000, 100 }, { (void *)600, 412 } };
	const struct iovec fixed[] = { { (void *)7, 505 }, { (void *)4089, 7 } };
	int out = memfd_create("out", 0);

	SET_BUFFER(0, 3);
	LEAD_CMD(OP_LEND, LEND_SOURCE, 4096);
	ADD_LEASED(IORING_OP_WRITE, out, 100, 512, 0);
	ADD_LEASED(IORING_OP_WRITE_FIXED, out, 0, 512, 512);
	ADD_LEASED(IORING_OP_WRITEV, out, (uintptr_t)vec, 2, 1024);
	ADD_LEASED(IORING_OP_WRITEV_FIXED, out, (uintptr_t)fixed, 2, 1536);
	EXPECT_GROUP(0, 512, 512, 512, 512);
	ASSERT_EQ(2048, pread(out, self->buf, BUFFER_LEN, 0));
	EXPECT_TRUE(is_pattern(self->buf, 3, 100, 512));
	EXPECT_TRUE(is_pattern(self->buf + 512, 3, 0, 512));
	EXPECT_TRUE(is_pattern(self->buf + 1024, 3, 3000, 100));
	EXPECT_TRUE(is_pattern(self->buf + 1124, 3, 600, 412));
	EXPECT_TRUE(is_pattern(self->buf + 1536, 3, 7, 505));
	EXPECT_TRUE(is_pattern(self->buf + 2041, 3, 4089, 7));
	close(out);
}

TEST_F(fused, sockets)
{
	int sock[2];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
	SET_BUFFER(0, 3);
	LEAD_CMD(OP_LEND, LEND_SOURCE, 4096);
	ADD_LEASED(IORING_OP_SEND, sock[0], 1024, 512, 0);
	EXPECT_GROUP(0, 512);
	LEAD_CMD(OP_LEND, 0, 4096);
	ADD_LEASED(IORING_OP_RECV, sock[1], 0, 512, 0)->msg_flags = MSG_WAITALL;
	EXPECT_GROUP(0, 512);
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf, 3, 1024, 512));
	/* what would count bytes that are not moved is refused as of a secondary */
	LEAD_CMD(OP_LEND, 0, 4096);
	ADD_LEASED(IORING_OP_RECV, sock[1], 0, 512, 0)->msg_flags = MSG_TRUNC;
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	close2(sock);
}

/* uapi: for SEND_ZC the lease lasts until the notification; the leader's CQE is the last */
TEST_F(fused, send_zc)
{
	struct log log = { };
	int sock[2];

	ASSERT_EQ(0, tcp_pair(sock));
	SET_BUFFER(0, 4);
	LEAD_CMD(OP_LEND, LEND_SOURCE, BUFFER_LEN);
	ADD_LEASED(IORING_OP_SEND_ZC, sock[0], 3000, 9000, 0)->addr3 = UD_OTHER;
	ADD_NOP(7);
	PUSH_GROUP();
	SUBMIT();
	ASSERT_EQ(9000, log_until(&log, &self->ring, 0));
	ASSERT_EQ(9000, recv_all(sock[1], self->buf, 9000));
	EXPECT_TRUE(is_pattern(self->buf, 4, 3000, 9000));
	EXPECT_EQ(0, log_until(&log, &self->ring, UD_PRIMARY));
	EXPECT_EQ(3, log_index(&log, UD_PRIMARY));
	EXPECT_EQ(7, log_res(&log, 1));
	ASSERT_LE(0, log_index(&log, UD_OTHER));
	EXPECT_EQ(IORING_CQE_F_NOTIF, log.cqe[log_index(&log, UD_OTHER)].flags);
	EXPECT_EQ(IORING_CQE_F_MORE, log.cqe[log_index(&log, 0)].flags);
	GET_BUFFER(0);
	log_rest(&log, &self->ring, 10);
	EXPECT_EQ(4, log.nr);
	close2(sock);
}

/* a peer that does not read: the pages are with the network stack */
TEST_F(fused, send_zc_pending)
{
	struct log log = { };
	int sock[2];

	ASSERT_EQ(0, stuck_tcp_pair(sock));
	SET_BUFFER(0, 4);
	LEAD_CMD(OP_LEND, LEND_SOURCE, BUFFER_LEN);
	ADD_LEASED(IORING_OP_SEND_ZC, sock[0], 0, 4096, 0)->addr3 = UD_OTHER;
	PUSH_GROUP();
	SUBMIT();
	ASSERT_EQ(4096, log_until(&log, &self->ring, 0));
	log_rest(&log, &self->ring, 30);
	EXPECT_EQ(1, log.nr);
	EXPECT_EQ(-1, pread(self->dev, self->buf, 512, 0));
	EXPECT_EQ(EBUSY, errno);
	/* the connection breaks, so the stack lets the pages go */
	reset_by(sock[1]);
	close(sock[0]);
	ASSERT_EQ(0, log_until(&log, &self->ring, UD_PRIMARY));
	EXPECT_EQ(1, log_index(&log, UD_OTHER));
	EXPECT_EQ(2, log_index(&log, UD_PRIMARY));
	GET_BUFFER(0);
}

/* uapi: a command as a member, with IORING_URING_CMD_FIXED as that of a fused command */
TEST_F(fused, commands)
{
	LEAD_CMD(OP_LEND, 0, 4096);
	group_add_cmd(&self->g, self->dev, 7)->flags |= IOSQE_IO_DRAIN;
	EXPECT_GROUP(0, 7);
	LEAD_CMD(OP_LEND, 0, 4096);
	group_add_cmd(&self->g, self->dev, 7)->flags |= IOSQE_IO_DRAIN;
	self->g.secondary[0]->uring_cmd_flags = 0;
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	/* without the lease it is any command */
	LEAD_CMD(OP_LEND, 0, 4096);
	group_add_cmd(&self->g, self->dev, 7)->uring_cmd_flags = 0;
	ADD_LEASED_READ(0, 512, 0);
	EXPECT_GROUP(0, 7, 512);
}

/* members with the lease and with buffers of their own, in one group */
TEST_F(fused, both)
{
	unsigned char *own = self->buf + BUFFER_LEN;
	int out = memfd_create("out", 0);

	SET_BUFFER(0, 9);
	LEAD_CMD(OP_LEND, 0, 4096);
	ADD_NOP(1);
	ADD_LEASED_READ(0, 512, 0);
	/* in the other direction, which is none of the lease's business */
	fill(own, 5, 0, 512);
	ADD(IORING_OP_WRITE, out, (uintptr_t)own, 512, 0);
	ADD(IORING_OP_READ, self->file, (uintptr_t)own + 1024, 512, 512);
	EXPECT_GROUP(0, 1, 512, 512, 512);
	EXPECT_TRUE(is_pattern(own + 1024, 0, 512, 512));
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf, 0, 0, 512));
	EXPECT_TRUE(is_pattern(self->buf + 512, 9, 512, 4096 - 512));
	ASSERT_EQ(512, pread(out, self->buf, BUFFER_LEN, 0));
	EXPECT_TRUE(is_pattern(self->buf, 5, 0, 512));
	close(out);
}

/* the driver has its buffer when the last member that leases it is done */
TEST_F(fused, back_before_the_end)
{
	unsigned char *own = self->buf + BUFFER_LEN;
	long end = now_ms() + TIMEOUT_MS;
	struct log log = { };
	int fd[2];

	ASSERT_EQ(0, pipe(fd));
	LEAD_CMD(OP_LEND, 0, 4096);
	ADD_LEASED_READ(0, 512, 100);
	ADD(IORING_OP_READ, fd[0], (uintptr_t)own, 4, -1);
	PUSH_GROUP();
	SUBMIT();
	EXPECT_EQ(512, log_until(&log, &self->ring, 0));
	while (pread(self->dev, self->buf, BUFFER_LEN, 0) != BUFFER_LEN) {
		log_rest(&log, &self->ring, 1);
		ASSERT_LT(now_ms(), end);
	}
	EXPECT_TRUE(is_pattern(self->buf, 0, 100, 512));
	EXPECT_EQ(NO_CQE, log_res(&log, UD_PRIMARY));
	ASSERT_EQ(4, write(fd[1], "good", 4));
	EXPECT_CQES(&log, 0, 512, 4);
	close(fd[0]);
	close(fd[1]);
}

/* uapi: a member in the wrong direction: nothing is issued */
TEST_F(fused, direction)
{
	int out = memfd_create("out", 0);

	SET_BUFFER(0, 9);
	LEAD_CMD(OP_LEND, 0, 4096);
	ADD_LEASED_READ(0, 512, 0);
	ADD_LEASED(IORING_OP_WRITE, out, 0, 512, 0);
	EXPECT_GROUP(-EINVAL, -ECANCELED, -ECANCELED);
	EXPECT_EQ(0, lseek(out, 0, SEEK_END));
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf, 9, 0, BUFFER_LEN));
	close(out);
}

/* uapi: a range outside of the buffer; short reads; the leader has its own result */
TEST_F(fused, ranges)
{
	int skip;

	LEAD_CMD(OP_LEND, 0, 4096);
	ADD_LEASED_READ(0, 512, 0);
	ADD_LEASED_READ(4096, 1, 0);
	ADD_LEASED_READ(~0ULL - 5, 10, 0);
	EXPECT_GROUP(0, 512, -EFAULT, -EFAULT);
	/* a short one posts its CQE in any case */
	for (skip = 0; skip < 2; skip++) {
		SET_BUFFER(0, 9);
		LEAD_CMD(OP_LEND, 0, 4096);
		ADD_LEASED_READ(0, 512, FILE_LEN - 100)->flags |=
			skip ? IOSQE_CQE_SKIP_SUCCESS : 0;
		EXPECT_GROUP(0, 100);
		GET_BUFFER(0);
		EXPECT_TRUE(is_pattern(self->buf, 0, FILE_LEN - 100, 100));
		EXPECT_TRUE(all_are(self->buf + 100, 0, 412));
		EXPECT_TRUE(is_pattern(self->buf + 512, 9, 512, 4096 - 512));
	}
}

/* uapi: buf_index of a member that takes the lease is reserved; others may say what they like */
TEST_F(fused, buf_index)
{
	static const unsigned char ops[] = {
		IORING_OP_READ, IORING_OP_READ_FIXED, IORING_OP_READV, IORING_OP_READV_FIXED,
		IORING_OP_RECV,
		IORING_OP_WRITE, IORING_OP_WRITE_FIXED, IORING_OP_WRITEV, IORING_OP_WRITEV_FIXED,
		IORING_OP_SEND, IORING_OP_SEND_ZC, IORING_OP_URING_CMD,
	};
	static const __u16 index[] = { 1, 99, 0x8000 };
	struct iovec own[] = { { self->buf, 4096 }, { self->buf + 4096, 4096 } };
	struct iovec vec = { NULL, 16 };
	int i, k, sock[2];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
	/* that there is such a buffer is of no use */
	ASSERT_EQ(0, ring_register(&self->ring, IORING_REGISTER_BUFFERS, own, 2));
	SET_BUFFER(0, 9);
	for (i = 0; i < (int)ARRAY_SIZE(ops); i++) {
		bool vectored = ops[i] == IORING_OP_READV || ops[i] == IORING_OP_READV_FIXED ||
			ops[i] == IORING_OP_WRITEV || ops[i] == IORING_OP_WRITEV_FIXED;
		bool net = ops[i] == IORING_OP_RECV || ops[i] == IORING_OP_SEND ||
			ops[i] == IORING_OP_SEND_ZC;

		for (k = 0; k < (int)ARRAY_SIZE(index); k++) {
			/* the first five write the buffer */
			LEAD_CMD(OP_LEND, i < 5 ? 0 : LEND_SOURCE, 4096);
			if (ops[i] == IORING_OP_URING_CMD)
				group_add_cmd(&self->g, self->dev, 7)->flags |= IOSQE_IO_DRAIN;
			else if (vectored)
				ADD_LEASED(ops[i], self->file, (uintptr_t)&vec, 1, 0);
			else
				ADD_LEASED(ops[i], net ? sock[0] : self->file, 0, 16, 0);
			self->g.secondary[0]->buf_index = index[k];
			ADD_NOP(5);
			EXPECT_GROUP(-EINVAL, -ECANCELED, -ECANCELED);
		}
	}
	EXPECT_EQ(-1, recv(sock[1], self->buf, 16, MSG_DONTWAIT));
	ASSERT_EQ(16, pread(self->file, self->buf, 16, 0));
	EXPECT_TRUE(is_pattern(self->buf, 0, 0, 16));
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf, 9, 0, BUFFER_LEN));
	/* a member that does not take it names a buffer of the ring */
	LEAD_CMD(OP_LEND, 0, 4096);
	ADD_LEASED_READ(0, 512, 0);
	ADD(IORING_OP_READ_FIXED, self->file, (uintptr_t)self->buf + 4096, 512,
	    100)->buf_index = 1;
	EXPECT_GROUP(0, 512, 512);
	EXPECT_TRUE(is_pattern(self->buf + 4096, 0, 100, 512));
	close2(sock);
}

/* what a member may be that takes the lease, and what it may say */
TEST_F(fused, members)
{
	static const unsigned char others[] = {
		IORING_OP_NOP, IORING_OP_FSYNC, IORING_OP_TIMEOUT, IORING_OP_POLL_ADD,
		IORING_OP_SENDMSG, IORING_OP_RECVMSG, IORING_OP_LINK_TIMEOUT,
		IORING_OP_FUSED_CMD, IORING_OP_URING_CMD128,
	};
	int i;

	for (i = 0; i < (int)ARRAY_SIZE(others); i++) {
		/* the second entry of one that is wide would be the NOP */
		if (others[i] == IORING_OP_URING_CMD128 &&
		    variant->mode.ring_flags & IORING_SETUP_SQE_MIXED)
			continue;
		LEAD_CMD(OP_LEND, 0, 4096);
		ADD_LEASED(others[i], self->file, 0, 0, 0);
		ADD_NOP(0);
		EXPECT_GROUP(-EINVAL, -ECANCELED, -ECANCELED);
	}
	LEAD_CMD(OP_LEND, 0, 4096);
	ADD_LEASED_READ(0, 512, 0)->flags |= IOSQE_BUFFER_SELECT;
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	LEAD_CMD(OP_LEND, 0, 4096);
	ADD_LEASED_READ(0, 512, 0)->flags |= IOSQE_ASYNC | IOSQE_CQE_SKIP_SUCCESS;
	EXPECT_GROUP(0, NO_CQE);
	/* a failed one posts, and so does what else there is */
	LEAD_CMD(OP_LEND, 0, 4096);
	ADD_LEASED_READ(4096, 512, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
	EXPECT_GROUP(0, -EFAULT);
}

/* who may lead such a group: a command of a driver that lends, without flags of its own */
TEST_F(fused, leaders)
{
	int null;

	LEAD_NOP(5);
	ADD_LEASED_READ(0, 512, 0);
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	LEAD(IORING_OP_READ, self->file, (uintptr_t)self->buf, 512, 0);
	ADD_NOP(1);
	ADD_LEASED_READ(0, 512, 0);
	EXPECT_GROUP(-EINVAL, -ECANCELED, -ECANCELED);
	LEAD_CMD(OP_LEND, 0, 4096);
	self->g.primary->uring_cmd_flags = IORING_URING_CMD_FIXED;
	ADD_LEASED_READ(0, 512, 0);
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	/* a file without commands, and one whose driver knows others only */
	LEAD_CMD(OP_LEND, 0, 4096);
	self->g.primary->fd = self->file;
	ADD_LEASED_READ(0, 512, 0);
	EXPECT_GROUP(-EOPNOTSUPP, -ECANCELED);
	null = open("/dev/null", O_RDWR);
	ASSERT_LE(0, null);
	LEAD_CMD(OP_LEND, 0, 4096);
	self->g.primary->fd = null;
	ADD_LEASED_READ(0, 512, 0);
	EXPECT_GROUP(-EOPNOTSUPP, -ECANCELED);
	close(null);
	/* one that lends nothing, one that wants to know what was moved */
	LEAD_CMD(OP_START, 0, 0);
	ADD_LEASED_READ(0, 512, 0);
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	LEAD_CMD(OP_KEEP, 0, 4096);
	ADD_LEASED_READ(0, 512, 0);
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	GET_BUFFER(0);
	/* the driver refuses */
	LEAD_CMD(OP_REFUSE, 0, 0);
	group_cmd(&self->g)->arg = ENOENT;
	ADD_LEASED_READ(0, 512, 0);
	ADD_NOP(1);
	EXPECT_GROUP(-ENOENT, -ECANCELED, -ECANCELED);
}

/* URING_CMD128 is such a command where the ring says how long it is, not its opcode */
TEST_F(fused, wide_leader)
{
	bool wide = variant->mode.ring_flags & (IORING_SETUP_SQE128 | IORING_SETUP_SQE_MIXED);
	struct log log = { };

	SET_BUFFER(0, 9);
	LEAD_CMD(OP_LEND, 0, 4096);
	self->g.primary->opcode = IORING_OP_URING_CMD128;
	ADD_LEASED_READ(0, 512, 100);
	ring_push(&self->ring, self->g.primary, wide);
	push_sqe(&self->ring, self->g.secondary[0]);
	SUBMIT();
	if (SQE128_RING)
		EXPECT_CQES(&log, 0, 512);
	else
		EXPECT_CQES(&log, -EINVAL, -ECANCELED);
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf, SQE128_RING ? 0 : 9, SQE128_RING ? 100 : 0, 512));
}

/* a command that leads members with buffers of their own is any command */
TEST_F(fused, plain_command)
{
	LEAD_CMD(OP_RESULT, 0, 0);
	group_cmd(&self->g)->arg = 77;
	ADD_NOP(1);
	EXPECT_GROUP(77, 1);
	LEAD_CMD(OP_RESULT, 0, 0);
	group_cmd(&self->g)->arg = -EIO;
	ADD_NOP(1);
	EXPECT_GROUP(-EIO, -ECANCELED);
}

/* ASYNC, links and drain of a leader that lends; who fails or comes short breaks a link */
TEST_F(fused, flags)
{
	static const unsigned int flags[] = {
		IOSQE_ASYNC, IOSQE_IO_DRAIN, IOSQE_IO_LINK, IOSQE_IO_HARDLINK,
		IOSQE_ASYNC | IOSQE_IO_DRAIN | IOSQE_IO_LINK,
	};
	static const struct { int addr, off, read, nop; } fates[] = {
		{ 0, 0, 512, 7 },
		{ 0, 0, 512, -EIO },
		{ 4096, 0, -EFAULT, 7 },
		{ 0, FILE_LEN - 100, 100, 7 },
	};
	const unsigned int links = IOSQE_IO_LINK | IOSQE_IO_HARDLINK;
	const int nr_fates = ARRAY_SIZE(fates);
	int i;

	for (i = 0; i < (int)ARRAY_SIZE(flags) * nr_fates; i++) {
		unsigned int f = flags[i / nr_fates], fate = i % nr_fates;
		/* not what is there from before */
		int off = fates[fate].off ? fates[fate].off : i, nop = 0;
		struct log log = { };

		push_nop(&self->ring, UD_OTHER, f & links);
		LEAD_CMD(OP_LEND, 0, 4096);
		self->g.primary->flags |= f;
		ADD_LEASED_READ(fates[fate].addr, 512, off);
		ADD_NOP(fates[fate].nop);
		PUSH_GROUP();
		push_nop(&self->ring, UD_OTHER + 1, 0);
		SUBMIT();
		if (fate && f & IOSQE_IO_LINK)
			nop = -ECANCELED;
		EXPECT_EQ(nop, log_until(&log, &self->ring, UD_OTHER + 1)) TH_LOG("%d", i);
		EXPECT_EQ(0, log_until(&log, &self->ring, UD_PRIMARY)) TH_LOG("%d", i);
		EXPECT_EQ(fates[fate].read, log_res(&log, 0)) TH_LOG("%d", i);
		EXPECT_EQ(fates[fate].nop, log_res(&log, 1)) TH_LOG("%d", i);
		EXPECT_EQ(5, log.nr);
		/* all of the group is behind the one NOP, and the other behind that */
		if (f & (links | IOSQE_IO_DRAIN)) {
			EXPECT_EQ(0, log_index(&log, UD_OTHER)) TH_LOG("%d", i);
			EXPECT_EQ(3, log_index(&log, UD_PRIMARY)) TH_LOG("%d", i);
			EXPECT_EQ(4, log_index(&log, UD_OTHER + 1)) TH_LOG("%d", i);
		}
		GET_BUFFER(0);
		if (fates[fate].read > 0)
			EXPECT_TRUE(is_pattern(self->buf, 0, off, fates[fate].read));
	}
}

/*
 * uapi: IO_DRAIN on a leader that lends: nothing is lent before what is in front
 * is done, and what is behind waits for all members, also for those without the
 * buffer.
 */
TEST_F(fused, drain)
{
	unsigned char *own = self->buf + BUFFER_LEN;
	int before[2], member[2], async;

	ASSERT_EQ(0, pipe(before));
	ASSERT_EQ(0, pipe(member));
	for (async = 0; async < 2; async++) {
		struct log log = { };

		push_gate(&self->ring, before[0], own, 0);
		LEAD_CMD(OP_LEND, 0, 4096);
		self->g.primary->flags |= IOSQE_IO_DRAIN | (async ? IOSQE_ASYNC : 0);
		ADD_LEASED_READ(0, 512, 100 + async);
		ADD(IORING_OP_READ, member[0], (uintptr_t)own + 100, 4, -1);
		PUSH_GROUP();
		push_nop(&self->ring, UD_OTHER + 1, 0);
		SUBMIT();
		log_rest(&log, &self->ring, 20);
		ASSERT_EQ(0, log.nr);
		EXPECT_EQ(512, pread(self->dev, self->buf, 512, 0));
		ASSERT_EQ(4, write(before[1], "good", 4));
		EXPECT_EQ(512, log_until(&log, &self->ring, 0));
		log_rest(&log, &self->ring, 20);
		EXPECT_EQ(2, log.nr);
		ASSERT_EQ(4, write(member[1], "good", 4));
		EXPECT_EQ(0, log_until(&log, &self->ring, UD_OTHER + 1));
		EXPECT_EQ(0, log_index(&log, UD_OTHER));
		EXPECT_EQ(1, log_index(&log, 0));
		EXPECT_EQ(2, log_index(&log, 1));
		EXPECT_EQ(3, log_index(&log, UD_PRIMARY));
		EXPECT_EQ(5, log.nr);
		EXPECT_EQ(4, log_res(&log, UD_OTHER));
		EXPECT_EQ(4, log_res(&log, 1));
		EXPECT_EQ(0, log_res(&log, UD_PRIMARY));
		GET_BUFFER(0);
		EXPECT_TRUE(is_pattern(self->buf, 0, 100 + async, 512));
	}
	close2(before);
	close2(member);
}

/* uapi: CQE_SKIP_SUCCESS on a leader that lends: it posts if anything has failed */
TEST_F(fused, skip_success)
{
	int i;

	for (i = 0; i < 2; i++) {
		const unsigned int skip = IOSQE_CQE_SKIP_SUCCESS | (i ? IOSQE_ASYNC : 0);
		struct log log = { };

		SET_BUFFER(0, 9);
		LEAD_CMD(OP_LEND, 0, 4096);
		self->g.primary->flags |= skip | IOSQE_IO_LINK;
		ADD_LEASED_READ(0, 512, 100)->flags |= IOSQE_CQE_SKIP_SUCCESS;
		ADD_NOP(7);
		PUSH_GROUP();
		/* this tells that the group has ended */
		push_nop(&self->ring, UD_OTHER, 0);
		SUBMIT();
		EXPECT_EQ(0, log_until(&log, &self->ring, UD_OTHER));
		GET_BUFFER(0);
		EXPECT_TRUE(is_pattern(self->buf, 0, 100, 512));
		log_rest(&log, &self->ring, 10);
		EXPECT_EQ(7, log_res(&log, 1));
		EXPECT_EQ(2, log.nr);

		LEAD_CMD(OP_LEND, 0, 4096);
		self->g.primary->flags |= skip;
		ADD_LEASED_READ(4096, 512, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
		EXPECT_GROUP(0, -EFAULT);
		LEAD_CMD(OP_LEND, 0, 4096);
		self->g.primary->flags |= skip;
		ADD_LEASED_READ(0, 512, FILE_LEN - 100)->flags |= IOSQE_CQE_SKIP_SUCCESS;
		EXPECT_GROUP(0, 100);
		LEAD_CMD(OP_REFUSE, 0, 0);
		group_cmd(&self->g)->arg = ENOENT;
		self->g.primary->flags |= skip;
		ADD_LEASED_READ(0, 512, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
		EXPECT_GROUP(-ENOENT, -ECANCELED);
	}
}

/* uapi: cancel and exit: the driver gets its buffer */
TEST_F(fused, cancel)
{
	long end = now_ms() + TIMEOUT_MS;
	int sock[2], what;

	for (what = 0; what < 3; what++) {
		struct log log = { };

		ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
		LEAD_CMD(OP_LEND, 0, 4096);
		ADD_LEASED(IORING_OP_RECV, sock[0], 0, 512, 0);
		ADD_LEASED_READ(512, 512, 0);
		PUSH_GROUP();
		SUBMIT();
		ASSERT_EQ(512, log_until(&log, &self->ring, 1));
		EXPECT_EQ(-1, pread(self->dev, self->buf, 512, 0));
		if (what == 0) {
			ASSERT_EQ(0, cancel_one(&log, &self->ring, 0));
			EXPECT_EQ(0, log_until(&log, &self->ring, UD_PRIMARY));
			EXPECT_TRUE(canceled(log_res(&log, 0)));
		} else if (what == 1) {
			EXPECT_EQ(0, cancel_all(&log, &self->ring, UD_PRIMARY));
		} else {
			ring_exit(&self->ring);
			ASSERT_EQ(0, mode_ring(&variant->mode, &self->ring, 8));
		}
		while (pread(self->dev, self->buf, 512, 0) != 512) {
			ASSERT_EQ(EBUSY, errno);
			ASSERT_LT(now_ms(), end);
			usleep(1000);
		}
		close(sock[0]);
		close(sock[1]);
	}
}

TEST_HARNESS_MAIN
