// SPDX-License-Identifier: GPL-2.0
/*
 * IOSQE_SQE_GROUP: what a group is, and what its CQEs say.
 */
#include <poll.h>
#include <sys/un.h>
#include <linux/io_uring/query.h>
#include "group.h"
#include "sockets.h"

/* uapi: the feature bit, and the flag in the query interface */
TEST_F(fused, feature)
{
	struct io_uring_query_opcode op = { };
	struct io_uring_query_hdr hdr = {
		.query_op = IO_URING_QUERY_OPCODES,
		.query_data = (uintptr_t)&op,
		.size = sizeof(op),
	};

	EXPECT_TRUE(self->ring.p.features & IORING_FEAT_SQE_GROUP);
	ASSERT_EQ(0, ring_register(&self->ring, IORING_REGISTER_QUERY, &hdr, 0));
	ASSERT_EQ(0, hdr.result);
	EXPECT_TRUE(op.feature_flags & IORING_FEAT_SQE_GROUP);
	EXPECT_TRUE(op.sqe_flags & IOSQE_SQE_GROUP);
}

/* uapi: the first SQE without the flag is the last of the group; own results */
TEST_F(fused, nops)
{
	int i, nr, want[64];

	LEAD_NOP(0);
	ADD_NOP(0);
	EXPECT_GROUP(0, 0);
	for (nr = 1; nr <= 64; nr += 21) {
		LEAD_NOP(7);
		for (i = 0; i < nr; i++) {
			ADD_NOP(1000 + i);
			want[i] = 1000 + i;
		}
		ASSERT_EQ(NULL, group_run(&self->g, 7, nr, want));
	}
	/* completed by task work, or by a worker */
	LEAD_NOP(7)->nop_flags |= IORING_NOP_TW;
	ADD_NOP(8)->nop_flags |= IORING_NOP_TW;
	ADD_NOP(9);
	EXPECT_GROUP(7, 8, 9);
	LEAD_NOP(7)->flags |= IOSQE_ASYNC;
	ADD_NOP(8)->flags |= IOSQE_ASYNC;
	ADD_NOP(9);
	EXPECT_GROUP(7, 8, 9);
}

/* as many members as the ring takes */
TEST_F(fused, whole_ring)
{
	bool seen[RING_ENTRIES] = { };
	struct cqe cqe;
	int i;

	LEAD_NOP(5);
	ring_push(&self->ring, self->g.primary, SQE128_RING);
	for (i = 1; i < RING_ENTRIES; i++)
		push_nop(&self->ring, i, i < RING_ENTRIES - 1 ? IOSQE_SQE_GROUP : 0);
	ASSERT_EQ(RING_ENTRIES, ring_submit(&self->ring));
	/* each member once, in any order, and the leader behind them */
	for (i = 1; i < RING_ENTRIES; i++) {
		ASSERT_TRUE(ring_wait(&self->ring, &cqe, TIMEOUT_MS)) TH_LOG("%d", i);
		ASSERT_GT(RING_ENTRIES, cqe.user_data);
		ASSERT_FALSE(seen[cqe.user_data]);
		seen[cqe.user_data] = true;
		EXPECT_EQ(0, cqe.res);
	}
	ASSERT_TRUE(ring_wait(&self->ring, &cqe, TIMEOUT_MS));
	EXPECT_EQ(UD_PRIMARY, cqe.user_data);
	EXPECT_EQ(5, cqe.res);
	EXPECT_FALSE(ring_wait(&self->ring, &cqe, 10));
}

