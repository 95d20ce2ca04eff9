// SPDX-License-Identifier: GPL-2.0
/*
 * Zero copy by fused commands: one primary leases the request's buffer to the
 * secondaries behind it, which are plain reads and writes of backing files
 * with an offset into that buffer for an address. They post no CQE when all
 * is well.
 *
 * The primary is the commit of the request, and its CQE tells of the next one:
 * nothing else is to be submitted or read. A request that takes more than
 * IORING_FUSED_MAX_SECONDARY pieces is served by several groups, whose
 * primaries only lease its buffer, side by side, and is committed after them.
 *
 * With "--group" the same groups are said by a flag: their leaders only lease
 * the buffer as well, and have no byte count for a result.
 */

#include "kublk.h"

/* Fused commands that a request of @nr pieces takes */
static inline unsigned int nr_groups(unsigned int nr)
{
	return (nr + IORING_FUSED_MAX_SECONDARY - 1) / IORING_FUSED_MAX_SECONDARY;
}

/* CQE of a primary, as opposed to one of a secondary that failed */
static inline bool is_fused_primary(const struct io_uring_cqe *cqe)
{
	return user_data_to_op(cqe->user_data) ==
		ublk_cmd_op_nr(UBLK_U_IO_FUSED_SUBMIT_IO);
}

bool ublk_is_fused_cqe(const struct ublk_queue *q, const struct io_uring_cqe *cqe)
{
	unsigned int op = user_data_to_op(cqe->user_data);

	return ublk_queue_use_fused(q) && (is_fused_primary(cqe) ||
		ublk_is_fused_batch_cqe(cqe) || op == UBLK_IO_OP_READ || op == UBLK_IO_OP_WRITE);
}

/* Room in the ring for as many requests of @nr pieces as there are tags */
void ublk_fused_set_depth(struct ublk_dev *dev, unsigned int nr)
{
	unsigned int one = nr + nr_groups(nr);
	unsigned int depth = dev->dev_info.queue_depth * one;

	/* what does not fit waits for a submission, but one request must fit */
	if (depth > UBLK_FUSED_MAX_SQES)
		depth = UBLK_FUSED_MAX_SQES;
	dev->tgt.sq_depth = depth;
	dev->tgt.cq_depth = depth;
}

/*
 * What the SQEs of a queue have in common is written once: to copy that takes
 * fewer instructions than to write it anew.
 */
void ublk_fused_queue_init(struct ublk_queue *q)
{
	struct io_uring_sqe *sqe = &q->fused_commit;
	struct ublksrv_io_cmd *cmd = ublk_get_sqe_cmd(sqe);
	unsigned int op;

	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_FUSED_CMD;
	sqe->fd = ublk_get_registered_fd(q, 0);
	if (!(q->flags & UBLKS_Q_NO_UBLK_FIXED_FD))
		sqe->flags = IOSQE_FIXED_FILE;
	sqe->cmd_op = UBLK_U_IO_COMMIT_AND_FETCH_REQ;
	sqe->uring_cmd_flags = IORING_FUSED_CMD_BUF;
	sqe->user_data = build_user_data(0, ublk_cmd_op_nr(sqe->cmd_op), 0,
					 q->q_id, 0);
	cmd->q_id = q->q_id;

	for (op = UBLK_IO_OP_READ; op <= UBLK_IO_OP_WRITE; op++) {
		bool is_read = op == UBLK_IO_OP_READ;

		sqe = &q->fused_rw[!is_read];
		io_uring_prep_rw(is_read ? IORING_OP_READ : IORING_OP_WRITE,
				 sqe, 0, NULL, 0, 0);
		sqe->flags = IOSQE_FIXED_FILE | IOSQE_CQE_SKIP_SUCCESS;
		sqe->user_data = build_user_data(0, op, 0, q->q_id, 1);
	}
}

/*
 * A primary and its secondaries, for which there has to be room in the ring.
 * Inlined, so that a request of one group, as most are, has code of its own.
 */
static __always_inline void
queue_group(struct ublk_thread *t, struct ublk_queue *q, int tag,
	    unsigned int cmd_op, unsigned int group, unsigned int ublk_op,
	    const struct ublk_fused_seg *seg, unsigned int nr)
{
	unsigned int first = group * IORING_FUSED_MAX_SECONDARY;
	struct io_uring_sqe *sqe = io_uring_get_sqe(&t->ring);
	struct ublksrv_io_cmd *cmd;
	unsigned int i;

	*sqe = q->fused_commit;
	cmd = ublk_get_sqe_cmd(sqe);
	cmd->tag = tag;
	if (cmd_op == UBLK_U_IO_COMMIT_AND_FETCH_REQ) {
		sqe->user_data |= tag;
	} else {
		sqe->cmd_op = cmd_op;
		sqe->user_data = build_user_data(tag, ublk_cmd_op_nr(cmd_op),
						 group, q->q_id, 1);
	}
	if (!ublk_queue_use_group(q)) {
		sqe->nr_secondary = nr;
	} else {
		sqe->opcode = IORING_OP_URING_CMD;
		sqe->flags |= IOSQE_SQE_GROUP;
		sqe->uring_cmd_flags = 0;
	}

	for (i = 0; i < nr; i++) {
		sqe = io_uring_get_sqe(&t->ring);
		ublk_fused_prep_secondary(q, sqe, tag, ublk_op, first + i, &seg[first + i]);
		if (!ublk_queue_use_group(q))
			continue;
		/* a member that takes the leader's buffer; the last ends the group */
		sqe->flags |= IOSQE_IO_DRAIN;
		if (i < nr - 1)
			sqe->flags |= IOSQE_SQE_GROUP;
	}
}

