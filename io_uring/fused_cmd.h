/* SPDX-License-Identifier: GPL-2.0 */
#ifndef IOU_FUSED_CMD_H
#define IOU_FUSED_CMD_H

#include <linux/io_uring/fused.h>
#include <linux/io_uring_types.h>

#include "rsrc.h"
#include "slist.h"

/* ->prep() of a primary: its secondaries have to be gathered next */
#define IOU_FUSED_GATHER	1
/* ->issue() of a primary: the driver accepted it, issue its secondaries */
#define IOU_FUSED_START		(-3074)

#define IO_FUSED_SECONDARY_SQE_FLAGS	(IOSQE_FIXED_FILE | IOSQE_ASYNC | \
					 IOSQE_CQE_SKIP_SUCCESS)

#ifdef CONFIG_IO_URING_FUSED_CMD

#define IO_REQ_FUSED_FLAG	REQ_F_FUSED
#define IO_REQ_LEADER_FLAG	REQ_F_SQE_GROUP
#define IO_REQ_LEASE_FLAG	REQ_F_LEASE
#define IO_REQ_KEEP_FLAG	REQ_F_KEEP

/* io_slot_flags() has 32 bits */
static_assert(REQ_F_ISREG_BIT < 32);

/* fused_cmd.rs: the opcode */
int io_fused_cmd_prep(struct io_kiocb *req, const struct io_uring_sqe *sqe);
int io_fused_cmd_gather(struct io_kiocb *req, const struct io_uring_sqe *sqe,
			unsigned int *left, int ret);
int io_fused_cmd(struct io_kiocb *req, unsigned int issue_flags);
void io_fused_cmd_issued(struct io_kiocb *req);
void io_fused_cmd_sqe_copy(struct io_kiocb *req);
void io_fused_cmd_fail(struct io_kiocb *req);

/* fused_cmd/leader.rs: the same for the leader of an SQE group */
int io_group_gather(struct io_kiocb *req, unsigned int *left, int ret);
void io_group_leader_done(struct io_kiocb *req);

/*
 * A primary with its secondaries, from the preparation of the primary until
 * that is completed or given back to the driver. Owned by fused_cmd.rs, under
 * ->uring_lock. An SQE group is one as well: the leader is the primary, the
 * members are secondaries.
 *
 * One with several leases has parts, each with a lease and the secondaries that
 * borrow it. A part is a group of its own, in memory of the driver, that ends
 * before the whole does.
 */
struct io_fused_group {
	struct io_kiocb			*primary;
	/* of a part: what it is a part of, else NULL */
	struct io_fused_group		*whole;
	/* the first part; of a part, the next one */
	struct io_fused_group		*part;
	/* if there are parts, the last one, and what is behind its secondaries */
	struct io_fused_group		*last_part;
	struct io_wq_work_node		*behind_parts;
	/* secondaries that wait for the primary, in SQE order */
	struct io_wq_work_list		gathered;
	/* in use if @leased */
	struct io_lease			lease;
	void				(*release)(void *priv);
	void				*priv;
	/* takes the command back when it would complete, may be NULL */
	void				(*done)(struct io_uring_cmd *cmd, int res);
	/* of a part: gives it back, with @priv; does it count for the result? */
	bool				(*part_done)(struct io_fused_part *part,
						     void *priv, int res);
	/* while ->uring_cmd() runs without ->uring_lock: was it accepted? */
	bool				*accepted;
	u64				bytes;
	s32				error;
	/* what the completion of the primary still waits for */
	u16				pending;
	/* secondaries that wait, and requests that these have: notifications */
	u16				nr;
	u16				nr_extra;
	/* those of them that take their buffer from the lease */
	u16				nr_leased;
	u8				error_index;
	/* IO_BUF_* that the secondaries need */
	u8				dirs;
	u8				phase;
	bool				leased;
	/* a secondary failed or came short, as breaks a link */
	bool				breaks_link;
	/* a secondary is a uring command */
	bool				has_cmd;
	/* said by IOSQE_SQE_GROUP, so that the primary has a result of its own */
	bool				is_sqe_group;
	/* of such a primary: was IOSQE_CQE_SKIP_SUCCESS set? */
	bool				skips_cqe;
	/* the only secondary was given all of a lease, of which the driver is told */
	bool				filled;
};

static_assert(sizeof(struct io_fused_group) <= sizeof(struct io_fused_part));

/* fused_cmd.rs: events of the life of a group */
void io_fused_secondary_done(struct io_kiocb *req);
void io_fused_secondary_canceled(struct io_kiocb *req);
unsigned int io_fused_nr_waiting(struct io_kiocb *req);

/* io_uring.c: what only the submission path can do, or knows */
struct io_kiocb *io_fused_take_secondary(struct io_kiocb *primary,
					 const struct io_uring_sqe *inline_of,
					 unsigned int *left, bool *more);
