// SPDX-License-Identifier: GPL-2.0
/* parity: arguments of the control commands, good and bad. */
#include <sys/mman.h>
#include "parity.h"

static unsigned char buf[1 << 16];

/* A short form of what a command has written to a buffer full of 0xee */
static const char *written(unsigned int from, unsigned int to)
{
	unsigned int i, n = 0, last = 0, sum = 0;

	for (i = 0; i < sizeof(buf); i++) {
		if (buf[i] == 0xee)
			continue;
		n++;
		last = i;
		if (i >= from && i < to)
			sum = sum * 31 + buf[i] + 1;
	}
	return str("%u bytes, last %u, sum %x", n, last, sum);
}

static struct ublksrv_ctrl_cmd command(int id, unsigned int len, __u64 data)
{
	struct ublksrv_ctrl_cmd cmd = {
		.dev_id = id,
		.queue_id = -1,
		.len = len,
		.addr = (unsigned long)buf,
		.data = { data },
	};

	memset(buf, 0xee, sizeof(buf));
	return cmd;
}

static void features(const void *arg)
{
	static const char *const name[] = {
		"ZERO_COPY", "COMP_IN_TASK", "NEED_GET_DATA", "RECOVERY", "REISSUE",
		"UNPRIVILEGED", "IOCTL_ENCODE", "USER_COPY", "ZONED", "FAIL_IO",
		"UPDATE_SIZE", "AUTO_BUF_REG", "QUIESCE", "PER_IO_DAEMON",
		"BUF_REG_OFF_DAEMON", "BATCH_IO", "INTEGRITY", "SAFE_STOP", "NO_SCAN",
		"SHMEM_ZC", "DESC_SIZE", "FUSED",
	};
	static const int lens[] = { 0, 4, 7, 8, 9, 16, 65535 };
	struct ublksrv_ctrl_cmd cmd;
	unsigned int i;
	__u64 bits = 0;
	int res;

	cmd = command(-1, 8, 0);
	cmd.addr = (unsigned long)&bits;
	ctrl(UBLK_U_CMD_GET_FEATURES, &cmd);
	for (i = 0; i < ARRAY_SIZE(name); i++)
		put("absent", "GET_FEATURES", name[i], "%d", (int)(bits >> i & 1));
	put("absent", "GET_FEATURES", "other bits", "%llx",
	    (unsigned long long)bits >> ARRAY_SIZE(name));
	for (i = 0; i < ARRAY_SIZE(lens); i++) {
		cmd = command(-1, lens[i], 0);
		res = ctrl(UBLK_U_CMD_GET_FEATURES, &cmd);
		put("absent", "GET_FEATURES", str("len %d", lens[i]), "%s %s",
		    res_name(res), written(0, 0));
	}
	cmd = command(5, 8, ~0ULL);
	put("absent", "GET_FEATURES", "dev_id 5, data", "%s",
	    res_name(ctrl(UBLK_U_CMD_GET_FEATURES, &cmd)));
	cmd.addr = 0;
	put("absent", "GET_FEATURES", "addr 0", "%s",
	    res_name(ctrl(UBLK_U_CMD_GET_FEATURES, &cmd)));
	cmd.addr = (unsigned long)BAD_ADDR;
	put("absent", "GET_FEATURES", "bad addr", "%s",
	    res_name(ctrl(UBLK_U_CMD_GET_FEATURES, &cmd)));
}

