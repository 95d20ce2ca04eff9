// SPDX-License-Identifier: GPL-2.0
/* parity: ADD_DEV, and what the driver makes of what it is asked for. */
#include <sys/mman.h>
#include "parity.h"

/*
 * A device always has UBLK_F_SAFE_STOP_DEV, or never: one case tells, not
 * each of them.
 */
#define MASKED	UBLK_F_SAFE_STOP_DEV

static const char *const feature[] = {
	"ZERO_COPY", "COMP_IN_TASK", "NEED_GET_DATA", "RECOVERY", "REISSUE",
	"UNPRIVILEGED", "IOCTL_ENCODE", "USER_COPY", "ZONED", "FAIL_IO",
	"UPDATE_SIZE", "AUTO_BUF_REG", "QUIESCE", "PER_IO_DAEMON",
	"BUF_REG_OFF_DAEMON", "BATCH_IO", "INTEGRITY", "SAFE_STOP", "NO_SCAN",
	"SHMEM_ZC", "DESC_SIZE", "FUSED",
};

#define KNOWN	((int)ARRAY_SIZE(feature))

static const char *info_str(const struct ublksrv_ctrl_dev_info *info)
{
	const char *shape, *rest;

	shape = str("queues %u depth %u state %u desc %u buf %u pid %d",
		    info->nr_hw_queues, info->queue_depth, info->state,
		    info->io_desc_size, info->max_io_buf_bytes, info->ublksrv_pid);
	rest = str("pad %u srv %llx owner %u:%u reserved %llx %llx", info->pad1,
		   (unsigned long long)info->ublksrv_flags, info->owner_uid,
		   info->owner_gid, (unsigned long long)info->reserved1,
		   (unsigned long long)info->reserved2);
	return str("%s flags %llx %s", shape,
		   (unsigned long long)(info->flags & ~MASKED), rest);
}

static void add_case(const char *arg, struct ublksrv_ctrl_dev_info info, bool full)
{
	struct ublksrv_ctrl_dev_info later = {};
	int id = add_info(&info);

	if (id < 0 || id == BLOCKS) {
		put("absent", "ADD_DEV", arg, "%s", res_name(id));
		return;
	}
	if (full)
		put("absent", "ADD_DEV", arg, "0 %s", info_str(&info));
	else
		put("absent", "ADD_DEV", arg, "0 flags %llx desc %u",
		    (unsigned long long)(info.flags & ~MASKED), info.io_desc_size);
	/* the same again later, or it is worth a line */
	get_info(id, &later);
	if (memcmp(&info, &later, sizeof(info)))
		put("added", "GET_DEV_INFO", arg, "%s", info_str(&later));
	ctrl_simple(id, UBLK_U_CMD_DEL_DEV, NULL, 0, 0);
}

static void single_features(const void *arg)
{
	int i;

	for (i = 0; i < 64; i++) {
		struct ublksrv_ctrl_dev_info info = default_info(1ULL << i);

		info.io_desc_size = 64;
		add_case(str("feature %s", i < KNOWN ? feature[i] : str("bit %d", i)),
			 info, true);
	}
	add_case("no feature", default_info(0), true);
	add_case("features above FUSED", default_info(~0ULL << KNOWN), true);
}

static void feature_pairs(const void *arg)
{
	int i, j;

	for (i = 0; i < KNOWN; i++) {
		for (j = i + 1; j < KNOWN; j++) {
			struct ublksrv_ctrl_dev_info info;

			info = default_info(1ULL << i | 1ULL << j);
			info.io_desc_size = 32;
			add_case(str("features %s %s", feature[i], feature[j]), info,
				 false);
		}
	}
}

static void more_features(const void *arg)
{
	static const __u64 sets[] = {
		UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE |
			UBLK_F_USER_RECOVERY_FAIL_IO,
		UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE | UBLK_F_QUIESCE,
		UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_FAIL_IO | UBLK_F_QUIESCE,
		UBLK_F_USER_COPY | UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG,
		UBLK_F_USER_COPY | UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_NEED_GET_DATA,
		UBLK_F_AUTO_BUF_REG | UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_NEED_GET_DATA,
		UBLK_F_UPDATE_SIZE | UBLK_F_QUIESCE | UBLK_F_USER_RECOVERY |
			UBLK_F_NEED_GET_DATA | UBLK_F_NO_AUTO_PART_SCAN,
		/* all but those that need something else, or are not there yet */
		0x3fffff & ~(UBLK_F_USER_RECOVERY_FAIL_IO | UBLK_F_FUSED_CMD |
			     UBLK_F_ZONED | UBLK_F_BATCH_IO | UBLK_F_INTEGRITY),
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(sets); i++) {
		struct ublksrv_ctrl_dev_info info = default_info(sets[i]);

		info.io_desc_size = 24;
		add_case(str("features %llx", (unsigned long long)sets[i]), info, true);
	}
}

