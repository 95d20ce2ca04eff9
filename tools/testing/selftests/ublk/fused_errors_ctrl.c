// SPDX-License-Identifier: GPL-2.0
/* fused_cmd_errors: control commands, and how a device comes to be. */
#include "fused_errors.h"

void ctrl_open(struct io_uring *ring)
{
	struct io_uring_params p = { .flags = IORING_SETUP_SQE128 };

	if (io_uring_queue_init_params(4, ring, &p))
		FATAL("no ring for control commands");
}

void ctrl_submit(struct io_uring *ring, int id, __u32 op, void *buf,
		 __u16 len, __u64 data)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct ublksrv_ctrl_cmd *cmd;

	if (!sqe)
		FATAL("the submission queue is full");
	memset(sqe, 0, 2 * sizeof(*sqe));
	cmd = (void *)sqe->cmd;
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = ctrl_fd;
	sqe->cmd_op = op;
	cmd->dev_id = id;
	cmd->queue_id = -1;
	cmd->addr = (unsigned long)buf;
	cmd->len = len;
	cmd->data[0] = data;
	if (io_uring_submit(ring) != 1)
		FATAL("control command %x not submitted", op);
}

int ctrl_wait(struct io_uring *ring, int ms, int *res)
{
	struct __kernel_timespec ts = { .tv_sec = ms / 1000,
					.tv_nsec = ms % 1000 * 1000000LL };
	struct io_uring_cqe *cqe;

	if (io_uring_wait_cqe_timeout(ring, &cqe, &ts))
		return -1;
	*res = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return 0;
}

int ctrl(int id, __u32 op, void *buf, __u16 len, __u64 data)
{
	struct io_uring ring;
	int res;

	ctrl_open(&ring);
	ctrl_submit(&ring, id, op, buf, len, data);
	if (ctrl_wait(&ring, TIMEOUT_MS, &res))
		FATAL("control command %x does not end", op);
	io_uring_queue_exit(&ring);
	return res;
}

/* The device's id, or an error */
int add_dev(__u64 flags)
{
	struct ublksrv_ctrl_dev_info info = {
		.nr_hw_queues = 1,
		.queue_depth = DEPTH,
		.max_io_buf_bytes = 1 << 20,
		.dev_id = -1,
		.flags = flags,
		.owner_uid = getuid(),
		.owner_gid = getgid(),
	};
	int res = ctrl(-1, UBLK_U_CMD_ADD_DEV, &info, sizeof(info), 0);

	return res < 0 ? res : (int)info.dev_id;
}

int open_cdev(int id)
{
	char path[64];
	int i, fd;

	snprintf(path, sizeof(path), "/dev/ublkc%d", id);
	for (i = 0; i < 100; i++) {
		fd = open(path, O_RDWR);
		if (fd >= 0)
			return fd;
		usleep(50000);
	}
	FATAL("cannot open %s", path);
	return -1;
}
