/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a driver needs to serve the primary of an IORING_OP_FUSED_CMD. The leader
 * of an SQE group (IOSQE_SQE_GROUP) whose members ask for its buffer is one as
 * well; its members are secondaries then.
 * Rust drivers use rust/kernel/io_uring/fused.rs instead.
 */
#ifndef _LINUX_IO_URING_FUSED_H
#define _LINUX_IO_URING_FUSED_H

#include <linux/bvec.h>
#include <linux/io_uring/cmd.h>

/**
 * struct io_fused_lease - a kernel buffer lent to the secondaries
 * @bvec: table of the buffer, not copied: valid and unchanged until @release,
 *	and without an empty entry
 * @nr_bvecs: number of entries of @bvec
 * @skip: bytes of the first entry that do not belong to the buffer
 * @len: length of the buffer in bytes, at most MAX_RW_COUNT, the most that a
 *	secondary can move; with @skip, less than 4 GiB
 * @dir: ITER_DEST if secondaries write the buffer, ITER_SOURCE if they read it
 * @release: called once when the last secondary is done with the buffer, in
 *	task context with the ring's uring_lock held
 * @priv: argument of @release
 */
struct io_fused_lease {
	const struct bio_vec	*bvec;
	unsigned int		nr_bvecs;
	unsigned int		skip;
	size_t			len;
	u8			dir;
	void			(*release)(void *priv);
	void			*priv;
};

/**
 * struct io_fused_part - memory of one lease of a group that has several
 * @opaque: of no interest to drivers
 *
 * It belongs to io_uring from io_fused_cmd_lease_part() until @done of that is
 * called.
 */
struct io_fused_part {
	u64	opaque[36];
};

/*
 * These are for the ->uring_cmd() handler that was called with
 * IO_URING_F_FUSED, and only while it runs. The application asked for a lease
 * if IORING_FUSED_CMD_BUF is set in the flags of the command. A handler that
 * wants to refuse the command returns an error and calls none of them.
 */

/**
 * io_fused_cmd_start() - lend a buffer to the secondaries of a primary, and
 *	start them
 * @cmd: the primary
 * @lease: the buffer, or NULL. It is copied, what it points to is not
 * @done: gets the command back when it would complete, with the result that it
 *	would have; or NULL. Called once, in task context with the ring's
 *	uring_lock held
 * @issue_flags: those that the handler was called with
 *
 * The secondaries are issued when the handler is over.
 *
 * If @done is not NULL and is called with a result that is no error, then each
 * byte of a buffer that was lent to be written is good: what no secondary was
 * given was zeroed, as was what is behind the end of a file. A secondary that
 * reads anything else, a socket above all, and comes short is an error (-EIO) of
 * such a command. So is one that writes or sends less of a buffer that was lent
 * to be read than it was asked to: the sum would not tell, as others may have
 * moved the same bytes, to a mirror for instance. And so is what could not be
 * zeroed.
 *
 * From @done on it is a uring command of the driver that was queued: it may be
 * completed (io_uring_cmd_done()), from task work if need be
 * (io_uring_cmd_complete_in_task(), io_uring_cmd_do_in_task_lazy()), and be made
 * cancelable (io_uring_cmd_mark_cancelable()). Its pdu is the driver's. During
 * @done the issue_flags for it are 0. What issues it again is not for it:
 * io_uring_cmd_issue_blocking() completes it with -EINVAL. Nor is what needs a
 * fixed buffer (io_uring_cmd_import_fixed()) or several CQEs
 * (io_cmd_poll_multishot(), io_uring_mshot_cmd_post_cqe()), for which its flags
 * do not ask.
 *
 * @done is not called for a command that is canceled before its secondaries are
 * issued, nor may they be uring commands then (-EINVAL), whose results are no
 * bytes, nor members of an SQE group (-EINVAL), which may have buffers of their
 * own.
 *
 * Return: -EIOCBQUEUED, which the handler returns: the command is not its own
 * any more. After another error nothing was lent or issued, and ->release of
 * @lease is not called. -EINVAL if there is a lease and the application asked
 * for none, or the other way round; if a secondary would use the buffer in the
 * other direction; if the buffer is empty or too long; or if something was lent
 * or started before.
 */
int io_fused_cmd_start(struct io_uring_cmd *cmd,
		       const struct io_fused_lease *lease,
		       void (*done)(struct io_uring_cmd *cmd, int res),
		       unsigned int issue_flags);

/**
 * io_fused_cmd_defer() - have a primary issued again by the task that has
 *	submitted it
 * @cmd: the primary
 *
 * For a handler that was called by a worker (IO_URING_F_UNLOCKED) and needs that
 * task, or the ring's uring_lock.
 *
 * Return: -EIOCBQUEUED, which the handler returns; it is called again by that
 * task, with the lock held. -EINVAL if it was not called by a worker, or if
 * something was lent.
 */
int io_fused_cmd_defer(struct io_uring_cmd *cmd);

/**
 * io_fused_cmd_lease_part() - lend a buffer to some of the secondaries
 * @cmd: the primary
 * @part: memory for io_uring, until @done is called
 * @lease: the buffer. It is copied, what it points to is not. Its ->release is
 *	not used
 * @nr: number of secondaries that borrow it: those behind the ones of the part
 *	before
 * @done: called once, with ->priv of @lease, in task context with the ring's
 *	uring_lock held, when these secondaries are done, whatever the others do.
 *	@part and the buffer are the driver's again. It returns whether the part
 *	counts for the result of the primary
 *
 * For a driver that lends several buffers in one group: it calls this for each of
 * them, in SQE order, and then io_fused_cmd_start_parts().
 *
 * @done is called with the number of bytes that were moved or the first error, in
 * the same sense as that of io_fused_cmd_start(); or with -ECANCELED, if the
 * command failed before its secondaries were issued. A handler that has lent a
 * buffer fails it by returning an error, which must not be -EAGAIN.
 *
 * Return: 0. After an error nothing was lent, and @done is not called. -EINVAL if
 * there are less than @nr secondaries left, or none; if one of them would use the
 * buffer in the other direction, or is a uring command; if the buffer is empty or
 * too long; if the application asked for none; or in an SQE group.
 */
int io_fused_cmd_lease_part(struct io_uring_cmd *cmd,
			    struct io_fused_part *part,
			    const struct io_fused_lease *lease, unsigned int nr,
			    bool (*done)(struct io_fused_part *part, void *priv,
					 int res));

/**
 * io_fused_cmd_start_parts() - start the secondaries, each of which has a buffer
 * @cmd: the primary
 * @count: what the result begins with
 * @issue_flags: those that the handler was called with
 *
 * The primary completes when all parts are done. Its result is @count plus the
 * number of parts that count, see @done of io_fused_cmd_lease_part(), whatever
 * these ended with; but an error, or a short read, breaks a link behind it.
 *
 * Return: -EIOCBQUEUED, which the handler returns. -EINVAL, with which the handler
 * has to fail the command, if nothing was lent, or nothing to the last
 * secondaries.
 */
int io_fused_cmd_start_parts(struct io_uring_cmd *cmd, unsigned int count,
			     unsigned int issue_flags);

#endif