static void dev_info(const void *arg)
{
	static const int lens[] = { 0, 1, 63, 64, 65, 128, 65535 };
	struct ublksrv_ctrl_cmd cmd;
	unsigned int i;
	int id = add(UBLK_F_UPDATE_SIZE), res;

	for (i = 0; i < ARRAY_SIZE(lens); i++) {
		cmd = command(id, lens[i], 0);
		res = ctrl(UBLK_U_CMD_GET_DEV_INFO, &cmd);
		put("added", "GET_DEV_INFO", str("len %d", lens[i]), "%s %s", res_name(res),
		    written(0, 0));
	}
	cmd = command(id, 64, 0);
	cmd.addr = 0;
	put("added", "GET_DEV_INFO", "addr 0", "%s",
	    res_name(ctrl(UBLK_U_CMD_GET_DEV_INFO, &cmd)));
	cmd.addr = (unsigned long)BAD_ADDR;
	put("added", "GET_DEV_INFO", "bad addr", "%s",
	    res_name(ctrl(UBLK_U_CMD_GET_DEV_INFO, &cmd)));
	cmd.addr = (unsigned long)"a constant, which can not be written";
	put("added", "GET_DEV_INFO", "constant", "%s",
	    res_name(ctrl(UBLK_U_CMD_GET_DEV_INFO, &cmd)));
	cmd = command(id, 64, 0);
	cmd.dev_path_len = 10;
	put("added", "GET_DEV_INFO", "dev_path_len 10", "%s",
	    res_name(ctrl(UBLK_U_CMD_GET_DEV_INFO, &cmd)));
}

static void info2_case(int id, const char *what, const char *path, unsigned int path_len,
		       unsigned int len)
{
	struct ublksrv_ctrl_cmd cmd = command(id, len, 0);
	int res;

	memcpy(buf, path, strlen(path) + 1);
	cmd.dev_path_len = path_len;
	res = ctrl(UBLK_U_CMD_GET_DEV_INFO2, &cmd);
	put("added", "GET_DEV_INFO2", what, "%s", res_name(res));
}

static void dev_info2(const void *arg)
{
	struct ublksrv_ctrl_cmd cmd;
	int id = add(0), other = add(0), n;
	const char *path = str("/dev/ublkc%d", id);
	const char *link = str("%s/parity.link", getenv("TMPDIR") ?: "/tmp");

	n = strlen(path) + 1;
	info2_case(id, "path", path, n, n + 64);
	info2_case(id, "path without 0", path, n - 1, n - 1 + 64);
	info2_case(id, "long path buffer", path, 1024, 1024 + 64);
	info2_case(id, "path buffer of 4096", path, 4096, 4096 + 64);
	info2_case(id, "path buffer of 4097", path, 4097, 4097 + 64);
	info2_case(id, "path buffer of 65535", path, 65535, 65535);
	info2_case(id, "no path", path, 0, 64);
	info2_case(id, "path as long as the buffer", path, n, n);
	info2_case(id, "path longer than the buffer", path, 64, 32);
	info2_case(id, "room for 63 bytes", path, n, n + 63);
	info2_case(id, "part of the path", path, 5, 64 + 5);
	info2_case(id, "empty path", "", 1, 64 + 1);
	info2_case(id, "no such file", "/dev/ublkc99", 16, 64 + 16);
	info2_case(id, "directory", "/dev", 16, 64 + 16);
	info2_case(id, "another device", "/dev/null", 16, 64 + 16);
	info2_case(id, "another ublk device", str("/dev/ublkc%d", other), 16, 64 + 16);
	info2_case(id, "file", "/proc/self/stat", 16, 64 + 16);
	unlink(link);
	if (!symlink(path, link))
		info2_case(id, "symbolic link", link, 128, 128 + 64);
	unlink(link);
	info2_case(id, "relative path", path + 1, 32, 32 + 64);
	if (!chdir("/"))
		info2_case(id, "relative path that fits", path + 1, 32, 32 + 64);
	info2_case(id, "much too long a name", memset(calloc(1, 301), 'x', 300), 301, 400);
	cmd = command(id, 128, 0);
	cmd.dev_path_len = 32;
	cmd.addr = 0;
	put("added", "GET_DEV_INFO2", "addr 0", "%s",
	    res_name(ctrl(UBLK_U_CMD_GET_DEV_INFO2, &cmd)));
	cmd.addr = (unsigned long)BAD_ADDR;
	put("added", "GET_DEV_INFO2", "bad addr", "%s",
	    res_name(ctrl(UBLK_U_CMD_GET_DEV_INFO2, &cmd)));
}

