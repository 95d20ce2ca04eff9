// SPDX-License-Identifier: GPL-2.0
/* parity: users without CAP_SYS_ADMIN, with and without a device of their own. */
#include <sys/stat.h>
#include <sys/wait.h>
#include "parity.h"

#define NOBODY	65534

/* The root user can come back from it */
static void be(unsigned int uid)
{
	int res = 0;

	if (!uid)
		res = setresuid(0, 0, 0);
	res |= setresgid(uid, uid, 0);
	if (uid)
		res |= setresuid(uid, uid, 0);
	if (res)
		give_up("setresuid", -errno);
}

static const struct {
	const char *name;
	__u32 op;
	int len;
} commands[] = {
	{ "GET_FEATURES", UBLK_U_CMD_GET_FEATURES, 8 },
	{ "GET_DEV_INFO", UBLK_U_CMD_GET_DEV_INFO, 64 },
	{ "GET_DEV_INFO2", UBLK_U_CMD_GET_DEV_INFO2, 64 },
	{ "GET_QUEUE_AFFINITY", UBLK_U_CMD_GET_QUEUE_AFFINITY, 64 },
	{ "GET_PARAMS", UBLK_U_CMD_GET_PARAMS, sizeof(struct ublk_params) },
	{ "SET_PARAMS", UBLK_U_CMD_SET_PARAMS, sizeof(struct ublk_params) },
	{ "START_DEV", UBLK_U_CMD_START_DEV },
	{ "START_USER_RECOVERY", UBLK_U_CMD_START_USER_RECOVERY },
	{ "UPDATE_SIZE", UBLK_U_CMD_UPDATE_SIZE },
	{ "QUIESCE_DEV", UBLK_U_CMD_QUIESCE_DEV },
	{ "REG_BUF", UBLK_U_CMD_REG_BUF },
	{ "UNREG_BUF", UBLK_U_CMD_UNREG_BUF },
	{ "unknown command 0x3f", _IOWR('u', 0x3f, struct ublksrv_ctrl_cmd) },
	{ "TRY_STOP_DEV", UBLK_U_CMD_TRY_STOP_DEV },
	{ "STOP_DEV", UBLK_U_CMD_STOP_DEV },
	{ "DEL_DEV_ASYNC", UBLK_U_CMD_DEL_DEV_ASYNC },
	{ "DEL_DEV", UBLK_U_CMD_DEL_DEV },
};

/* One command, with @path in front of its buffer, which @len counts */
static int with_path(int id, __u32 op, const char *path, unsigned int path_len,
		     unsigned int len)
{
	static char buf[8192];
	struct ublk_params params = default_params();
	struct ublksrv_ctrl_cmd cmd = {
		.dev_id = id,
		.queue_id = -1,
		.addr = (unsigned long)buf,
		.len = path_len + len,
		.dev_path_len = path_len,
	};

	memset(buf, 0, sizeof(buf));
	memcpy(buf + path_len, &params, sizeof(params));
	if (path)
		strcpy(buf, path);
	return ctrl(op, &cmd);
}

static void all_commands(const char *state, int id, const char *path, unsigned int path_len)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(commands); i++)
		put(state, commands[i].name, path ? "path" : "no path", "%s",
		    res_name(with_path(id, commands[i].op, path, path_len,
				       commands[i].len)));
}

/* A device of root's */
static void foreign(const void *arg)
{
	struct srv s;
	int id = add(0);

	be(NOBODY);
	all_commands("nobody, root's device", id, NULL, 0);
	all_commands("nobody, root's device", id, str("/dev/ublkc%d", id), 32);
	all_commands("nobody, absent", 99, NULL, 0);
	put("nobody, root's device", "open", "", "%s",
	    open_cdev(id) < 0 ? res_name(open_cdev(id)) : "0");
	be(0);
	srv_live(&s, 0, NULL);
	be(NOBODY);
	all_commands("nobody, root's live device", s.id, NULL, 0);
	be(0);
	put("nobody, root's live device", "state", "", "%s", dev_state(s.id));

	/* root let nobody have the nodes */
	if (chown(str("/dev/ublkc%d", s.id), NOBODY, NOBODY) ||
	    chown(str("/dev/ublkb%d", s.id), NOBODY, NOBODY))
		give_up("chown", -errno);
	be(NOBODY);
	all_commands("nobody, root's device and nobody's node", s.id,
		     str("/dev/ublkc%d", s.id), 32);
	put("nobody, root's device and nobody's node", "open the disk", "", "%d",
	    open(str("/dev/ublkb%d", s.id), O_RDONLY) >= 0);
}

