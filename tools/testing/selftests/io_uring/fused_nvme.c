// SPDX-License-Identifier: GPL-2.0
/*
 * Fused commands whose secondaries go to an NVMe device: as pass-through
 * commands, split below the device's transfer limit, and as polled reads.
 *
 * WARNING: overwrites the first MiB of /dev/nvme0n1, if that is one of QEMU's.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/uio.h>
#include <linux/nvme_ioctl.h>
#include "kselftest_harness.h"
#include "bad_disk.h"
#include "fused.h"

#define DISK	"/dev/nvme0n1"
#define CHAR	"/dev/ng0n1"
#define LEN	BUFFER_LEN

static long read_sysfs(const char *path)
{
	char text[64] = "";
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		return -1;
	if (read(fd, text, sizeof(text) - 1) < 0)
		text[0] = 0;
	close(fd);
	return strncmp(text, "QEMU", 4) ? strtol(text, NULL, 0) : 1;
}

FIXTURE(nvme)
{
	struct ring ring;
	struct group g;
	int dev, disk, ng;
	unsigned int limit, block;	/* bytes */
	unsigned char *buf;
};

FIXTURE_VARIANT(nvme)
{
	struct mode mode;
};

FIXTURE_VARIANT_ADD(nvme, sqe128) {
	.mode = { .ring_flags = IORING_SETUP_SQE128 | IORING_SETUP_CQE32 },
};

FIXTURE_VARIANT_ADD(nvme, defer) {
	.mode = { .ring_flags = IORING_SETUP_SQE128 | IORING_SETUP_CQE_MIXED |
		  IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN },
};

FIXTURE_VARIANT_ADD(nvme, sqpoll_workers) {
	.mode = { .ring_flags = IORING_SETUP_SQE128 | IORING_SETUP_CQE32 | IORING_SETUP_SQPOLL,
		  .secondary_flags = IOSQE_ASYNC },
};

FIXTURE_SETUP(nvme)
{
	ASSERT_EQ(0, mode_ring(&variant->mode, &self->ring, 64));
	self->dev = open_device();
	self->ng = open(CHAR, O_RDWR);
	self->disk = open(DISK, O_RDWR | O_DIRECT);
	if (self->dev < 0 || self->ng < 0 || self->disk < 0)
		SKIP(return, "no %s or no " DISK, device_name());
	if (read_sysfs("/sys/block/nvme0n1/device/model") != 1)
		SKIP(return, DISK " is not one of QEMU's, it may be of use");
	self->limit = read_sysfs("/sys/block/nvme0n1/queue/max_hw_sectors_kb") << 10;
	self->block = read_sysfs("/sys/block/nvme0n1/queue/logical_block_size");
	self->buf = aligned_alloc(4096, LEN);
	fill(self->buf, 1, 0, LEN);
	ASSERT_EQ(LEN, pwrite(self->disk, self->buf, LEN, 0));
}

FIXTURE_TEARDOWN(nvme)
{
	ring_exit(&self->ring);
	close(self->dev);
	close(self->ng);
	close(self->disk);
	free(self->buf);
}

/* A pass-through command for @len bytes at @addr of the lease, @pos of the disk */
static struct nvme_uring_cmd *add_nvme(struct group *g, int fd, bool write, __u64 addr,
				       __u32 len, __u64 pos, unsigned int block)
{
	struct io_uring_sqe *sqe = group_add(g, IORING_OP_URING_CMD, fd, 0, 0, 0);
	struct nvme_uring_cmd *cmd = (void *)sqe->cmd;

	sqe->cmd_op = NVME_URING_CMD_IO;
	sqe->uring_cmd_flags = IORING_URING_CMD_FIXED;
	cmd->opcode = write ? 1 : 2;
	cmd->nsid = 1;
	cmd->addr = addr;
	cmd->data_len = len;
	cmd->cdw10 = pos / block;
	cmd->cdw12 = len / block - 1;
	return cmd;
}