static void affinity(const void *arg)
{
	static const int lens[] = { 0, 1, 4, 7, 8, 9, 15, 16, 128, 1024, 65528, 65535 };
	static const __u64 queues[] = { 0, 1, 2, 65535, 65536, 1ULL << 32, ~0ULL };
	struct ublksrv_ctrl_dev_info info = default_info(0);
	struct ublksrv_ctrl_cmd cmd;
	unsigned int i;
	int res, id;

	info.nr_hw_queues = 2;
	id = add_info(&info);
	for (i = 0; i < ARRAY_SIZE(lens); i++) {
		cmd = command(id, lens[i], 0);
		res = ctrl(UBLK_U_CMD_GET_QUEUE_AFFINITY, &cmd);
		put("added", "GET_QUEUE_AFFINITY", str("len %d", lens[i]), "%s %s",
		    res_name(res), written(0, sizeof(buf)));
	}
	for (i = 0; i < ARRAY_SIZE(queues); i++) {
		cmd = command(id, 128, queues[i]);
		res = ctrl(UBLK_U_CMD_GET_QUEUE_AFFINITY, &cmd);
		put("added", "GET_QUEUE_AFFINITY",
		    str("queue %llx", (unsigned long long)queues[i]), "%s %s",
		    res_name(res), written(0, sizeof(buf)));
	}
	cmd = command(id, 128, 0);
	cmd.addr = 0;
	put("added", "GET_QUEUE_AFFINITY", "addr 0", "%s",
	    res_name(ctrl(UBLK_U_CMD_GET_QUEUE_AFFINITY, &cmd)));
	cmd.addr = (unsigned long)BAD_ADDR;
	put("added", "GET_QUEUE_AFFINITY", "bad addr", "%s",
	    res_name(ctrl(UBLK_U_CMD_GET_QUEUE_AFFINITY, &cmd)));
}

/* Forms of an opcode, for each command, on a device that was just added */
static void forms(const void *arg)
{
	static const struct {
		const char *name;
		unsigned int nr;
	} nrs[] = {
		{ "0x00", 0 }, { "GET_QUEUE_AFFINITY", 1 }, { "GET_DEV_INFO", 2 },
		{ "0x03", 3 }, { "DEL_DEV", 5 }, { "START_DEV", 6 }, { "STOP_DEV", 7 },
		{ "SET_PARAMS", 8 }, { "GET_PARAMS", 9 }, { "0x0a", 10 },
		{ "START_USER_RECOVERY", 0x10 }, { "END_USER_RECOVERY", 0x11 },
		{ "GET_DEV_INFO2", 0x12 }, { "GET_FEATURES", 0x13 },
		{ "DEL_DEV_ASYNC", 0x14 }, { "UPDATE_SIZE", 0x15 },
		{ "QUIESCE_DEV", 0x16 }, { "TRY_STOP_DEV", 0x17 }, { "REG_BUF", 0x18 },
		{ "UNREG_BUF", 0x19 }, { "0x1a", 0x1a }, { "0x20", 0x20 }, { "0xff", 0xff },
	};
	unsigned int i, f;

	for (i = 0; i < ARRAY_SIZE(nrs); i++) {
		unsigned int nr = nrs[i].nr;
		const struct {
			const char *name;
			__u32 op;
			bool small;
			unsigned int dev_id;
		} form[] = {
			{ "_IOR", _IOR('u', nr, struct ublksrv_ctrl_cmd) },
			{ "_IOW", _IOW('u', nr, struct ublksrv_ctrl_cmd) },
			{ "_IOWR", _IOWR('u', nr, struct ublksrv_ctrl_cmd) },
			{ "_IO", _IO('u', nr) },
			{ "size 1", _IOWR('u', nr, char) },
			{ "type v", _IOWR('v', nr, struct ublksrv_ctrl_cmd) },
			{ "type U", _IOWR('U', nr, struct ublksrv_ctrl_cmd) },
			{ "legacy", nr },
			{ "legacy with direction", _IOC(_IOC_READ, 0, nr, 0) },
			{ "64-byte SQE", _IOWR('u', nr, struct ublksrv_ctrl_cmd), true },
			{ "64-byte SQE _IOR", _IOR('u', nr, struct ublksrv_ctrl_cmd), true },
			{ "dev_id -1", _IOWR('u', nr, struct ublksrv_ctrl_cmd), false, -1 },
			{ "dev_id 2^31", _IOWR('u', nr, struct ublksrv_ctrl_cmd), false,
			  1U << 31 },
			{ "dev_id 2^20", _IOWR('u', nr, struct ublksrv_ctrl_cmd), false,
			  1 << 20 },
		};
		int id = -1;

		for (f = 0; f < ARRAY_SIZE(form); f++) {
			struct ublksrv_ctrl_cmd cmd;
			int res;

			if (id < 0 || !strcmp(dev_state(id), "ENODEV"))
				id = add(0);
			cmd = command(form[f].dev_id ? form[f].dev_id : id, 0, 0);
			if (form[f].small)
				res = ctrl_small(form[f].op, &cmd);
			else
				res = ctrl(form[f].op, &cmd);
			put("added", nrs[i].name, form[f].name, "%s", res_name(res));
		}
		ctrl_simple(id, UBLK_U_CMD_DEL_DEV_ASYNC, NULL, 0, 0);
	}
}