/* two groups and what is between them: where one ends the next begins */
TEST_F(fused, neighbours)
{
	struct log log = { };
	int i;

	for (i = 0; i < 2; i++) {
		LEAD_NOP(50 + i)->user_data = UD_PRIMARY + i;
		ADD_NOP(60 + i)->user_data = 10 + i;
		PUSH_GROUP();
	}
	push_nop(&self->ring, UD_OTHER, 0);
	SUBMIT();
	for (i = 0; i < 2; i++) {
		EXPECT_EQ(50 + i, log_until(&log, &self->ring, UD_PRIMARY + i));
		EXPECT_EQ(60 + i, log_res(&log, 10 + i));
		EXPECT_LT(log_index(&log, 10 + i), log_index(&log, UD_PRIMARY + i));
	}
	EXPECT_EQ(0, log_until(&log, &self->ring, UD_OTHER));
	EXPECT_EQ(5, log.nr);
}

/* uapi: a leader alone is -EINVAL */
TEST_F(fused, alone)
{
	struct log log = { };

	LEAD_NOP(0);
	PUSH_GROUP();
	SUBMIT();
	EXPECT_CQES(&log, -EINVAL);
}

/* uapi: a group that is split by the end of the submission is -EINVAL */
TEST_F(fused, split)
{
	struct log log = { };

	LEAD_NOP(0);
	ADD_NOP(0);
	ADD_NOP(0);
	PUSH_GROUP();
	self->ring.tail--;
	SUBMIT();
	EXPECT_EQ(-EINVAL, log_until(&log, &self->ring, UD_PRIMARY));
	EXPECT_EQ(-ECANCELED, log_res(&log, 0));
	EXPECT_EQ(NO_CQE, log_res(&log, 1));
	/* the one that is left is an ordinary request now */
	self->ring.tail++;
	SUBMIT();
	EXPECT_EQ(0, log_until(&log, &self->ring, 1));
	EXPECT_EQ(3, log.nr);
}

/* the same where all of it is there, but less is submitted */
TEST_F(fused, split_by_number)
{
	struct log log = { };

	if (IS_SQPOLL)
		SKIP(return, "it submits what is there");
	LEAD_NOP(0);
	ADD_NOP(0);
	ADD_NOP(0);
	PUSH_GROUP();
	ring_publish(&self->ring);
	ASSERT_EQ(2, ring_enter(&self->ring, 2));
	EXPECT_EQ(-EINVAL, log_until(&log, &self->ring, UD_PRIMARY));
	EXPECT_EQ(-ECANCELED, log_res(&log, 0));
	log_rest(&log, &self->ring, 10);
	EXPECT_EQ(NO_CQE, log_res(&log, 1));
	ASSERT_EQ(1, ring_enter(&self->ring, 1));
	EXPECT_EQ(0, log_until(&log, &self->ring, 1));
	EXPECT_EQ(3, log.nr);
}

