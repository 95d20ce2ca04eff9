// SPDX-License-Identifier: GPL-2.0
/*
 * IORING_OP_FUSED_CMD: what moves between a leased buffer and sockets, by SEND,
 * RECV and SEND_ZC.
 */
#include "fixture.h"
#include "sockets.h"
#include <pthread.h>
#include <sys/uio.h>

/* uapi: SEND reads the buffer */
TEST_F(fused, send)
{
	enum kind kind;
	int sock[2];

	for (kind = 0; kind < NR_KINDS; kind++) {
		if (sockets(kind, sock))
			continue;
		SET_BUFFER(0, kind);
		LEND_SRC(BUFFER_LEN);
		ADD(IORING_OP_SEND, sock[0], 4000, 9000, 0);
		EXPECT_GROUP(9000, 9000);
		ASSERT_EQ(9000, recv_all(sock[1], self->buf, 9000));
		EXPECT_TRUE(is_pattern(self->buf, kind, 4000, 9000));
		close2(sock);
	}
}

/* uapi: RECV writes the buffer */
TEST_F(fused, recv)
{
	enum kind kind;
	int sock[2];

	for (kind = 0; kind < NR_KINDS; kind++) {
		if (sockets(kind, sock))
			continue;
		SET_BUFFER(0, 7);
		fill(self->buf, kind, 0, 9000);
		ASSERT_EQ(9000, send(sock[1], self->buf, 9000, 0));
		LEND_DEST(BUFFER_LEN);
		/* on a stream, some of it may come later */
		ADD(IORING_OP_RECV, sock[0], 4000, 9000, 0)->msg_flags =
			is_stream(kind) ? MSG_WAITALL : 0;
		EXPECT_GROUP(9000, 9000);
		GET_BUFFER(0);
		EXPECT_TRUE(is_pattern(self->buf, 7, 0, 4000));
		EXPECT_TRUE(is_pattern(self->buf + 4000, kind, 0, 9000));
		EXPECT_TRUE(is_pattern(self->buf + 13000, 7, 13000, BUFFER_LEN - 13000));
		close2(sock);
	}
}

/* uapi: what a short receive did not fill is zeroed */
TEST_F(fused, short_recv)
{
	enum kind kind;
	int sock[2];

	for (kind = 0; kind < NR_KINDS; kind++) {
		if (sockets(kind, sock))
			continue;
		SET_BUFFER(0, 7);
		fill(self->buf, 1, 0, 100);
		ASSERT_EQ(100, send(sock[1], self->buf, 100, 0));
		LEND_DEST(BUFFER_LEN);
		ADD(IORING_OP_RECV, sock[0], 4000, 9000, 0);
		EXPECT_GROUP(100, 100);
		GET_BUFFER(0);
		EXPECT_TRUE(is_pattern(self->buf, 7, 0, 4000));
		EXPECT_TRUE(is_pattern(self->buf + 4000, 1, 0, 100));
		EXPECT_TRUE(all_are(self->buf + 4100, 0, 8900));
		EXPECT_TRUE(is_pattern(self->buf + 13000, 7, 13000, BUFFER_LEN - 13000));
		close2(sock);
	}
}

/* A secondary wants 100 bytes, and has to wait until @count are sent */
#define LATE_RECV(count) ({						\
	int count_ = (count);						\
									\
	log.nr = 0;							\
	LEND_DEST(BUFFER_LEN);						\
	ADD(IORING_OP_RECV, sock[0], 0, 100, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS; \
	group_push(&self->g);						\
	ASSERT_LT(0, ring_submit(&self->ring));				\
	log_rest(&log, &self->ring, 10);				\
	ASSERT_EQ(count_, send(sock[1], self->buf, count_, 0));		\
})

/*
 * uapi: the CQE of a short receive is posted, even if it should be skipped. But as
 * alone, without MSG_WAITALL it breaks no link.
 */
