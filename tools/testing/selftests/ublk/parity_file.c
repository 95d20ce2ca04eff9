// SPDX-License-Identifier: GPL-2.0
/* parity: the character devices as files: open, mmap, read, write and others. */
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/wait.h>
#include "parity.h"

static int err(long res)
{
	return res < 0 ? -errno : (int)res;
}

/* Run @fn in a child, which returns less than 200 or a negative error */
static int in_child(int (*fn)(void *arg), void *arg)
{
	pid_t pid = fork();
	int status, res;

	if (!pid) {
		res = fn(arg);
		_exit(res < 0 ? -res : 200);
	}
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return -EINTR;
	status = WEXITSTATUS(status);
	return status == 200 ? 0 : -status;
}

static int open_fn(void *arg)
{
	return open_cdev(*(int *)arg);
}

static void opens(const void *arg)
{
	static const struct {
		const char *name;
		int flags;
	} how[] = {
		{ "O_RDWR", O_RDWR }, { "O_RDONLY", O_RDONLY }, { "O_WRONLY", O_WRONLY },
		{ "O_RDWR O_EXCL", O_RDWR | O_EXCL }, { "O_NONBLOCK", O_RDWR | O_NONBLOCK },
		{ "O_TRUNC", O_RDWR | O_TRUNC }, { "O_APPEND", O_RDWR | O_APPEND },
		{ "O_DIRECT", O_RDWR | O_DIRECT }, { "O_PATH", O_PATH },
		{ "O_DIRECTORY", O_RDONLY | O_DIRECTORY }, { "O_CREAT", O_RDWR | O_CREAT },
	};
	int id = add(0), fd, other;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(how); i++) {
		fd = err(open(str("/dev/ublkc%d", id), how[i].flags, 0600));
		put("added", "open", how[i].name, "%s", fd < 0 ? res_name(fd) : "0");
		if (fd >= 0)
			close(fd);
		wait_closed(id);
	}
	fd = open_cdev(id);
	other = open_cdev(id);
	put("open", "open", "again", "%s", other < 0 ? res_name(other) : "0");
	put("open", "open", "another process", "%s", res_name(in_child(open_fn, &id)));
	put("open", "DEL_DEV_ASYNC", "", "%s",
	    res_name(ctrl_simple(id, UBLK_U_CMD_DEL_DEV_ASYNC, NULL, 0, 0)));
	put("deleted, open", "open", "by path", "%s", res_name(in_child(open_fn, &id)));
	close(fd);
	/* the control device */
	for (i = 0; i < ARRAY_SIZE(how); i++) {
		fd = err(open("/dev/ublk-control", how[i].flags, 0600));
		put("control", "open", how[i].name, "%s", fd < 0 ? res_name(fd) : "0");
		if (fd >= 0)
			close(fd);
	}
}