/* uapi: the leader fails: its members are canceled, before its CQE */
TEST_F(fused, leader_fails)
{
	int i;

	for (i = 0; i < 3; i++) {
		struct io_uring_sqe *leader = LEAD_NOP(-EIO);

		leader->flags |= i == 1 ? IOSQE_ASYNC : 0;
		leader->nop_flags |= i == 2 ? IORING_NOP_TW : 0;
		ADD_NOP(0);
		ADD_NOP(0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
		EXPECT_GROUP(-EIO, -ECANCELED, -ECANCELED);
	}
	/* as it is issued, and as it is prepared */
	LEAD(IORING_OP_READ, -1, (uintptr_t)self->buf, 1, 0);
	ADD_NOP(0);
	EXPECT_GROUP(-EBADF, -ECANCELED);
	LEAD_NOP(0)->nop_flags = ~0U;
	ADD_NOP(0);
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	LEAD(255, -1, 0, 0, 0);
	ADD_NOP(0);
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	LEAD_NOP(0)->personality = 1234;
	ADD_NOP(0);
	EXPECT_GROUP(-EINVAL, -ECANCELED);
}

/* the same of an opcode that does not say that its result is an error */
TEST_F(fused, leader_fails_silently)
{
	int fd[2], i;

	ASSERT_EQ(0, pipe(fd));
	for (i = 0; i < 4; i++) {
		LEAD(IORING_OP_FSYNC, fd[0], 0, 0, 0)->flags |=
			(i & 1 ? IOSQE_ASYNC : 0) | (i & 2 ? IOSQE_CQE_SKIP_SUCCESS : 0);
		ADD_NOP(0);
		EXPECT_GROUP(-EINVAL, -ECANCELED);
	}
	close(fd[0]);
	close(fd[1]);
}

/* what breaks a link is a failure: a leader that comes short */
TEST_F(fused, leader_short)
{
	LEAD(IORING_OP_READ, self->file, (uintptr_t)self->buf, 512, FILE_LEN - 100);
	ADD_NOP(0);
	EXPECT_GROUP(100, -ECANCELED);
}

/* uapi: a malformed member: the group fails, nothing is issued */
TEST_F(fused, malformed_member)
{
	static const struct io_uring_sqe bad[] = {
		{ .opcode = 255 },
		{ .opcode = IORING_OP_NOP, .nop_flags = ~0U },
		{ .opcode = IORING_OP_NOP, .personality = 1234 },
		{ .opcode = IORING_OP_NOP, .flags = IOSQE_IO_LINK },
		{ .opcode = IORING_OP_NOP, .flags = IOSQE_IO_HARDLINK },
		{ .opcode = IORING_OP_NOP, .flags = IOSQE_BUFFER_SELECT },
		{ .opcode = IORING_OP_LINK_TIMEOUT, .len = 1 },
		{ .opcode = IORING_OP_FUSED_CMD, .nr_secondary = 1 },
	};
	int fd[2], place, i;

	ASSERT_EQ(0, pipe2(fd, O_NONBLOCK));
	for (i = 0; i < (int)ARRAY_SIZE(bad); i++) {
		for (place = 0; place < 3; place++) {
			int want[3] = { -ECANCELED, -ECANCELED, -ECANCELED };
			int res = bad[i].flags == IOSQE_BUFFER_SELECT ? -EOPNOTSUPP : -EINVAL;
			struct io_uring_sqe *sqe;
			int j;

			LEAD(IORING_OP_WRITE, fd[1], (uintptr_t)self->buf, 1, -1);
			for (j = 0; j < 3; j++) {
				sqe = ADD(IORING_OP_WRITE, fd[1], (uintptr_t)self->buf, 1, -1);
				if (j == place) {
					*sqe = bad[i];
					sqe->user_data = j;
				}
			}
			ASSERT_EQ(NULL, group_run(&self->g, res, 3, want))
				TH_LOG("%d at %d", i, place);
		}
	}
	EXPECT_EQ(-1, read(fd[0], self->buf, 1));
	close(fd[0]);
	close(fd[1]);
}

/* uapi: the leader is not multishot; nor is it a group by itself */
TEST_F(fused, leaders)
{
	static const int canceled[] = { -ECANCELED, -ECANCELED };
	const struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct __kernel_timespec ts = { .tv_nsec = 1000000 };
	int sock[2], server = socket(AF_UNIX, SOCK_STREAM, 0), i;
	struct msghdr msg = { };

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
	/* one without a name is given one */
	ASSERT_EQ(0, bind(server, (void *)&addr, sizeof(addr.sun_family)));
	ASSERT_EQ(0, listen(server, 1));
	for (i = 0; i < 9; i++) {
		struct io_uring_sqe *sqe = LEAD(IORING_OP_NOP, sock[0], 0, 0, 0);

		switch (i) {
		case 0:
			sqe->opcode = IORING_OP_POLL_ADD;
			sqe->poll32_events = POLLIN;
			sqe->len = IORING_POLL_ADD_MULTI;
			break;
		case 1:
			sqe->opcode = IORING_OP_TIMEOUT;
			sqe->addr = (uintptr_t)&ts;
			sqe->len = 1;
			sqe->timeout_flags = IORING_TIMEOUT_MULTISHOT;
			break;
		case 2:
			sqe->opcode = IORING_OP_ACCEPT;
			sqe->fd = server;
			sqe->ioprio = IORING_ACCEPT_MULTISHOT;
			break;
		case 3:
			sqe->opcode = IORING_OP_RECV;
			sqe->flags |= IOSQE_BUFFER_SELECT;
			sqe->ioprio = IORING_RECV_MULTISHOT;
			break;
		case 4:
			sqe->opcode = IORING_OP_READ_MULTISHOT;
			sqe->flags |= IOSQE_BUFFER_SELECT;
			break;
		case 5:
			sqe->opcode = IORING_OP_SEND;
			sqe->flags |= IOSQE_BUFFER_SELECT;
			sqe->ioprio = IORING_RECVSEND_BUNDLE;
			break;
		case 6:
			sqe->opcode = IORING_OP_URING_CMD;
			sqe->flags |= IOSQE_BUFFER_SELECT;
			sqe->uring_cmd_flags = IORING_URING_CMD_MULTISHOT;
			break;
		case 7:
			sqe->opcode = IORING_OP_RECVMSG;
			sqe->flags |= IOSQE_BUFFER_SELECT;
			sqe->addr = (uintptr_t)&msg;
			sqe->ioprio = IORING_RECV_MULTISHOT;
			break;
		case 8:
			/* its SQEs are those that either form has */
			sqe->opcode = IORING_OP_FUSED_CMD;
			sqe->fd = self->dev;
			sqe->nr_secondary = 1;
			break;
		}
		ADD_NOP(0);
		ADD_NOP(0);
		ASSERT_EQ(NULL, group_run(&self->g, -EINVAL, 2, canceled))
			TH_LOG("%d", i);
	}
	close(server);
	close2(sock);
}

/* the same of a command of which only the socket knows that it is multishot */
TEST_F(fused, leader_turns_multishot)
{
	struct io_uring_sqe sqe[2] = { {
		.opcode = IORING_OP_URING_CMD,
		.cmd_op = SOCKET_URING_OP_TX_TIMESTAMP,
		.user_data = UD_OTHER,
	} };
	struct mode mode = variant->mode;
	struct log log = { };

	/* it is refused, and not for that, where CQEs have no room for a time */
	if (!(mode.ring_flags & IORING_SETUP_CQE_MIXED))
		mode.ring_flags |= IORING_SETUP_CQE32;
	ring_exit(&self->ring);
	ASSERT_EQ(0, mode_ring(&mode, &self->ring, RING_ENTRIES));
	sqe->fd = socket(AF_INET, SOCK_DGRAM, 0);
	/* alone it waits */
	push_sqe(&self->ring, sqe);
	SUBMIT();
	log_rest(&log, &self->ring, 20);
	ASSERT_EQ(0, log.nr);
	ASSERT_EQ(0, cancel_one(&log, &self->ring, UD_OTHER));
	EXPECT_EQ(-ECANCELED, log_until(&log, &self->ring, UD_OTHER));
	LEAD(sqe->opcode, sqe->fd, 0, 0, 0)->cmd_op = sqe->cmd_op;
	ADD_NOP(0);
	ADD_NOP(0);
	EXPECT_GROUP(-EINVAL, -ECANCELED, -ECANCELED);
	close(sqe->fd);
}

/*
 * uapi: a LINK_TIMEOUT neither leads nor is a member. Behind a link, for it is
 * refused in any case where there is nothing that it could be a part of.
 */
TEST_F(fused, link_timeout_grouped)
{
	struct __kernel_timespec ts = { .tv_sec = 10 };
	int member;

	for (member = 0; member < 2; member++) {
		struct log log = { };

		push_nop(&self->ring, UD_OTHER, IOSQE_IO_LINK);
		if (member) {
			LEAD_NOP(5);
			ADD(IORING_OP_LINK_TIMEOUT, -1, (uintptr_t)&ts, 1, 0);
		} else {
			LEAD(IORING_OP_LINK_TIMEOUT, -1, (uintptr_t)&ts, 1, 0);
			ADD_NOP(6);
		}
		ADD_NOP(7);
		PUSH_GROUP();
		SUBMIT();
		EXPECT_EQ(-ECANCELED, log_until(&log, &self->ring, UD_OTHER));
		EXPECT_EQ(-EINVAL, log_until(&log, &self->ring, UD_PRIMARY));
		log_rest(&log, &self->ring, 10);
		EXPECT_EQ(-ECANCELED, log_res(&log, 0)) TH_LOG("%d", member);
		EXPECT_EQ(-ECANCELED, log_res(&log, 1)) TH_LOG("%d", member);
		EXPECT_EQ(4, log.nr);
	}
}

/* uapi: order: members are issued when the leader is done, not before */
TEST_F(fused, waits_for_leader)
{
	struct log log = { };
	int fd[2];

	ASSERT_EQ(0, pipe(fd));
	LEAD(IORING_OP_READ, fd[0], (uintptr_t)self->buf, 4, -1);
	ADD_NOP(1);
	ADD_NOP(2);
	PUSH_GROUP();
	SUBMIT();
	log_rest(&log, &self->ring, 20);
	ASSERT_EQ(0, log.nr);
	ASSERT_EQ(4, write(fd[1], "good", 4));
	EXPECT_CQES(&log, 4, 1, 2);
	close(fd[0]);
	close(fd[1]);
}

/* uapi: members run in parallel: one waits for what another one does */
TEST_F(fused, parallel)
{
	int fd[2];

	ASSERT_EQ(0, pipe(fd));
	LEAD_NOP(3);
	ADD(IORING_OP_READ, fd[0], (uintptr_t)self->buf, 4, -1);
	ADD(IORING_OP_WRITE, fd[1], (uintptr_t)self->buf + 100, 4, -1);
	EXPECT_GROUP(3, 4, 4);
	EXPECT_EQ(0, memcmp(self->buf, self->buf + 100, 4));
	close(fd[0]);
	close(fd[1]);
}

/* uapi: the leader's CQE is the last: behind all of those of a multishot member */
TEST_F(fused, multishot_member)
{
	struct log log = { };
	int fd[2], i, last;

	ASSERT_EQ(0, pipe(fd));
	LEAD_NOP(5);
	ADD(IORING_OP_POLL_ADD, fd[0], 0, IORING_POLL_ADD_MULTI, 0)->poll32_events = POLLIN;
	PUSH_GROUP();
	SUBMIT();
	log_rest(&log, &self->ring, 20);
	ASSERT_EQ(0, log.nr);
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(4, write(fd[1], "good", 4));
		ASSERT_TRUE(ring_wait(&self->ring, &log.cqe[log.nr++], TIMEOUT_MS));
		log_rest(&log, &self->ring, 20);
		ASSERT_EQ(4, read(fd[0], self->buf, 4));
	}
	for (i = 0; i < log.nr; i++) {
		EXPECT_EQ(0, log.cqe[i].user_data);
		EXPECT_EQ(POLLIN, log.cqe[i].res);
		EXPECT_EQ(IORING_CQE_F_MORE, log.cqe[i].flags);
	}
	last = log.nr;
	ASSERT_EQ(0, cancel_one(&log, &self->ring, 0));
	EXPECT_EQ(5, log_until(&log, &self->ring, UD_PRIMARY));
	log_rest(&log, &self->ring, 10);
	ASSERT_EQ(last + 2, log.nr);
	EXPECT_EQ(0, log.cqe[last].user_data);
	EXPECT_EQ(-ECANCELED, log.cqe[last].res);
	EXPECT_EQ(0, log.cqe[last].flags);
	EXPECT_EQ(last + 1, log_index(&log, UD_PRIMARY));
	close(fd[0]);
	close(fd[1]);
}

