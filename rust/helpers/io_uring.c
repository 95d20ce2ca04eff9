// SPDX-License-Identifier: GPL-2.0

#include <linux/io_uring/cmd.h>

__rust_helper struct io_uring_cmd *
rust_helper_io_uring_cmd_from_tw(struct io_tw_req tw_req)
{
	return io_uring_cmd_from_tw(tw_req);
}

__rust_helper void *rust_helper_io_uring_cmd_ctx_handle(struct io_uring_cmd *cmd)
{
	return io_uring_cmd_ctx_handle(cmd);
}

#ifndef CONFIG_IO_URING
__rust_helper void rust_helper___io_uring_cmd_done(struct io_uring_cmd *cmd,
						   s32 ret, u64 res2,
						   unsigned int issue_flags,
						   bool is_cqe32)
{
	__io_uring_cmd_done(cmd, ret, res2, issue_flags, is_cqe32);
}

__rust_helper void
rust_helper___io_uring_cmd_do_in_task(struct io_uring_cmd *cmd,
				      io_req_tw_func_t task_work_cb,
				      unsigned int flags)
{
	__io_uring_cmd_do_in_task(cmd, task_work_cb, flags);
}

__rust_helper void
rust_helper_io_uring_cmd_mark_cancelable(struct io_uring_cmd *cmd,
					 unsigned int issue_flags)
{
	io_uring_cmd_mark_cancelable(cmd, issue_flags);
}

__rust_helper struct io_br_sel
rust_helper_io_uring_cmd_buffer_select(struct io_uring_cmd *ioucmd,
				       unsigned int buf_group, size_t *len,
				       unsigned int issue_flags)
{
	return io_uring_cmd_buffer_select(ioucmd, buf_group, len, issue_flags);
}

__rust_helper bool
rust_helper_io_uring_mshot_cmd_post_cqe(struct io_uring_cmd *ioucmd,
					struct io_br_sel *sel,
					unsigned int issue_flags)
{
	return io_uring_mshot_cmd_post_cqe(ioucmd, sel, issue_flags);
}

__rust_helper int
rust_helper_io_buffer_register_request(struct io_uring_cmd *cmd,
				       struct request *rq,
				       void (*release)(void *),
				       unsigned int index,
				       unsigned int issue_flags)
{
	return io_buffer_register_request(cmd, rq, release, index, issue_flags);
}

__rust_helper int
rust_helper_io_buffer_register_bvec(struct io_uring_cmd *cmd,
				    const struct bio_vec *bvs,
				    unsigned int nr_bvecs,
				    void (*release)(void *), void *priv, u8 dir,
				    unsigned int index, unsigned int issue_flags)
{
	return io_buffer_register_bvec(cmd, bvs, nr_bvecs, release, priv, dir,
				       index, issue_flags);
}

__rust_helper int rust_helper_io_buffer_unregister(struct io_uring_cmd *cmd,
						   unsigned int index,
						   unsigned int issue_flags)
{
	return io_buffer_unregister(cmd, index, issue_flags);
}
#endif