/* All that can be done with a file and makes no sense here */
static void odd_calls(const char *state, int fd)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN | POLLOUT };
	int fds[2], null = open("/dev/zero", O_RDWR);
	char buf[64] = "";

	put(state, "read", "", "%s", res_name(err(read(fd, buf, 64))));
	put(state, "write", "", "%s", res_name(err(write(fd, buf, 64))));
	put(state, "read", "nothing", "%s", res_name(err(read(fd, buf, 0))));
	put(state, "write", "nothing", "%s", res_name(err(write(fd, buf, 0))));
	put(state, "lseek", "SET", "%s", res_name(err(lseek(fd, 4096, SEEK_SET))));
	put(state, "lseek", "END", "%s", res_name(err(lseek(fd, 0, SEEK_END))));
	put(state, "lseek", "DATA", "%s", res_name(err(lseek(fd, 0, SEEK_DATA))));
	put(state, "lseek", "far", "%s", lseek(fd, 1ULL << 40, SEEK_SET) < 0 ?
	    res_name(-errno) : "done");
	put(state, "pread", "at 0", "%s", res_name(err(pread(fd, buf, 64, 0))));
	put(state, "pwrite", "at 0", "%s", res_name(err(pwrite(fd, buf, 64, 0))));
	put(state, "ioctl", "unknown", "%s", res_name(err(ioctl(fd, _IO('u', 1), buf))));
	put(state, "ioctl", "GET_FEATURES", "%s",
	    res_name(err(ioctl(fd, UBLK_U_CMD_GET_FEATURES, buf))));
	put(state, "ioctl", "FETCH", "%s",
	    res_name(err(ioctl(fd, UBLK_U_IO_FETCH_REQ, buf))));
	put(state, "fsync", "", "%s", res_name(err(fsync(fd))));
	put(state, "ftruncate", "", "%s", res_name(err(ftruncate(fd, 0))));
	put(state, "fallocate", "", "%s", res_name(err(fallocate(fd, 0, 0, 4096))));
	put(state, "poll", "", "%s %x", res_name(err(poll(&poll_fd, 1, 0))),
	    poll_fd.revents);
	put(state, "fcntl", "O_NONBLOCK", "%s", res_name(err(fcntl(fd, F_SETFL, O_NONBLOCK))));
	put(state, "fcntl", "O_ASYNC", "%s", res_name(err(fcntl(fd, F_SETFL, O_ASYNC))));
	put(state, "fcntl", "F_SETLEASE", "%s", res_name(err(fcntl(fd, F_SETLEASE, F_WRLCK))));
	put(state, "fcntl", "F_GETPIPE_SZ", "%s", res_name(err(fcntl(fd, F_GETPIPE_SZ))));
	put(state, "sendfile", "from it", "%s", res_name(err(sendfile(null, fd, NULL, 64))));
	put(state, "sendfile", "to it", "%s", res_name(err(sendfile(fd, null, NULL, 64))));
	if (!pipe(fds)) {
		loff_t off = UBLKSRV_IO_BUF_OFFSET;

		put(state, "splice", "from it", "%s",
		    res_name(err(splice(fd, &off, fds[1], NULL, 64, 0))));
		if (write(fds[1], buf, 64) == 64)
			put(state, "splice", "to it", "%s",
			    res_name(err(splice(fds[0], NULL, fd, &off, 64, 0))));
	}
	put(state, "copy_file_range", "", "%s",
	    res_name(err(copy_file_range(fd, NULL, null, NULL, 64, 0))));
}

static void odd_files(const void *arg)
{
	struct srv s;
	int fd = open("/dev/ublk-control", O_RDWR);

	odd_calls("control", fd);
	put("control", "mmap", "", "%s", mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) ==
	    MAP_FAILED ? res_name(-errno) : "0");
	srv_open(&s, 0, NULL);
	odd_calls("copy, open", s.cdev);
	srv_fetch(&s, 0, DEPTH);
	srv_start(&s);
	odd_calls("copy, live", s.cdev);
	srv_live(&s, UBLK_F_USER_COPY, NULL);
	odd_calls("user copy, live", s.cdev);
}

/* mmap() ------------------------------------------------------------------- */

struct map_arg {
	int fd;
	unsigned long off;
	size_t len;
	int prot, flags;
};

static int map_fn(void *arg)
{
	struct map_arg *a = arg;
	void *p = mmap(NULL, a->len, a->prot, a->flags, a->fd, a->off);
	char c;

	if (p == MAP_FAILED)
		return -errno;
	/* touch it */
	if (a->prot & PROT_READ)
		memcpy(&c, p, 1);
	__asm__ volatile("" : : "r" (&c) : "memory");
	munmap(p, a->len);
	return 0;
}

static void map_case(const char *state, const char *what, struct map_arg a)
{
	put(state, "mmap", what, "%s", res_name(map_fn(&a)));
}

static const char *thread_state;

static void *map_thread(void *arg)
{
	struct map_arg *a = arg;

	put(thread_state, "mmap", "another thread", "%s", res_name(map_fn(a)));
	return NULL;
}