/* Several groups, side by side. Returns how many. */
static int queue_groups(struct ublk_thread *t, struct ublk_queue *q, int tag,
			unsigned int ublk_op, const struct ublk_fused_seg *seg,
			unsigned int nr)
{
	unsigned int groups = nr_groups(nr);
	unsigned int group;

	for (group = 0; group < groups; group++) {
		unsigned int left = nr - group * IORING_FUSED_MAX_SECONDARY;

		if (left > IORING_FUSED_MAX_SECONDARY)
			left = IORING_FUSED_MAX_SECONDARY;

		queue_group(t, q, tag, UBLK_U_IO_FUSED_SUBMIT_IO, group, ublk_op,
			    seg, left);
	}

	/* a short transfer has no clear end when there are several pieces */
	ublk_get_io(q, tag)->refs = nr;
	return groups;
}

/*
 * Move the data of a block READ or WRITE from or to the pieces @seg of the
 * backing files. Returns how many CQEs of ours will tell of it, or an error.
 *
 * A group must not be torn by a submission in the middle of it: room is made
 * for all of its SQEs first.
 */
int ublk_fused_queue_io(struct ublk_thread *t, struct ublk_queue *q, int tag,
			const struct ublk_fused_seg *seg, unsigned int nr)
{
	const struct ublksrv_io_desc *iod = ublk_get_iod(q, tag);
	unsigned int groups = nr_groups(nr);
	unsigned int ublk_op = ublksrv_get_op(iod);

	ublk_assert(nr && nr <= UBLK_FUSED_MAX_SEGS);

	if (ublk_thread_batch_io(t) && groups == 1) {
		ublk_fused_batch_queue_io(t, q, tag, ublk_op, seg, nr);
		return 0;
	}
	if (io_uring_sq_space_left(&t->ring) < nr + groups) {
		io_uring_submit(&t->ring);
		if (io_uring_sq_space_left(&t->ring) < nr + groups)
			return -EAGAIN;
	}

	if (groups > 1 || ublk_queue_use_group(q))
		return queue_groups(t, q, tag, ublk_op, seg, nr);

	queue_group(t, q, tag, UBLK_U_IO_COMMIT_AND_FETCH_REQ, 0, ublk_op, seg, nr);
	/* as ublk_queue_io_cmd() */
	ublk_get_io(q, tag)->flags = 0;
	t->cmd_inflight++;
	return 0;
}

void ublk_fused_io_done(struct ublk_thread *t, struct ublk_queue *q,
			const struct io_uring_cqe *cqe)
{
	unsigned int tag = user_data_to_tag(cqe->user_data);
	const struct ublksrv_io_desc *iod;
	struct ublk_io *io;

	if (ublk_is_fused_batch_cqe(cqe)) {
		ublk_fused_batch_done(t, q, cqe);
		return;
	}
	iod = ublk_get_iod(q, tag);
	io = ublk_get_io(q, tag);

	/*
	 * A secondary speaks up only when it failed or came short. The
	 * primary's CQE follows and is the one that counts, but for an SQE
	 * group.
	 */
	if (!is_fused_primary(cqe)) {
		ublk_err("%s: qid %d tag %u secondary %u: res %d\n", __func__,
			 q->q_id, tag, user_data_to_tgt_data(cqe->user_data),
			 cqe->res);
		/* what is read short has zeroes behind it, see below for the rest */
		if (ublk_queue_use_group(q) && io->result >= 0) {
			if (cqe->res < 0)
				io->result = cqe->res;
			else if (ublksrv_get_op(iod) == UBLK_IO_OP_WRITE)
				io->result = -EIO;
		}
		return;
	}

	if (cqe->res < 0) {
		if (io->result >= 0)
			io->result = cqe->res;
	} else if (io->result >= 0) {
		io->result += cqe->res;
	}

	if (!ublk_completed_tgt_io(t, q, tag))
		return;

	/* a leader does not tell how much was moved, but who came short has spoken */
	if (ublk_queue_use_group(q) && io->result >= 0)
		io->result = iod->nr_sectors << 9;
	if (io->refs > 1 && io->result >= 0 &&
	    io->result != (int)(iod->nr_sectors << 9)) {
		ublk_err("%s: qid %d tag %u: short I/O, %d of %u bytes\n",
			 __func__, q->q_id, tag, io->result,
			 iod->nr_sectors << 9);
		io->result = -EIO;
	}
	ublk_complete_io(t, q, tag, io->result);
}
