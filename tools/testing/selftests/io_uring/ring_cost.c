// SPDX-License-Identifier: GPL-2.0
/*
 * Nanoseconds per request of some opcodes, to compare kernels. Under
 * QEMU's -icount shift=0 a nanosecond is an instruction.
 *
 *   ring_cost [batch]
 *
 * Commands are measured where their device is there: /dev/ublk-control, QEMU's
 * NVMe disk, the lender of buffers: see open_device().
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/mman.h>
#include <linux/nvme_ioctl.h>
#include <linux/ublk_cmd.h>
#include "fused.h"

#define ROUNDS	400
#define PASSES	5

static int batch = 16;

/* SQEs that are submitted again and again */
struct load {
	struct ring *ring;
	struct io_uring_sqe sqe[4];	/* 2 for each where SQEs have 128 bytes */
	int nr_sqes, nr_cqes;
	/*
	 * What waits for a device is measured by the time that the task runs:
	 * the clock goes on while it sleeps.
	 */
	clockid_t clock;
};

static long long now_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static void die(const char *what)
{
	fprintf(stderr, "ring_cost: %s\n", what);
	exit(1);
}

/* One batch, CQEs and all */
static void run(const struct load *l)
{
	bool big = l->ring->p.flags & IORING_SETUP_SQE128;
	struct cqe cqe;
	int i, k;

	for (i = 0; i < batch; i++)
		for (k = 0; k < l->nr_sqes; k++)
			ring_push(l->ring, &l->sqe[k << big], big);
	/* a time-out would strike at once while all that runs is a device */
	if (ring_submit_and_wait(l->ring, batch * l->nr_cqes) != batch * l->nr_sqes)
		die("cannot submit");
	for (i = 0; i < batch * l->nr_cqes; i++)
		if (!ring_wait(l->ring, &cqe, 0) || cqe.res < 0)
			die("bad CQE");
}

static void measure(const char *name, const struct load *l)
{
	long long best = 0, worst = 0, t;
	int pass, i;

	for (i = 0; i < 20; i++)
		run(l);
	for (pass = 0; pass < PASSES; pass++) {
		t = now_ns(l->clock);
		for (i = 0; i < ROUNDS; i++)
			run(l);
		t = now_ns(l->clock) - t;
		if (!best || t < best)
			best = t;
		if (t > worst)
			worst = t;
	}
	printf("%-12s %8.1f ns, slowest pass %+.2f %%\n", name, (double)best / ROUNDS / batch,
	       100.0 * (worst - best) / best);
}

static struct ring *new_ring(unsigned int flags)
{
	struct io_uring_params p = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | flags,
	};
	struct ring *r = calloc(1, sizeof(*r));

	if (!r || ring_init(r, 256, &p))
		die("no ring");
	return r;
}

static int new_file(char *buf)
{
	int file = memfd_create("cost", 0);

	memset(buf, 1, 4096);
	if (write(file, buf, 4096) != 4096)
		die("no file");
	return file;
}

/* What the option may cost those who do not use it */
static void plain(struct ring *r, int file, char *buf)
{
	struct load l = { .ring = r, .nr_sqes = 1, .nr_cqes = 1, .clock = CLOCK_MONOTONIC };

	l.sqe[0].opcode = IORING_OP_NOP;
	measure("nop", &l);

	l.sqe[0].opcode = IORING_OP_READ;
	l.sqe[0].fd = file;
	l.sqe[0].addr = (uintptr_t)buf;
	l.sqe[0].len = 4096;
	measure("read", &l);

	l.sqe[0].opcode = IORING_OP_READ_FIXED;
	measure("read fixed", &l);
}

/* Commands to drivers, which the fused command shares its code with */
static void commands(char *buf)
{
	struct load l = {
		.ring = new_ring(IORING_SETUP_SQE128 | IORING_SETUP_CQE32),
		.nr_sqes = 1, .nr_cqes = 1, .clock = CLOCK_MONOTONIC,
	};
	struct ublksrv_ctrl_cmd *ublk = (void *)l.sqe[0].cmd;
	struct nvme_uring_cmd *nvme = (void *)l.sqe[0].cmd;

	l.sqe[0].opcode = IORING_OP_URING_CMD;
	/* it does nothing: what is left is io_uring's */
	l.sqe[0].fd = open("/dev/null", O_RDWR);
	measure("cmd null", &l);

	l.sqe[0].fd = open("/dev/ublk-control", O_RDWR);
	if (l.sqe[0].fd >= 0) {
		l.sqe[0].cmd_op = UBLK_U_CMD_GET_FEATURES;
		ublk->dev_id = -1;
		ublk->queue_id = -1;
		ublk->addr = (uintptr_t)buf;
		ublk->len = 8;
		measure("cmd ublk", &l);
	}

	l.sqe[0].fd = open("/dev/ng0n1", O_RDONLY);
	if (l.sqe[0].fd >= 0) {
		l.sqe[0].cmd_op = NVME_URING_CMD_IO;
		memset(nvme, 0, sizeof(*nvme));
		nvme->opcode = 2;	/* read */
		nvme->nsid = 1;
		nvme->addr = (uintptr_t)buf;
		nvme->data_len = 4096;
		nvme->cdw12 = 4096 / 512 - 1;
		l.clock = CLOCK_THREAD_CPUTIME_ID;
		measure("cmd nvme", &l);
	}
}

static void lender(struct ring *r, int file, int dev, char *buf)
{
	struct load l = { .ring = r, .nr_sqes = 2, .nr_cqes = 1, .clock = CLOCK_MONOTONIC };
	struct io_uring_mock_fused *cmd = (void *)l.sqe[0].cmd;

	l.sqe[0].opcode = IORING_OP_FUSED_CMD;
	l.sqe[0].fd = dev;
	l.sqe[0].nr_secondary = 1;
	l.sqe[0].cmd_op = OP_START;
	l.sqe[1].opcode = IORING_OP_READ;
	l.sqe[1].flags = IOSQE_CQE_SKIP_SUCCESS;
	l.sqe[1].fd = file;
	l.sqe[1].addr = (uintptr_t)buf;
	l.sqe[1].len = 4096;
	measure("fused start", &l);
	l.sqe[0].cmd_op = OP_LEND;
	l.sqe[0].uring_cmd_flags = IORING_FUSED_CMD_BUF;
	cmd->len = 4096;
	l.sqe[1].addr = 0;
	measure("fused lend", &l);
	memset(l.sqe, 0, sizeof(l.sqe));
	l.nr_sqes = 1;
	l.sqe[0].opcode = IORING_OP_READ_FIXED;
	l.sqe[0].fd = file;
	l.sqe[0].addr = (uintptr_t)buf;
	l.sqe[0].len = 4096;
	measure("fixed, one", &l);
}

int main(int argc, char **argv)
{
	int dev = open_device(), file;
	char *buf = aligned_alloc(4096, 4096);
	struct iovec vec = { buf, 4096 };
	struct ring *r = new_ring(0);

	if (argc > 1)
		batch = atoi(argv[1]);
	if (batch < 1 || batch > 64 || !buf ||
	    ring_register(r, IORING_REGISTER_BUFFERS, &vec, 1))
		die("cannot start");
	file = new_file(buf);

	plain(r, file, buf);
	commands(buf);
	if (dev < 0 || !(r->p.features & IORING_FEAT_FUSED_CMD))
		return 0;
	/* one buffer: one group at a time */
	batch = 1;
	lender(r, file, dev, buf);
	return 0;
}
