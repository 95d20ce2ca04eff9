// SPDX-License-Identifier: GPL-2.0
/*
 * The wait loop of a ring, as a program: it submits what it is told to, once,
 * and goes on until there are as many CQEs as it is told to wait for.
 */
#include <linux/types.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "fused_bpf.h"

/* io_uring/bpf-ops.h, io_uring/loop.h */
#define IOU_REGION_CQ		1
#define IOU_LOOP_CONTINUE	0
#define IOU_LOOP_STOP		1

/* the head of a ring's memory, which has the tail */
#define REGION_LEN		256

struct iou_ctx {
} __attribute__((preserve_access_index));

struct iou_loop_params {
	__u32 cq_wait_idx;
} __attribute__((preserve_access_index));

struct io_uring_bpf_ops {
	int (*loop_step)(struct iou_ctx *ctx, struct iou_loop_params *lp);
	__u32 ring_fd;
};

int bpf_io_uring_submit_sqes(struct iou_ctx *ctx, __u32 nr) __ksym;
__u8 *bpf_io_uring_get_region(struct iou_ctx *ctx, __u32 region_id,
			      const __u64 rdwr_buf_size) __ksym;

struct loop loop SEC(".data.loop") = { };

SEC("struct_ops.s/loop_step")
int BPF_PROG(loop_step, struct iou_ctx *iou, struct iou_loop_params *lp)
{
	__u32 off = loop.cq_tail_off, nr = loop.submit;
	__u8 *region;

	loop.steps++;
	if (nr) {
		loop.submit = 0;
		loop.submitted = bpf_io_uring_submit_sqes(iou, nr);
	}
	region = bpf_io_uring_get_region(iou, IOU_REGION_CQ, REGION_LEN);
	if (!region || off > REGION_LEN - sizeof(__u32))
		return IOU_LOOP_STOP;
	if ((__s32)(loop.wait_idx - *(__u32 *)(region + off)) <= 0)
		return IOU_LOOP_STOP;
	lp->cq_wait_idx = loop.wait_idx;
	return IOU_LOOP_CONTINUE;
}

SEC(".struct_ops.link")
struct io_uring_bpf_ops loop_ops = {
	.loop_step = (void *)loop_step,
};

char LICENSE[] SEC("license") = "GPL";