static void adds(const void *arg)
{
	static const struct {
		const char *name;
		__u64 flags;
	} what[] = {
		{ "UNPRIVILEGED", 0 }, { "USER_COPY", UBLK_F_USER_COPY },
		{ "ZERO_COPY", UBLK_F_SUPPORT_ZERO_COPY },
		{ "AUTO_BUF_REG", UBLK_F_AUTO_BUF_REG },
		{ "NEED_GET_DATA", UBLK_F_NEED_GET_DATA },
		{ "RECOVERY", UBLK_F_USER_RECOVERY },
		{ "RECOVERY REISSUE", UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE },
		{ "RECOVERY FAIL_IO", UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_FAIL_IO },
		{ "REISSUE", UBLK_F_USER_RECOVERY_REISSUE },
		{ "QUIESCE", UBLK_F_QUIESCE },
		{ "RECOVERY QUIESCE", UBLK_F_USER_RECOVERY | UBLK_F_QUIESCE },
		{ "UPDATE_SIZE", UBLK_F_UPDATE_SIZE }, { "NO_SCAN", UBLK_F_NO_AUTO_PART_SCAN },
		{ "FUSED", UBLK_F_FUSED_CMD }, { "DESC_SIZE 8", UBLK_F_IO_DESC_SIZE },
	};
	struct ublksrv_ctrl_dev_info info;
	unsigned int i, uid;
	int id;

	for (uid = 0; uid <= NOBODY; uid += NOBODY) {
		const char *who = uid ? "nobody" : "root";

		be(uid);
		for (i = 0; i < ARRAY_SIZE(what); i++) {
			info = default_info(UBLK_F_UNPRIVILEGED_DEV | what[i].flags);
			info.io_desc_size = 8;
			id = add_info(&info);
			if (id < 0) {
				put(who, "ADD_DEV unprivileged", what[i].name, "%s",
				    res_name(id));
				continue;
			}
			put(who, "ADD_DEV unprivileged", what[i].name,
			    "0 flags %llx owner %u:%u",
			    (unsigned long long)(info.flags & ~UBLK_F_SAFE_STOP_DEV),
			    info.owner_uid, info.owner_gid);
			be(0);
			with_path(id, UBLK_U_CMD_DEL_DEV, str("/dev/ublkc%d", id), 32, 0);
			be(uid);
		}
		info = default_info(0);
		id = add_info(&info);
		put(who, "ADD_DEV", "", "%s", id < 0 ? res_name(id) : "0");
		info = default_info(0);
		info.queue_depth = 0;
		put(who, "ADD_DEV", "bad depth", "%s", res_name(add_info(&info)));
		info = default_info(UBLK_F_USER_RECOVERY_REISSUE);
		put(who, "ADD_DEV", "bad features", "%s", res_name(add_info(&info)));
	}
}

static int add_own(const char *state)
{
	struct ublksrv_ctrl_dev_info info;
	int id;

	be(NOBODY);
	info = default_info(UBLK_F_UNPRIVILEGED_DEV | UBLK_F_NO_AUTO_PART_SCAN);
	id = add_info(&info);
	be(0);
	if (id < 0) {
		put(state, "ADD_DEV", "of one's own", "%s", res_name(id));
		_exit(0);
	}
	return id;
}

/* Nobody's own device, with and without the permission that udev would give */
static void own_device(const void *arg)
{
	const char *path;
	int id = add_own("own"), other;

	path = str("/dev/ublkc%d", id);
	other = add(0);
	be(NOBODY);
	all_commands("own, node of root", id, path, 32);
	all_commands("own, node of root", id, NULL, 0);
	be(0);
	all_commands("root, nobody's device", id, NULL, 0);
	id = add_own("own");
	path = str("/dev/ublkc%d", id);
	if (chown(path, NOBODY, NOBODY))
		give_up("chown", -errno);
	be(NOBODY);
	put("own", "GET_DEV_INFO", "another's path", "%s",
	    res_name(with_path(id, UBLK_U_CMD_GET_DEV_INFO, str("/dev/ublkc%d", other), 32,
			       64)));
	put("own", "GET_DEV_INFO", "/dev/null", "%s",
	    res_name(with_path(id, UBLK_U_CMD_GET_DEV_INFO, "/dev/null", 32, 64)));
	put("own", "GET_DEV_INFO", "no such path", "%s",
	    res_name(with_path(id, UBLK_U_CMD_GET_DEV_INFO, "/dev/nothing", 32, 64)));
	put("own", "GET_DEV_INFO", "len is 63 behind the path", "%s",
	    res_name(with_path(id, UBLK_U_CMD_GET_DEV_INFO, path, 32, 63)));
	put("own", "GET_DEV_INFO", "path of 4097", "%s",
	    res_name(with_path(id, UBLK_U_CMD_GET_DEV_INFO, path, 4097, 64)));
	be(0);
	chmod(path, 0400);
	be(NOBODY);
	put("own, read-only node", "GET_DEV_INFO", "", "%s",
	    res_name(with_path(id, UBLK_U_CMD_GET_DEV_INFO, path, 32, 64)));
	put("own, read-only node", "SET_PARAMS", "", "%s",
	    res_name(with_path(id, UBLK_U_CMD_SET_PARAMS, path, 32,
			       sizeof(struct ublk_params))));
	be(0);
	chmod(path, 0600);
	be(NOBODY);
	all_commands("own", id, path, 32);
	be(0);
}

