/* SPDX-License-Identifier: GPL-2.0 */
#ifndef IOU_FUSED_CMD_H
#define IOU_FUSED_CMD_H

#include <linux/io_uring/fused.h>
#include <linux/io_uring_types.h>

#include "slist.h"

/* ->prep() of a primary: its secondaries have to be gathered next */
#define IOU_FUSED_GATHER	1
/* ->issue() of a primary: the driver accepted it, issue its secondaries */
#define IOU_FUSED_START		(-3074)

#define IO_FUSED_SECONDARY_SQE_FLAGS	(IOSQE_FIXED_FILE | IOSQE_ASYNC | \
					 IOSQE_CQE_SKIP_SUCCESS)

#ifdef CONFIG_IO_URING_FUSED_CMD

#define IO_REQ_FUSED_FLAG	REQ_F_FUSED

/* fused_cmd.rs: the opcode */
int io_fused_cmd_prep(struct io_kiocb *req, const struct io_uring_sqe *sqe);
int io_fused_cmd_gather(struct io_kiocb *req, const struct io_uring_sqe *sqe,
			unsigned int *left, int ret);
int io_fused_cmd(struct io_kiocb *req, unsigned int issue_flags);
void io_fused_cmd_issued(struct io_kiocb *req);
void io_fused_cmd_sqe_copy(struct io_kiocb *req);
void io_fused_cmd_fail(struct io_kiocb *req);

/* fused_cmd.rs: events of the life of a group */
void io_fused_secondary_done(struct io_kiocb *req);
unsigned int io_fused_nr_secondaries(struct io_kiocb *req);

/* io_uring.c: what only the submission path can do */
struct io_kiocb *io_fused_take_secondary(struct io_kiocb *primary,
					 const struct io_uring_sqe *inline_of,
					 unsigned int *left);
void io_fused_defer_secondary(struct io_kiocb *req);
void io_fused_queue_secondary(struct io_kiocb *req);

/* A part of a leased buffer, in bytes */
struct io_fused_range {
	u64	offset;
	u64	len;
};

/* rw.c and, with CONFIG_NET, net.c: what only the opcodes know */
struct io_fused_range io_rw_fixed_range(struct io_kiocb *req);
struct io_fused_range io_recv_fixed_range(struct io_kiocb *req);
void io_send_zc_lease(struct io_kiocb *req);

/* Primaries that completed while requests were freed get their CQE now. */
static inline bool io_fused_primaries_done(struct io_submit_state *state)
{
	if (likely(wq_list_empty(&state->fused_done)))
		return false;
	state->compl_reqs = state->fused_done;
	INIT_WQ_LIST(&state->fused_done);
	return true;
}

#else

#define IO_REQ_FUSED_FLAG	0

static inline int io_fused_cmd_gather(struct io_kiocb *req,
				      const struct io_uring_sqe *sqe,
				      unsigned int *left, int ret)
{
	return ret;
}

static inline void io_fused_cmd_issued(struct io_kiocb *req)
{
}

static inline void io_fused_cmd_fail(struct io_kiocb *req)
{
}

static inline void io_fused_secondary_done(struct io_kiocb *req)
{
}

static inline unsigned int io_fused_nr_secondaries(struct io_kiocb *req)
{
	return 0;
}

static inline bool io_fused_primaries_done(struct io_submit_state *state)
{
	return false;
}

#endif

static inline bool io_is_fused(const struct io_kiocb *req)
{
	return IS_ENABLED(CONFIG_IO_URING_FUSED_CMD) &&
		req->opcode == IORING_OP_FUSED_CMD;
}

static inline bool io_is_secondary(const struct io_kiocb *req)
{
	return IS_ENABLED(CONFIG_IO_URING_FUSED_CMD) &&
		(req->flags & REQ_F_FUSED);
}

static inline u32 io_fused_flags(struct io_kiocb *primary)
{
	return io_kiocb_to_cmd(primary, struct io_uring_cmd)->flags;
}

/* Do the secondaries of @primary take their buffer from a lease? */
static inline bool io_fused_leases(struct io_kiocb *primary)
{
	return io_fused_flags(primary) & IORING_FUSED_CMD_BUF;
}

/*
 * Is the buffer of @req leased to it by its primary? A macro, so that the
 * branches are gone before the optimizer sees them: the opcodes are compiled
 * as before with the option off.
 */
#define io_is_leased(req) \
	(IS_ENABLED(CONFIG_IO_URING_FUSED_CMD) && ((req)->flags & REQ_F_LEASE))

/* What audit is told: a group that goes on is what any pending request is. */
static inline int io_fused_audit_code(int ret)
{
	if (IS_ENABLED(CONFIG_IO_URING_FUSED_CMD) && ret == IOU_FUSED_START)
		return IOU_ISSUE_SKIP_COMPLETE;
	return ret;
}

/*
 * How much task work to do before a task that waits for @nr_wait CQEs looks for
 * them: most of that of a group posts none.
 */
static inline int io_fused_max_events(struct io_ring_ctx *ctx, int nr_wait)
{
	if (!IS_ENABLED(CONFIG_IO_URING_FUSED_CMD))
		return nr_wait;
	/* set once; an old value only costs another turn */
	if (data_race(ctx->int_flags) & IO_RING_F_FUSED)
		return max(IO_LOCAL_TW_DEFAULT_MAX, nr_wait);
	return nr_wait;
}

/* Requests that wait with @req for its issue */
static inline unsigned int io_fused_nr_gathered(struct io_kiocb *req)
{
	return io_is_fused(req) ? io_fused_nr_secondaries(req) : 0;
}

#endif