/* uapi: one-to-many copy: a READ leader and WRITE members, with buffers of their own */
TEST_F(fused, copy)
{
	int out[3], i;

	for (i = 0; i < 3; i++)
		out[i] = memfd_create("copy", 0);
	memset(self->buf, 0, BUFFER_LEN);
	LEAD(IORING_OP_READ, self->file, (uintptr_t)self->buf, BUFFER_LEN, 1000);
	for (i = 0; i < 3; i++)
		ADD(IORING_OP_WRITE, out[i], (uintptr_t)self->buf, BUFFER_LEN, i * 100);
	EXPECT_GROUP(BUFFER_LEN, BUFFER_LEN, BUFFER_LEN, BUFFER_LEN);
	for (i = 0; i < 3; i++) {
		memset(self->buf, 0, BUFFER_LEN);
		ASSERT_EQ(BUFFER_LEN, pread(out[i], self->buf, BUFFER_LEN, i * 100));
		EXPECT_TRUE(is_pattern(self->buf, 0, 1000, BUFFER_LEN));
		close(out[i]);
	}
}

/* a member may say what any request may: its buffer is its own */
TEST_F(fused, ordinary_fields)
{
	int sock[2];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_DGRAM, 0, sock));
	ASSERT_EQ(8, write(sock[1], "datagram", 8));
	LEAD_NOP(0);
	ADD(IORING_OP_RECV, sock[0], (uintptr_t)self->buf, 4, 0)->msg_flags = MSG_TRUNC;
	/* not the sum of anything */
	EXPECT_GROUP(0, 8);
	LEAD_NOP(0);
	ADD(IORING_OP_READ, self->file, (uintptr_t)self->buf, 100, 0);
	ADD(IORING_OP_OPENAT, AT_FDCWD, (uintptr_t)"/dev/null", 0, 0)->open_flags = O_RDONLY;
	PUSH_GROUP();
	SUBMIT();
	{
		struct log log = { };

		EXPECT_EQ(0, log_until(&log, &self->ring, UD_PRIMARY));
		EXPECT_EQ(100, log_res(&log, 0));
		EXPECT_LT(0, log_res(&log, 1));
		close(log_res(&log, 1));
	}
	close(sock[0]);
	close(sock[1]);
}