static void sizes(const void *arg)
{
	static const struct {
		unsigned int queues, depth;
	} shape[] = {
		{ 0, 1 }, { 1, 0 }, { 0, 0 }, { 1, 1 }, { 2, 1 }, { 3, 2 }, { 4096, 1 },
		{ 4097, 1 }, { 65535, 1 }, { 1, 4095 }, { 1, 4096 }, { 1, 4097 },
		{ 1, 65535 }, { 2, 4096 }, { 4096, 4096 }, { 1, 3 },
	};
	static const unsigned int bytes[] = {
		0, 1, 511, 512, 4095, 4096, 4097, 65536, 1 << 25, (1 << 25) + 1,
		1U << 31, UINT_MAX,
	};
	static const unsigned int desc[] = {
		0, 8, 23, 24, 25, 28, 32, 40, 128, 248, 256, 257, 264, 512, 65535,
	};
	struct ublksrv_ctrl_dev_info info;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(shape); i++) {
		info = default_info(0);
		info.nr_hw_queues = shape[i].queues;
		info.queue_depth = shape[i].depth;
		add_case(str("%u queues of %u", shape[i].queues, shape[i].depth), info,
			 true);
	}
	for (i = 0; i < ARRAY_SIZE(bytes); i++) {
		info = default_info(0);
		info.max_io_buf_bytes = bytes[i];
		add_case(str("max_io_buf_bytes %u", bytes[i]), info, true);
	}
	for (i = 0; i < ARRAY_SIZE(desc); i++) {
		info = default_info(UBLK_F_IO_DESC_SIZE);
		info.io_desc_size = desc[i];
		add_case(str("DESC_SIZE, io_desc_size %u", desc[i]), info, true);
		info = default_info(0);
		info.io_desc_size = desc[i];
		add_case(str("io_desc_size %u", desc[i]), info, true);
	}
}

static void other_fields(const void *arg)
{
	struct ublksrv_ctrl_dev_info info;

	info = default_info(0);
	info.state = UBLK_S_DEV_LIVE;
	add_case("state LIVE", info, true);
	info = default_info(0);
	info.state = 77;
	add_case("state 77", info, true);
	info = default_info(0);
	info.ublksrv_pid = 1;
	add_case("pid 1", info, true);
	info = default_info(0);
	info.pad1 = 0x1234;
	add_case("pad1", info, true);
	info = default_info(0);
	info.ublksrv_flags = 0xfedcba9876543210;
	add_case("ublksrv_flags", info, true);
	info = default_info(0);
	info.owner_uid = 12;
	info.owner_gid = 13;
	add_case("owner", info, true);
	info = default_info(0);
	info.reserved1 = 1;
	info.reserved2 = ~0ULL;
	add_case("reserved", info, true);
}

/* ADD_DEV with this command and this device id in the info */
static void command_case(const char *what, struct ublksrv_ctrl_cmd cmd, int info_id,
			 __u32 op)
{
	struct ublksrv_ctrl_dev_info info = default_info(0);
	int res;

	info.dev_id = info_id;
	if (!cmd.addr)
		cmd.addr = (unsigned long)&info;
	else if (cmd.addr == 1)
		cmd.addr = 0;
	res = ctrl(op, &cmd);
	put("absent", "ADD_DEV", what, "%s", res_name(res));
	if (!res) {
		remember(info.dev_id);
		ctrl_simple(info.dev_id, UBLK_U_CMD_DEL_DEV, NULL, 0, 0);
	}
}

