// SPDX-License-Identifier: GPL-2.0
/* fused_cmd_errors: how groups are made, and what is expected of them. */
#include "fused_errors.h"

struct io_uring_sqe *primary_on(struct server *s, struct io_uring *ring,
				int tag, int nr)
{
	struct io_uring_sqe *sqe;

	sqe = io_cmd_sqe(s, ring, UBLK_U_IO_FUSED_SUBMIT_IO, 0, tag);
	sqe->opcode = IORING_OP_FUSED_CMD;
	sqe->uring_cmd_flags = IORING_FUSED_CMD_BUF;
	sqe->nr_secondary = nr;
	sqe->user_data = UD_PRIMARY;
	return sqe;
}

struct io_uring_sqe *primary(struct server *s, int tag, int nr)
{
	return primary_on(s, &s->ring, tag, nr);
}

struct io_uring_sqe *secondary_on(struct io_uring *ring, int idx, int op,
				  int fd, __u64 addr, __u32 len, __u64 off)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	if (!sqe)
		FATAL("the submission queue is full");
	io_uring_prep_rw(op, sqe, fd, NULL, len, off);
	sqe->addr = addr;
	sqe->user_data = UD_SECONDARY(idx);
	return sqe;
}

struct io_uring_sqe *secondary(struct server *s, int idx, int op,
			       __u64 addr, __u32 len, __u64 off)
{
	return secondary_on(&s->ring, idx, op, s->file, addr, len, off);
}

/* On a ring of its own, with a secondary whose CQE does not matter */
int primary_elsewhere(struct server *s, __u32 cmd_op, int tag)
{
	struct io_uring_cqe *cqe;
	struct io_uring ring;
	int res;

	if (io_uring_queue_init(8, &ring, 0))
		FATAL("no ring");
	primary_on(s, &ring, tag, 1)->cmd_op = cmd_op;
	secondary_on(&ring, 0, IORING_OP_READ, s->file, 0, 512, 0)->flags |=
		IOSQE_CQE_SKIP_SUCCESS;
	submit(&ring);
	do {
		if (io_uring_wait_cqe(&ring, &cqe))
			FATAL("no CQE");
		res = cqe->user_data == UD_PRIMARY ? cqe->res : NO_CQE;
		io_uring_cqe_seen(&ring, cqe);
	} while (res == NO_CQE);
	io_uring_queue_exit(&ring);
	return res;
}

/* A primary that commits: its CQE is that of a commit, not of a group. */
struct io_uring_sqe *fused_commit(struct server *s, int tag, int nr)
{
	struct io_uring_sqe *sqe = primary(s, tag, nr);

	sqe->cmd_op = UBLK_U_IO_COMMIT_AND_FETCH_REQ;
	sqe->user_data = UD_CMD | tag;
	s->nr_cqes = 0;
	s->cmd_res[tag] = 0;
	return sqe;
}

static void nop(struct server *s, __u64 user_data)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&s->ring);

	if (!sqe)
		FATAL("the submission queue is full");
	io_uring_prep_nop(sqe);
	sqe->user_data = user_data;
}

/*
 * Submit a group and check its CQEs: these results, no others, no CQE for a
 * secondary with NO_CQE, the primary's CQE after the others, and no SQE left.
 */
void expect(struct server *s, const char *where, int primary_res, int nr,
	    const int *sec_res)
{
	int i, res, want = 1;

	s->nr_cqes = 0;
	submit(&s->ring);
	res = io_uring_sq_ready(&s->ring);
	check(!res, "%s: %d SQEs were not consumed", where, res);
	check(wait_cqe(s, UD_PRIMARY) != NO_CQE, "%s: no CQE of the primary", where);

	/* nothing may come behind it */
	nop(s, UD_SENTINEL);
	submit(&s->ring);
	check(wait_cqe(s, UD_SENTINEL) != NO_CQE, "%s: no CQE of the NOP", where);

	/* the notification of a SEND_ZC that was never issued comes any time */
	for (i = 0; i < s->nr_cqes; i++)
		if (s->cqe[i].flags & IORING_CQE_F_NOTIF && primary_res < 0)
			memmove(&s->cqe[i], &s->cqe[i + 1],
				(--s->nr_cqes - i) * sizeof(s->cqe[0]));
	for (i = 0; i < nr; i++) {
		res = cqe_res(s, UD_SECONDARY(i));
		check(res == sec_res[i], "%s: secondary %d posts %d, should be %d",
		      where, i, res, sec_res[i]);
		want += res != NO_CQE;
	}
	res = cqe_res(s, UD_PRIMARY);
	check(res == primary_res, "%s: the primary posts %d, should be %d", where,
	      res, primary_res);
	check(s->nr_cqes == want + 1, "%s: %d CQEs, should be %d", where,
	      s->nr_cqes - 1, want);
	check(s->cqe[want - 1].user_data == UD_PRIMARY,
	      "%s: the primary's CQE is not the last", where);
}

/* A group whose primary has this command is refused */
void refused(struct server *s, const char *where, struct ublksrv_io_cmd cmd)
{
	struct io_uring_sqe *sqe = primary(s, cmd.tag, 2);

	memcpy(sqe->cmd, &cmd, sizeof(cmd));
	secondary(s, 0, IORING_OP_READ, 0, 512, 0);
	secondary(s, 1, IORING_OP_READ, 512, 512, 0);
	expect(s, where, -EINVAL, 2, (const int[]){ -ECANCELED, -ECANCELED });
}
