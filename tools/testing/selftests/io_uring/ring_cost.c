// SPDX-License-Identifier: GPL-2.0
/*
 * Nanoseconds per request of some opcodes, to compare kernels. Under
 * QEMU's -icount shift=0 a nanosecond is an instruction.
 *
 *   ring_cost [batch]
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/mman.h>
#include "fused.h"

#define ROUNDS	400
#define PASSES	5

static struct ring r;
static int batch = 16;

static long long now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static void die(const char *what)
{
	fprintf(stderr, "ring_cost: %s\n", what);
	exit(1);
}

/* One batch, CQEs and all */
static void run(const struct io_uring_sqe *sqe, int nr_sqes, int nr_cqes)
{
	struct cqe cqe;
	int i, k;

	for (i = 0; i < batch; i++)
		for (k = 0; k < nr_sqes; k++)
			ring_push(&r, &sqe[k], false);
	if (ring_submit(&r) != batch * nr_sqes)
		die("cannot submit");
	for (i = 0; i < batch * nr_cqes; i++)
		if (!ring_wait(&r, &cqe, 1000) || cqe.res < 0)
			die("bad CQE");
}

static void measure(const char *name, const struct io_uring_sqe *sqe, int nr_sqes, int nr_cqes)
{
	long long best = 0, worst = 0, t;
	int pass, i;

	for (i = 0; i < 20; i++)
		run(sqe, nr_sqes, nr_cqes);
	for (pass = 0; pass < PASSES; pass++) {
		t = now_ns();
		for (i = 0; i < ROUNDS; i++)
			run(sqe, nr_sqes, nr_cqes);
		t = now_ns() - t;
		if (!best || t < best)
			best = t;
		if (t > worst)
			worst = t;
	}
	printf("%-12s %8.1f ns, slowest pass %+.2f %%\n", name, (double)best / ROUNDS / batch,
	       100.0 * (worst - best) / best);
}

int main(int argc, char **argv)
{
	struct io_uring_params p = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
	};
	int file = memfd_create("cost", 0), dev = open(DEVICE, O_RDWR);
	struct io_uring_sqe sqe[3] = { };
	char *buf = aligned_alloc(4096, 4096);
	struct iovec vec = { buf, 4096 };
	struct device_cmd *cmd = (void *)sqe[0].cmd;

	if (argc > 1)
		batch = atoi(argv[1]);
	if (batch < 1 || batch > 64 || ring_init(&r, 256, &p) || file < 0)
		die("cannot start");
	memset(buf, 1, 4096);
	if (write(file, buf, 4096) != 4096 ||
	    ring_register(&r, IORING_REGISTER_BUFFERS, &vec, 1))
		die("cannot start");

	sqe[0].opcode = IORING_OP_NOP;
	measure("nop", sqe, 1, 1);

	sqe[0].opcode = IORING_OP_READ;
	sqe[0].fd = file;
	sqe[0].addr = (uintptr_t)buf;
	sqe[0].len = 4096;
	measure("read", sqe, 1, 1);

	sqe[0].opcode = IORING_OP_READ_FIXED;
	measure("read fixed", sqe, 1, 1);

	if (dev < 0 || !(r.p.features & IORING_FEAT_FUSED_CMD))
		return 0;
	/* one buffer: one group at a time */
	batch = 1;
	memset(sqe, 0, sizeof(sqe));
	sqe[0].opcode = IORING_OP_FUSED_CMD;
	sqe[0].fd = dev;
	sqe[0].nr_secondary = 1;
	sqe[0].cmd_op = OP_START;
	sqe[1].opcode = IORING_OP_READ;
	sqe[1].flags = IOSQE_CQE_SKIP_SUCCESS;
	sqe[1].fd = file;
	sqe[1].addr = (uintptr_t)buf;
	sqe[1].len = 4096;
	measure("fused start", sqe, 2, 1);
	sqe[0].cmd_op = OP_LEND;
	sqe[0].uring_cmd_flags = IORING_FUSED_CMD_BUF;
	cmd->len = 4096;
	sqe[1].addr = 0;
	measure("fused lend", sqe, 2, 1);
	memset(sqe, 0, sizeof(sqe));
	sqe[0].opcode = IORING_OP_READ_FIXED;
	sqe[0].fd = file;
	sqe[0].addr = (uintptr_t)buf;
	sqe[0].len = 4096;
	measure("fixed, one", sqe, 1, 1);
	return 0;
}
