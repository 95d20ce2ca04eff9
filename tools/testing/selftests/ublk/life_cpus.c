// SPDX-License-Identifier: GPL-2.0
/* life_cpus: each possible CPU, and no other, uses one queue of a device. */
#include "life.h"
#include "kselftest_harness.h"

#define MAX_CPUS	8192

static int affinity(int id, int queue, unsigned char *mask, unsigned int len)
{
	struct ublksrv_ctrl_cmd cmd = {
		.dev_id = id,
		.queue_id = -1,
		.addr = (unsigned long)mask,
		.len = len,
		.data = { queue },
	};

	return ctrl(UBLK_U_CMD_GET_QUEUE_AFFINITY, &cmd);
}

/* How many CPUs this list of ranges has; they are marked in @possible */
static int read_list(FILE *list, bool *possible)
{
	int from, to, nr = 0;

	while (fscanf(list, "%d", &from) == 1) {
		if (fscanf(list, "-%d", &to) != 1)
			to = from;
		for (; from <= to && from < MAX_CPUS; from++, nr++)
			possible[from] = true;
		if (fgetc(list) != ',')
			break;
	}
	return nr;
}

TEST(all_possible_cpus)
{
	struct ublksrv_ctrl_dev_info info = default_info(0);
	FILE *list = fopen("/sys/devices/system/cpu/possible", "r");
	static unsigned char mask[MAX_CPUS / 8];
	static bool possible[MAX_CPUS];
	static int users[MAX_CPUS];
	int id, q, cpu;

	if (why_not())
		SKIP(return, "%s", why_not());
	ASSERT_NE(NULL, list);
	ASSERT_LT(0, read_list(list, possible));
	info.nr_hw_queues = 4096;
	id = add_info(&info);
	ASSERT_LE(0, id);
	for (q = 0; q < info.nr_hw_queues; q++) {
		memset(mask, 0xff, sizeof(mask));
		ASSERT_EQ(0, affinity(id, q, mask, sizeof(mask)));
		for (cpu = 0; cpu < MAX_CPUS; cpu++)
			users[cpu] += mask[cpu / 8] >> cpu % 8 & 1;
	}
	for (cpu = 0; cpu < MAX_CPUS; cpu++) {
		EXPECT_EQ(possible[cpu], users[cpu]) {
			TH_LOG("CPU %d", cpu);
		}
	}
	EXPECT_EQ(-EINVAL, affinity(id, info.nr_hw_queues, mask, sizeof(mask)));
	EXPECT_EQ(0, delete_dev(id));
}

TEST_HARNESS_MAIN
