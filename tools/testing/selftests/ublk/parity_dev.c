// SPDX-License-Identifier: GPL-2.0
/* parity: control commands, and what can be known of a device. */
#include "parity.h"

static int ctrl_fd = -1;
static struct io_uring ring;
static pid_t ring_owner;
static bool pending;

void ctrl_open(void)
{
	ctrl_fd = open("/dev/ublk-control", O_RDWR);
	if (ctrl_fd < 0) {
		perror("/dev/ublk-control");
		exit(2);
	}
}

static int wait_cqe(struct io_uring *r, int ms)
{
	struct __kernel_timespec ts = { .tv_sec = ms / 1000,
					.tv_nsec = ms % 1000 * 1000000LL };
	struct io_uring_cqe *cqe;
	int res;

	if (io_uring_wait_cqe_timeout(r, &cqe, &ts))
		return BLOCKS;
	res = cqe->res;
	io_uring_cqe_seen(r, cqe);
	return res;
}

static void fill_sqe(struct io_uring *r, __u32 op, const struct ublksrv_ctrl_cmd *cmd,
		     bool big)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(r);
	size_t len = big ? sizeof(*cmd) : 16;

	if (!sqe)
		give_up("SQE", -ENOSPC);
	memset(sqe, 0, big ? 2 * sizeof(*sqe) : sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = ctrl_fd;
	sqe->cmd_op = op;
	memcpy(sqe->cmd, cmd, len);
	io_uring_submit(r);
}

int ctrl(__u32 op, const struct ublksrv_ctrl_cmd *cmd)
{
	struct io_uring_params p = { .flags = IORING_SETUP_SQE128 };
	int res;

	/* A ring is not for children, and not for two commands at once */
	if (pending && ring_owner == getpid())
		io_uring_queue_exit(&ring);
	if (pending || ring_owner != getpid()) {
		if (io_uring_queue_init_params(4, &ring, &p))
			give_up("ring", -errno);
		ring_owner = getpid();
		pending = false;
	}
	fill_sqe(&ring, op, cmd, true);
	res = wait_cqe(&ring, patience());
	pending = res == BLOCKS;
	return res;
}

int ctrl_pending(int ms)
{
	int res;

	if (!pending || ring_owner != getpid())
		return -ENOENT;
	res = wait_cqe(&ring, ms);
	pending = res == BLOCKS;
	return res;
}

int ctrl_small(__u32 op, const struct ublksrv_ctrl_cmd *cmd)
{
	struct io_uring small;
	int res;

	if (io_uring_queue_init(4, &small, 0))
		give_up("small ring", -errno);
	fill_sqe(&small, op, cmd, false);
	res = wait_cqe(&small, patience());
	io_uring_queue_exit(&small);
	return res;
}

int ctrl_simple(int id, __u32 op, void *buf, unsigned int len, __u64 data)
{
	struct ublksrv_ctrl_cmd cmd = {
		.dev_id = id,
		.queue_id = -1,
		.len = len,
		.addr = (unsigned long)buf,
		.data = { data },
	};

	return ctrl(op, &cmd);
}

/* With the path, which an unprivileged device wants from root as well */
int delete_dev(int id)
{
	char path[32] = "";
	struct ublksrv_ctrl_cmd cmd = {
		.dev_id = id,
		.queue_id = -1,
		.len = sizeof(path),
		.addr = (unsigned long)path,
		.dev_path_len = sizeof(path),
	};

	snprintf(path, sizeof(path), "/dev/ublkc%d", id);
	return ctrl(UBLK_U_CMD_DEL_DEV, &cmd);
}

struct ublksrv_ctrl_dev_info default_info(__u64 flags)
{
	struct ublksrv_ctrl_dev_info info = {
		.nr_hw_queues = 1,
		.queue_depth = DEPTH,
		.max_io_buf_bytes = IO_BYTES,
		.dev_id = -1,
		.flags = flags,
	};

	return info;
}

struct ublk_params default_params(void)
{
	struct ublk_params params = {
		.len = sizeof(params),
		.types = UBLK_PARAM_TYPE_BASIC,
		.basic = {
			.attrs = UBLK_ATTR_VOLATILE_CACHE | UBLK_ATTR_FUA,
			.logical_bs_shift = 9,
			.physical_bs_shift = 12,
			.io_opt_shift = 12,
			.io_min_shift = 9,
			.max_sectors = IO_BYTES >> 9,
			.dev_sectors = DEV_SECTORS,
		},
	};

	return params;
}

int add_info(struct ublksrv_ctrl_dev_info *info)
{
	int res = ctrl_simple(info->dev_id, UBLK_U_CMD_ADD_DEV, info, sizeof(*info), 0);

	if (!res)
		remember(info->dev_id);
	return res ? res : (int)info->dev_id;
}

int add(__u64 flags)
{
	struct ublksrv_ctrl_dev_info info = default_info(flags);

	return add_info(&info);
}

int set_params(int id, const struct ublk_params *params)
{
	return ctrl_simple(id, UBLK_U_CMD_SET_PARAMS, (void *)params, sizeof(*params), 0);
}

int start(int id, int pid)
{
	return ctrl_simple(id, UBLK_U_CMD_START_DEV, NULL, 0, pid);
}

int get_info(int id, struct ublksrv_ctrl_dev_info *info)
{
	return ctrl_simple(id, UBLK_U_CMD_GET_DEV_INFO, info, sizeof(*info), 0);
}

const char *dev_state(int id)
{
	static const char *const names[] = { "DEAD", "LIVE", "QUIESCED", "FAIL_IO" };
	struct ublksrv_ctrl_dev_info info = {};
	int res = get_info(id, &info);

	if (res)
		return res_name(res);
	return info.state < ARRAY_SIZE(names) ? names[info.state] : "?";
}

bool wait_dev_state(int id, unsigned int state)
{
	struct ublksrv_ctrl_dev_info info;
	int i;

	for (i = 0; i < 1000; i++) {
		if (get_info(id, &info))
			return false;
		if (info.state == state)
			return true;
		usleep(5000);
	}
	return false;
}

bool has_disk(int id)
{
	return !access(str("/sys/block/ublkb%d", id), F_OK);
}

int open_cdev(int id)
{
	int fd = open(str("/dev/ublkc%d", id), O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

void wait_closed(int id)
{
	int i, fd;

	for (i = 0; i < 1000; i++) {
		fd = open_cdev(id);
		if (fd != -EBUSY) {
			if (fd >= 0)
				close(fd);
			/* this was a server as well */
			usleep(50000);
			return;
		}
		usleep(5000);
	}
	give_up("the server's file is not closed", -EBUSY);
}