/* Fields that a command does not use */
static void unused_fields(const void *arg)
{
	static const struct {
		const char *name;
		__u32 op;
	} ops[] = {
		{ "STOP_DEV", UBLK_U_CMD_STOP_DEV }, { "GET_DEV_INFO", UBLK_U_CMD_GET_DEV_INFO },
		{ "GET_QUEUE_AFFINITY", UBLK_U_CMD_GET_QUEUE_AFFINITY },
		{ "START_USER_RECOVERY", UBLK_U_CMD_START_USER_RECOVERY },
		{ "DEL_DEV", UBLK_U_CMD_DEL_DEV },
		{ "DEL_DEV_ASYNC", UBLK_U_CMD_DEL_DEV_ASYNC },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(ops); i++) {
		struct ublksrv_ctrl_cmd cmd = command(add(0), 128, 0);

		cmd.queue_id = 0;
		cmd.pad = 0xffff;
		cmd.reserved = 0xffffffff;
		cmd.dev_path_len = 0xffff;
		put("added", ops[i].name, "queue_id 0, path length, pad, reserved", "%s",
		    res_name(ctrl(ops[i].op, &cmd)));
	}
}

/* Process ids of START_DEV, for a device that is ready */
static void pids(const void *arg)
{
	int me = getpid();
	const struct {
		const char *name;
		__u64 pid;
	} pid[] = {
		{ "0", 0 }, { "-1", -1 }, { "-1 in 32 bits", 0xffffffff }, { "1", 1 },
		{ "minimum", 1U << 31 }, { "2^32", 1ULL << 32 }, { "parent", getppid() },
		{ "nobody's", 4000000 }, { "own and 2^32", (1ULL << 32) + me },
	};
	struct srv s;
	unsigned int i;

	srv_open(&s, 0, NULL);
	srv_fetch(&s, 0, DEPTH);
	for (i = 0; i < ARRAY_SIZE(pid); i++) {
		int res = ctrl_simple(s.id, UBLK_U_CMD_START_DEV, NULL, 0, pid[i].pid);

		put("ready", "START_DEV", str("pid %s", pid[i].name), "%s", res_name(res));
	}
	put("live", "START_DEV", "again", "%s", res_name(start(s.id, me)));
}

