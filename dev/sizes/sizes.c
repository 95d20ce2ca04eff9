// SPDX-License-Identifier: GPL-2.0
/*
 * Never linked: its sections hold the sizes that dev/sizes/compare reads, of the
 * tree that it is compiled in.
 */
#include <linux/io_uring_types.h>
#include <io_uring/opdef.h>

/* the table of opcodes, alone in a section */
extern const struct io_issue_def io_issue_defs[] __section(".sizes.ops");
#include <io_uring/opdef.c>
#include <io_uring/rsrc.h>

#define SIZE(type)	{ #type, sizeof(type) }

static const struct {
	char name[40];
	unsigned long size;
} sizes[] __used __section(".sizes") = {
	/* how to read the table */
	{ "async_size", offsetof(struct io_issue_def, async_size) },
	{ "entry", sizeof(struct io_issue_def) },
	SIZE(struct io_kiocb),
	SIZE(struct io_async_cmd),
	SIZE(struct io_uring_cmd),
	SIZE(struct io_async_rw),
	SIZE(struct io_async_msghdr),
	SIZE(struct async_poll),
	SIZE(struct io_submit_state),
	SIZE(struct io_ring_ctx),
	SIZE(struct io_uring_task),
	SIZE(struct io_rsrc_node),
	SIZE(struct io_mapped_ubuf),
};
