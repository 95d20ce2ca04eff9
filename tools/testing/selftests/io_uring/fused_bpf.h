/* SPDX-License-Identifier: GPL-2.0 */
/* What fused_bpf.c and its program, fused_loop.bpf.c, tell each other */
#ifndef SELFTESTS_IO_URING_FUSED_BPF_H
#define SELFTESTS_IO_URING_FUSED_BPF_H

struct loop {
	__u32 cq_tail_off;	/* where the ring has the tail of its CQ */
	__u32 submit;		/* SQEs to submit in the next step */
	__u32 wait_idx;		/* stop when the tail has come this far */
	__s32 submitted;	/* what came of the submission */
	__u32 steps;		/* calls of the program */
};

#endif