static void maps(const void *arg)
{
	const struct ublksrv_ctrl_dev_info *shape = arg;
	const unsigned int size = shape->flags & UBLK_F_IO_DESC_SIZE ? shape->io_desc_size : 24;
	const size_t len = (shape->queue_depth * size + 4095) & ~4095UL;
	const unsigned long far = (4096UL * size + 4095) & ~4095UL;
	const char *state = str("depth %u of %u", shape->queue_depth, size);
	struct ublksrv_ctrl_dev_info info = *shape;
	struct map_arg good = { .len = len, .prot = PROT_READ, .flags = MAP_SHARED };
	struct map_arg a;
	static const char zeroes[64];
	pthread_t thread;
	char *p;
	int id = add_info(&info), fd;

	if (id < 0)
		give_up("ADD_DEV", id);
	good.fd = open_cdev(id);

	/* who maps first owns it, also when it fails */
	map_case(state, "queue 0", good);
	put(state, "mmap", "another process", "%s", res_name(in_child(map_fn, &good)));
	thread_state = state;
	if (!pthread_create(&thread, NULL, map_thread, &good))
		pthread_join(thread, NULL);
	map_case(state, "once more", good);

#define MAP(what, ...) do {			\
	a = good;				\
	__VA_ARGS__;				\
	map_case(state, what, a);		\
} while (0)
	MAP("queue 1", a.off = far);
	MAP("queue 2", a.off = 2 * far);
	MAP("queue 65536", a.off = 65536 * far);
	MAP("offset 2^31", a.off = 1UL << 31);
	MAP("offset 2^62", a.off = 1UL << 62);
	MAP("offset 2^63", a.off = 1UL << 63);
	MAP("second page of queue 0", a.off = 4096);
	MAP("last page of queue 0", a.off = far - 4096);
	MAP("last page of queue 1", a.off = 2 * far - 4096);
	MAP("a page less", a.len = len - 4096);
	MAP("a page more", a.len = len + 4096);
	MAP("room for 4096", a.len = far);
	MAP("both queues", a.len = 2 * far);
	MAP("not whole pages", a.len = len - 100);
	MAP("PROT_WRITE", a.prot = PROT_WRITE);
	MAP("PROT_READ and WRITE", a.prot = PROT_READ | PROT_WRITE);
	MAP("PROT_NONE", a.prot = PROT_NONE);
	MAP("PROT_EXEC", a.prot = PROT_READ | PROT_EXEC);
	MAP("private", a.flags = MAP_PRIVATE);
	MAP("private, to write", a.flags = MAP_PRIVATE, a.prot = PROT_READ | PROT_WRITE);
	MAP("bad offset and PROT_WRITE", a.off = 2 * far, a.prot = PROT_WRITE);
	MAP("bad length and PROT_WRITE", a.len = 4096 + len, a.prot = PROT_WRITE);
	MAP("MAP_SYNC", a.flags = MAP_SHARED_VALIDATE | MAP_SYNC);
	MAP("MAP_POPULATE", a.flags = MAP_SHARED | MAP_POPULATE);
	MAP("MAP_LOCKED", a.flags = MAP_SHARED | MAP_LOCKED);

	p = mmap(NULL, len, PROT_READ, MAP_SHARED, good.fd, 0);
	if (p == MAP_FAILED)
		return;
	put(state, "mprotect", "PROT_WRITE", "%s",
	    res_name(err(mprotect(p, len, PROT_READ | PROT_WRITE))));
	put(state, "mprotect", "PROT_EXEC", "%s",
	    res_name(err(mprotect(p, len, PROT_READ | PROT_EXEC))));
	put(state, "madvise", "DOFORK", "%s", res_name(err(madvise(p, len, MADV_DOFORK))));
	put(state, "madvise", "DODUMP", "%s", res_name(err(madvise(p, len, MADV_DODUMP))));
	put(state, "madvise", "HUGEPAGE", "%s", res_name(err(madvise(p, len, MADV_HUGEPAGE))));
	put(state, "mlock", "", "%s", res_name(err(mlock(p, len))));
	put(state, "msync", "", "%s", res_name(err(msync(p, len, MS_SYNC))));
	put(state, "mremap", "larger", "%s",
	    mremap(p, len, 2 * len, MREMAP_MAYMOVE) == MAP_FAILED ? res_name(-errno) : "0");
	put(state, "mincore", "", "%s", res_name(err(mincore(p, 4096, (void *)&a))));
	/* its first 64 bytes, there was no request */
	put(state, "content", "", "%d", memcmp(p, zeroes, 64));
	fd = memfd_create("parity", 0);
	put(state, "write", "from the mapping", "%s", res_name(err(write(fd, p, 4096))));
	/* a mapping that lost its pages would never get them back */
	put(state, "madvise", "DONTNEED", "%s", res_name(err(madvise(p, len, MADV_DONTNEED))));
	put(state, "write", "from the mapping, after DONTNEED", "%s",
	    res_name(err(write(fd, p, 4096))));
	put(state, "madvise", "REMOVE", "%s", res_name(err(madvise(p, len, MADV_REMOVE))));
	close(fd);
	if (mremap(p, len, len, MREMAP_MAYMOVE) != MAP_FAILED)
		munmap(p, len);

	/* the next server */
	close(good.fd);
	wait_closed(id);
	good.fd = open_cdev(id);
	put(state, "mmap", "first by a child", "%s", res_name(in_child(map_fn, &good)));
	map_case(state, "then by the server", good);
	close(good.fd);
	wait_closed(id);
	good.fd = open_cdev(id);
	a = good;
	a.prot = PROT_WRITE;
	put(state, "mmap", "first by a child, to write", "%s",
	    res_name(in_child(map_fn, &a)));
	map_case(state, "then by the server as well", good);
	ctrl_simple(id, UBLK_U_CMD_DEL_DEV_ASYNC, NULL, 0, 0);
	map_case(state, "deleted", good);
	close(good.fd);
}

