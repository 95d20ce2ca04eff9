/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of SQE groups share, on top of the fixture of those of fused
 * commands: the leader is the primary, the members are the secondaries.
 */
#ifndef SELFTESTS_IO_URING_GROUP_H
#define SELFTESTS_IO_URING_GROUP_H

#include "fixture.h"

/* Start a group, whose leader this is */
#define LEAD(op, fd, addr, len, off) \
	group_lead(&self->g, &self->ring, &variant->mode, op, fd, addr, len, off)
/* The same with a NOP that has this result */
#define LEAD_NOP(res) ({						\
	struct io_uring_sqe *nop_ = LEAD(IORING_OP_NOP, -1, 0, res, 0);	\
									\
	nop_->nop_flags = IORING_NOP_INJECT_RESULT;			\
	nop_;								\
})
#define ADD_NOP(res)	group_add_nop(&self->g, res)

/* Let it be submitted. */
#define SUBMIT() \
	ASSERT_LT(0, ring_submit(&self->ring))
#define PUSH_GROUP()	group_push(&self->g)

/* A read that keeps what is linked behind it, or drains, waiting */
static inline void push_gate(struct ring *r, int fd, void *buf, unsigned int flags)
{
	struct io_uring_sqe sqe[2] = { {
		.opcode = IORING_OP_READ,
		.flags = flags,
		.fd = fd,
		.addr = (uintptr_t)buf,
		.len = 4,
		.off = -1,
		.user_data = UD_OTHER,
	} };

	push_sqe(r, sqe);
}

#endif