/* A request above the limit, carried by several commands */
TEST_F(nvme, split)
{
	unsigned int part = self->limit < LEN / 2 ? self->limit : LEN / 2, at;
	int want[64] = { };

	/* one command cannot carry it, or the test shows nothing */
	EXPECT_GT(LEN, self->limit);
	group_init(&self->g, &self->ring, &variant->mode, self->dev, OP_LEND, 0, LEN);
	for (at = 0; at < LEN; at += part)
		add_nvme(&self->g, self->ng, false, at, part, at, self->block);
	ASSERT_EQ(NULL, group_run(&self->g, 0, self->g.nr, want));
	memset(self->buf, 0, LEN);
	ASSERT_EQ(LEN, pread(self->dev, self->buf, LEN, 0));
	EXPECT_TRUE(is_pattern(self->buf, 1, 0, LEN));

	/* the other way, to another place */
	fill(self->buf, 8, 0, LEN);
	ASSERT_EQ(LEN, pwrite(self->dev, self->buf, LEN, 0));
	group_init(&self->g, &self->ring, &variant->mode, self->dev, OP_LEND,
		   LEND_SOURCE, LEN);
	for (at = 0; at < LEN; at += part) {
		add_nvme(&self->g, self->ng, true, at, part, LEN + at, self->block);
		self->g.secondary[self->g.nr - 1]->flags |= IOSQE_CQE_SKIP_SUCCESS;
		want[self->g.nr - 1] = NO_CQE;
	}
	ASSERT_EQ(NULL, group_run(&self->g, 0, self->g.nr, want));
	memset(self->buf, 0, LEN);
	ASSERT_EQ(LEN, pread(self->disk, self->buf, LEN, LEN));
	EXPECT_TRUE(is_pattern(self->buf, 8, 0, LEN));
}

/* The same as members of an SQE group: their data are in the lease */
TEST_F(nvme, members)
{
	int i, write;

	for (write = 0; write < 2; write++) {
		fill(self->buf, 6, 0, LEN);
		ASSERT_EQ(LEN, pwrite(self->dev, self->buf, LEN, 0));
		group_lead_cmd(&self->g, &self->ring, &variant->mode, self->dev, OP_LEND,
			       write ? LEND_SOURCE : 0, LEN);
		add_nvme(&self->g, self->ng, write, 0, 4096, 8192, self->block);
		add_nvme(&self->g, self->ng, write, 5120, 2048, 0, self->block);
		for (i = 0; i < 2; i++)
			self->g.secondary[i]->flags |= IOSQE_IO_DRAIN;
		ASSERT_EQ(NULL, group_run(&self->g, 0, 2, (int[]){ 0, 0 }));
		if (!write) {
			ASSERT_EQ(LEN, pread(self->dev, self->buf, LEN, 0));
			EXPECT_TRUE(is_pattern(self->buf, 1, 8192, 4096));
			EXPECT_TRUE(is_pattern(self->buf + 4096, 6, 4096, 1024));
			EXPECT_TRUE(is_pattern(self->buf + 5120, 1, 0, 2048));
			EXPECT_TRUE(is_pattern(self->buf + 7168, 6, 7168, LEN - 7168));
		}
	}
	ASSERT_EQ(LEN, pread(self->disk, self->buf, LEN, 0));
	EXPECT_TRUE(is_pattern(self->buf, 6, 5120, 2048));
	EXPECT_TRUE(is_pattern(self->buf + 2048, 1, 2048, 6144));
	EXPECT_TRUE(is_pattern(self->buf + 8192, 6, 0, 4096));
	EXPECT_TRUE(is_pattern(self->buf + 12288, 1, 12288, LEN - 12288));
}

/* A buffer that starts in the middle of a page, and commands of odd ranges */
TEST_F(nvme, unaligned)
{
	group_init(&self->g, &self->ring, &variant->mode, self->dev, OP_LEND, 0, 3 * 4096);
	group_cmd(&self->g)->offset = 512;
	add_nvme(&self->g, self->ng, false, 0, 4096, 0, self->block);
	add_nvme(&self->g, self->ng, false, 4096, 1024, 4096, self->block);
	add_nvme(&self->g, self->ng, false, 5120, 512, 8192, self->block);
	ASSERT_EQ(NULL, group_run(&self->g, 0, 3, (int[]){ 0, 0, 0 }));
	ASSERT_EQ(LEN, pread(self->dev, self->buf, LEN, 0));
	EXPECT_TRUE(all_are(self->buf, 0, 512));
	EXPECT_TRUE(is_pattern(self->buf + 512, 1, 0, 5120));
	EXPECT_TRUE(is_pattern(self->buf + 5632, 1, 8192, 512));
	EXPECT_TRUE(all_are(self->buf + 6144, 0, LEN - 6144));
}