static void commands(const void *arg)
{
	const struct ublksrv_ctrl_cmd good = {
		.dev_id = -1,
		.queue_id = -1,
		.len = sizeof(struct ublksrv_ctrl_dev_info),
	};
	static const int lens[] = { 0, 1, 56, 63, 64, 65, 65535 };
	static const unsigned int ids[] = {
		0, 1, 100, (1 << 20) - 1, 1 << 20, INT_MAX, 1U << 31, UINT_MAX - 1,
	};
	struct ublksrv_ctrl_cmd cmd;
	unsigned int i;
	void *page;

	for (i = 0; i < ARRAY_SIZE(lens); i++) {
		cmd = good;
		cmd.len = lens[i];
		command_case(str("len %d", lens[i]), cmd, -1, UBLK_U_CMD_ADD_DEV);
	}
	for (i = 0; i < ARRAY_SIZE(ids); i++) {
		cmd = good;
		cmd.dev_id = ids[i];
		command_case(str("dev_id %u", ids[i]), cmd, ids[i], UBLK_U_CMD_ADD_DEV);
		command_case(str("dev_id %u in the command only", ids[i]), cmd, -1,
			     UBLK_U_CMD_ADD_DEV);
		command_case(str("dev_id %u in the info only", ids[i]), good, ids[i],
			     UBLK_U_CMD_ADD_DEV);
	}
	cmd = good;
	cmd.addr = 1;
	command_case("addr 0", cmd, -1, UBLK_U_CMD_ADD_DEV);
	cmd.addr = (unsigned long)BAD_ADDR;
	command_case("bad addr", cmd, -1, UBLK_U_CMD_ADD_DEV);
	cmd.addr = ~0ULL - 8;
	command_case("addr at the end", cmd, -1, UBLK_U_CMD_ADD_DEV);
	for (i = 0; i < 3; i++) {
		cmd = good;
		cmd.queue_id = i == 2 ? 0xfffe : i;
		command_case(str("queue_id %u", cmd.queue_id), cmd, -1, UBLK_U_CMD_ADD_DEV);
	}
	cmd = good;
	cmd.data[0] = ~0ULL;
	command_case("data[0]", cmd, -1, UBLK_U_CMD_ADD_DEV);
	cmd = good;
	cmd.dev_path_len = 10;
	command_case("dev_path_len 10", cmd, -1, UBLK_U_CMD_ADD_DEV);
	cmd = good;
	cmd.pad = 1;
	cmd.reserved = 1;
	command_case("pad and reserved", cmd, -1, UBLK_U_CMD_ADD_DEV);
	command_case("as _IOR", good, -1, _IOR('u', UBLK_CMD_ADD_DEV, struct ublksrv_ctrl_cmd));
	command_case("as _IO", good, -1, _IO('u', UBLK_CMD_ADD_DEV));
	command_case("another size", good, -1, _IOWR('u', UBLK_CMD_ADD_DEV, char));
	command_case("type v", good, -1, _IOWR('v', UBLK_CMD_ADD_DEV, struct ublksrv_ctrl_cmd));
	command_case("legacy", good, -1, UBLK_CMD_ADD_DEV);

	/* read but not written */
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page != MAP_FAILED) {
		*(struct ublksrv_ctrl_dev_info *)page = default_info(0);
		mprotect(page, 4096, PROT_READ);
		cmd = good;
		cmd.addr = (unsigned long)page;
		command_case("read-only info", cmd, -1, UBLK_U_CMD_ADD_DEV);
		put("absent", "ADD_DEV", "read-only info, what is left", "%d",
		    !access("/dev/ublkc0", F_OK));
	}
}

static void same_number(const void *arg)
{
	struct ublksrv_ctrl_dev_info info = default_info(0);
	int res, other;

	info.dev_id = 5;
	res = add_info(&info);
	put("absent", "ADD_DEV", "number 5", "%s", res_name(res));
	info.dev_id = 5;
	put("added", "ADD_DEV", "number 5 again", "%s", res_name(add_info(&info)));
	other = add(0);
	put("added", "ADD_DEV", "the lowest number", "%s", res_name(other));
	res = add(0);
	put("added", "ADD_DEV", "the next number", "%s", res_name(res));
	ctrl_simple(other, UBLK_U_CMD_DEL_DEV, NULL, 0, 0);
	put("added", "ADD_DEV", "a number that got free", "%s", res_name(add(0)));
	ctrl_simple(5, UBLK_U_CMD_DEL_DEV, NULL, 0, 0);
	info = default_info(0);
	info.dev_id = 5;
	put("absent", "ADD_DEV", "number 5 after DEL_DEV", "%s", res_name(add_info(&info)));
}

static void safe_stop(const void *arg)
{
	struct ublksrv_ctrl_dev_info info = default_info(0);

	add_info(&info);
	put("absent", "ADD_DEV", "whether it has SAFE_STOP_DEV", "%d",
	    !!(info.flags & UBLK_F_SAFE_STOP_DEV));
}

void group_add(void)
{
	run("single features", single_features, NULL);
	run("feature pairs", feature_pairs, NULL);
	run("more features", more_features, NULL);
	run("sizes", sizes, NULL);
	run("other fields", other_fields, NULL);
	run("ADD_DEV commands", commands, NULL);
	run("same number", same_number, NULL);
	run("safe stop", safe_stop, NULL);
}
