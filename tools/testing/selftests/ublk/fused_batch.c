// SPDX-License-Identifier: GPL-2.0
/*
 * Zero copy for many requests by one fused command: the primary is the commit
 * of a batch (UBLK_F_BATCH_IO). Each of its elements says how many of the
 * secondaries move the data of its request, which ends when these are done.
 *
 * What the server is told in one go is gathered, and submitted when all of it
 * was seen. A request that takes more than IORING_FUSED_MAX_SECONDARY pieces is
 * served as in fused.c, and committed without secondaries.
 */

#include "kublk.h"

/* A command that is gathered, or under way */
struct ublk_fused_batch {
	struct ublk_fused_batch *next;
	unsigned short idx;
	unsigned short nr_elem;
	unsigned short nr_seg;
	/* read when the command is issued */
	struct ublk_elem_header elem[IORING_FUSED_MAX_SECONDARY];
	unsigned char op[IORING_FUSED_MAX_SECONDARY];
	struct ublk_fused_seg seg[IORING_FUSED_MAX_SECONDARY];
};

/* Those of a thread */
struct ublk_fused_batches {
	struct ublk_fused_batch *free;
	/* what is gathered for each queue, or NULL */
	struct ublk_fused_batch *open[UBLK_MAX_QUEUES];
	struct ublk_fused_batch all[];
};

int ublk_fused_batch_init(struct ublk_thread *t)
{
	struct ublksrv_ctrl_dev_info *info = &t->dev->dev_info;
	/* each one that is under way has a tag, one of each queue is gathered */
	unsigned int nr = (info->queue_depth + 1) * info->nr_hw_queues;
	struct ublk_fused_batches *b;

	if (!(info->flags & UBLK_F_FUSED_CMD))
		return 0;
	b = calloc(1, sizeof(*b) + nr * sizeof(b->all[0]));
	if (!b)
		return -ENOMEM;
	while (nr--) {
		b->all[nr].idx = nr;
		b->all[nr].next = b->free;
		b->free = &b->all[nr];
	}
	t->fused = b;
	return 0;
}

void ublk_fused_batch_exit(struct ublk_thread *t)
{
	free(t->fused);
	t->fused = NULL;
}

bool ublk_is_fused_batch_cqe(const struct io_uring_cqe *cqe)
{
	return user_data_to_op(cqe->user_data) ==
		ublk_cmd_op_nr(UBLK_U_IO_COMMIT_IO_CMDS);
}

static void submit_batch(struct ublk_thread *t, struct ublk_queue *q,
			 struct ublk_fused_batch *b)
{
	const struct ublk_fused_seg *seg = b->seg;
	struct io_uring_sqe *sqe;
	struct ublk_batch_io *cmd;
	unsigned int i, k;

	/* a group must not be torn by a submission in the middle of it */
	if (io_uring_sq_space_left(&t->ring) < b->nr_seg + 1u)
		io_uring_submit(&t->ring);
	ublk_assert(io_uring_sq_space_left(&t->ring) >= b->nr_seg + 1u);

	sqe = io_uring_get_sqe(&t->ring);
	*sqe = q->fused_commit;
	sqe->addr = (unsigned long)b->elem;
	sqe->cmd_op = UBLK_U_IO_COMMIT_IO_CMDS;
	sqe->nr_secondary = b->nr_seg;
	sqe->user_data = build_user_data(b->idx,
					 ublk_cmd_op_nr(UBLK_U_IO_COMMIT_IO_CMDS),
					 0, q->q_id, 1);
	cmd = ublk_get_sqe_cmd(sqe);
	*cmd = (struct ublk_batch_io) {
		.q_id		= q->q_id,
		.nr_elem	= b->nr_elem,
		.elem_bytes	= sizeof(b->elem[0]),
	};

	for (i = 0; i < b->nr_elem; i++)
		for (k = 0; k < b->elem[i].buf_index; k++)
			ublk_fused_prep_secondary(q, io_uring_get_sqe(&t->ring),
						  b->elem[i].tag, b->op[i], k, seg++);
	t->io_inflight++;
	t->fused->open[q->q_id] = NULL;
}

/* Have one request committed with what its pieces move */
void ublk_fused_batch_queue_io(struct ublk_thread *t, struct ublk_queue *q,
			       int tag, unsigned int ublk_op,
			       const struct ublk_fused_seg *seg, unsigned int nr)
{
	struct ublk_fused_batch *b = t->fused->open[q->q_id];
	unsigned int i;

	if (b && b->nr_seg + nr > IORING_FUSED_MAX_SECONDARY) {
		submit_batch(t, q, b);
		b = NULL;
	}
	if (!b) {
		b = t->fused->free;
		ublk_assert(b);
		t->fused->free = b->next;
		b->nr_elem = 0;
		b->nr_seg = 0;
		t->fused->open[q->q_id] = b;
	}
	b->op[b->nr_elem] = ublk_op;
	b->elem[b->nr_elem++] = (struct ublk_elem_header) {
		.tag		= tag,
		.buf_index	= nr,
	};
	for (i = 0; i < nr; i++)
		b->seg[b->nr_seg++] = seg[i];
}

/* All that the server was told of has been seen */
void ublk_fused_batch_submit(struct ublk_thread *t)
{
	unsigned int i;

	if (!t->fused)
		return;
	for (i = 0; i < t->dev->dev_info.nr_hw_queues; i++)
		if (t->fused->open[i])
			submit_batch(t, &t->dev->q[i], t->fused->open[i]);
}

void ublk_fused_batch_done(struct ublk_thread *t, struct ublk_queue *q,
			   const struct io_uring_cqe *cqe)
{
	struct ublk_fused_batch *b = &t->fused->all[user_data_to_tag(cqe->user_data)];
	unsigned int i;

	t->io_inflight--;
	if (cqe->res != b->nr_elem)
		ublk_err("%s: qid %d: %d of %u requests\n", __func__, q->q_id,
			 cqe->res, b->nr_elem);
	/* it was refused, so all of the requests are still ours */
	for (i = 0; cqe->res < 0 && i < b->nr_elem; i++)
		ublk_complete_io(t, q, b->elem[i].tag, cqe->res);
	b->next = t->fused->free;
	t->fused->free = b;
}
