// SPDX-License-Identifier: GPL-2.0
/*
 * All kinds of secondaries, and the ways in which they come to their end
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include "kselftest.h"
#include "sockets.h"
#include "ways.h"

/* QEMU's, see fused_nvme.c; its reads end in an interrupt */
#define DISK	"/dev/nvme0n1"

static bool open_memfd(int fd[2], unsigned char *buf)
{
	fd[0] = memfd_create("wake", 0);
	fd[1] = -1;
	return write(fd[0], buf, WAY_LEN) == WAY_LEN;
}

static bool open_disk(int fd[2], unsigned char *buf)
{
	fd[0] = open(DISK, O_RDONLY | O_DIRECT);
	fd[1] = -1;
	return fd[0] >= 0;
}

static bool open_pipe(int fd[2], unsigned char *buf)
{
	return !pipe(fd);
}

static bool open_full_pipe(int fd[2], unsigned char *buf)
{
	int both[2];

	if (pipe(both))
		return false;
	fd[0] = both[1];
	fd[1] = both[0];
	fcntl(fd[0], F_SETPIPE_SZ, 4096);
	fcntl(fd[0], F_SETFL, O_NONBLOCK);
	while (write(fd[0], buf, 4096) > 0)
		;
	fcntl(fd[0], F_SETFL, 0);
	return true;
}

static bool open_tcp(int fd[2], unsigned char *buf)
{
	return !tcp_pair(fd);
}

static bool open_tcp_with_data(int fd[2], unsigned char *buf)
{
	return !tcp_pair(fd) && write(fd[1], buf, WAY_LEN) == WAY_LEN;
}

static bool open_stuck_tcp(int fd[2], unsigned char *buf)
{
	return !stuck_tcp_pair(fd);
}

static bool open_full_unix(int fd[2], unsigned char *buf)
{
	int small = 4096;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fd))
		return false;
	setsockopt(fd[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	while (send(fd[0], buf, 512, MSG_DONTWAIT) > 0)
		;
	return true;
}

static void feed(int fd[2])
{
	unsigned char data[WAY_LEN] = { 1 };

	if (write(fd[1], data, WAY_LEN) != WAY_LEN)
		ksft_print_msg("no data for a secondary\n");
}

static void drain(int fd[2])
{
	static unsigned char data[1 << 20];

	fcntl(fd[1], F_SETFL, O_NONBLOCK);
	while (read(fd[1], data, sizeof(data)) > 0)
		;
}

static void reset(int fd[2])
{
	reset_by(fd[1]);
	fd[1] = -1;
}

const struct way ways[] = {
	{ "read", IORING_OP_READ, true, 1, false, open_memfd },
	{ "read fixed", IORING_OP_READ_FIXED, true, 1, false, open_memfd },
	{ "readv", IORING_OP_READV, true, 1, false, open_memfd },
	{ "readv of a pipe, later", IORING_OP_READV_FIXED, true, 1, false, open_pipe, feed },
	{ "read of a disk", IORING_OP_READ, true, 1, false, open_disk },
	{ "read of a pipe, later", IORING_OP_READ, true, 1, false, open_pipe, feed },
	{ "write", IORING_OP_WRITE, false, 1, false, open_memfd },
	{ "writev", IORING_OP_WRITEV, false, 1, false, open_memfd },
	{ "write to a pipe, later", IORING_OP_WRITE, false, 1, false, open_full_pipe, drain },
	{ "recv", IORING_OP_RECV, true, 1, false, open_tcp_with_data },
	{ "recv, later", IORING_OP_RECV, true, 1, false, open_tcp, feed },
	{ "send", IORING_OP_SEND, false, 1, false, open_tcp },
	{ "send, later", IORING_OP_SEND, false, 1, false, open_full_unix, drain },
	{ "send zc", IORING_OP_SEND_ZC, false, 2, true, open_tcp },
	{ "send zc, notification later", IORING_OP_SEND_ZC, false, 2, true,
	  open_stuck_tcp, reset },
	{ "command", IORING_OP_URING_CMD, true, 1, false, open_memfd },
	{ }
};

bool way_is_fine(const struct way *way, int res)
{
	return res >= 0 || (way->opcode == IORING_OP_SEND_ZC && way->later);
}

int gate_open(struct pending *p)
{
	return pipe(p->gate);
}

void gate_close(struct pending *p)
{
	close(p->gate[0]);
	close(p->gate[1]);
	p->gate[0] = 0;
	p->gate[1] = 0;
}

bool way_open(struct pending *p, unsigned char *buf)
{
	for (p->opened = 0; p->opened < p->nr; p->opened++)
		if (!p->way->open(p->fd[p->opened], buf))
			return false;
	return true;
}

void way_close(struct pending *p)
{
	while (p->opened > 0) {
		int *fd = p->fd[--p->opened];

		close(fd[0]);
		if (fd[1] >= 0)
			close(fd[1]);
	}
}

bool way_next(struct pending *p, unsigned char *buf)
{
	if (p->way)
		way_close(p);
	for (p->way = p->way ? p->way + 1 : ways; p->way->name; p->way++) {
		if (way_open(p, buf))
			return true;
		way_close(p);
	}
	p->way = NULL;
	return false;
}

void way_add(struct pending *p, struct group *g, int dev, bool skip)
{
	/* two pieces for each secondary; who leases a buffer reads the array at once */
	static const struct iovec vec[WAY_MOST][2] = {
		{ { (void *)100, WAY_LEN - 100 }, { NULL, 100 } },
		{ { (void *)WAY_LEN, 1 }, { (void *)WAY_LEN + 1, WAY_LEN - 1 } },
	};
	struct io_uring_sqe *sqe;
	int i;

	for (i = 0; i < p->nr; i++) {
		if (p->way->opcode == IORING_OP_URING_CMD)
			sqe = group_add_cmd(g, dev, 0);
		else if (p->way->opcode == IORING_OP_READV || p->way->opcode == IORING_OP_WRITEV ||
			 p->way->opcode == IORING_OP_READV_FIXED)
			sqe = group_add(g, p->way->opcode, p->fd[i][0], (uintptr_t)vec[i], 2, 0);
		else
			sqe = group_add(g, p->way->opcode, p->fd[i][0], i * WAY_LEN,
					WAY_LEN, 0);
		if (skip)
			sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
	}
}

/* Is the task asleep in io_uring_enter()? */
static bool sleeps(pid_t tid)
{
	char path[64], text[512] = "", *state;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return false;
	if (read(fd, text, sizeof(text) - 1) < 0)
		text[0] = 0;
	close(fd);
	state = strrchr(text, ')');
	return state && state[1] == ' ' && state[2] == 'S';
}

static void when_asleep(pid_t tid)
{
	while (!sleeps(tid))
		usleep(1000);
	/* a worker or the SQPOLL thread may still be on its way */
	usleep(5000);
}

static void *end_later(void *arg)
{
	struct pending *p = arg;
	int i;

	if (p->gate[1]) {
		when_asleep(p->tid);
		if (write(p->gate[1], "x", 1) != 1)
			ksft_print_msg("cannot open the gate\n");
	}
	for (i = 0; i < p->nr && p->way->later; i++) {
		when_asleep(p->tid);
		p->way->later(p->fd[i]);
	}
	return NULL;
}

int way_wait(struct pending *p, struct ring *r, unsigned int nr_cqes)
{
	pthread_t thread;
	int ret;

	p->tid = gettid();
	if (pthread_create(&thread, NULL, end_later, p))
		return -1;
	ret = ring_submit_and_wait(r, nr_cqes);
	pthread_join(thread, NULL);
	return ret;
}
