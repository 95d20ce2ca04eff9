// SPDX-License-Identifier: GPL-2.0
/*
 * The fields of a secondary's SQE, and the bits that are allowed in each
 */
#include <sys/socket.h>
#include <linux/io_uring.h>
#include "fields.h"

static const struct io_uring_sqe model;

#define AT(field)	offsetof(struct io_uring_sqe, field)
#define SIZE(field)	sizeof(model.field)

#define RW	{ IORING_OP_READ, IORING_OP_READ_FIXED, IORING_OP_WRITE, \
		  IORING_OP_WRITE_FIXED, IORING_OP_READV, IORING_OP_READV_FIXED, \
		  IORING_OP_WRITEV, IORING_OP_WRITEV_FIXED }
#define SENDS	{ IORING_OP_SEND, IORING_OP_SEND_ZC }

/* RWF_HIPRI to RWF_NOSIGNAL */
#define RW_FLAGS	0x1ff
#define SEND_FLAGS	(MSG_DONTWAIT | MSG_WAITALL | MSG_NOSIGNAL | MSG_MORE | MSG_EOR)
#define RECV_FLAGS	(MSG_DONTWAIT | MSG_WAITALL | MSG_NOSIGNAL | MSG_PEEK)
#define NET_FLAGS	(IORING_RECVSEND_POLL_FIRST | IORING_RECVSEND_FIXED_BUF)

const struct field fields[] = {
	{ "rw_flags", AT(rw_flags), SIZE(rw_flags), RW_FLAGS, 0, RW },
	{ "attr_type_mask", AT(attr_type_mask), SIZE(attr_type_mask), 0, 0, RW },
	{ "msg_flags", AT(msg_flags), SIZE(msg_flags), SEND_FLAGS, 0, SENDS },
	{ "msg_flags", AT(msg_flags), SIZE(msg_flags), RECV_FLAGS, 0, { IORING_OP_RECV } },
	{ "ioprio", AT(ioprio), SIZE(ioprio), NET_FLAGS, 0, { IORING_OP_SEND, IORING_OP_RECV } },
	{ "ioprio", AT(ioprio), SIZE(ioprio), NET_FLAGS | IORING_SEND_ZC_REPORT_USAGE, 0,
	  { IORING_OP_SEND_ZC } },
	/* of those with a lease: there is one, and nothing to choose */
	{ "buf_index", AT(buf_index), SIZE(buf_index), 0, 0, RW },
	{ "buf_index", AT(buf_index), SIZE(buf_index), 0, 0, SENDS },
	{ "buf_index", AT(buf_index), SIZE(buf_index), 0, 0,
	  { IORING_OP_RECV, IORING_OP_URING_CMD } },
	{ "addr2", AT(addr2), SIZE(addr2), 0, 0, { IORING_OP_RECV } },
	{ "optlen", AT(optlen), SIZE(optlen), 0, 0, { IORING_OP_RECV } },
	{ "__pad2", AT(__pad2), SIZE(__pad2), 0, 0, { IORING_OP_SEND_ZC } },
	{ "uring_cmd_flags", AT(uring_cmd_flags), SIZE(uring_cmd_flags),
	  IORING_URING_CMD_FIXED, IORING_URING_CMD_FIXED, { IORING_OP_URING_CMD } },
	{ "__pad1", AT(__pad1), SIZE(__pad1), 0, 0, { IORING_OP_URING_CMD } },
	{ "ioprio", AT(ioprio), SIZE(ioprio), 0, 0, { IORING_OP_URING_CMD } },
	/* FIXED_FILE, ASYNC, CQE_SKIP_SUCCESS */
	{ "flags", AT(flags), SIZE(flags), 0x51, 0,
	  { IORING_OP_READ, IORING_OP_WRITE, IORING_OP_READV, IORING_OP_WRITEV,
	    IORING_OP_SEND, IORING_OP_RECV, IORING_OP_URING_CMD } },
	{ "flags", AT(flags), SIZE(flags), 0x11, 0, { IORING_OP_SEND_ZC } },
	{ }
};
