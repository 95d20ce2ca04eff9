// SPDX-License-Identifier: GPL-2.0

#include <linux/security.h>

#include "../../io_uring/alloc_cache.h"
#include "../../io_uring/io_uring.h"
#include "../../io_uring/rsrc.h"
#include "../../io_uring/slist.h"
#include "../../io_uring/uring_cmd.h"
#include "../../io_uring/fused_cmd.h"

__rust_helper void *rust_helper_io_uring_alloc_async_cmd(struct io_kiocb *req)
{
	return io_uring_alloc_async_data(&req->ctx->cmd_cache, req);
}

__rust_helper void *rust_helper_io_cache_alloc(struct io_alloc_cache *cache)
{
	return io_cache_alloc(cache, GFP_KERNEL);
}

__rust_helper void rust_helper_io_cache_free(struct io_alloc_cache *cache,
					     void *obj)
{
	io_cache_free(cache, obj);
}

__rust_helper void rust_helper_io_req_task_work_add(struct io_kiocb *req)
{
	io_req_task_work_add(req);
}

__rust_helper void rust_helper_req_set_fail(struct io_kiocb *req)
{
	req_set_fail(req);
}

__rust_helper void rust_helper_io_put_rsrc_node(struct io_ring_ctx *ctx,
						struct io_rsrc_node *node)
{
	io_put_rsrc_node(ctx, node);
}

__rust_helper unsigned int
rust_helper_io_uring_cmd_ring_flags(struct io_kiocb *req)
{
	return io_uring_cmd_ring_flags(req);
}

__rust_helper void rust_helper_wq_list_add_tail(struct io_wq_work_node *node,
						struct io_wq_work_list *list)
{
	wq_list_add_tail(node, list);
}

#ifndef CONFIG_SECURITY
__rust_helper int rust_helper_security_uring_cmd(struct io_uring_cmd *ioucmd)
{
	return security_uring_cmd(ioucmd);
}
#endif
