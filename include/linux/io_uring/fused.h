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

/*
 * struct io_fused_part - memory of one lease of a group that has several
 *
 * It belongs to io_uring from io_fused_cmd_lease_part() until @done of that is
 * called. What is in it is of no interest to drivers.
 */
struct io_fused_part {
	u64	opaque[36];
};

/*
 * These are for the ->uring_cmd() handler that was called with
 * IO_URING_F_FUSED, and only while it runs. The application asked for a lease
 * if IORING_FUSED_CMD_BUF is set in @cmd->flags.
 *
 * io_fused_cmd_start(), with the @issue_flags that were passed to the handler,
 * lends the buffer of @lease, if that is not NULL, issues the secondaries, and
 * returns -EIOCBQUEUED, which the handler returns: the command is not its own
 * any more. After another error nothing was lent or issued, and @release of the
 * lease is not called. With @done the handler gets the command back: that is
 * called once, when the primary would complete, with the result that it would
 * have, in task context with the ring's uring_lock held. If that is no error
 * then each byte of a buffer that was lent to be written is good: what no
 * secondary was given was zeroed, as was what is behind the end of a file. A
 * secondary that reads anything else, a socket above all, and comes short is an
 * error (-EIO) of such a command. So is one that writes or sends less of a
 * buffer that was lent to be read than it was asked to: the sum would not tell,
 * as others may have moved the same bytes, to a mirror for instance. And so is
 * what could not be zeroed.
 *
 * From then on it is a uring command of the driver that was queued: it may be
 * completed (io_uring_cmd_done()), from task work if need be
 * (io_uring_cmd_complete_in_task(), io_uring_cmd_do_in_task_lazy()), and be made
 * cancelable (io_uring_cmd_mark_cancelable()). Its pdu is the driver's. During
 * @done the issue_flags for it are 0. What issues it again is not for it:
 * io_uring_cmd_issue_blocking() completes it with -EINVAL. Nor is what needs a
 * fixed buffer (io_uring_cmd_import_fixed()) or several CQEs
 * (io_cmd_poll_multishot(), io_uring_mshot_cmd_post_cqe()), for which its flags
 * do not ask.
 *
 * @done is not called for a command that is canceled
 * before its secondaries are issued, nor may they be uring commands then
 * (-EINVAL), whose results are no bytes, nor members of an SQE group (-EINVAL),
 * which may have buffers of their own. A handler that wants to refuse the
 * command returns an error instead of starting it.
 */
int io_fused_cmd_start(struct io_uring_cmd *cmd,
		       const struct io_fused_lease *lease,
		       void (*done)(struct io_uring_cmd *cmd, int res),
		       unsigned int issue_flags);

/*
 * For a handler that was called with IO_URING_F_UNLOCKED, by a worker, and needs
 * the task that has submitted @cmd: it returns what this does, and is called again
 * by that task, with the ring's lock held.
 */
int io_fused_cmd_defer(struct io_uring_cmd *cmd);

/*
 * A driver may lend several buffers in one group: it calls
 * io_fused_cmd_lease_part() for each of them, in SQE order, with the number of
 * secondaries that borrow it, and then io_fused_cmd_start_parts(). The numbers
 * must add up to that of the group, or the command is refused with -EINVAL, as
 * it is if the direction is wrong for one of the secondaries, or if one is a
 * uring command. @lease->release is not used.
 *
 * @done is called once for each part, with @lease->priv, in task context with
 * the ring's uring_lock held: when its secondaries are done, with the number of
 * bytes that they moved or the first error, in the same sense as for @done of
 * io_fused_cmd_start(); or with -ECANCELED, if the command failed before they
 * were issued. It does not wait for other parts. @part is the driver's again.
 *
 * The primary completes when all parts are done, with @count plus the number of
 * parts for which @done has returned true. A handler that has lent a buffer must not
 * return -EAGAIN.
 */
int io_fused_cmd_lease_part(struct io_uring_cmd *cmd,
			    struct io_fused_part *part,
			    const struct io_fused_lease *lease, unsigned int nr,
			    bool (*done)(struct io_fused_part *part, void *priv,
					 int res));
int io_fused_cmd_start_parts(struct io_uring_cmd *cmd, unsigned int count,
			     unsigned int issue_flags);

#endif