struct io_kiocb *io_fused_take_next(struct io_kiocb *primary, unsigned int *left);
void io_fused_defer_secondary(struct io_kiocb *req);
void io_group_untrack(struct io_kiocb *req);
bool io_group_is_multishot(struct io_kiocb *req);
void io_fused_queue_secondary(struct io_kiocb *req);

/* A part of a leased buffer, in bytes */
struct io_fused_range {
	u64	offset;
	u64	len;
};

/* rw.c and, with CONFIG_NET, net.c: what only the opcodes know */
bool io_rw_secondary_ok(struct io_kiocb *req);
struct io_fused_range io_rw_fixed_range(struct io_kiocb *req);
unsigned int io_rw_vec_nr_ranges(struct io_kiocb *req);
struct io_fused_range io_rw_vec_range(struct io_kiocb *req, unsigned int i);
u64 io_rw_vec_len(struct io_kiocb *req);
bool io_fused_zero(struct iov_iter *iter, size_t len);
bool io_rw_vec_zero_rest(struct io_kiocb *req, size_t count);
void io_rw_vec_done(struct io_kiocb *req);
struct io_fused_range io_recv_fixed_range(struct io_kiocb *req);
u64 io_send_fixed_len(struct io_kiocb *req);
void io_send_zc_lease(struct io_kiocb *req);
/* as in net.h, of which there are no bindings */
unsigned int io_send_zc_nr_notifs(struct io_kiocb *req);

/* Primaries that completed while requests were freed get their CQE now. */
static inline bool io_fused_primaries_done(struct io_submit_state *state)
{
	if (likely(wq_list_empty(&state->fused_done)))
		return false;
	state->compl_reqs = state->fused_done;
	INIT_WQ_LIST(&state->fused_done);
	return true;
}

/*
 * Has a read that moved less than it should come to the end of a file? Else
 * there was an error behind that, or a peer has no more.
 */
bool io_rw_read_to_end(struct io_kiocb *req);

/*
 * What was dropped inside of groups was not submitted, though it was counted.
 */
static inline unsigned int io_fused_take_dropped(struct io_submit_state *state)
{
	unsigned int nr = state->fused_dropped;

	if (unlikely(nr))
		state->fused_dropped = 0;
	return nr;
}

#else

#define IO_REQ_FUSED_FLAG	0
#define IO_REQ_LEADER_FLAG	0
#define IO_REQ_LEASE_FLAG	0
#define IO_REQ_KEEP_FLAG	0

static inline int io_fused_cmd_gather(struct io_kiocb *req,
				      const struct io_uring_sqe *sqe,
				      unsigned int *left, int ret)
{
	return ret;
}

static inline int io_group_gather(struct io_kiocb *req, unsigned int *left,
				  int ret)
{
	return ret;
}