/* time-outs as leader and member: what they end with is no failure if they say so */
TEST_F(fused, timeouts)
{
	struct __kernel_timespec ts = { .tv_nsec = 1000000 };
	int i;

	for (i = 0; i < 2; i++) {
		struct io_uring_sqe *sqe = LEAD(IORING_OP_TIMEOUT, -1, (uintptr_t)&ts, 1, 0);
		struct log log = { };

		sqe->timeout_flags = i ? IORING_TIMEOUT_ETIME_SUCCESS : 0;
		sqe->flags |= IOSQE_IO_LINK;
		ADD(IORING_OP_TIMEOUT, -1, (uintptr_t)&ts, 1, 0)->timeout_flags =
			IORING_TIMEOUT_ETIME_SUCCESS;
		self->g.secondary[0]->flags = 0;
		PUSH_GROUP();
		push_nop(&self->ring, UD_OTHER, 0);
		SUBMIT();
		EXPECT_EQ(i ? 0 : -ECANCELED, log_until(&log, &self->ring, UD_OTHER));
		EXPECT_EQ(-ETIME, log_res(&log, UD_PRIMARY));
		EXPECT_EQ(i ? -ETIME : -ECANCELED, log_res(&log, 0));
		EXPECT_EQ(1, log_index(&log, UD_PRIMARY));
	}
}

