// SPDX-License-Identifier: GPL-2.0
/* parity: a server that does one thing at a time, and users of its disk. */
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <linux/fs.h>
#include "parity.h"

/* not a constant, which compilers warn of */
void *bad_addr = (void *)8;

void srv_info(struct srv *s, struct ublksrv_ctrl_dev_info *info,
	      const struct ublk_params *params)
{
	struct ublk_params defaults = default_params();
	int res;

	memset(s, 0, sizeof(*s));
	s->cdev = -1;
	s->id = add_info(info);
	if (s->id < 0)
		give_up("ADD_DEV", s->id);
	s->flags = info->flags;
	s->queues = info->nr_hw_queues;
	s->depth = info->queue_depth;
	s->desc_size = info->io_desc_size;
	res = set_params(s->id, params ? params : &defaults);
	if (res)
		give_up("SET_PARAMS", res);
}

void srv_attach(struct srv *s)
{
	int fd = open_cdev(s->id);

	if (fd < 0)
		give_up("open", fd);
	srv_opened(s, fd);
}

void srv_opened(struct srv *s, int cdev)
{
	size_t len = (s->depth * s->desc_size + 4095) & ~4095UL;
	void *p;
	int i;

	s->cdev = cdev;
	p = mmap(NULL, len, PROT_READ, MAP_SHARED, s->cdev, UBLKSRV_CMD_BUF_OFFSET);
	if (p == MAP_FAILED)
		give_up("mmap", -errno);
	s->desc = p;
	s->desc_len = len;
	if (io_uring_queue_init(64, &s->ring, 0))
		give_up("ring", -errno);
	/* children must not keep the file of the commands open */
	madvise(p, len, MADV_DONTFORK);
	io_uring_ring_dontfork(&s->ring);
	if (io_uring_register_buffers_sparse(&s->ring, 16))
		give_up("buffer table", -errno);
	for (i = 0; i < s->depth && i < MAX_DEPTH; i++) {
		if (posix_memalign(&s->buf[i], 4096, IO_BYTES))
			give_up("memory", -ENOMEM);
		memset(s->buf[i], 0x5a, IO_BYTES);
	}
	s->next = 1;
	for (i = 0; i < (int)ARRAY_SIZE(s->res); i++)
		s->res[i] = BLOCKS;
	memset(s->waiting, 0, sizeof(s->waiting));
	memset(s->owned, 0, sizeof(s->owned));
}

/* Close everything, as a server that ends does */
void srv_close(struct srv *s)
{
	int i;

	io_uring_queue_exit(&s->ring);
	munmap((void *)s->desc, s->desc_len);
	close(s->cdev);
	s->cdev = -1;
	for (i = 0; i < s->depth && i < MAX_DEPTH; i++)
		free(s->buf[i]);
}

void srv_open(struct srv *s, __u64 flags, const struct ublk_params *params)
{
	struct ublksrv_ctrl_dev_info info = default_info(flags | UBLK_F_NO_AUTO_PART_SCAN);

	srv_info(s, &info, params);
	srv_attach(s);
}

bool srv_copies(struct srv *s)
{
	return !(s->flags & (UBLK_F_USER_COPY | UBLK_F_SUPPORT_ZERO_COPY |
			     UBLK_F_AUTO_BUF_REG | UBLK_F_FUSED_CMD));
}

__u64 srv_addr(struct srv *s, int tag)
{
	return srv_copies(s) ? (unsigned long)s->buf[tag] : 0;
}

__u64 srv_send_on(struct srv *s, struct io_uring *ring, const struct io *io)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct ublksrv_io_cmd *cmd;
	__u64 ud = s->next++;

	if (!sqe || ud >= ARRAY_SIZE(s->res))
		give_up("too many commands", -ENOSPC);
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = s->cdev;
	sqe->cmd_op = io->op;
	sqe->addr = io->sqe_addr;
	sqe->flags = io->sqe_flags;
	sqe->uring_cmd_flags = io->cmd_flags;
	sqe->user_data = ud;
	cmd = (void *)sqe->cmd;
	cmd->q_id = io->q_id;
	cmd->tag = io->tag;
	cmd->result = io->result;
	cmd->addr = io->addr;
	io_uring_submit(ring);
	return ud;
}

__u64 srv_send(struct srv *s, const struct io *io)
{
	return srv_send_on(s, &s->ring, io);
}

static bool pump(struct srv *s, int ms)
{
	struct __kernel_timespec ts = { .tv_sec = ms / 1000,
					.tv_nsec = ms % 1000 * 1000000LL };
	struct io_uring_cqe *cqe;
	int tag;

	if (io_uring_wait_cqe_timeout(&s->ring, &cqe, &ts))
		return false;
	if (cqe->user_data < ARRAY_SIZE(s->res))
		s->res[cqe->user_data] = cqe->res;
	for (tag = 0; tag < s->depth && tag < MAX_DEPTH; tag++) {
		if (!s->waiting[tag] || s->waiting[tag] != cqe->user_data)
			continue;
		s->waiting[tag] = 0;
		s->owned[tag] = cqe->res >= 0;
	}
	io_uring_cqe_seen(&s->ring, cqe);
	return true;
}

int srv_wait(struct srv *s, __u64 ud, int ms)
{
	/* What is posted already comes first */
	while (s->res[ud] == BLOCKS && pump(s, 0))
		;
	while (s->res[ud] == BLOCKS && ms > 0) {
		if (!pump(s, 10))
			ms -= 10;
	}
	return s->res[ud];
}