static inline void io_group_leader_done(struct io_kiocb *req)
{
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

static inline void io_fused_secondary_canceled(struct io_kiocb *req)
{
}

static inline unsigned int io_fused_nr_waiting(struct io_kiocb *req)
{
	return 0;
}

static inline bool io_fused_primaries_done(struct io_submit_state *state)
{
	return false;
}

static inline unsigned int io_fused_take_dropped(struct io_submit_state *state)
{
	return 0;
}

#endif

/* called with CONFIG_NET only, for a leased request */
bool io_sock_counts_written(struct file *file);

static inline bool io_is_fused(const struct io_kiocb *req)
{
	return IS_ENABLED(CONFIG_IO_URING_FUSED_CMD) &&
		req->opcode == IORING_OP_FUSED_CMD;
}

/*
 * Has @req any of these flags, which there are with the option on? These are
 * macros, so that the branches are gone before the optimizer sees them: the
 * opcodes are compiled as before with the option off.
 */
#define io_req_is(req, mask) \
	(IS_ENABLED(CONFIG_IO_URING_FUSED_CMD) && ((req)->flags & (mask)))

#define io_is_secondary(req)	io_req_is(req, IO_REQ_FUSED_FLAG)

/*
 * The same of one that turned out to be special. The flags are read again: for a
 * plain access the compiler has them in a register when it asks for that, which
 * costs all others an instruction.
 */
#define io_is_secondary_after_all(req) \
	(IS_ENABLED(CONFIG_IO_URING_FUSED_CMD) && \
	 (READ_ONCE((req)->flags) & IO_REQ_FUSED_FLAG))

/*
 * What waits for @req to end, if that is a secondary which was issued, and with it
 * what is linked behind that; else NULL.
 */
static inline struct io_kiocb *io_primary_of(const struct io_kiocb *req)
{
#ifdef CONFIG_IO_URING_FUSED_CMD
	if (io_is_secondary(req))
		return req->group->primary;
#endif
	return NULL;
}

/* Does an SQE group wait for @req to end? */
#define io_is_leader(req)	io_req_is(req, IO_REQ_LEADER_FLAG)

/* Is it either of these? */
#define io_is_grouped(req) \
	io_req_is(req, IO_REQ_FUSED_FLAG | IO_REQ_LEADER_FLAG)

/* About how many of a submission of groups like the last one are secondaries? */
static inline unsigned int io_nr_grouped(const struct io_submit_state *state)
{
#ifdef CONFIG_IO_URING_FUSED_CMD
	unsigned int behind = state->fused_behind;

	return DIV_ROUND_UP(state->submit_nr * behind, behind + 1);
#else
	return state->submit_nr;
#endif
}

/* What is a group by itself, or a part of the request before it, is in no other */
static inline bool io_may_be_grouped(u8 opcode)
{
	return opcode != IORING_OP_FUSED_CMD && opcode != IORING_OP_LINK_TIMEOUT;
}

static inline u32 io_fused_flags(struct io_kiocb *primary)
{
	return io_kiocb_to_cmd(primary, struct io_uring_cmd)->flags;
}

/* Is the second half of the SQE of @primary its secondary? */
static inline bool io_fused_is_inline(struct io_kiocb *primary)
{
	return io_is_fused(primary) &&
		io_fused_flags(primary) & IORING_FUSED_CMD_INLINE;
}

/*
 * Does a secondary of @primary with these @sqe_flags take its buffer from a
 * lease? A member of an SQE group says so by a flag that it can not have
 * otherwise.
 */
static inline bool io_fused_leases(struct io_kiocb *primary, bool is_member,
				   unsigned int sqe_flags)
{
	if (is_member)
		return sqe_flags & IOSQE_IO_DRAIN;
	return io_fused_flags(primary) & IORING_FUSED_CMD_BUF;
}

/*
 * May @opcode be a secondary, with these @sqe_flags? Without a lease a member of
 * an SQE group may be anything.
 */
static inline bool io_fused_sqe_ok(bool is_member, u8 opcode, u8 fused_dir,
				   unsigned int sqe_flags)
{
	unsigned int valid = IO_FUSED_SECONDARY_SQE_FLAGS;

	if (is_member) {
		valid |= IOSQE_SQE_GROUP | IOSQE_IO_DRAIN;
		if (!(sqe_flags & IOSQE_IO_DRAIN)) {
			valid |= IOSQE_BUFFER_SELECT;
			fused_dir = io_may_be_grouped(opcode);
		}
	}
	return fused_dir && !(sqe_flags & ~valid);
}

/* Is the buffer of @req leased to it by its primary? */
#define io_is_leased(req)	io_req_is(req, IO_REQ_LEASE_FLAG)

/*
 * What the fields of a secondary may say. Anything that lets pages be used after
 * the lease, or bytes be counted that were not moved, must not be here: not
 * MSG_ZEROCOPY of a plain SEND, not MSG_TRUNC. What a socket does by itself with
 * pages, without a flag, it can not do with addresses: see io_kbuf_iter_to_kvec().
 */
#define IO_FUSED_RW_FLAGS	(RWF_HIPRI | RWF_DSYNC | RWF_SYNC | \
				 RWF_NOWAIT | RWF_APPEND | RWF_NOAPPEND | \
				 RWF_ATOMIC | RWF_DONTCACHE | RWF_NOSIGNAL)
#define IO_FUSED_RECV_FLAGS	(IORING_RECVSEND_POLL_FIRST | \
				 IORING_RECVSEND_FIXED_BUF)
#define IO_FUSED_RECV_MSG_FLAGS	(MSG_DONTWAIT | MSG_WAITALL | MSG_NOSIGNAL | \
				 MSG_PEEK)
#define IO_FUSED_SEND_FLAGS	(IORING_RECVSEND_POLL_FIRST | \
				 IORING_RECVSEND_FIXED_BUF)
#define IO_FUSED_SEND_ZC_FLAGS	(IO_FUSED_SEND_FLAGS | \
				 IORING_SEND_ZC_REPORT_USAGE)
#define IO_FUSED_SEND_MSG_FLAGS	(MSG_DONTWAIT | MSG_WAITALL | MSG_NOSIGNAL | \
				 MSG_MORE | MSG_EOR)

/* Does the end of @req end other requests, or its group? */
#define IO_REQ_GROUP_FLAGS \
	(IO_REQ_FUSED_FLAG | IO_REQ_KEEP_FLAG | IO_REQ_LEADER_FLAG)

/*
 * The errors that are looked at when a request has completed: the internal restart
 * codes, and with groups all of them.
 */
#define IO_RES_LOOKED_AT \
	(IS_ENABLED(CONFIG_IO_URING_FUSED_CMD) ? -1 : -ERESTARTSYS)

/* The error of what a task that exits has not issued: a group is canceled. */
static inline int io_exit_error(const struct io_kiocb *req)
{
	return io_is_fused(req) || io_is_leader(req) ? -ECANCELED : -EFAULT;
}

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

/* Requests that wait with @req for its issue: those of its group. */
static inline unsigned int io_fused_nr_gathered(struct io_kiocb *req)
{
	return io_is_fused(req) || io_is_leader(req) ? io_fused_nr_waiting(req) : 0;
}

#endif
