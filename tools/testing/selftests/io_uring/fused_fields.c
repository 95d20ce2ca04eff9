// SPDX-License-Identifier: GPL-2.0
/*
 * What a secondary may say in each field of its SQE, bit by bit: a group with
 * anything else is refused. What is not listed could let pages be used after the
 * lease, or count bytes that were not moved.
 */
#include "fixture.h"
#include "sockets.h"

/* A field of some opcodes, and the bits that may be set in it */
struct field {
	const char *name;
	size_t offset, size;
	__u64 allowed;
	/* one or the other has to be there */
	__u64 with;
	__u8 ops[5];
};

static const struct io_uring_sqe model;

#define AT(field)	offsetof(struct io_uring_sqe, field)
#define SIZE(field)	sizeof(model.field)

#define RW	{ IORING_OP_READ, IORING_OP_READ_FIXED, IORING_OP_WRITE, \
		  IORING_OP_WRITE_FIXED }
#define SENDS	{ IORING_OP_SEND, IORING_OP_SEND_ZC }

/* RWF_HIPRI to RWF_NOSIGNAL */
#define RW_FLAGS	0x1ff
#define SEND_FLAGS	(MSG_DONTWAIT | MSG_WAITALL | MSG_NOSIGNAL | MSG_MORE | MSG_EOR)
#define RECV_FLAGS	(MSG_DONTWAIT | MSG_WAITALL | MSG_NOSIGNAL | MSG_PEEK)
#define NET_FLAGS	(IORING_RECVSEND_POLL_FIRST | IORING_RECVSEND_FIXED_BUF)

static const struct field fields[] = {
	{ "rw_flags", AT(rw_flags), SIZE(rw_flags), RW_FLAGS, 0, RW },
	{ "attr_type_mask", AT(attr_type_mask), SIZE(attr_type_mask), 0, 0, RW },
	{ "msg_flags", AT(msg_flags), SIZE(msg_flags), SEND_FLAGS, 0, SENDS },
	{ "msg_flags", AT(msg_flags), SIZE(msg_flags), RECV_FLAGS, 0, { IORING_OP_RECV } },
	{ "ioprio", AT(ioprio), SIZE(ioprio), NET_FLAGS, 0, { IORING_OP_SEND, IORING_OP_RECV } },
	{ "ioprio", AT(ioprio), SIZE(ioprio), NET_FLAGS | IORING_SEND_ZC_REPORT_USAGE, 0,
	  { IORING_OP_SEND_ZC } },
	{ "addr2", AT(addr2), SIZE(addr2), 0, 0, { IORING_OP_RECV } },
	{ "optlen", AT(optlen), SIZE(optlen), 0, 0, { IORING_OP_RECV } },
	{ "__pad2", AT(__pad2), SIZE(__pad2), 0, 0, { IORING_OP_SEND_ZC } },
	{ "uring_cmd_flags", AT(uring_cmd_flags), SIZE(uring_cmd_flags),
	  IORING_URING_CMD_FIXED, IORING_URING_CMD_FIXED, { IORING_OP_URING_CMD } },
	{ "__pad1", AT(__pad1), SIZE(__pad1), 0, 0, { IORING_OP_URING_CMD } },
	{ "ioprio", AT(ioprio), SIZE(ioprio), 0, 0, { IORING_OP_URING_CMD } },
	/* FIXED_FILE, ASYNC, CQE_SKIP_SUCCESS */
	{ "flags", AT(flags), SIZE(flags), 0x51, 0,
	  { IORING_OP_READ, IORING_OP_WRITE, IORING_OP_SEND, IORING_OP_RECV,
	    IORING_OP_URING_CMD } },
	{ "flags", AT(flags), SIZE(flags), 0x11, 0, { IORING_OP_SEND_ZC } },
};

static bool reads_buffer(int op)
{
	return op == IORING_OP_WRITE || op == IORING_OP_WRITE_FIXED ||
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
	const struct field *f;
	int sock[2], bit, got;
	const __u8 *op;
	__u64 value;
	bool want;

	signal(SIGPIPE, SIG_IGN);
	ASSERT_EQ(0, sockets(UNIX_DGRAM, sock));
	for (f = fields; f < fields + ARRAY_SIZE(fields); f++) {
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
				else if (*op == IORING_OP_READ || *op == IORING_OP_READ_FIXED ||
					 *op == IORING_OP_WRITE || *op == IORING_OP_WRITE_FIXED)
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

TEST_HARNESS_MAIN