/* pread() and pwrite() ----------------------------------------------------- */

#define AT(q, tag, off)	(UBLKSRV_IO_BUF_OFFSET + ((__u64)(q) << UBLK_QID_OFF) + \
			 ((__u64)(tag) << UBLK_TAG_OFF) + (off))

/* Copy without user memory: a registered buffer of io_uring */
static int fixed(struct srv *s, bool write, unsigned int len, __u64 pos)
{
	struct iovec iov = { .iov_base = s->buf[0], .iov_len = IO_BYTES };
	struct io_uring_sqe *sqe;
	__u64 ud = s->next++;

	if (io_uring_register_buffers_update_tag(&s->ring, 15, &iov, NULL, 1) < 0)
		return -ENXIO;
	sqe = io_uring_get_sqe(&s->ring);
	if (write)
		io_uring_prep_write_fixed(sqe, s->cdev, s->buf[0], len, pos, 15);
	else
		io_uring_prep_read_fixed(sqe, s->cdev, s->buf[0], len, pos, 15);
	sqe->user_data = ud;
	io_uring_submit(&s->ring);
	return srv_wait(s, ud, 2000);
}

static int plain(struct srv *s, bool write, unsigned int len, __u64 pos, bool async)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&s->ring);
	__u64 ud = s->next++;

	if (write)
		io_uring_prep_write(sqe, s->cdev, s->buf[0], len, pos);
	else
		io_uring_prep_read(sqe, s->cdev, s->buf[0], len, pos);
	sqe->user_data = ud;
	sqe->flags = async ? IOSQE_ASYNC : 0;
	io_uring_submit(&s->ring);
	return srv_wait(s, ud, 2000);
}

static void copy_cases(const char *state, struct srv *s, int own)
{
	const struct {
		const char *name;
		__u64 pos;
		unsigned int len;
	} at[] = {
		{ "all", AT(0, own, 0), 8192 }, { "half", AT(0, own, 4096), 4096 },
		{ "too much", AT(0, own, 4096), 8192 }, { "nothing", AT(0, own, 0), 0 },
		{ "100 bytes at 77", AT(0, own, 77), 100 },
		{ "1 byte at the end", AT(0, own, 8191), 1 },
		{ "from the end", AT(0, own, 8192), 512 },
		{ "behind the end", AT(0, own, 8193), 512 },
		{ "last offset", AT(0, own, (1 << 25) - 1), 512 },
		{ "other tag", AT(0, !own, 0), 4096 }, { "tag = depth", AT(0, DEPTH, 0), 4096 },
		{ "tag 65535", AT(0, 65535, 0), 4096 }, { "queue 1", AT(1, own, 0), 4096 },
		{ "queue 4095", AT(4095, own, 0), 4096 },
		{ "queue 4096", AT(4096, own, 0), 4096 },
		{ "integrity", AT(0, own, 0) | 1ULL << 62, 4096 },
		{ "integrity, queue 1", AT(1, own, 0) | 1ULL << 62, 4096 },
		{ "below all buffers", 0, 4096 }, { "at 4096", 4096, 4096 },
		{ "2^53", 1ULL << 53, 4096 },
	};
	char buf[16384] = "";
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(at); i++) {
		put(state, "pread", at[i].name, "%s",
		    res_name(err(pread(s->cdev, buf, at[i].len, at[i].pos))));
		put(state, "pwrite", at[i].name, "%s",
		    res_name(err(pwrite(s->cdev, buf, at[i].len, at[i].pos))));
	}
	put(state, "pread", "bad buffer", "%s",
	    res_name(err(pread(s->cdev, BAD_ADDR, 4096, AT(0, own, 0)))));
	put(state, "pwrite", "bad buffer", "%s",
	    res_name(err(pwrite(s->cdev, BAD_ADDR, 4096, AT(0, own, 0)))));
	put(state, "pread", "negative offset", "%s",
	    res_name(err(pread(s->cdev, buf, 512, -4096))));
	put(state, "READ_FIXED", "", "%s", res_name(fixed(s, false, 4096, AT(0, own, 0))));
	put(state, "WRITE_FIXED", "", "%s", res_name(fixed(s, true, 4096, AT(0, own, 0))));
	put(state, "READ", "", "%s", res_name(plain(s, false, 4096, AT(0, own, 0), false)));
	put(state, "WRITE", "", "%s", res_name(plain(s, true, 4096, AT(0, own, 0), false)));
	put(state, "READ", "async", "%s",
	    res_name(plain(s, false, 4096, AT(0, own, 0), true)));
	put(state, "WRITE", "async", "%s",
	    res_name(plain(s, true, 4096, AT(0, own, 0), true)));
	put(state, "READ", "async, other tag", "%s",
	    res_name(plain(s, false, 4096, AT(0, !own, 0), true)));
}