/* Vectored commands: a range of the lease for each part */
TEST_F(nvme, vectored)
{
	struct iovec vec[3] = {
		{ (void *)8192, 1024 }, { (void *)0, 512 }, { (void *)4096, 2560 },
	};
	struct nvme_uring_cmd *cmd;

	group_init(&self->g, &self->ring, &variant->mode, self->dev, OP_LEND, 0, 4 * 4096);
	group_cmd(&self->g)->offset = 1536;
	cmd = add_nvme(&self->g, self->ng, false, (uintptr_t)vec, 4096, 0, self->block);
	cmd->data_len = 3;
	self->g.secondary[0]->cmd_op = NVME_URING_CMD_IO_VEC;
	ASSERT_EQ(NULL, group_run(&self->g, 0, 1, (int[]){ 0 }));
	ASSERT_EQ(LEN, pread(self->dev, self->buf, LEN, 0));
	EXPECT_TRUE(is_pattern(self->buf + 1536 + 8192, 1, 0, 1024));
	EXPECT_TRUE(is_pattern(self->buf + 1536, 1, 1024, 512));
	EXPECT_TRUE(is_pattern(self->buf + 1536 + 4096, 1, 1536, 2560));
	EXPECT_TRUE(all_are(self->buf, 0, 1536));
	EXPECT_TRUE(all_are(self->buf + 2048, 0, 4096 - 512));

	/* outside */
	vec[1].iov_base = (void *)(4 * 4096 - 511);
	group_init(&self->g, &self->ring, &variant->mode, self->dev, OP_LEND, 0, 4 * 4096);
	cmd = add_nvme(&self->g, self->ng, false, (uintptr_t)vec, 4096, 0, self->block);
	cmd->data_len = 3;
	self->g.secondary[0]->cmd_op = NVME_URING_CMD_IO_VEC;
	ASSERT_EQ(NULL, group_run(&self->g, -EFAULT, 1, (int[]){ -EFAULT }));
}

/* The direction is the command's affair: it finds the buffer is not for it. */
TEST_F(nvme, errors)
{
	group_init(&self->g, &self->ring, &variant->mode, self->dev, OP_LEND,
		   LEND_SOURCE, LEN);
	add_nvme(&self->g, self->ng, false, 0, 4096, 0, self->block);
	ASSERT_EQ(NULL, group_run(&self->g, -EFAULT, 1, (int[]){ -EFAULT }));
	group_init(&self->g, &self->ring, &variant->mode, self->dev, OP_LEND, 0, LEN);
	add_nvme(&self->g, self->ng, true, 0, 4096, 0, self->block);
	ASSERT_EQ(NULL, group_run(&self->g, -EFAULT, 1, (int[]){ -EFAULT }));
	/* outside of the lease */
	group_init(&self->g, &self->ring, &variant->mode, self->dev, OP_LEND, 0, 4096);
	add_nvme(&self->g, self->ng, false, 512, 4096, 0, self->block);
	ASSERT_EQ(NULL, group_run(&self->g, -EFAULT, 1, (int[]){ -EFAULT }));
	/* more than the device takes at once */
	group_init(&self->g, &self->ring, &variant->mode, self->dev, OP_LEND, 0, LEN);
	add_nvme(&self->g, self->ng, false, 0, self->limit + 4096, 0, self->block);
	ASSERT_EQ(NULL, group_run(&self->g, -EINVAL, 1, (int[]){ -EINVAL }));
	/* what the device says is what the secondary says: LBA out of range */
	group_init(&self->g, &self->ring, &variant->mode, self->dev, OP_LEND, 0, LEN);
	add_nvme(&self->g, self->ng, false, 0, 4096, 1ULL << 40, self->block);
	group_push(&self->g);
	ASSERT_LT(0, ring_submit(&self->ring));
	{
		struct log log = { };
		int res = log_until(&log, &self->ring, UD_PRIMARY);

		EXPECT_LT(0, res);
		EXPECT_EQ(res, log_res(&log, 0));
	}
}

