// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mount.h>
#include "kselftest.h"
#include "fused.h"

const char *device_name(void)
{
	const char *name = getenv("FUSED_DEVICE");

	return name ? name : MOCK_DEVICE;
}

bool is_mock(void)
{
	return !strcmp(device_name(), MOCK_DEVICE);
}

/* A ring has the mock device make files. */
static int create_file(int device)
{
	struct io_uring_mock_create create = {
		.flags = IORING_MOCK_CREATE_F_FUSED,
		.file_size = NR_BUFFERS * BUFFER_LEN,
	};
	struct io_uring_sqe sqe = {
		.opcode = IORING_OP_URING_CMD,
		.fd = device,
		.cmd_op = IORING_MOCK_MGR_CMD_CREATE,
		.addr = (uintptr_t)&create,
		.len = sizeof(create),
	};
	struct io_uring_params p = { };
	struct cqe cqe = { };
	struct ring ring;
	int ret;

	ret = ring_init(&ring, 1, &p);
	if (ret < 0)
		return ret;
	ring_push(&ring, &sqe, false);
	ret = ring_submit(&ring);
	if (ret >= 0)
		ret = ring_wait(&ring, &cqe, TIMEOUT_MS) ? cqe.res : -ETIME;
	ring_exit(&ring);
	return ret < 0 ? ret : (int)create.out_fd;
}

int open_device(void)
{
	int device = open(device_name(), O_RDWR), fd;

	if (device < 0)
		return -errno;
	if (!is_mock())
		return device;
	fd = create_file(device);
	close(device);
	return fd;
}

int mode_ring(const struct mode *mode, struct ring *r, unsigned int entries)
{
	struct io_uring_params p = {
		.flags = mode->ring_flags,
		.sq_thread_idle = 50,
	};

	return ring_init(r, entries, &p);
}

void group_init(struct group *g, struct ring *r, const struct mode *mode, int dev,
		unsigned int op, unsigned int flags, unsigned int len)
{
	struct io_uring_mock_fused *cmd = group_cmd(g);

	memset(g, 0, sizeof(*g));
	g->ring = r;
	g->mode = mode;
	g->primary->opcode = IORING_OP_FUSED_CMD;
	g->primary->fd = dev;
	g->primary->cmd_op = op;
	g->primary->user_data = UD_PRIMARY;
	if (op == OP_LEND || op == OP_KEEP || op == OP_LEND_MEMORY || op == OP_LEND_PARTS)
		g->primary->uring_cmd_flags = IORING_FUSED_CMD_BUF;
	cmd->flags = flags | (mode->blocking ? LEND_BLOCKING : 0);
	cmd->len = len;
}

struct io_uring_mock_fused *group_cmd(struct group *g)
{
	return (struct io_uring_mock_fused *)g->primary->cmd;
}

struct io_uring_sqe *group_add(struct group *g, int op, int fd, __u64 addr,
			       __u32 len, __u64 off)
{
	struct io_uring_sqe *sqe = g->secondary[g->nr];

	memset(sqe, 0, 2 * sizeof(*sqe));
	sqe->opcode = op;
	sqe->flags = g->mode->secondary_flags;
	sqe->fd = fd;
	sqe->addr = addr;
	sqe->len = len;
	sqe->off = off;
	sqe->user_data = g->nr++;
	return sqe;
}

struct io_uring_sqe *group_add_cmd(struct group *g, int fd, __u32 result)
{
	struct io_uring_sqe *sqe = group_add(g, IORING_OP_URING_CMD, fd, 0, 0, 0);

	sqe->cmd_op = OP_RESULT;
	sqe->uring_cmd_flags = IORING_URING_CMD_FIXED;
	((struct io_uring_mock_fused *)sqe->cmd)->arg = result;
	return sqe;
}

struct io_uring_sqe *group_add_nop(struct group *g, __u32 result)
{
	struct io_uring_sqe *sqe = group_add(g, IORING_OP_NOP, -1, 0, result, 0);

	sqe->nop_flags = IORING_NOP_INJECT_RESULT;
	return sqe;
}

