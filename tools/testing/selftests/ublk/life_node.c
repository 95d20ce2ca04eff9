// SPDX-License-Identifier: GPL-2.0
/*
 * life_node: the descriptors of a queue are on the memory node of the CPUs that
 * use the queue, whatever node the task that adds the device prefers.
 */
#include <sys/mman.h>
#include <sys/syscall.h>
#include <linux/mempolicy.h>
#include "life.h"
#include "kselftest_harness.h"

#define NODES	2
#define QUEUES	2
/* more than a page of descriptors */
#define SLOTS	512

/* The node of a CPU, or -1 */
static int node_of_cpu(int cpu)
{
	int node;

	for (node = 0; node < NODES; node++)
		if (!access(str("/sys/devices/system/cpu/cpu%d/node%d", cpu, node), F_OK))
			return node;
	return -1;
}

/* The first of the CPUs that use a queue, or -1 */
static int first_cpu(int id, int queue)
{
	__u64 mask[64] = {};
	int cpu;

	if (ctrl_simple(id, UBLK_U_CMD_GET_QUEUE_AFFINITY, mask, sizeof(mask), queue))
		return -1;
	for (cpu = 0; cpu < 4096; cpu++)
		if (mask[cpu / 64] >> cpu % 64 & 1)
			return cpu;
	return -1;
}

/* The node of a page of ours, or an error */
static int node_of_page(void *page)
{
	int node = -EIO;

	if (syscall(SYS_get_mempolicy, &node, NULL, 0, page, MPOL_F_NODE | MPOL_F_ADDR))
		return -errno;
	return node;
}

static int prefer(int node)
{
	unsigned long mask = 1UL << node;

	return syscall(SYS_set_mempolicy, MPOL_PREFERRED, &mask, 8 * sizeof(mask));
}

FIXTURE(node) {
	int id;
};

FIXTURE_VARIANT(node) {
	int preferred;
};

FIXTURE_VARIANT_ADD(node, first) {
	.preferred = 0,
};

FIXTURE_VARIANT_ADD(node, second) {
	.preferred = 1,
};

FIXTURE_SETUP(node)
{
	struct ublksrv_ctrl_dev_info info = {
		.nr_hw_queues = QUEUES, .queue_depth = SLOTS, .dev_id = -1,
		.max_io_buf_bytes = 4096,
	};

	self->id = -1;
	if (access("/sys/devices/system/node/node1", F_OK))
		SKIP(return, "one memory node only");
	/* before there is a worker that could run the command */
	ASSERT_EQ(0, prefer(variant->preferred));
	if (why_not())
		SKIP(return, "%s", why_not());
	self->id = add_info(&info);
	ASSERT_LE(0, self->id);
}

FIXTURE_TEARDOWN(node)
{
	if (self->id >= 0)
		EXPECT_EQ(0, delete_dev(self->id));
}

TEST_F(node, of_descriptors)
{
	const size_t len = SLOTS * sizeof(struct ublksrv_io_desc);
	const size_t distance = UBLK_MAX_QUEUE_DEPTH * sizeof(struct ublksrv_io_desc);
	int fd = open_cdev(self->id);
	char *own, *p;
	struct ublksrv_ctrl_dev_info info;
	size_t at;
	int q;

	ASSERT_LE(0, fd);
	/* the policy has an effect */
	own = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(own, 1, 4096);
	EXPECT_EQ(variant->preferred, node_of_page(own));
	ASSERT_EQ(0, get_info(self->id, &info));
	for (q = 0; q < info.nr_hw_queues; q++) {
		int node = node_of_cpu(first_cpu(self->id, q));

		EXPECT_LE(0, node);
		p = mmap(NULL, len, PROT_READ, MAP_SHARED, fd,
			 UBLKSRV_CMD_BUF_OFFSET + q * distance);
		ASSERT_NE(MAP_FAILED, p);
		for (at = 0; at < len; at += 4096) {
			EXPECT_EQ(0, p[at]);
			EXPECT_EQ(node, node_of_page(p + at));
		}
		/* it keeps the device */
		munmap(p, len);
	}
	close(fd);
}

TEST_HARNESS_MAIN
