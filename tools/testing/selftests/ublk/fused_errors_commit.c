// SPDX-License-Identifier: GPL-2.0
/* fused_cmd_errors: cases of commits that move the data. */
#include "fused_errors.h"

/* A block READ is over whose commit moves the data, and all is well. */
static void read_is_over(struct server *s, int tag)
{
	int res;

	s->tag[tag] = TAG_FETCHING;
	submit(&s->ring);
	res = block_io_finish(s, 0);
	CHECK(res == LEN, "the block read ends with %d", res);
	CHECK(!differs(block_buf(s), 0, 0, LEN), "wrong data");
	CHECK(!s->nr_cqes, "a CQE of a group that is well");
}

void test_fused_commit(struct server *s)
{
	int tag, res;

	/* twice, so that the command that waits is a former primary */
	for (int i = 0; i < 2; i++) {
		tag = block_io_start(s, UBLK_IO_OP_READ);
		fused_commit(s, tag, 2);
		secondary(s, 0, IORING_OP_READ, 0, 512, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
		secondary(s, 1, IORING_OP_READ, 512, LEN - 512, 512)->flags |=
			IOSQE_CQE_SKIP_SUCCESS;
		read_is_over(s, tag);
	}
	tag = block_io_start(s, UBLK_IO_OP_WRITE);
	fused_commit(s, tag, 1);
	secondary(s, 0, IORING_OP_WRITE, 0, LEN, 0);
	s->tag[tag] = TAG_FETCHING;
	submit(&s->ring);
	res = block_io_finish(s, 0);
	CHECK(res == LEN, "the block write ends with %d", res);
}

/* from a worker it goes back to the task: one that is sent there, or comes behind such a one */
void test_fused_commit_async(struct server *s)
{
	for (int linked = 0; linked < 2; linked++) {
		int tag = block_io_start(s, UBLK_IO_OP_READ);
		struct io_uring_sqe *sqe;

		if (linked) {
			sqe = io_uring_get_sqe(&s->ring);
			CHECK(sqe, "the submission queue is full");
			io_uring_prep_nop(sqe);
			sqe->flags = IOSQE_ASYNC | IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS;
		}
		sqe = fused_commit(s, tag, 1);
		if (!linked)
			sqe->flags |= IOSQE_ASYNC;
		secondary(s, 0, IORING_OP_READ, 0, LEN, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
		read_is_over(s, tag);
	}
}

/* what becomes of the data becomes of the request, and the slot goes on */
void test_fused_commit_fails(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	int res;

	fused_commit(s, tag, 1);
	secondary(s, 0, IORING_OP_READ, LEN, 512, 0);
	s->tag[tag] = TAG_FETCHING;
	submit(&s->ring);
	res = block_io_finish(s, 0);
	CHECK(res == -EIO, "the block read ends with %d", res);
	CHECK(wait_cqe(s, UD_SECONDARY(0)) == -EFAULT, "its secondary does not say why");

	/* a write that comes short is not a write */
	tag = block_io_start(s, UBLK_IO_OP_WRITE);
	fused_commit(s, tag, 1);
	secondary(s, 0, IORING_OP_WRITE, 0, LEN - 512, 0);
	s->tag[tag] = TAG_FETCHING;
	submit(&s->ring);
	res = block_io_finish(s, 0);
	CHECK(res == -EIO, "the short block write ends with %d", res);

	tag = block_io_start(s, UBLK_IO_OP_READ);
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the next block read ends with %d", res);
}

static void commit_refused(struct server *s, const char *where, struct ublksrv_io_cmd cmd, int want)
{
	struct io_uring_sqe *sqe = primary(s, cmd.tag, 1);

	sqe->cmd_op = UBLK_U_IO_COMMIT_AND_FETCH_REQ;
	memcpy(sqe->cmd, &cmd, sizeof(cmd));
	secondary(s, 0, IORING_OP_READ, 0, 512, 0);
	expect(s, where, want, 1, (const int[]){ -ECANCELED });
}

#define COMMIT_REFUSED(s, want, ...) \
	commit_refused(s, HERE, (struct ublksrv_io_cmd){ __VA_ARGS__ }, want)

static void *commit_from_thread(void *arg)
{
	struct server *s = arg;

	return (void *)(intptr_t)primary_elsewhere(s, UBLK_U_IO_COMMIT_AND_FETCH_REQ, s->got);
}

void test_fused_commit_refused(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	pthread_t thread;
	void *res;

	COMMIT_REFUSED(s, -EINVAL, .tag = tag, .result = LEN);
	COMMIT_REFUSED(s, -EINVAL, .tag = tag, .addr = 1);
	COMMIT_REFUSED(s, -EINVAL, .tag = DEPTH);
	COMMIT_REFUSED(s, -EBUSY, .tag = (tag + 1) % DEPTH);
	if (pthread_create(&thread, NULL, commit_from_thread, s))
		FATAL("no thread");
	pthread_join(thread, &res);
	CHECK((intptr_t)res == -EINVAL, "another task may commit: %d", (int)(intptr_t)res);
	CHECK(!block_io_done(s, 0), "the request was completed");
	block_io_finish(s, LEN);

	tag = block_io_start(s, UBLK_IO_OP_FLUSH);
	COMMIT_REFUSED(s, -EINVAL, .tag = tag);
	block_io_finish(s, 0);
}

/* the request is committed otherwise while the group runs: the group's command is late */
void test_fused_commit_twice(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	int res;

	s->nr_cqes = 0;
	primary(s, tag, 1)->cmd_op = UBLK_U_IO_COMMIT_AND_FETCH_REQ;
	secondary_on(&s->ring, 0, IORING_OP_READ, s->pipe[0], 0, 512, 0);
	submit(&s->ring);
	commit(s, tag, LEN);
	CHECK(!wait_block_io(s, 300), "the request was completed under the lease");
	CHECK(!s->nr_cqes, "a CQE too early");
	CHECK(write(s->pipe[1], "0", 1) == 1, "cannot write to the pipe");
	res = wait_cqe(s, UD_PRIMARY);
	CHECK(res == -EINVAL, "the primary posts %d", res);
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the block read ends with %d", res);
	/* the slot is as good as before */
	tag = block_io_start(s, UBLK_IO_OP_READ);
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the next block read ends with %d", res);
}

/* what is canceled is not committed: the server still has the request */
void test_fused_commit_canceled(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	struct io_uring_sqe *sqe;
	int res;

	fused_commit(s, tag, 1);
	secondary_on(&s->ring, 0, IORING_OP_READ, s->pipe[0], 0, 512, 0);
	submit(&s->ring);
	sqe = io_uring_get_sqe(&s->ring);
	CHECK(sqe, "no SQE");
	io_uring_prep_cancel64(sqe, UD_SECONDARY(0), 0);
	sqe->user_data = UD_OTHER;
	submit(&s->ring);
	CHECK(wait_cqe(s, UD_SECONDARY(0)) == -ECANCELED, "the secondary is not canceled");
	while (!pump(s, 300))
		;
	CHECK(s->cmd_res[tag] == -ECANCELED, "the commit posts %d", s->cmd_res[tag]);
	CHECK(!block_io_done(s, 0), "the request was completed");
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the block read ends with %d", res);
}