struct io_uring_sqe *group_lead(struct group *g, struct ring *r, const struct mode *mode,
				int op, int fd, __u64 addr, __u32 len, __u64 off)
{
	memset(g, 0, sizeof(*g));
	g->ring = r;
	g->mode = mode;
	g->primary->opcode = op;
	g->primary->flags = IOSQE_SQE_GROUP;
	g->primary->fd = fd;
	g->primary->addr = addr;
	g->primary->len = len;
	g->primary->off = off;
	g->primary->user_data = UD_PRIMARY;
	return g->primary;
}

void group_lead_cmd(struct group *g, struct ring *r, const struct mode *mode, int dev,
		    unsigned int op, unsigned int flags, unsigned int len)
{
	group_init(g, r, mode, dev, op, flags, len);
	g->primary->opcode = IORING_OP_URING_CMD;
	g->primary->flags = IOSQE_SQE_GROUP;
	g->primary->uring_cmd_flags = 0;
}

static bool is_sqe_group(const struct group *g)
{
	return g->primary->flags & IOSQE_SQE_GROUP;
}

void group_push(struct group *g)
{
	bool sqe128 = g->ring->p.flags & IORING_SETUP_SQE128;
	int i;

	if (!is_sqe_group(g) && g->mode->inline_form && g->nr == 1) {
		g->primary->uring_cmd_flags |= IORING_FUSED_CMD_INLINE;
		g->primary[1] = *g->secondary[0];
		ring_push(g->ring, g->primary, true);
		return;
	}
	if (!is_sqe_group(g))
		g->primary->nr_secondary = g->nr;
	for (i = 0; is_sqe_group(g) && i < g->nr - 1; i++)
		g->secondary[i]->flags |= IOSQE_SQE_GROUP;
	ring_push(g->ring, g->primary, sqe128);
	for (i = 0; i < g->nr; i++)
		ring_push(g->ring, g->secondary[i], sqe128);
}

void push_sqe(struct ring *r, const struct io_uring_sqe *sqe)
{
	ring_push(r, sqe, r->p.flags & IORING_SETUP_SQE128);
}

void push_nop(struct ring *r, __u64 user_data, unsigned int flags)
{
	struct io_uring_sqe sqe[2] = { {
		.opcode = IORING_OP_NOP,
		.flags = flags,
		.user_data = user_data,
	} };

	push_sqe(r, sqe);
}

int log_index(const struct log *log, __u64 user_data)
{
	int i;

	for (i = 0; i < log->nr; i++)
		if (log->cqe[i].user_data == user_data)
			return i;
	return -1;
}

int log_res(const struct log *log, __u64 user_data)
{
	int i = log_index(log, user_data);

	return i < 0 ? NO_CQE : log->cqe[i].res;
}

bool canceled(int res)
{
	return res == -ECANCELED || res == -EINTR;
}

static bool log_one(struct log *log, struct ring *r, int ms)
{
	if (log->nr == ARRAY_SIZE(log->cqe) ||
	    !ring_wait(r, &log->cqe[log->nr], ms))
		return false;
	log->nr++;
	return true;
}

int log_until(struct log *log, struct ring *r, __u64 user_data)
{
	long end = now_ms() + TIMEOUT_MS;

	/* what only the time-out brings came to a task that was not woken */
	while (log_index(log, user_data) < 0)
		if (!log_one(log, r, end - now_ms()) || now_ms() >= end)
			return NO_CQE;
	return log_res(log, user_data);
}

void log_rest(struct log *log, struct ring *r, int ms)
{
	while (log_one(log, r, ms))
		;
}

int cancel_one(struct log *log, struct ring *r, __u64 user_data)
{
	long end = now_ms() + TIMEOUT_MS;
	int ret;

	while ((ret = ring_cancel(r, user_data, -1, 0)) == -ENOENT && now_ms() < end)
		log_rest(log, r, 1);
	return ret;
}

