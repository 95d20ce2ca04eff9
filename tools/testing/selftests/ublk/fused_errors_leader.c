// SPDX-License-Identifier: GPL-2.0
/* fused_cmd_errors: cases of SQE groups, whose leader lends the data of a request. */
#include "fused_errors.h"

/* The leader of a group of which the members that come next are a part */
static struct io_uring_sqe *leader(struct server *s, __u32 cmd_op, int tag)
{
	struct io_uring_sqe *sqe = io_cmd_sqe(s, &s->ring, cmd_op, 0, tag);

	sqe->flags |= IOSQE_SQE_GROUP;
	sqe->user_data = UD_PRIMARY;
	return sqe;
}

/* A member that takes its buffer from the leader, and is not the last */
static struct io_uring_sqe *member(struct server *s, int idx, int op, __u64 addr, __u32 len,
				   __u64 off)
{
	struct io_uring_sqe *sqe = secondary(s, idx, op, addr, len, off);

	sqe->flags |= IOSQE_IO_DRAIN | IOSQE_SQE_GROUP;
	return sqe;
}

void test_leader_read(struct server *s)
{
	static unsigned char own[512];
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	int res;

	leader(s, UBLK_U_IO_FUSED_SUBMIT_IO, tag);
	member(s, 0, IORING_OP_READ, 0, 512, 0);
	/* one with a buffer of its own */
	member(s, 1, IORING_OP_READ, (uintptr_t)own, 512, 1000)->flags &= ~IOSQE_IO_DRAIN;
	member(s, 2, IORING_OP_READ, 512, LEN - 512, 512)->flags &= ~IOSQE_SQE_GROUP;
	EXPECT(s, 0, 512, 512, LEN - 512);
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the block read ends with %d", res);
	CHECK(!differs(block_buf(s), 0, 0, LEN), "wrong data");
	CHECK(!differs(own, 0, 1000, 512), "wrong data in the server's buffer");
}

void test_leader_write(struct server *s)
{
	unsigned char *content = malloc(LEN);
	int tag = block_io_start(s, UBLK_IO_OP_WRITE);
	int res;

	/* a member in the wrong direction: all are refused */
	leader(s, UBLK_U_IO_FUSED_SUBMIT_IO, tag);
	member(s, 0, IORING_OP_WRITE, 0, LEN, 1000);
	member(s, 1, IORING_OP_READ, 0, 512, 0)->flags &= ~IOSQE_SQE_GROUP;
	EXPECT(s, -EINVAL, -ECANCELED, -ECANCELED);
	CHECK(file_untouched(s), "a member was issued");
	leader(s, UBLK_U_IO_FUSED_SUBMIT_IO, tag);
	member(s, 0, IORING_OP_WRITE, 0, LEN, 1000)->flags &= ~IOSQE_SQE_GROUP;
	EXPECT(s, 0, LEN);
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the block write ends with %d", res);
	CHECK(pread(s->file, content, LEN, 1000) == LEN && !differs(content, 1, 0, LEN),
	      "wrong data");
	free(content);
	file_reset(s);
}

/* what a leader may not be: a commit, which wants to know what was moved */
void test_leader_refused(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	int res;

	leader(s, UBLK_U_IO_COMMIT_AND_FETCH_REQ, tag);
	member(s, 0, IORING_OP_READ, 0, LEN, 0)->flags &= ~IOSQE_SQE_GROUP;
	EXPECT(s, -EINVAL, -ECANCELED);
	CHECK(!block_io_done(s, 0), "the request was completed");
	leader(s, UBLK_U_IO_FUSED_SUBMIT_IO, (tag + 1) % DEPTH);
	member(s, 0, IORING_OP_READ, 0, LEN, 0)->flags &= ~IOSQE_SQE_GROUP;
	EXPECT(s, -EINVAL, -ECANCELED);
	/* and it still is the server's */
	leader(s, UBLK_U_IO_FUSED_SUBMIT_IO, tag);
	member(s, 0, IORING_OP_READ, 0, LEN, 0)->flags &= ~IOSQE_SQE_GROUP;
	EXPECT(s, 0, LEN);
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the block read ends with %d", res);
	CHECK(!differs(block_buf(s), 0, 0, LEN), "wrong data");
}
