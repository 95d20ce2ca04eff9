// SPDX-License-Identifier: GPL-2.0
/* fused_cmd_errors: reads and writes of the block device. */
#include "fused_errors.h"

void *block_io_fn(void *arg)
{
	struct block_io *io = arg;
	int fd = open(io->path, O_RDWR | O_DIRECT);
	/* do not start at a page, the bvec table should not either */
	void *buf = io->buf + 512;
	ssize_t res = -1;

	if (fd >= 0 && io->op == UBLK_IO_OP_READ)
		res = pread(fd, buf, LEN, OFFSET);
	else if (fd >= 0 && io->op == UBLK_IO_OP_WRITE)
		res = pwrite(fd, buf, LEN, OFFSET);
	else if (fd >= 0)
		res = fsync(fd);
	io->res = res < 0 ? -errno : (int)res;
	if (fd >= 0)
		close(fd);
	__atomic_store_n(&io->done, 1, __ATOMIC_RELEASE);
	return NULL;
}

unsigned char *block_buf(struct server *s)
{
	return s->io.buf + 512;
}

bool block_io_done(struct server *s, __u64 unused)
{
	return __atomic_load_n(&s->io.done, __ATOMIC_ACQUIRE);
}

bool request_arrived(struct server *s, __u64 unused)
{
	return s->got >= 0 || block_io_done(s, 0);
}

bool wait_block_io(struct server *s, int ms)
{
	return pump_until(s, block_io_done, 0, ms);
}

/* Start it and wait until the server owns the request: its tag */
int block_io_start(struct server *s, int op)
{
	s->io.op = op;
	s->io.done = 0;
	s->io.used = true;
	s->want_op = op;
	s->got = -1;
	if (op == UBLK_IO_OP_WRITE)
		fill(block_buf(s), 1, 0, LEN);
	else
		memset(block_buf(s), 0xee, LEN);
	if (pthread_create(&s->io.thread, NULL, block_io_fn, &s->io))
		FATAL("no thread");
	if (!pump_until(s, request_arrived, 0, TIMEOUT_MS) || s->got < 0)
		FATAL("the request does not arrive (%d)", s->io.res);
	return s->got;
}

/* Complete the request and wait for its reader or writer: what that one got */
int block_io_finish(struct server *s, int res)
{
	if (!s->io.used)
		return 0;
	if (s->got >= 0 && s->tag[s->got] == TAG_OWNED)
		commit(s, s->got, res);
	if (!wait_block_io(s, TIMEOUT_MS))
		FATAL("the request does not end");
	pthread_join(s->io.thread, NULL);
	s->io.used = false;
	s->want_op = -1;
	s->got = -1;
	return s->io.res;
}