struct copy_arg {
	const char *name;
	__u64 flags;
	int op;		/* enum block_op, or -1 and -2 for states without */
};

static void copies(const void *arg)
{
	const struct copy_arg *a = arg;
	struct ublk_params params = default_params();
	struct blk_io io = {};
	struct srv s;
	int own = 0;

	params.types |= UBLK_PARAM_TYPE_DISCARD;
	params.discard.discard_granularity = 4096;
	params.discard.max_discard_sectors = 2048;
	params.discard.max_discard_segments = 1;
	srv_open(&s, a->flags, &params);
	if (a->op != -2) {
		srv_fetch(&s, 0, DEPTH);
		srv_start(&s);
	}
	if (a->op >= 0) {
		block_start(&io, s.id, a->op, 8, a->op == B_FLUSH ? 0 : 8192);
		own = srv_request(&s, 5000);
		if (own < 0)
			give_up("no request", block_wait(&io, 0));
	}
	copy_cases(a->name, &s, own);
	if (a->op >= 0) {
		srv_commit(&s, own, 8192);
		put(a->name, "end", "", "%s", res_name(block_wait(&io, 1000)));
		s.owned[own] = false;
		put(a->name, "pread", "after the end", "%s",
		    res_name(err(pread(s.cdev, s.buf[0], 512, AT(0, own, 0)))));
		put(a->name, "pwrite", "after the end", "%s",
		    res_name(err(pwrite(s.cdev, s.buf[0], 512, AT(0, own, 0)))));
	}
	ctrl_simple(s.id, UBLK_U_CMD_STOP_DEV, NULL, 0, 0);
	put(a->name, "pread", "stopped", "%s",
	    res_name(err(pread(s.cdev, s.buf[0], 512, AT(0, own, 0)))));
}

void group_file(void)
{
	struct ublksrv_ctrl_dev_info shapes[] = {
		default_info(0), default_info(0), default_info(UBLK_F_IO_DESC_SIZE),
	};
	static const struct copy_arg copy[] = {
		{ "user copy, open", UBLK_F_USER_COPY, -2 },
		{ "user copy, idle", UBLK_F_USER_COPY, -1 },
		{ "user copy, READ", UBLK_F_USER_COPY, B_READ },
		{ "user copy, WRITE", UBLK_F_USER_COPY, B_WRITE },
		{ "user copy, FLUSH", UBLK_F_USER_COPY, B_FLUSH },
		{ "user copy, DISCARD", UBLK_F_USER_COPY, B_DISCARD },
		{ "user and zero copy, READ", UBLK_F_USER_COPY | UBLK_F_SUPPORT_ZERO_COPY,
		  B_READ },
		{ "user copy and auto, WRITE", UBLK_F_USER_COPY | UBLK_F_AUTO_BUF_REG,
		  B_WRITE },
		{ "zero copy, WRITE", UBLK_F_SUPPORT_ZERO_COPY, B_WRITE },
		{ "copy, WRITE", 0, B_WRITE },
		{ "copy, open", 0, -2 },
	};
	unsigned int i;

	run("opens", opens, NULL);
	run("odd files", odd_files, NULL);
	shapes[1].queue_depth = 1000;
	shapes[1].nr_hw_queues = 2;
	shapes[0].nr_hw_queues = 2;
	shapes[2].nr_hw_queues = 2;
	shapes[2].io_desc_size = 64;
	shapes[2].queue_depth = 200;
	for (i = 0; i < ARRAY_SIZE(shapes); i++)
		run(str("maps %u", i), maps, &shapes[i]);
	for (i = 0; i < ARRAY_SIZE(copy); i++)
		run(copy[i].name, copies, &copy[i]);
}
