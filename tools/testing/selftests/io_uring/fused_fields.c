// SPDX-License-Identifier: GPL-2.0
/*
 * What a secondary may say in each field of its SQE, bit by bit: a group with
 * anything else is refused. What is not listed could let pages be used after the
 * lease, or count bytes that were not moved.
 */
#include <sys/uio.h>
#include "fixture.h"
#include "fields.h"
#include "sockets.h"

static bool is_vectored(int op)
{
	return op == IORING_OP_READV || op == IORING_OP_READV_FIXED ||
		op == IORING_OP_WRITEV || op == IORING_OP_WRITEV_FIXED;
}

static bool is_rw(int op)
{
	return op == IORING_OP_READ || op == IORING_OP_READ_FIXED ||
		op == IORING_OP_WRITE || op == IORING_OP_WRITE_FIXED || is_vectored(op);
}

static bool reads_buffer(int op)
{
	return op == IORING_OP_WRITE || op == IORING_OP_WRITE_FIXED ||
		op == IORING_OP_WRITEV || op == IORING_OP_WRITEV_FIXED ||
		op == IORING_OP_SEND || op == IORING_OP_SEND_ZC;
}

/* Was the group refused as a whole? -1 if that can not be told. */
static int refused(struct group *g)
{
	struct log log = { };
	int res;

	group_push(g);
	if (ring_submit(g->ring) < 0)
		return -1;
	res = log_until(&log, g->ring, UD_PRIMARY);
	/* the notification of a SEND_ZC that was never issued comes any time */
	push_nop(g->ring, UD_SENTINEL, 0);
	if (ring_submit(g->ring) < 0 || log_until(&log, g->ring, UD_SENTINEL))
		return -1;
	return res == -EINVAL && log_res(&log, 0) == -ECANCELED;
}

TEST_F(fused, bits)
{
	struct iovec vec = { NULL, 16 };
	const struct field *f;
	int sock[2], bit, got;
	const __u8 *op;
	__u64 value;
	bool want;

	signal(SIGPIPE, SIG_IGN);
	ASSERT_EQ(0, sockets(UNIX_DGRAM, sock));
	for (f = fields; f->name; f++) {
		for (op = f->ops; op < f->ops + ARRAY_SIZE(f->ops) && *op; op++) {
			for (bit = 0; bit < (int)f->size * 8; bit++) {
				struct io_uring_sqe *sqe;

				value = (1ULL << bit) | f->with;
				want = value & ~f->allowed;
				/* a receive must find something, and a send room */
				send(sock[1], self->buf, 16, MSG_DONTWAIT);
				if (reads_buffer(*op))
					LEND_SRC(4096);
				else
					LEND_DEST(4096);
				if (*op == IORING_OP_URING_CMD)
					sqe = group_add_cmd(&self->g, self->dev, 0);
				else if (is_vectored(*op))
					sqe = ADD(*op, self->file, (uintptr_t)&vec, 1, 0);
				else if (is_rw(*op))
					sqe = ADD(*op, self->file, 0, 16, 0);
				else
					sqe = ADD(*op, sock[0], 0, 16, 0);
				if (f->offset == offsetof(struct io_uring_sqe, flags))
					value |= variant->mode.secondary_flags;
				memcpy((char *)sqe + f->offset, &value, f->size);
				got = refused(&self->g);
				EXPECT_EQ(want, got)
					TH_LOG("opcode %d, %s, bit %d", *op, f->name, bit);
				while (recv(sock[1], self->buf, 4096, MSG_DONTWAIT) > 0)
					;
			}
		}
	}
	close2(sock);
}

/* uapi: buf_index is reserved with a lease; without one it is the number of a buffer */
TEST_F(fused, buf_index)
{
	struct iovec vec[] = { { self->buf, 4096 }, { self->buf + 4096, 4096 } };
	__u64 second = (uintptr_t)vec[1].iov_base;

	ASSERT_EQ(0, ring_register(&self->ring, IORING_REGISTER_BUFFERS, vec, 2));
	SET_BUFFER(0, 9);
	/* though there is such a buffer; the good one is not issued */
	LEND_DEST(4096);
	ADD(IORING_OP_READ_FIXED, self->file, 0, 512, 0)->buf_index = 1;
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	ADD(IORING_OP_READ_FIXED, self->file, 512, 512, 0)->buf_index = 1;
	EXPECT_GROUP(-EINVAL, -ECANCELED, -ECANCELED);
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf, 9, 0, BUFFER_LEN));

	INIT(OP_START, 0, 0);
	ADD(IORING_OP_READ_FIXED, self->file, second, 512, 100)->buf_index = 1;
	EXPECT_GROUP(512, 512);
	EXPECT_TRUE(is_pattern(self->buf + 4096, 0, 100, 512));
	/* that address is in another one, and there are only two */
	INIT(OP_START, 0, 0);
	ADD(IORING_OP_READ_FIXED, self->file, second, 512, 0);
	ADD(IORING_OP_READ_FIXED, self->file, second, 512, 0)->buf_index = 2;
	EXPECT_GROUP(-EFAULT, -EFAULT, -EFAULT);
}

TEST_HARNESS_MAIN