/* uapi: CQE_SKIP_SUCCESS on the leader, and on members as on secondaries */
TEST_F(fused, skip_success)
{
	struct log log = { };
	int async;

	for (async = 0; async < 2; async++) {
		log.nr = 0;
		LEAD_NOP(5)->flags |= IOSQE_CQE_SKIP_SUCCESS | (async ? IOSQE_ASYNC : 0);
		ADD_NOP(1)->flags |= IOSQE_CQE_SKIP_SUCCESS;
		ADD_NOP(2);
		PUSH_GROUP();
		SUBMIT();
		EXPECT_EQ(2, log_until(&log, &self->ring, 1));
		log_rest(&log, &self->ring, 20);
		EXPECT_EQ(1, log.nr);
		/* a leader that does not skip posts, wherever it ran */
		LEAD_NOP(5)->flags |= async ? IOSQE_ASYNC : 0;
		ADD_NOP(1)->flags |= IOSQE_CQE_SKIP_SUCCESS;
		EXPECT_GROUP(5, NO_CQE);
		/* who fails posts; and then the leader tells of the end */
		LEAD_NOP(5)->flags |= IOSQE_CQE_SKIP_SUCCESS | (async ? IOSQE_ASYNC : 0);
		ADD_NOP(-EIO)->flags |= IOSQE_CQE_SKIP_SUCCESS;
		ADD_NOP(3)->flags |= IOSQE_CQE_SKIP_SUCCESS;
		EXPECT_GROUP(5, -EIO, NO_CQE);
		LEAD_NOP(-EIO)->flags |= IOSQE_CQE_SKIP_SUCCESS | (async ? IOSQE_ASYNC : 0);
		ADD_NOP(0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
		EXPECT_GROUP(-EIO, -ECANCELED);
	}
}

/* two CQEs, of which the notification comes behind that of the leader */
TEST_F(fused, send_zc_leads)
{
	struct log log = { };
	int sock[2], drains, i;

	ASSERT_EQ(0, tcp_pair(sock));
	/* also where all that it takes has to be known: behind a drain */
	for (drains = 0; drains < 2; drains++) {
		log.nr = 0;
		LEAD(IORING_OP_SEND_ZC, sock[0], (uintptr_t)self->buf, 512, 0)->flags |=
			drains ? IOSQE_IO_DRAIN : 0;
		ADD(IORING_OP_RECV, sock[1], (uintptr_t)self->buf + 4096, 512, 0)->msg_flags =
			MSG_WAITALL;
		ADD_NOP(1);
		PUSH_GROUP();
		SUBMIT();
		ASSERT_EQ(512, log_until(&log, &self->ring, UD_PRIMARY));
		for (i = 0; log.nr < 4 && i < 100; i++)
			log_rest(&log, &self->ring, 20);
		ASSERT_EQ(4, log.nr);
		EXPECT_EQ(2, log_index(&log, UD_PRIMARY));
		EXPECT_EQ(IORING_CQE_F_MORE, log.cqe[2].flags);
		EXPECT_EQ(IORING_CQE_F_NOTIF, log.cqe[3].flags);
		EXPECT_EQ(512, log_res(&log, 0));
		push_nop(&self->ring, UD_OTHER, 0);
		SUBMIT();
		EXPECT_EQ(0, log_until(&log, &self->ring, UD_OTHER));
	}
	close2(sock);
}

/* a leader with a CQE of 32 bytes has all of it when the group ends */
TEST_F(fused, wide_cqe)
{
	struct log log = { };

	if (!(variant->mode.ring_flags & (IORING_SETUP_CQE32 | IORING_SETUP_CQE_MIXED)))
		SKIP(return, "CQEs have 16 bytes");
	LEAD_NOP(9)->nop_flags |= IORING_NOP_CQE32;
	self->g.primary->off = 0x1234;
	self->g.primary->addr = 0x5678;
	ADD_NOP(1);
	PUSH_GROUP();
	SUBMIT();
	EXPECT_EQ(9, log_until(&log, &self->ring, UD_PRIMARY));
	EXPECT_EQ(0x1234, log.cqe[1].extra[0]);
	EXPECT_EQ(0x5678, log.cqe[1].extra[1]);
}

TEST_HARNESS_MAIN