int cancel_all(struct log *log, struct ring *r, __u64 user_data)
{
	long end = now_ms() + TIMEOUT_MS;
	int ret;

	do {
		ret = ring_cancel(r, 0, -1, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
		if (ret < 0)
			return ret;
		log_rest(log, r, 10);
	} while (log_index(log, user_data) < 0 && now_ms() < end);
	return log_res(log, user_data);
}

static const char *__printf(1, 2) says(const char *fmt, ...)
{
	static char text[200];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	return text;
}

const char *group_check(struct group *g, struct log *log, int primary_res, int nr,
			const int *want)
{
	int i, res, nr_cqes = 1;

	if (log_until(log, g->ring, UD_PRIMARY) == NO_CQE)
		return says("no CQE of the primary, %d others", log->nr);

	/* nothing may come behind it */
	push_nop(g->ring, UD_SENTINEL, 0);
	if (ring_submit(g->ring) < 0)
		return says("cannot submit a NOP");
	if (log_until(log, g->ring, UD_SENTINEL) == NO_CQE)
		return says("no CQE of the NOP");

	for (i = 0; i < nr; i++) {
		res = log_res(log, i);
		if (res != want[i])
			return says("secondary %d posts %d, should be %d", i, res, want[i]);
		nr_cqes += res != NO_CQE;
	}
	for (i = 0; i < log->nr; i++) {
		if (log->cqe[i].extra[0] || log->cqe[i].extra[1])
			return says("CQE %d has extra data", i);
		/* the notification of a SEND_ZC that was never issued comes any time */
		if (log->cqe[i].flags & IORING_CQE_F_NOTIF && primary_res < 0) {
			memmove(&log->cqe[i], &log->cqe[i + 1],
				(log->nr - i - 1) * sizeof(log->cqe[0]));
			log->nr--;
			i--;
		}
	}
	res = log_res(log, UD_PRIMARY);
	if (res != primary_res)
		return says("the primary posts %d, should be %d", res, primary_res);
	if (log->nr != nr_cqes + 1)
		return says("%d CQEs, should be %d", log->nr - 1, nr_cqes);
	if (log->cqe[nr_cqes - 1].user_data != UD_PRIMARY)
		return says("the primary's CQE is not the last");
	return NULL;
}

const char *group_run(struct group *g, int primary_res, int nr, const int *want)
{
	struct log log = { .nr = 0 };
	unsigned int head;
	int ret;

	group_push(g);
	ret = ring_submit(g->ring);
	if (ret < 0)
		return says("io_uring_enter() fails with %d", ret);
	head = __atomic_load_n(g->ring->sq_head, __ATOMIC_ACQUIRE);
	if (head != g->ring->tail)
		return says("%d SQEs are left", g->ring->tail - head);
	return group_check(g, &log, primary_res, nr, want);
}

int group_alone(struct group *g, void *buf, int i)
{
	struct io_uring_sqe sqe[2];
	struct log log = { .nr = 0 };

	memcpy(sqe, g->secondary[i], sizeof(sqe));
	if (sqe->opcode != IORING_OP_URING_CMD)
		sqe->addr += (uintptr_t)buf;
	ring_push(g->ring, sqe, g->ring->p.flags & IORING_SETUP_SQE128);
	if (ring_submit(g->ring) < 0 || log_until(&log, g->ring, i) == NO_CQE)
		return NO_CQE;
	if (log.cqe[log_index(&log, i)].flags & IORING_CQE_F_MORE)
		log_until(&log, g->ring, UD_OTHER);
	return log_res(&log, i);
}

int put_file(const char *path, const void *data, size_t len)
{
	int fd = open(path, O_WRONLY);
	ssize_t ret = write(fd, data, len);

	close(fd);
	return ret == (ssize_t)len ? 0 : -1;
}

int private_dir(const char *dir)
{
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return -1;
	return mount("tmpfs", dir, "tmpfs", 0, NULL);
}

unsigned char pattern(unsigned int seed, size_t i)
{
	return (i * 7 + (i >> 9) * 13 + seed * 31 + 1) & 0xff;
}

void fill(void *buf, unsigned int seed, size_t from, size_t len)
{
	unsigned char *p = buf;

	while (len--)
		*p++ = pattern(seed, from++);
}

bool is_pattern(const void *buf, unsigned int seed, size_t from, size_t len)
{
	const unsigned char *p = buf;

	while (len--)
		if (*p++ != pattern(seed, from++))
			return false;
	return true;
}

bool all_are(const void *buf, int byte, size_t len)
{
	const unsigned char *p = buf;

	while (len--)
		if (*p++ != byte)
			return false;
	return true;
}