/* A task that waits for just the CQEs that come, without a time-out, wakes up. */
TEST_F(nvme, wakes)
{
	struct cqe cqe = { };
	int nr, skip, i, cqes;

	for (nr = 1; nr <= 4; nr += 3) {
		for (skip = 0; skip < 2; skip++) {
			group_init(&self->g, &self->ring, &variant->mode, self->dev,
				   OP_LEND, 0, LEN);
			for (i = 0; i < nr; i++) {
				add_nvme(&self->g, self->ng, false, i * 4096, 4096, 0,
					 self->block);
				if (skip)
					self->g.secondary[i]->flags |= IOSQE_CQE_SKIP_SUCCESS;
			}
			group_push(&self->g);
			cqes = skip ? 1 : nr + 1;
			ASSERT_LE(0, ring_submit_and_wait(&self->ring, cqes));
			for (i = 0; i < cqes; i++)
				ASSERT_TRUE(ring_wait(&self->ring, &cqe, 0))
					TH_LOG("%d, skip %d: CQE %d", nr, skip, i);
			EXPECT_EQ(UD_PRIMARY, cqe.user_data);
			EXPECT_EQ(0, cqe.res);
			EXPECT_FALSE(ring_wait(&self->ring, &cqe, 0));
		}
	}
}

/* IOPOLL: the primary is not polled for, its secondaries are */
TEST(iopoll)
{
	struct mode mode = { .ring_flags = IORING_SETUP_IOPOLL };
	int disk = open(DISK, O_RDWR | O_DIRECT), dev = open_device();
	int file = memfd_create("x", 0);
	unsigned char *buf = aligned_alloc(4096, LEN), *more = aligned_alloc(4096, 4096);
	off_t size = lseek(disk, 0, SEEK_END);
	const struct iovec vec[] = { { (void *)8192, 4096 }, { NULL, 4096 } };
	struct io_uring_sqe linked[2] = { {
		.opcode = IORING_OP_READ,
		.fd = disk,
		.addr = (uintptr_t)more,
		.len = 4096,
		.user_data = UD_OTHER,
	} };
	struct log log = { };
	struct ring ring;
	struct group g;

	if (disk < 0 || dev < 0)
		SKIP(return, "no " DISK " or no %s", device_name());
	if (read_sysfs("/sys/block/nvme0n1/device/model") != 1)
		SKIP(return, DISK " is not one of QEMU's, it may be of use");
	if (read_sysfs("/sys/block/nvme0n1/queue/io_poll") != 1)
		SKIP(return, "no poll queues: boot with nvme.poll_queues=1");
	fill(buf, 3, 0, LEN);
	ASSERT_EQ(LEN, pwrite(disk, buf, LEN, 0));
	ASSERT_EQ(0, mode_ring(&mode, &ring, 64));

	group_init(&g, &ring, &mode, dev, OP_LEND, 0, LEN);
	group_add(&g, IORING_OP_READ, disk, 0, 8192, 4096);
	group_add(&g, IORING_OP_READ_FIXED, disk, 8192, 4096, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
	ASSERT_EQ(NULL, group_run(&g, 12288, 2, (int[]){ 8192, NO_CQE }));
	ASSERT_EQ(LEN, pread(dev, buf, LEN, 0));
	EXPECT_TRUE(is_pattern(buf, 3, 4096, 8192));
	EXPECT_TRUE(is_pattern(buf + 8192, 3, 0, 4096));
	/* at the end of the disk: short, so it posts its CQE and breaks a link */
	group_init(&g, &ring, &mode, dev, OP_LEND, 0, LEN);
	g.primary->flags = IOSQE_IO_LINK;
	group_add(&g, IORING_OP_READ, disk, 0, 8192, size - 4096)->flags |= IOSQE_CQE_SKIP_SUCCESS;
	group_add(&g, IORING_OP_READ, disk, 8192, 4096, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
	group_push(&g);
	push_sqe(&ring, linked);
	ASSERT_LT(0, ring_submit(&ring));
	EXPECT_EQ(8192, log_until(&log, &ring, UD_PRIMARY));
	EXPECT_EQ(4096, log_res(&log, 0));
	EXPECT_EQ(NO_CQE, log_res(&log, 1));
	EXPECT_EQ(-ECANCELED, log_until(&log, &ring, UD_OTHER));
	/* the same of several pieces; one that is full is silent */
	group_init(&g, &ring, &mode, dev, OP_LEND, 0, LEN);
	g.primary->flags = IOSQE_IO_LINK;
	group_add(&g, IORING_OP_READV, disk, (uintptr_t)vec, 2,
		  size - 4096)->flags |= IOSQE_CQE_SKIP_SUCCESS;
	group_add(&g, IORING_OP_READV, disk, (uintptr_t)vec, 2, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
	group_push(&g);
	push_sqe(&ring, linked);
	log.nr = 0;
	ASSERT_LT(0, ring_submit(&ring));
	EXPECT_EQ(12288, log_until(&log, &ring, UD_PRIMARY));
	EXPECT_EQ(4096, log_res(&log, 0));
	EXPECT_EQ(NO_CQE, log_res(&log, 1));
	EXPECT_EQ(-ECANCELED, log_until(&log, &ring, UD_OTHER));
	/* a file that is not polled for, and an opcode that is not */
	group_init(&g, &ring, &mode, dev, OP_LEND, 0, LEN);
	group_add(&g, IORING_OP_READ, file, 0, 512, 0);
	group_add(&g, IORING_OP_READ, disk, 0, 4096, 0);
	ASSERT_EQ(NULL, group_run(&g, -EOPNOTSUPP, 2, (int[]){ -EOPNOTSUPP, 4096 }));
	group_init(&g, &ring, &mode, dev, OP_LEND, 0, LEN);
	group_add(&g, IORING_OP_RECV, disk, 0, 4096, 0);
	ASSERT_EQ(NULL, group_run(&g, -EINVAL, 1, (int[]){ -ECANCELED }));
	group_init(&g, &ring, &mode, dev, OP_REFUSE, 0, LEN);
	group_cmd(&g)->arg = ENOENT;
	group_add(&g, IORING_OP_READ, disk, (uintptr_t)buf, 4096, 0);
	ASSERT_EQ(NULL, group_run(&g, -ENOENT, 1, (int[]){ -ECANCELED }));
	ring_exit(&ring);
}

/* IOPOLL: one that fails when it is polled for is not silent, and breaks a link */
TEST(iopoll_fails)
{
	struct mode mode = { .ring_flags = IORING_SETUP_IOPOLL };
	unsigned char *buf = aligned_alloc(4096, LEN);
	const int of_primary[] = { -EIO, 0, 4096 };
	int dev = open_device(), disk, form;
	struct log log = { };
	struct ring ring;
	struct group g;

	if (dev < 0)
		SKIP(return, "no %s", device_name());
	disk = open_bad_disk(O_RDONLY | O_DIRECT);
	if (disk == -ENODEV)
		SKIP(return, "no null_blk");
	ASSERT_LE(0, disk);
	if (read_sysfs("/sys/block/nullb_fused/queue/io_poll") != 1)
		SKIP(return, "null_blk has no queues to poll");
	ASSERT_EQ(0, mode_ring(&mode, &ring, 64));
	/* a fused command; an SQE group with the lease of its leader, and one without */
	for (form = 0; form < 3; form++) {
		if (!form)
			group_init(&g, &ring, &mode, dev, OP_LEND, 0, LEN);
		else if (form == 1)
			group_lead_cmd(&g, &ring, &mode, dev, OP_LEND, 0, LEN);
		else
			group_lead(&g, &ring, &mode, IORING_OP_READ, disk, (uintptr_t)buf, 4096, 0);
		g.primary->flags |= IOSQE_IO_LINK;
		group_add(&g, IORING_OP_READ, disk, form == 2 ? (uintptr_t)buf + 8192 : 0, 4096,
			  BAD_FROM)->flags |= IOSQE_CQE_SKIP_SUCCESS;
		group_add(&g, IORING_OP_READ, disk, form == 2 ? (uintptr_t)buf + 4096 : 4096,
			  4096, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
		if (form == 1) {
			/* members that use the buffer say so */
			g.secondary[0]->flags |= IOSQE_IO_DRAIN;
			g.secondary[1]->flags |= IOSQE_IO_DRAIN;
		}
		group_push(&g);
		push_sqe(&ring, (struct io_uring_sqe[2]) { {
			.opcode = IORING_OP_READ, .fd = disk, .addr = (uintptr_t)buf,
			.len = 4096, .user_data = UD_OTHER,
		} });
		log.nr = 0;
		ASSERT_LT(0, ring_submit(&ring));
		EXPECT_EQ(-ECANCELED, log_until(&log, &ring, UD_OTHER)) TH_LOG("form %d", form);
		EXPECT_EQ(of_primary[form], log_res(&log, UD_PRIMARY)) TH_LOG("form %d", form);
		EXPECT_EQ(-EIO, log_res(&log, 0)) TH_LOG("form %d", form);
		EXPECT_EQ(NO_CQE, log_res(&log, 1)) TH_LOG("form %d", form);
	}
	ring_exit(&ring);
	close(disk);
	EXPECT_EQ(0, remove_bad_disk());
}

/* IOPOLL: an SQE group of which all are polled for */
TEST(iopoll_leader)
{
	struct mode mode = { .ring_flags = IORING_SETUP_IOPOLL };
	int disk = open(DISK, O_RDWR | O_DIRECT), dev = open_device();
	unsigned char *buf = aligned_alloc(4096, LEN), *more = aligned_alloc(4096, LEN);
	off_t size = lseek(disk, 0, SEEK_END);
	struct log log = { };
	struct ring ring;
	struct group g;

	if (disk < 0 || dev < 0)
		SKIP(return, "no " DISK " or no %s", device_name());
	if (read_sysfs("/sys/block/nvme0n1/device/model") != 1)
		SKIP(return, DISK " is not one of QEMU's, it may be of use");
	if (read_sysfs("/sys/block/nvme0n1/queue/io_poll") != 1)
		SKIP(return, "no poll queues: boot with nvme.poll_queues=1");
	fill(buf, 3, 0, LEN);
	ASSERT_EQ(LEN, pwrite(disk, buf, LEN, 0));
	ASSERT_EQ(0, mode_ring(&mode, &ring, 64));

	/* one-to-many copy */
	memset(more, 0, LEN);
	group_lead(&g, &ring, &mode, IORING_OP_READ, disk, (uintptr_t)more, 8192, 0);
	group_add(&g, IORING_OP_WRITE, disk, (uintptr_t)more, 8192, 65536);
	group_add(&g, IORING_OP_WRITE, disk, (uintptr_t)more, 4096, 131072);
	ASSERT_EQ(NULL, group_run(&g, 8192, 2, (int[]){ 8192, 4096 }));
	ASSERT_EQ(8192, pread(disk, more, 8192, 65536));
	EXPECT_TRUE(is_pattern(more, 3, 0, 8192));
	/* a leader that comes short fails, though polling does not say so */
	group_lead(&g, &ring, &mode, IORING_OP_READ, disk, (uintptr_t)more, 8192, size - 4096);
	group_add(&g, IORING_OP_READ, disk, (uintptr_t)more, 4096, 0);
	ASSERT_EQ(NULL, group_run(&g, 4096, 1, (int[]){ -ECANCELED }));
	/* a member that does breaks the link behind the group, and posts its CQE */
	group_lead(&g, &ring, &mode, IORING_OP_READ, disk, (uintptr_t)more, 4096, 0)->flags |=
		IOSQE_IO_LINK;
	group_add(&g, IORING_OP_READ, disk, (uintptr_t)more + 8192, 8192,
		  size - 4096)->flags |= IOSQE_CQE_SKIP_SUCCESS;
	group_push(&g);
	push_nop(&ring, UD_OTHER, 0);
	ASSERT_LT(0, ring_submit(&ring));
	EXPECT_EQ(-ECANCELED, log_until(&log, &ring, UD_OTHER));
	EXPECT_EQ(4096, log_res(&log, UD_PRIMARY));
	EXPECT_EQ(4096, log_res(&log, 0));
	/* and with a lease */
	group_lead_cmd(&g, &ring, &mode, dev, OP_LEND, 0, LEN);
	group_add(&g, IORING_OP_READ, disk, 0, 8192, 4096)->flags |= IOSQE_IO_DRAIN;
	group_add(&g, IORING_OP_READ, disk, (uintptr_t)more, 4096, 0);
	ASSERT_EQ(NULL, group_run(&g, 0, 2, (int[]){ 8192, 4096 }));
	ASSERT_EQ(LEN, pread(dev, buf, LEN, 0));
	EXPECT_TRUE(is_pattern(buf, 3, 4096, 8192));
	EXPECT_TRUE(is_pattern(more, 3, 0, 4096));
	ring_exit(&ring);
}

TEST_HARNESS_MAIN