TEST_F(fused, short_recv_skips)
{
	enum kind kind;
	int sock[2];

	for (kind = 0; kind < NR_KINDS; kind++) {
		struct log log = { };

		if (sockets(kind, sock))
			continue;
		SET_BUFFER(0, 7);
		fill(self->buf, 1, 0, 100);
		ASSERT_EQ(100, send(sock[1], self->buf, 100, 0));
		LEND_DEST(BUFFER_LEN);
		ADD(IORING_OP_RECV, sock[0], 4000, 9000, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
		self->g.primary->flags = IOSQE_IO_LINK;
		group_push(&self->g);
		push_nop(&self->ring, UD_OTHER, 0);
		ASSERT_LT(0, ring_submit(&self->ring));
		EXPECT_EQ(0, log_until(&log, &self->ring, UD_OTHER)) TH_LOG("kind %d", kind);
		EXPECT_EQ(100, log_res(&log, UD_PRIMARY));
		EXPECT_EQ(100, log_res(&log, 0)) TH_LOG("kind %d", kind);
		EXPECT_LT(log_index(&log, 0), log_index(&log, UD_PRIMARY));
		EXPECT_EQ(3, log.nr);
		GET_BUFFER(0);
		EXPECT_TRUE(all_are(self->buf + 4100, 0, 8900));
		/* one that is whole says nothing, whether it had to wait or not */
		ASSERT_EQ(100, send(sock[1], self->buf, 100, 0));
		LEND_DEST(BUFFER_LEN);
		ADD(IORING_OP_RECV, sock[0], 0, 100, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
		EXPECT_GROUP(100, NO_CQE);
		LATE_RECV(100);
		EXPECT_CQES(&log, 100, NO_CQE);
		/* nor does a short one that had to wait keep it to itself; one of 0 bytes is one */
		LATE_RECV(50);
		EXPECT_CQES(&log, 50, 50);
		if (is_stream(kind)) {
			close(sock[1]);
			LEND_DEST(BUFFER_LEN);
			ADD(IORING_OP_RECV, sock[0], 0, 100, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
			EXPECT_GROUP(0, 0);
			close(sock[0]);
		} else {
			close2(sock);
		}
	}
}

/* MSG_WAITALL: in pieces, each at its place */
TEST_F(fused, recv_waitall)
{
	enum kind kinds[] = { UNIX_STREAM, TCP };
	int sock[2], i;

	for (i = 0; i < 2; i++) {
		struct log log = { };

		ASSERT_EQ(0, sockets(kinds[i], sock));
		SET_BUFFER(0, 7);
		LEND_DEST(BUFFER_LEN);
		ADD(IORING_OP_RECV, sock[0], 1000, 30000, 0)->msg_flags = MSG_WAITALL;
		group_push(&self->g);
		ASSERT_LT(0, ring_submit(&self->ring));
		fill(self->buf, 3, 0, 30000);
		ASSERT_EQ(10000, send(sock[1], self->buf, 10000, 0));
		log_rest(&log, &self->ring, 10);
		ASSERT_EQ(12345, send(sock[1], self->buf + 10000, 12345, 0));
		log_rest(&log, &self->ring, 10);
		ASSERT_EQ(0, log.nr);
		ASSERT_EQ(30000 - 22345, send(sock[1], self->buf + 22345, 30000 - 22345, 0));
		EXPECT_CQES(&log, 30000, 30000);
		GET_BUFFER(0);
		EXPECT_TRUE(is_pattern(self->buf, 7, 0, 1000));
		EXPECT_TRUE(is_pattern(self->buf + 1000, 3, 0, 30000));
		EXPECT_TRUE(is_pattern(self->buf + 31000, 7, 31000, BUFFER_LEN - 31000));
		close2(sock);
	}
}

/* a peer that closes in the middle: short, zeroed, and a CQE though it could be skipped */
TEST_F(fused, recv_peer_closes)
{
	enum kind kinds[] = { UNIX_STREAM, TCP };
	int sock[2], i;

	for (i = 0; i < 2; i++) {
		struct log log = { };
		struct io_uring_sqe *sqe;

		ASSERT_EQ(0, sockets(kinds[i], sock));
		SET_BUFFER(0, 7);
		LEND_DEST(BUFFER_LEN);
		sqe = ADD(IORING_OP_RECV, sock[0], 1000, 30000, 0);
		sqe->msg_flags = MSG_WAITALL;
		sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
		group_push(&self->g);
		ASSERT_LT(0, ring_submit(&self->ring));
		fill(self->buf, 3, 0, 10000);
		ASSERT_EQ(10000, send(sock[1], self->buf, 10000, 0));
		log_rest(&log, &self->ring, 10);
		close(sock[1]);
		EXPECT_CQES(&log, 10000, 10000);
		GET_BUFFER(0);
		EXPECT_TRUE(is_pattern(self->buf + 1000, 3, 0, 10000));
		EXPECT_TRUE(all_are(self->buf + 11000, 0, 20000));
		EXPECT_TRUE(is_pattern(self->buf + 31000, 7, 31000, BUFFER_LEN - 31000));
		close(sock[0]);
	}
}

/*
 * What was peeked at is still there, and would be received again: it does not
 * stand for the rest
 */
TEST_F(fused, recv_peek_waitall)
{
	enum kind kinds[] = { UNIX_STREAM, TCP };
	int sock[2], i;

	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, sockets(kinds[i], sock));
		SET_BUFFER(0, 7);
		fill(self->buf, 1, 0, 4096);
		ASSERT_EQ(4096, send(sock[1], self->buf, 4096, 0));
		ASSERT_EQ(0, shutdown(sock[1], SHUT_WR));
		LEND_DEST(BUFFER_LEN);
		ADD(IORING_OP_RECV, sock[0], 0, 8192, 0)->msg_flags = MSG_PEEK | MSG_WAITALL;
		EXPECT_GROUP(4096, 4096);
		GET_BUFFER(0);
		EXPECT_TRUE(is_pattern(self->buf, 1, 0, 4096));
		EXPECT_TRUE(all_are(self->buf + 4096, 0, 4096));
		EXPECT_TRUE(is_pattern(self->buf + 8192, 7, 8192, BUFFER_LEN - 8192));
		ASSERT_EQ(4096, recv_all(sock[0], self->buf, 4096));
		close2(sock);
	}
}

/* MSG_TRUNC counts what was not moved: refused. So a long datagram is cut, and counts as that. */
TEST_F(fused, recv_trunc)
{
	enum kind kind;
	int sock[2];

	for (kind = 0; kind < NR_KINDS; kind++) {
		if (sockets(kind, sock))
			continue;
		SET_BUFFER(0, 7);
		fill(self->buf, 1, 0, 5000);
		ASSERT_EQ(5000, send(sock[1], self->buf, 5000, 0));
		LEND_DEST(BUFFER_LEN);
		ADD(IORING_OP_RECV, sock[0], 100, 1000, 0)->msg_flags = MSG_TRUNC;
		EXPECT_GROUP(-EINVAL, -ECANCELED);
		LEND_DEST(BUFFER_LEN);
		ADD(IORING_OP_RECV, sock[0], 100, 1000, 0);
		EXPECT_GROUP(1000, 1000);
		GET_BUFFER(0);
		EXPECT_TRUE(is_pattern(self->buf + 100, 1, 0, 1000));
		EXPECT_TRUE(is_pattern(self->buf + 1100, 7, 1100, BUFFER_LEN - 1100));
		close2(sock);
	}
}

/* uapi: only sockets that are known to count no more than they write; AF_NETLINK is not */
TEST_F(fused, recv_family)
{
	const int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK, 0);

	ASSERT_LE(0, fd);
	LEND_DEST(BUFFER_LEN);
	ADD(IORING_OP_RECV, fd, 0, 512, 0)->msg_flags = MSG_DONTWAIT;
	EXPECT_GROUP(-EOPNOTSUPP, -EOPNOTSUPP);
	LEND_DEST(BUFFER_LEN);
	ADD(IORING_OP_READ, fd, 0, 512, 0);
	EXPECT_GROUP(-EOPNOTSUPP, -EOPNOTSUPP);
	close(fd);
}