/* Commands are refused at once, so a short time is enough */
int srv_do(struct srv *s, const struct io *io)
{
	__u64 ud = srv_send(s, io);
	int res = srv_wait(s, ud, 50);

	if (res == BLOCKS && io->tag < s->depth && !io->q_id) {
		s->waiting[io->tag] = ud;
		s->owned[io->tag] = false;
	}
	return res;
}

void srv_fetch(struct srv *s, int from, int to)
{
	int i;

	for (i = from; i < to; i++) {
		struct io io = {
			.op = UBLK_U_IO_FETCH_REQ,
			.q_id = i / s->depth,
			.tag = i % s->depth,
			.addr = srv_addr(s, i % s->depth),
			.sqe_addr = s->flags & UBLK_F_AUTO_BUF_REG ? i + 1 : 0,
		};
		__u64 ud = srv_send(s, &io);
		int res = srv_wait(s, ud, 0);

		if (res != BLOCKS)
			give_up("FETCH", res);
		if (!io.q_id)
			s->waiting[io.tag] = ud;
	}
}

void srv_start(struct srv *s)
{
	int res = start(s->id, getpid());

	if (res == BLOCKS)
		res = ctrl_pending(10000);
	if (res)
		give_up("START_DEV", res);
}

void srv_live(struct srv *s, __u64 flags, const struct ublk_params *params)
{
	srv_open(s, flags, params);
	srv_fetch(s, 0, s->queues * s->depth);
	srv_start(s);
}

int srv_request(struct srv *s, int ms)
{
	int tag;

	for (;;) {
		for (tag = 0; tag < s->depth; tag++)
			if (s->owned[tag])
				return tag;
		if (ms <= 0)
			return -1;
		if (!pump(s, 10))
			ms -= 10;
	}
}

void srv_commit(struct srv *s, int tag, int result)
{
	struct io io = {
		.op = UBLK_U_IO_COMMIT_AND_FETCH_REQ,
		.tag = tag,
		.result = result,
		.addr = srv_addr(s, tag),
		.sqe_addr = s->flags & UBLK_F_AUTO_BUF_REG ? tag + 1 : 0,
	};
	int res = srv_do(s, &io);

	/* The next request may be there already, or the disk may be gone */
	if (res == -ENODEV)
		s->owned[tag] = false;
	else if (res != BLOCKS && res < 0)
		give_up("COMMIT", res);
}

const struct ublksrv_io_desc *srv_desc(struct srv *s, int tag)
{
	return (const void *)(s->desc + tag * s->desc_size);
}

/* Users of the block device ------------------------------------------------ */

const char *const block_op_name[] = {
	"READ", "WRITE", "WRITE FUA", "FLUSH", "DISCARD", "WRITE_ZEROES",
	"WRITE_ZEROES NOUNMAP", "SECURE_ERASE",
};

static int block_do(int fd, enum block_op op, __u64 sector, unsigned int bytes)
{
	__u64 range[2] = { sector << 9, bytes };
	ssize_t res = -1;
	void *buf;

	if (posix_memalign(&buf, 4096, bytes ? bytes : 4096))
		return -ENOMEM;
	memset(buf, 0xa5, bytes);
	switch (op) {
	case B_READ:
		res = pread(fd, buf, bytes, range[0]);
		break;
	case B_WRITE:
	case B_FUA:
		res = pwrite(fd, buf, bytes, range[0]);
		break;
	case B_FLUSH:
		res = fsync(fd);
		break;
	case B_DISCARD:
		res = ioctl(fd, BLKDISCARD, range);
		break;
	case B_ZEROES:
		res = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				range[0], bytes);
		break;
	case B_ZEROES_NOUNMAP:
		res = fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
				range[0], bytes);
		break;
	case B_SECDISCARD:
		res = ioctl(fd, BLKSECDISCARD, range);
		break;
	}
	return res < 0 ? -errno : (int)res;
}

/* The exit status tells what happened: an errno, or 255 and 254 for lengths */
void block_start(struct blk_io *io, int id, enum block_op op, __u64 sector,
		 unsigned int bytes)
{
	const char *path = str("/dev/ublkb%d", id);
	int flags = O_DIRECT | (op == B_FUA ? O_DSYNC : 0);
	int fd, res;

	io->pid = fork();
	if (io->pid)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/*
	 * This can not be killed while the request is with the server, so it
	 * must not keep the server's files open.
	 */
	close_range(3, ~0U, 0);
	fd = open(path, O_RDWR | flags);
	if (fd < 0 && errno == EACCES)
		fd = open(path, O_RDONLY | flags);
	if (fd < 0)
		_exit(errno);
	res = block_do(fd, op, sector, bytes);
	if (res < 0)
		_exit(-res);
	_exit(!res ? 0 : res == (int)bytes ? 255 : 254);
}

int block_wait(struct blk_io *io, int ms)
{
	int status;

	for (;;) {
		if (waitpid(io->pid, &status, WNOHANG) == io->pid)
			break;
		if (ms <= 0)
			return BLOCKS;
		usleep(5000);
		ms -= 5;
	}
	io->pid = 0;
	if (!WIFEXITED(status))
		return -EINTR;
	status = WEXITSTATUS(status);
	/* 1: all of it, 2: some of it */
	return status == 255 ? 1 : status == 254 ? 2 : -status;
}

void block_kill(struct blk_io *io)
{
	if (io->pid > 0)
		kill(io->pid, SIGKILL);
}