static void sizes(const void *arg)
{
	static const __u64 size[] = {
		0, 1, 7, 8, 9, 1 << 20, 1ULL << 40, 1ULL << 54, 1ULL << 55, (1ULL << 55) - 1,
		1ULL << 62, 1ULL << 63, ~0ULL,
	};
	__u64 flags = *(const bool *)arg ? UBLK_F_UPDATE_SIZE : 0;
	const char *state = flags ? "live with UPDATE_SIZE" : "live";
	struct ublk_params params;
	struct srv s;
	unsigned int i;
	int res;

	srv_live(&s, flags, NULL);
	for (i = 0; i < ARRAY_SIZE(size); i++) {
		unsigned long long sectors = 0;
		FILE *f;

		res = ctrl_simple(s.id, UBLK_U_CMD_UPDATE_SIZE, NULL, 0, size[i]);
		params = default_params();
		ctrl_simple(s.id, UBLK_U_CMD_GET_PARAMS, &params, sizeof(params), 0);
		f = fopen(str("/sys/block/ublkb%d/size", s.id), "r");
		if (f && fscanf(f, "%llu", &sectors) != 1)
			sectors = -1;
		if (f)
			fclose(f);
		put(state, "UPDATE_SIZE", str("%llx", (unsigned long long)size[i]),
		    "%s, parameter %llx, size %llx", res_name(res),
		    (unsigned long long)params.basic.dev_sectors, sectors);
	}
}

/* QUIESCE_DEV with and without a slot to tell the server with */
static void quiesce(const void *arg)
{
	static const __u64 ms[] = { 1, 100, 1ULL << 32, (1ULL << 32) + 50, ~0ULL, 0 };
	const __u64 flags = UBLK_F_USER_RECOVERY | UBLK_F_QUIESCE;
	struct ublksrv_ctrl_dev_info info;
	struct blk_io io[DEPTH];
	struct srv s;
	unsigned int i;
	int res, tag;

	for (i = 0; i < ARRAY_SIZE(ms); i++) {
		const char *what = str("%llx ms", (unsigned long long)ms[i]);
		__u64 first, second;

		srv_live(&s, flags, NULL);
		first = s.waiting[0];
		second = s.waiting[1];
		res = ctrl_simple(s.id, UBLK_U_CMD_QUIESCE_DEV, NULL, 0, ms[i]);
		put("live, idle", "QUIESCE_DEV", what, "%s", res_name(res));
		srv_wait(&s, first, 100);
		srv_wait(&s, second, 100);
		put("live, idle", "commands", str("QUIESCE_DEV %s", what), "%s %s",
		    res_name(s.res[first]), res_name(s.res[second]));
		srv_close(&s);
	}
	info = default_info(flags | UBLK_F_NO_AUTO_PART_SCAN);
	info.queue_depth = 1;
	srv_info(&s, &info, NULL);
	srv_attach(&s);
	srv_fetch(&s, 0, 1);
	srv_start(&s);
	block_start(&io[0], s.id, B_READ, 0, 4096);
	tag = srv_request(&s, 5000);
	res = ctrl_simple(s.id, UBLK_U_CMD_QUIESCE_DEV, NULL, 0, 100);
	put("live, all tags in use", "QUIESCE_DEV", "100 ms", "%s", res_name(res));
	if (tag >= 0) {
		srv_commit(&s, tag, 4096);
		put("live, after QUIESCE_DEV timed out", "READ", "", "%s",
		    res_name(block_wait(&io[0], 3000)));
		put("live, after QUIESCE_DEV timed out", "command", "", "%s",
		    s.waiting[0] ? res_name(srv_wait(&s, s.waiting[0], 100)) : "gone");
	}
	block_start(&io[1], s.id, B_READ, 8, 4096);
	tag = srv_request(&s, 500);
	put("live, after QUIESCE_DEV timed out", "READ", "another", "%s",
	    tag >= 0 ? "arrives" : "does not arrive");
	block_kill(&io[1]);
}

void group_ctrl_args(void)
{
	static const bool no, yes = true;

	run("features", features, NULL);
	run("dev info", dev_info, NULL);
	run("dev info 2", dev_info2, NULL);
	run("affinity", affinity, NULL);
	run("forms", forms, NULL);
	run("unused fields", unused_fields, NULL);
	run("pids", pids, NULL);
	run("sizes", sizes, &no);
	run("sizes with UPDATE_SIZE", sizes, &yes);
	run("quiesce", quiesce, NULL);
}