/* MSG_ZEROCOPY would leave the pages with the network stack: refused, on any socket */
TEST_F(fused, send_zerocopy)
{
	enum kind kind;
	int sock[2], one = 1;

	for (kind = 0; kind < NR_KINDS; kind++) {
		if (sockets(kind, sock))
			continue;
		setsockopt(sock[0], SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one));
		LEND_SRC(BUFFER_LEN);
		ADD(IORING_OP_SEND, sock[0], 0, 1000, 0)->msg_flags = MSG_ZEROCOPY;
		EXPECT_GROUP(-EINVAL, -ECANCELED);
		close2(sock);
	}
}

static void *drain_slowly(void *arg)
{
	struct { int fd; unsigned char *buf; int len, got; } *d = arg;

	usleep(20000);
	d->got = recv_all(d->fd, d->buf, d->len);
	return NULL;
}

/* a full socket: MSG_WAITALL sends the rest when there is room */
TEST_F(fused, send_waitall)
{
	enum kind kinds[] = { UNIX_STREAM, TCP };
	int small = 4096, sock[2], i;

	for (i = 0; i < 2; i++) {
		struct { int fd; unsigned char *buf; int len, got; } d;
		unsigned char *got = malloc(BUFFER_LEN);
		pthread_t thread;

		ASSERT_EQ(0, sockets(kinds[i], sock));
		setsockopt(sock[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
		SET_BUFFER(0, 6);
		LEND_SRC(BUFFER_LEN);
		ADD(IORING_OP_SEND, sock[0], 0, BUFFER_LEN, 0)->msg_flags = MSG_WAITALL;
		d = (typeof(d)){ .fd = sock[1], .buf = got, .len = BUFFER_LEN };
		ASSERT_EQ(0, pthread_create(&thread, NULL, drain_slowly, &d));
		EXPECT_GROUP(BUFFER_LEN, BUFFER_LEN);
		pthread_join(thread, NULL);
		EXPECT_EQ(BUFFER_LEN, d.got);
		EXPECT_TRUE(is_pattern(got, 6, 0, BUFFER_LEN));
		free(got);
		close2(sock);
	}
}

/* a full socket: a write is tried again when there is room, from where it was */
TEST_F(fused, write_full)
{
	enum kind kinds[] = { UNIX_STREAM, TCP };
	unsigned char *got = malloc(1 << 20);
	int small = 4096, sock[2], i;

	ASSERT_NE(NULL, got);
	for (i = 0; i < 4; i++) {
		bool vectored = i % 2;
		struct iovec piece = { (void *)0, 512 };
		struct { int fd; unsigned char *buf; int len, got; } d;
		int filled = 0, ret;
		pthread_t thread;

		ASSERT_EQ(0, sockets(kinds[i / 2], sock));
		setsockopt(sock[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
		while ((ret = send(sock[0], got, 1024, MSG_DONTWAIT)) > 0)
			filled += ret;
		ASSERT_GE((1 << 20) - 512, filled);
		SET_BUFFER(0, 6);
		LEND_SRC(BUFFER_LEN);
		if (vectored)
			ADD(IORING_OP_WRITEV, sock[0], (uintptr_t)&piece, 1, -1);
		else
			ADD(IORING_OP_WRITE, sock[0], 0, 512, -1);
		d = (typeof(d)){ .fd = sock[1], .buf = got, .len = filled + 512 };
		ASSERT_EQ(0, pthread_create(&thread, NULL, drain_slowly, &d));
		EXPECT_GROUP(512, 512);
		pthread_join(thread, NULL);
		EXPECT_EQ(filled + 512, d.got);
		EXPECT_TRUE(is_pattern(got + filled, 6, 0, 512));
		close2(sock);
	}
	free(got);
}

/* without it, a send may be short; and a peer that is gone is an error */
TEST_F(fused, send_short)
{
	int sock[2], small = 4096, ret;
	struct log log = { };

	if (variant->mode.secondary_flags & IOSQE_ASYNC)
		SKIP(return, "a worker waits");
	ASSERT_EQ(0, sockets(UNIX_STREAM, sock));
	setsockopt(sock[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	SET_BUFFER(0, 6);
	LEND_SRC(BUFFER_LEN);
	ADD(IORING_OP_SEND, sock[0], 0, BUFFER_LEN, 0);
	group_push(&self->g);
	ASSERT_LT(0, ring_submit(&self->ring));
	ret = log_until(&log, &self->ring, UD_PRIMARY);
	EXPECT_LT(0, ret);
	EXPECT_GT(BUFFER_LEN, ret);
	EXPECT_EQ(ret, log_res(&log, 0));
	ASSERT_EQ(ret, recv_all(sock[1], self->buf, ret));
	EXPECT_TRUE(is_pattern(self->buf, 6, 0, ret));
	close(sock[1]);
	LEND_SRC(BUFFER_LEN);
	ADD(IORING_OP_SEND, sock[0], 0, 512, 0);
	EXPECT_GROUP(-EPIPE, -EPIPE);
	close(sock[0]);
}

/* uapi: one that comes short posts its CQE, even if it should be skipped */
TEST_F(fused, send_short_skips)
{
	int sock[2], small = 4096, ret;
	struct io_uring_sqe *sqe;
	struct log log = { };

	ASSERT_EQ(0, sockets(UNIX_STREAM, sock));
	setsockopt(sock[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	LEND_SRC(BUFFER_LEN);
	sqe = ADD(IORING_OP_SEND, sock[0], 0, BUFFER_LEN, 0);
	sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
	/* or a worker would wait */
	sqe->msg_flags = MSG_DONTWAIT;
	group_push(&self->g);
	ASSERT_LT(0, ring_submit(&self->ring));
	ret = log_until(&log, &self->ring, UD_PRIMARY);
	EXPECT_LT(0, ret);
	EXPECT_GT(BUFFER_LEN, ret);
	EXPECT_EQ(ret, log_res(&log, 0));
	EXPECT_EQ(2, log.nr);
	ASSERT_EQ(ret, recv_all(sock[1], self->buf, ret));
	/* a whole one does not */
	LEND_SRC(BUFFER_LEN);
	ADD(IORING_OP_SEND, sock[0], 0, 512, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
	EXPECT_GROUP(512, NO_CQE);
	close2(sock);
}

/* SEND_ZC ----------------------------------------------------------------- */

/* uapi: for SEND_ZC the lease lasts until the notification */
TEST_F(fused, send_zc)
{
	struct log log = { };
	int sock[2], i, flags;

	ASSERT_EQ(0, tcp_pair(sock));
	SET_BUFFER(0, 4);
	LEND_SRC(BUFFER_LEN);
	ADD(IORING_OP_SEND_ZC, sock[0], 3000, 20000, 0);
	ADD(IORING_OP_SEND_ZC, sock[0], 23000, 5000, 0)->addr3 = UD_OTHER;
	group_push(&self->g);
	ASSERT_LT(0, ring_submit(&self->ring));
	/* in this order, and no faster than it is read */
	ASSERT_EQ(20000, log_until(&log, &self->ring, 0));
	ASSERT_EQ(25000, recv_all(sock[1], self->buf, 25000));
	EXPECT_TRUE(variant->mode.secondary_flags & IOSQE_ASYNC ||
		    is_pattern(self->buf, 4, 3000, 25000));
	/* one request, one notification each; the primary last */
	ASSERT_EQ(25000, log_until(&log, &self->ring, UD_PRIMARY));
	ASSERT_EQ(5, log.nr);
	for (i = flags = 0; i < 4; i++) {
		if (log.cqe[i].flags & IORING_CQE_F_NOTIF)
			flags += log.cqe[i].user_data == UD_OTHER ? 100 : 10;
		else
			EXPECT_TRUE(log.cqe[i].flags & IORING_CQE_F_MORE);
	}
	EXPECT_EQ(110, flags);
	EXPECT_EQ(UD_PRIMARY, log.cqe[4].user_data);
	GET_BUFFER(0);
	/* nothing behind it */
	log_rest(&log, &self->ring, 10);
	EXPECT_EQ(5, log.nr);
	close2(sock);
}

#define EXPECT_ZC_FAILS(error) ({					\
	struct log log = { };						\
	int error_ = (error);						\
									\
	group_push(&self->g);						\
	ASSERT_LT(0, ring_submit(&self->ring));				\
	EXPECT_EQ(error_, log_until(&log, &self->ring, UD_PRIMARY));	\
	EXPECT_EQ(error_, log_res(&log, 0));				\
	EXPECT_EQ(1, log_index(&log, UD_OTHER));			\
	EXPECT_EQ(2, log_index(&log, UD_PRIMARY));			\
	GET_BUFFER(0);							\
})

/* the same if it fails: a file that cannot, or a bad range */
TEST_F(fused, send_zc_fails)
{
	int sock[2];

	ASSERT_EQ(0, sockets(UNIX_DGRAM, sock));
	LEND_SRC(BUFFER_LEN);
	ADD(IORING_OP_SEND_ZC, sock[0], 0, 512, 0)->addr3 = UD_OTHER;
	EXPECT_ZC_FAILS(-EOPNOTSUPP);
	close2(sock);
	ASSERT_EQ(0, tcp_pair(sock));
	LEND_SRC(4096);
	ADD(IORING_OP_SEND_ZC, sock[0], 4000, 512, 0)->addr3 = UD_OTHER;
	EXPECT_ZC_FAILS(-EFAULT);
	close2(sock);
}

/*
 * A receiver that does not read: the pages are with the network stack, so the
 * primary does not complete, and the driver does not have its buffer.
 */
TEST_F(fused, send_zc_pending)
{
	struct log log = { };
	int sock[2];

	ASSERT_EQ(0, stuck_tcp_pair(sock));
	SET_BUFFER(0, 4);
	LEND_SRC(BUFFER_LEN);
	ADD(IORING_OP_SEND_ZC, sock[0], 0, 4096, 0)->addr3 = UD_OTHER;
	group_push(&self->g);
	ASSERT_LT(0, ring_submit(&self->ring));
	ASSERT_EQ(4096, log_until(&log, &self->ring, 0));
	log_rest(&log, &self->ring, 30);
	EXPECT_EQ(1, log.nr);
	EXPECT_EQ(-1, pread(self->dev, self->buf, 512, 0));
	EXPECT_EQ(EBUSY, errno);
	/* the connection breaks, so the stack lets the pages go */
	reset_by(sock[1]);
	close(sock[0]);
	ASSERT_EQ(4096, log_until(&log, &self->ring, UD_PRIMARY));
	EXPECT_EQ(1, log_index(&log, UD_OTHER));
	EXPECT_EQ(2, log_index(&log, UD_PRIMARY));
	GET_BUFFER(0);
}

/* What may not be referred to ----------------------------------------------- */

/* References that were left on the memory that was lent last, when it was back */
static int stray(struct ring *r, int dev)
{
	struct io_uring_sqe sqe[2] = { {
		.opcode = IORING_OP_URING_CMD,
		.fd = dev,
		.cmd_op = OP_STRAY,
		.user_data = UD_OTHER,
	} };
	struct log log = { };

	push_sqe(r, sqe);
	if (ring_submit(r) < 0)
		return NO_CQE;
	return log_until(&log, r, UD_OTHER);
}

/*
 * A lease of memory of kmalloc(): of a slab, and larger. It is free for others when
 * the lease is over, whoever still has a reference on a page. TLS takes some of what
 * it need not copy, to send and to receive.
 */
static const struct { int op, waitall, vec; } from_memory[] = {
	{ IORING_OP_SEND, 1 }, { IORING_OP_WRITE }, { IORING_OP_WRITEV, .vec = 1 },
	{ IORING_OP_SEND_ZC, 1 },
}, to_memory[] = {
	{ IORING_OP_RECV, 1 }, { IORING_OP_READ }, { IORING_OP_READV, .vec = 1 },
};

/* One record of TLS at most, so that none of them comes short */
static const int memory_len[] = { 1000, 16384 };

TEST_F(fused, send_memory)
{
	int tls, i, k, n, sock[2];

	for (tls = 0; tls < 2; tls++) {
		if (tls ? tls_pair(sock) : tcp_pair(sock))
			SKIP(return, "no TLS");
		for (i = 0; i < 2 * (int)ARRAY_SIZE(from_memory); i++) {
			int len = memory_len[i & 1], op = from_memory[i / 2].op;
			const struct iovec vec[] = { { (void *)200, len - 200 }, { NULL, 200 } };
			struct io_uring_sqe *sqe;
			struct log log = { };

			/* one that can not */
			if (tls && op == IORING_OP_SEND_ZC)
				continue;
			INIT(OP_LEND_MEMORY, LEND_SOURCE, len);
			sqe = ADD(op, sock[0], from_memory[i / 2].vec ? (uintptr_t)vec : 0,
				  from_memory[i / 2].vec ? 2 : len, 0);
			if (!from_memory[i / 2].waitall)
				sqe->off = -1;
			else if (!tls)
				sqe->msg_flags = MSG_WAITALL;
			group_push(&self->g);
			ASSERT_LT(0, ring_submit(&self->ring));
			ASSERT_EQ(len, log_until(&log, &self->ring, UD_PRIMARY))
				TH_LOG("tls %d, %d", tls, i);
			EXPECT_EQ(0, stray(&self->ring, self->dev)) TH_LOG("tls %d, %d", tls, i);
			ASSERT_EQ(len, recv_all(sock[1], self->buf, len));
			for (k = 0; k < len; k++) {
				n = from_memory[i / 2].vec ? (k + 200) % len : k;
				ASSERT_EQ(n % 251, self->buf[k]) TH_LOG("%d: %d", i, k);
			}
		}
		close2(sock);
	}
}

TEST_F(fused, recv_memory)
{
	int tls, i, lent, sock[2];

	for (tls = 0; tls < 2; tls++) {
		if (tls ? tls_pair(sock) : tcp_pair(sock))
			SKIP(return, "no TLS");
		for (i = 0; i < 4 * (int)ARRAY_SIZE(to_memory); i++) {
			int len = memory_len[i & 1], op = to_memory[i / 4].op;
			const struct iovec vec[] = { { NULL, 200 }, { (void *)200, len - 200 } };
			struct io_uring_sqe *sqe;

			lent = i & 2 ? OP_LEND : OP_LEND_MEMORY;
			fill(self->buf, i, 0, len);
			ASSERT_EQ(len, send(sock[1], self->buf, len, 0));
			INIT(lent, 0, len);
			sqe = ADD(op, sock[0], to_memory[i / 4].vec ? (uintptr_t)vec : 0,
				  to_memory[i / 4].vec ? 2 : len, 0);
			if (to_memory[i / 4].waitall)
				sqe->msg_flags = MSG_WAITALL;
			else
				sqe->off = -1;
			EXPECT_GROUP(len, len);
			EXPECT_EQ(0, stray(&self->ring, self->dev)) TH_LOG("tls %d, %d", tls, i);
			/* nobody sees what is in the memory */
			if (lent == OP_LEND) {
				GET_BUFFER(0);
				EXPECT_TRUE(is_pattern(self->buf, i, 0, len))
					TH_LOG("tls %d, %d", tls, i);
			}
		}
		close2(sock);
	}
}

/* what a vectored read of a socket does not fill is zeroed, as of a file */
TEST_F(fused, short_readv)
{
	const struct iovec vec[] = { { (void *)8000, 500 }, { (void *)100, 5000 } };
	const struct iovec one = { (void *)4090, 5000 };
	int sock[2];

	ASSERT_EQ(0, tcp_pair(sock));
	SET_BUFFER(0, 7);
	fill(self->buf, 1, 0, 600);
	ASSERT_EQ(600, send(sock[1], self->buf, 600, 0));
	LEND_DEST(BUFFER_LEN);
	ADD(IORING_OP_READV, sock[0], (uintptr_t)vec, 2, -1);
	EXPECT_GROUP(600, 600);
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf, 7, 0, 100));
	EXPECT_TRUE(is_pattern(self->buf + 100, 1, 500, 100));
	EXPECT_TRUE(all_are(self->buf + 200, 0, 4900));
	EXPECT_TRUE(is_pattern(self->buf + 5100, 7, 5100, 2900));
	EXPECT_TRUE(is_pattern(self->buf + 8000, 1, 0, 500));
	EXPECT_TRUE(is_pattern(self->buf + 8500, 7, 8500, BUFFER_LEN - 8500));
	/* in one piece */
	SET_BUFFER(0, 7);
	fill(self->buf, 1, 0, 600);
	ASSERT_EQ(600, send(sock[1], self->buf, 600, 0));
	LEND_DEST(BUFFER_LEN);
	ADD(IORING_OP_READV, sock[0], (uintptr_t)&one, 1, -1);
	EXPECT_GROUP(600, 600);
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf, 7, 0, 4090));
	EXPECT_TRUE(is_pattern(self->buf + 4090, 1, 0, 600));
	EXPECT_TRUE(all_are(self->buf + 4690, 0, 4400));
	EXPECT_TRUE(is_pattern(self->buf + 9090, 7, 9090, BUFFER_LEN - 9090));
	close2(sock);
}

TEST_HARNESS_MAIN
