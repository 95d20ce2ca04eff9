// SPDX-License-Identifier: GPL-2.0
/* parity: a server that works on batches, one thing at a time. */
#include "parity_bsrv.h"

static void init(struct bring *b, struct srv *s, bool own, unsigned int flags)
{
	int res = 0;

	memset(b, 0, sizeof(*b));
	b->s = s;
	b->ring = own ? &b->own : &s->ring;
	b->next = 1;
	b->buf_tags = 2048;
	b->group = 7;
	if (own) {
		if (io_uring_queue_init(64, &b->own, flags))
			give_up("ring", -errno);
		io_uring_ring_dontfork(&b->own);
		if (io_uring_register_buffers_sparse(&b->own, 16))
			give_up("buffer table", -errno);
	}
	b->br = io_uring_setup_buf_ring(b->ring, NR_TAG_BUFS, b->group, 0, &res);
	b->tags = calloc(NR_TAG_BUFS * b->buf_tags, sizeof(*b->tags));
	if (!b->br || !b->tags)
		give_up("buffers", res);
}

void bring_init(struct bring *b, struct srv *s, bool own)
{
	init(b, s, own, 0);
}

void bring_init_defer(struct bring *b, struct srv *s)
{
	init(b, s, true, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
}

void bring_exit(struct bring *b)
{
	io_uring_free_buf_ring(b->ring, b->br, NR_TAG_BUFS, b->group);
	if (b->ring == &b->own)
		io_uring_queue_exit(&b->own);
	free(b->tags);
}

void bring_no_bufs(struct bring *b)
{
	int res = 0;

	io_uring_free_buf_ring(b->ring, b->br, NR_TAG_BUFS, b->group);
	b->br = io_uring_setup_buf_ring(b->ring, NR_TAG_BUFS, b->group, 0, &res);
	if (!b->br)
		give_up("buffers", res);
}

void bring_provide(struct bring *b, int bid, int nr_tags, void *at)
{
	io_uring_buf_ring_add(b->br, at ? at : b->tags + bid * b->buf_tags,
			      nr_tags * sizeof(*b->tags), bid,
			      io_uring_buf_ring_mask(NR_TAG_BUFS), 0);
	io_uring_buf_ring_advance(b->br, 1);
}

static __u64 send_as(struct bring *b, const struct bio *io, __u64 ud)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(b->ring);
	struct ublk_batch_io *cmd;

	if (!sqe)
		give_up("too many commands", -ENOSPC);
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = b->s->cdev;
	sqe->cmd_op = io->op;
	sqe->addr = (unsigned long)io->elems;
	sqe->flags = io->sqe_flags;
	sqe->uring_cmd_flags = io->cmd_flags;
	sqe->buf_group = io->group;
	sqe->user_data = ud;
	cmd = (void *)sqe->cmd;
	cmd->q_id = io->q_id;
	cmd->flags = io->flags;
	cmd->nr_elem = io->nr;
	cmd->elem_bytes = io->elem_bytes;
	io_uring_submit(b->ring);
	return ud;
}

__u64 bring_send(struct bring *b, const struct bio *io)
{
	return send_as(b, io, b->next++);
}

/* The next CQE: one that was kept for us, or a new one */
static bool next_cqe(struct bring *b, __u64 ud, int ms, struct said *said)
{
	struct __kernel_timespec ts = { .tv_sec = ms / 1000,
					.tv_nsec = ms % 1000 * 1000000LL };
	struct io_uring_cqe *cqe;
	int i;

	for (i = 0; i < b->nr_kept; i++) {
		if (b->kept[i].ud != ud)
			continue;
		*said = b->kept[i];
		b->nr_kept--;
		memmove(b->kept + i, b->kept + i + 1, (b->nr_kept - i) * sizeof(*b->kept));
		return true;
	}
	if (ms ? io_uring_wait_cqe_timeout(b->ring, &cqe, &ts) :
		 io_uring_peek_cqe(b->ring, &cqe))
		return false;
	said->ud = cqe->user_data;
	said->res = cqe->res;
	said->flags = cqe->flags;
	io_uring_cqe_seen(b->ring, cqe);
	return true;
}

int bring_wait(struct bring *b, __u64 ud, int ms, struct said *said)
{
	struct said one = {};

	for (;;) {
		if (!next_cqe(b, ud, ms < 10 ? ms : 10, &one)) {
			if (ms <= 0)
				return BLOCKS;
			ms -= 10;
			continue;
		}
		if (one.ud == ud)
			break;
		if (b->nr_kept == (int)ARRAY_SIZE(b->kept))
			give_up("too many CQEs", -ENOSPC);
		b->kept[b->nr_kept++] = one;
	}
	if (said)
		*said = one;
	return one.res;
}

int bring_do(struct bring *b, const struct bio *io)
{
	return bring_wait(b, bring_send(b, io), 1000, NULL);
}

__u64 bring_fetch(struct bring *b, int q_id)
{
	struct bio io = {
		.op = UBLK_U_IO_FETCH_IO_CMDS,
		.q_id = q_id,
		.elem_bytes = 2,
		.sqe_flags = IOSQE_BUFFER_SELECT,
		.cmd_flags = IORING_URING_CMD_MULTISHOT,
		.group = b->group,
	};

	return send_as(b, &io, FETCH_UD + b->next++);
}

int batch_flags(struct srv *s)
{
	return srv_copies(s) ? UBLK_BATCH_F_HAS_BUF_ADDR : 0;
}

int batch_bytes(struct srv *s)
{
	return srv_copies(s) ? 16 : 8;
}

void *batch_elems(struct srv *s, void *buf, int from, int to, int result)
{
	int bytes = batch_bytes(s);
	int tag;

	for (tag = from; tag < to; tag++) {
		struct elem elem = {
			.tag = tag,
			.buf_index = tag + 1,
			.result = result,
			.addr = srv_addr(s, tag),
		};

		memcpy(buf, &elem, bytes);
		buf += bytes;
	}
	return buf;
}

int batch_prep(struct bring *b, int q_id, int from, int to)
{
	struct elem elems[MAX_DEPTH];
	struct bio io = {
		.op = UBLK_U_IO_PREP_IO_CMDS,
		.q_id = q_id,
		.flags = batch_flags(b->s),
		.nr = to - from,
		.elem_bytes = batch_bytes(b->s),
		.elems = elems,
	};

	batch_elems(b->s, elems, from, to, 0);
	return bring_do(b, &io);
}

int batch_commit(struct bring *b, int q_id, int tag, int result)
{
	struct elem elem;
	struct bio io = {
		.op = UBLK_U_IO_COMMIT_IO_CMDS,
		.q_id = q_id,
		.flags = batch_flags(b->s),
		.nr = 1,
		.elem_bytes = batch_bytes(b->s),
		.elems = &elem,
	};

	batch_elems(b->s, &elem, tag, tag + 1, result);
	return bring_do(b, &io);
}

void batch_live(struct bring *b, struct srv *s, __u64 flags)
{
	int i, res;

	srv_open(s, flags | UBLK_F_BATCH_IO, NULL);
	bring_init(b, s, false);
	for (i = 0; i < s->queues; i++) {
		res = batch_prep(b, i, 0, s->depth);
		if (res)
			give_up("PREP", res);
	}
	srv_start(s);
}

int batch_request(struct bring *b, __u64 fetch, int ms, int *tag)
{
	struct said said;
	int res = bring_wait(b, fetch, ms, &said);

	if (res > 0 && said.flags & IORING_CQE_F_BUFFER)
		*tag = b->tags[(said.flags >> IORING_CQE_BUFFER_SHIFT) * b->buf_tags];
	return res;
}