/* A whole life, served by nobody */
static void own_life(const void *arg)
{
	struct ublk_params params = default_params();
	int id = add_own("own life"), res, disk;
	const char *path = str("/dev/ublkc%d", id);
	struct blk_io io;
	struct srv s = { .id = id, .queues = 1, .depth = DEPTH, .desc_size = 24 };
	int tag;

	if (chown(path, NOBODY, NOBODY))
		give_up("chown", -errno);
	be(NOBODY);
	res = with_path(id, UBLK_U_CMD_SET_PARAMS, path, 32, sizeof(params));
	put("own life", "SET_PARAMS", "", "%s", res_name(res));
	srv_attach(&s);
	srv_fetch(&s, 0, DEPTH);
	{
		char buf[32] = "";
		struct ublksrv_ctrl_cmd cmd = {
			.dev_id = id, .queue_id = -1, .addr = (unsigned long)buf,
			.len = 32, .dev_path_len = 32, .data = { getpid() },
		};

		strcpy(buf, path);
		res = ctrl(UBLK_U_CMD_START_DEV, &cmd);
	}
	put("own life", "START_DEV", "", "%s", res_name(res));
	disk = open(str("/dev/ublkb%d", id), O_RDONLY);
	put("own life", "open the disk", "node of root", "%s", res_name(disk < 0 ? -errno : 0));
	be(0);
	put("own life", "chown", "", "%d",
	    chown(str("/dev/ublkb%d", id), NOBODY, NOBODY));
	be(NOBODY);
	disk = open(str("/dev/ublkb%d", id), O_RDONLY);
	put("own life", "open the disk", "own node", "%s", res_name(disk < 0 ? -errno : 0));
	be(0);
	if (chmod(str("/dev/ublkb%d", id), 0666))
		give_up("chmod", -errno);
	be(1234);
	disk = open(str("/dev/ublkb%d", id), O_RDONLY);
	put("own life", "open the disk", "somebody else", "%s",
	    res_name(disk < 0 ? -errno : 0));
	be(0);
	disk = open(str("/dev/ublkb%d", id), O_RDONLY);
	put("own life", "open the disk", "root", "%s", res_name(disk < 0 ? -errno : 0));
	close(disk);
	be(NOBODY);
	block_start(&io, id, B_READ, 8, 4096);
	tag = srv_request(&s, 3000);
	if (tag >= 0)
		srv_commit(&s, tag, 4096);
	put("own life", "READ", "", "%s", res_name(block_wait(&io, 1000)));
	put("own life", "STOP_DEV", "", "%s",
	    res_name(with_path(id, UBLK_U_CMD_STOP_DEV, path, 32, 0)));
	be(0);
}

/* Only so many of them */
static void limit(const void *arg)
{
	const char *module = access("/sys/module/ublk_drv", F_OK) ? "ublk_rs" : "ublk_drv";
	const char *path = str("/sys/module/%s/parameters/ublks_max", module);
	static const char *const values[] = { "2", "0", "-1", "x", "1048576", "1048577", "64" };
	char text[64];
	unsigned int i, n;
	int fd;

	fd = open(path, O_RDONLY);
	n = fd < 0 || read(fd, text, sizeof(text)) <= 0 ? 0 : strtoul(text, NULL, 0);
	put("module", "ublks_max", "at first", "%u", n);
	close(fd);
	for (i = 0; i < ARRAY_SIZE(values); i++) {
		fd = open(path, O_WRONLY);
		put("module", "ublks_max", values[i], "%s",
		    fd < 0 ? res_name(-errno) :
		    res_name(write(fd, values[i], strlen(values[i])) < 0 ? -errno : 0));
		close(fd);
		if (i)
			continue;
		be(NOBODY);
		for (n = 0; n < 4; n++) {
			int id = add(UBLK_F_UNPRIVILEGED_DEV);

			put("two at most", "ADD_DEV", str("number %u", n), "%s",
			    id < 0 ? res_name(id) : "0");
		}
		be(0);
		put("two at most", "ADD_DEV", "by root", "%d",
		    add(UBLK_F_UNPRIVILEGED_DEV) >= 0);
	}
}

void group_unpriv(void)
{
	run("foreign device", foreign, NULL);
	run("unprivileged ADD_DEV", adds, NULL);
	run("own device", own_device, NULL);
	run("life of an own device", own_life, NULL);
	run("limit", limit, NULL);
}
