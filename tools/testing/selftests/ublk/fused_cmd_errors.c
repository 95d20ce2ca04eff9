// SPDX-License-Identifier: GPL-2.0
/*
 * Rules of IORING_OP_FUSED_CMD and UBLK_U_IO_FUSED_SUBMIT_IO, one test each.
 *
 * The program is server and user of a ublk device at once: the main thread
 * owns the ring and the fetched requests, a helper thread reads or writes the
 * block device. With "defer" as argument the ring is set up with SINGLE_ISSUER
 * and DEFER_TASKRUN.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <linux/io_uring.h>
#include <liburing.h>
#include <linux/ublk_cmd.h>
#include "kselftest.h"

#define DEPTH		4
#define LEN		(64 << 10)	/* bytes of a request */
#define FILE_LEN	(4 * LEN)
#define DEV_BYTES	(16 << 20)
/* a place where nobody looks for a partition table or a superblock */
#define OFFSET		((4 << 20) + 512 * 4099)
#define TIMEOUT_MS	20000

/* user_data: an I/O command of the server, or an SQE of a test */
#define UD_CMD		0x4000000000000000ULL
#define UD_TEST		0x2000000000000000ULL
#define UD_PRIMARY	(UD_TEST | 1000)
#define UD_SECONDARY(i)	(UD_TEST | (i))
#define UD_SENTINEL	(UD_TEST | 2000)
#define UD_OTHER	(UD_TEST | 3000)

#define NO_CQE		INT_MAX

static unsigned int ring_flags;
static int ctrl_fd;

/* a read or write of the block device by a helper thread */
struct block_io {
	pthread_t thread;
	char path[64];
	int op;
	void *buf;
	int res;
	int done;
	bool used;
};

enum tag_state { TAG_FETCHING, TAG_OWNED, TAG_GONE };

struct server {
	int id;
	int cdev;
	struct io_uring ring;
	const struct ublksrv_io_desc *desc;
	enum tag_state tag[DEPTH];
	int cmd_res[DEPTH];	/* last refusal of an I/O command, or 0 */
	int fetched;		/* tags that are not gone */
	int want_op;		/* what the test waits for, or -1 */
	int got;		/* tag of that request, or -1 */
	struct block_io io;
	/* CQEs of the test's SQEs in the order in which they were posted */
	struct io_uring_cqe cqe[128];
	int nr_cqes;
	int file;		/* memfd of FILE_LEN with a known content */
	int pipe[2];
};

/* where a case that failed ends */
static jmp_buf case_failed;

static void __printf(2, 3) check(bool cond, const char *fmt, ...)
{
	va_list args;

	if (cond)
		return;
	printf("# ");
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\n");
	longjmp(case_failed, 1);
}

/* The case goes no further unless @cond holds */
#define CHECK(cond, fmt, ...) \
	check(cond, "line %d: " fmt, __LINE__, ##__VA_ARGS__)

/* Nothing that follows would mean anything */
#define FATAL(fmt, ...) \
	ksft_exit_fail_msg("line %d: " fmt "\n", __LINE__, ##__VA_ARGS__)

/* what byte a buffer or file has at @i, in block @seed */
static unsigned char pattern(unsigned int seed, size_t i)
{
	return (i * 7 + (i >> 9) * 13 + seed * 31 + 1) & 0xff;
}

static void fill(void *buf, unsigned int seed, size_t from, size_t len)
{
	unsigned char *p = buf;

	while (len--)
		*p++ = pattern(seed, from++);
}

static int differs(const void *buf, unsigned int seed, size_t from, size_t len)
{
	const unsigned char *p = buf;

	while (len--)
		if (*p++ != pattern(seed, from++))
			return 1;
	return 0;
}

static int all_are(const void *buf, int byte, size_t len)
{
	const unsigned char *p = buf;

	while (len--)
		if (*p++ != byte)
			return 0;
	return 1;
}

static long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000L + ts.tv_nsec / 1000000;
}

/* Control commands --------------------------------------------------------- */

static void ctrl_open(struct io_uring *ring)
{
	struct io_uring_params p = { .flags = IORING_SETUP_SQE128 };

	if (io_uring_queue_init_params(4, ring, &p))
		FATAL("no ring for control commands");
}

static void ctrl_submit(struct io_uring *ring, int id, __u32 op, void *buf,
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

static int ctrl_wait(struct io_uring *ring, int ms, int *res)
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

static int ctrl(int id, __u32 op, void *buf, __u16 len, __u64 data)
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
static int add_dev(__u64 flags)
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

static int open_cdev(int id)
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

static const struct ublksrv_io_desc *map_desc(int cdev)
{
	void *p = mmap(NULL, getpagesize(), PROT_READ, MAP_SHARED, cdev,
		       UBLKSRV_CMD_BUF_OFFSET);

	if (p == MAP_FAILED)
		FATAL("cannot map the descriptors");
	return p;
}

/* The server's loop -------------------------------------------------------- */

static struct io_uring_sqe *io_cmd_sqe(struct server *s, struct io_uring *ring,
				       __u32 op, int q_id, int tag)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct ublksrv_io_cmd *cmd;

	if (!sqe)
		FATAL("the submission queue is full");
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = s->cdev;
	sqe->cmd_op = op;
	cmd = (void *)sqe->cmd;
	cmd->q_id = q_id;
	cmd->tag = tag;
	return sqe;
}

static void submit(struct io_uring *ring)
{
	int res = io_uring_submit(ring);

	if (res < 0)
		FATAL("io_uring_enter: %s", strerror(-res));
}

static void fetch(struct server *s, int tag)
{
	io_cmd_sqe(s, &s->ring, UBLK_U_IO_FETCH_REQ, 0, tag)->user_data = UD_CMD | tag;
	s->tag[tag] = TAG_FETCHING;
}

static void commit(struct server *s, int tag, int result)
{
	struct io_uring_sqe *sqe;

	sqe = io_cmd_sqe(s, &s->ring, UBLK_U_IO_COMMIT_AND_FETCH_REQ, 0, tag);
	sqe->user_data = UD_CMD | tag;
	((struct ublksrv_io_cmd *)sqe->cmd)->result = result;
	s->tag[tag] = TAG_FETCHING;
	s->cmd_res[tag] = 0;
	submit(&s->ring);
}

/* A request that no test asked for: somebody probes the device. */
static void serve_stranger(struct server *s, int tag)
{
	const struct ublksrv_io_desc *d = &s->desc[tag];
	int bytes = d->nr_sectors << 9;

	if (ublksrv_get_op(d) == UBLK_IO_OP_READ) {
		void *zeroes = calloc(1, bytes);
		__u64 off = UBLKSRV_IO_BUF_OFFSET + ((__u64)tag << UBLK_TAG_OFF);

		if (zeroes && pwrite(s->cdev, zeroes, bytes, off) != bytes)
			ksft_print_msg("cannot answer a read of sector %llu\n",
				       (unsigned long long)d->start_sector);
		free(zeroes);
	}
	commit(s, tag, bytes);
}

static bool wanted(struct server *s, int tag)
{
	const struct ublksrv_io_desc *d = &s->desc[tag];
	int op = ublksrv_get_op(d);

	if (s->got >= 0 || op != s->want_op)
		return false;
	return op == UBLK_IO_OP_FLUSH ||
		(d->start_sector == OFFSET >> 9 && d->nr_sectors == LEN >> 9);
}

static void handle(struct server *s, const struct io_uring_cqe *cqe)
{
	int tag = cqe->user_data & 0xff;

	if (cqe->user_data & UD_TEST) {
		if (s->nr_cqes == (int)ARRAY_SIZE(s->cqe))
			FATAL("far too many CQEs");
		s->cqe[s->nr_cqes++] = *cqe;
	} else if (cqe->user_data & UD_CMD) {
		if (cqe->res == UBLK_IO_RES_OK) {
			s->tag[tag] = TAG_OWNED;
			if (wanted(s, tag))
				s->got = tag;
			else
				serve_stranger(s, tag);
		} else if (cqe->res == UBLK_IO_RES_ABORT) {
			s->tag[tag] = TAG_GONE;
			s->fetched--;
		} else {
			s->cmd_res[tag] = cqe->res;
		}
	}
}

/* Wait a little for a CQE and handle all there are; 0 if there was one */
static int pump(struct server *s, int ms)
{
	struct __kernel_timespec ts = { .tv_sec = ms / 1000,
					.tv_nsec = ms % 1000 * 1000000LL };
	struct io_uring_cqe *cqe, copy;

	if (io_uring_wait_cqe_timeout(&s->ring, &cqe, &ts))
		return -1;
	do {
		copy = *cqe;
		io_uring_cqe_seen(&s->ring, cqe);
		handle(s, &copy);
	} while (!io_uring_peek_cqe(&s->ring, &cqe));
	return 0;
}

/* Serve until @cond holds, for some time at most */
static bool pump_until(struct server *s, bool (*cond)(struct server *s, __u64 arg),
		       __u64 arg, int ms)
{
	long end = now_ms() + ms;

	while (!cond(s, arg) && now_ms() < end)
		pump(s, 20);
	return cond(s, arg);
}

/* Conditions */

static const struct io_uring_cqe *find_cqe(struct server *s, __u64 user_data)
{
	int i;

	for (i = 0; i < s->nr_cqes; i++)
		if (s->cqe[i].user_data == user_data)
			return &s->cqe[i];
	return NULL;
}

static bool cqe_posted(struct server *s, __u64 user_data)
{
	return find_cqe(s, user_data);
}

static bool block_io_done(struct server *s, __u64 unused)
{
	return __atomic_load_n(&s->io.done, __ATOMIC_ACQUIRE);
}

static bool request_arrived(struct server *s, __u64 unused)
{
	return s->got >= 0 || block_io_done(s, 0);
}

static bool all_tags_gone(struct server *s, __u64 unused)
{
	return !s->fetched;
}

static bool disk_exists(struct server *s, __u64 unused)
{
	return !access(s->io.path, F_OK);
}

/* What an SQE of the test posted, NO_CQE if nothing (yet) */
static int cqe_res(struct server *s, __u64 user_data)
{
	const struct io_uring_cqe *cqe = find_cqe(s, user_data);

	return cqe ? cqe->res : NO_CQE;
}

static int wait_cqe(struct server *s, __u64 user_data)
{
	pump_until(s, cqe_posted, user_data, TIMEOUT_MS);
	return cqe_res(s, user_data);
}

static bool wait_block_io(struct server *s, int ms)
{
	return pump_until(s, block_io_done, 0, ms);
}

/* A control command that needs the server's help to end */
static int ctrl_served(struct server *s, __u32 op, __u64 data)
{
	long end = now_ms() + TIMEOUT_MS;
	struct io_uring ring;
	int res;

	ctrl_open(&ring);
	ctrl_submit(&ring, s->id, op, NULL, 0, data);
	while (ctrl_wait(&ring, 5, &res)) {
		if (now_ms() > end)
			FATAL("control command %x does not end", op);
		pump(s, 5);
	}
	io_uring_queue_exit(&ring);
	return res;
}

static void server_start(struct server *s, __u64 flags)
{
	struct ublk_params params = {
		.len = sizeof(params),
		.types = UBLK_PARAM_TYPE_BASIC,
		.basic = {
			.attrs = UBLK_ATTR_VOLATILE_CACHE,
			.logical_bs_shift = 9,
			.physical_bs_shift = 12,
			.io_opt_shift = 12,
			.io_min_shift = 9,
			.max_sectors = (1 << 20) >> 9,
			.dev_sectors = DEV_BYTES >> 9,
		},
	};
	struct io_uring_params p = { .flags = ring_flags };
	unsigned char *content = malloc(FILE_LEN);
	int tag, res;

	memset(s, 0, sizeof(*s));
	s->want_op = -1;
	s->got = -1;
	s->id = add_dev(flags);
	if (s->id < 0)
		FATAL("ADD_DEV: %s", strerror(-s->id));
	s->cdev = open_cdev(s->id);
	res = ctrl(s->id, UBLK_U_CMD_SET_PARAMS, &params, sizeof(params), 0);
	if (res)
		FATAL("SET_PARAMS: %s", strerror(-res));
	s->desc = map_desc(s->cdev);

	if (io_uring_queue_init_params(128, &s->ring, &p))
		FATAL("no ring");
	for (tag = 0; tag < DEPTH; tag++)
		fetch(s, tag);
	s->fetched = DEPTH;
	submit(&s->ring);
	res = ctrl_served(s, UBLK_U_CMD_START_DEV, getpid());
	if (res)
		FATAL("START_DEV: %s", strerror(-res));
	snprintf(s->io.path, sizeof(s->io.path), "/dev/ublkb%d", s->id);
	if (!pump_until(s, disk_exists, 0, TIMEOUT_MS))
		FATAL("no %s", s->io.path);

	s->file = memfd_create("fused", 0);
	fill(content, 0, 0, FILE_LEN);
	if (s->file < 0 || write(s->file, content, FILE_LEN) != FILE_LEN)
		FATAL("no file");
	free(content);
	if (pipe(s->pipe))
		FATAL("no pipe");
	if (posix_memalign(&s->io.buf, 4096, LEN + 4096))
		FATAL("no memory");
}

static void server_stop(struct server *s)
{
	int res = ctrl_served(s, UBLK_U_CMD_STOP_DEV, 0);

	if (res)
		FATAL("STOP_DEV: %s", strerror(-res));
	if (!pump_until(s, all_tags_gone, 0, TIMEOUT_MS))
		FATAL("the device is stopped, but has %d tags", s->fetched);
	munmap((void *)s->desc, getpagesize());
	io_uring_queue_exit(&s->ring);
	close(s->cdev);
	res = ctrl(s->id, UBLK_U_CMD_DEL_DEV, NULL, 0, 0);
	if (res)
		FATAL("DEL_DEV: %s", strerror(-res));
	close(s->file);
	close(s->pipe[0]);
	close(s->pipe[1]);
	free(s->io.buf);
}

/* Block I/O ---------------------------------------------------------------- */

static void *block_io_fn(void *arg)
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

static unsigned char *block_buf(struct server *s)
{
	return s->io.buf + 512;
}

/* Start it and wait until the server owns the request: its tag */
static int block_io_start(struct server *s, int op)
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
static int block_io_finish(struct server *s, int res)
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

/* Groups ------------------------------------------------------------------- */

static struct io_uring_sqe *primary_on(struct server *s, struct io_uring *ring,
				       int tag, int nr)
{
	struct io_uring_sqe *sqe;

	sqe = io_cmd_sqe(s, ring, UBLK_U_IO_FUSED_SUBMIT_IO, 0, tag);
	sqe->opcode = IORING_OP_FUSED_CMD;
	sqe->uring_cmd_flags = IORING_FUSED_CMD_BUF;
	sqe->nr_secondary = nr;
	sqe->user_data = UD_PRIMARY;
	return sqe;
}

static struct io_uring_sqe *primary(struct server *s, int tag, int nr)
{
	return primary_on(s, &s->ring, tag, nr);
}

static struct io_uring_sqe *secondary_on(struct io_uring *ring, int idx, int op,
					 int fd, __u64 addr, __u32 len, __u64 off)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	if (!sqe)
		FATAL("the submission queue is full");
	io_uring_prep_rw(op, sqe, fd, NULL, len, off);
	sqe->addr = addr;
	sqe->user_data = UD_SECONDARY(idx);
	return sqe;
}

static void nop(struct server *s, __u64 user_data)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&s->ring);

	if (!sqe)
		FATAL("the submission queue is full");
	io_uring_prep_nop(sqe);
	sqe->user_data = user_data;
}

static struct io_uring_sqe *secondary(struct server *s, int idx, int op,
				      __u64 addr, __u32 len, __u64 off)
{
	return secondary_on(&s->ring, idx, op, s->file, addr, len, off);
}

/*
 * Submit a group and check its CQEs: these results, no others, no CQE for a
 * secondary with NO_CQE, the primary's CQE after the others, and no SQE left.
 */
static void expect(struct server *s, int line, int primary_res, int nr,
		   const int *sec_res)
{
	int i, res, want = 1;

	s->nr_cqes = 0;
	submit(&s->ring);
	res = io_uring_sq_ready(&s->ring);
	check(!res, "line %d: %d SQEs were not consumed", line, res);
	check(wait_cqe(s, UD_PRIMARY) != NO_CQE, "line %d: no CQE of the primary", line);

	/* nothing may come behind it */
	nop(s, UD_SENTINEL);
	submit(&s->ring);
	check(wait_cqe(s, UD_SENTINEL) != NO_CQE, "line %d: no CQE of the NOP", line);

	for (i = 0; i < nr; i++) {
		res = cqe_res(s, UD_SECONDARY(i));
		check(res == sec_res[i], "line %d: secondary %d posts %d, should be %d",
		      line, i, res, sec_res[i]);
		want += res != NO_CQE;
	}
	res = cqe_res(s, UD_PRIMARY);
	check(res == primary_res, "line %d: the primary posts %d, should be %d", line,
	      res, primary_res);
	check(s->nr_cqes == want + 1, "line %d: %d CQEs, should be %d", line,
	      s->nr_cqes - 1, want);
	check(s->cqe[want - 1].user_data == UD_PRIMARY,
	      "line %d: the primary's CQE is not the last", line);
}

#define EXPECT(s, res, ...) \
	expect(s, __LINE__, res, sizeof((int[]){ __VA_ARGS__ }) / sizeof(int), \
	       (const int[]){ __VA_ARGS__ })

static int file_untouched(struct server *s)
{
	unsigned char *content = malloc(FILE_LEN);
	int res;

	if (pread(s->file, content, FILE_LEN, 0) != FILE_LEN)
		FATAL("cannot read the file");
	res = !differs(content, 0, 0, FILE_LEN);
	free(content);
	return res;
}

/* Give the file its content back */
static void file_reset(struct server *s)
{
	unsigned char *content = malloc(FILE_LEN);

	fill(content, 0, 0, FILE_LEN);
	if (ftruncate(s->file, FILE_LEN) || pwrite(s->file, content, FILE_LEN, 0) != FILE_LEN)
		FATAL("cannot write the file");
	free(content);
}

/* Cases: how a group is refused -------------------------------------------- */

static void test_direction_of_write(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_WRITE);
	int res;

	primary(s, tag, 2);
	secondary(s, 0, IORING_OP_WRITE, 0, 4096, 0);
	secondary(s, 1, IORING_OP_READ, 4096, 4096, 0);
	EXPECT(s, -EINVAL, -ECANCELED, -ECANCELED);
	CHECK(file_untouched(s), "a secondary ran");
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the block write ends with %d", res);
	CHECK(!differs(block_buf(s), 1, 0, LEN), "the writer's buffer was changed");
}

static void test_direction_of_read(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ);

	primary(s, tag, 2);
	secondary(s, 0, IORING_OP_READ, 0, 4096, 0);
	secondary(s, 1, IORING_OP_WRITE, 4096, 4096, 0);
	EXPECT(s, -EINVAL, -ECANCELED, -ECANCELED);
	CHECK(file_untouched(s), "the file was written");
	CHECK(all_are(block_buf(s), 0xee, LEN), "a secondary ran");
}

/* Cases: what ublk refuses ------------------------------------------------- */

/* A group whose primary has this command is refused */
static void refused(struct server *s, int line, struct ublksrv_io_cmd cmd)
{
	struct io_uring_sqe *sqe = primary(s, cmd.tag, 2);

	memcpy(sqe->cmd, &cmd, sizeof(cmd));
	secondary(s, 0, IORING_OP_READ, 0, 512, 0);
	secondary(s, 1, IORING_OP_READ, 512, 512, 0);
	expect(s, line, -EINVAL, 2, (const int[]){ -ECANCELED, -ECANCELED });
}

#define REFUSED(s, ...) \
	refused(s, __LINE__, (struct ublksrv_io_cmd){ __VA_ARGS__ })

static void test_ublk_command(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ);

	REFUSED(s, .tag = tag, .q_id = 1);
	REFUSED(s, .tag = tag, .q_id = 0xffff);
	REFUSED(s, .tag = DEPTH);
	REFUSED(s, .tag = 0xffff);
	REFUSED(s, .tag = tag, .result = 1);
	REFUSED(s, .tag = tag, .result = -1);
	REFUSED(s, .tag = tag, .addr = 1);
	CHECK(all_are(block_buf(s), 0xee, LEN), "a secondary ran");
}

static void test_ublk_not_owned(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	int res;

	REFUSED(s, .tag = (tag + 1) % DEPTH);
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the block read ends with %d", res);
	/* committed: it is not ours any more */
	REFUSED(s, .tag = tag);
}

static void test_ublk_no_data(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_FLUSH);
	int res;

	REFUSED(s, .tag = tag);
	res = block_io_finish(s, 0);
	CHECK(res == 0, "the flush ends with %d", res);
}

static void test_ublk_wrong_op(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	int res;

	/* an I/O command that is no fused one, as a primary */
	s->nr_cqes = 0;
	primary(s, tag, 1)->cmd_op = UBLK_U_IO_FETCH_REQ;
	secondary(s, 0, IORING_OP_READ, 0, 512, 0);
	submit(&s->ring);
	res = wait_cqe(s, UD_PRIMARY);
	CHECK(res == -EINVAL, "FETCH_REQ as a primary: %d", res);
	CHECK(cqe_res(s, UD_SECONDARY(0)) == -ECANCELED, "its secondary is not canceled");
	CHECK(!block_io_done(s, 0), "the request was completed");

	/* and the other way round */
	s->nr_cqes = 0;
	io_cmd_sqe(s, &s->ring, UBLK_U_IO_FUSED_SUBMIT_IO, 0, tag)->user_data = UD_PRIMARY;
	submit(&s->ring);
	res = wait_cqe(s, UD_PRIMARY);
	CHECK(res == -EINVAL || res == -EOPNOTSUPP,
	      "FUSED_SUBMIT_IO as a plain command: %d", res);
}

/* @s is of no use here: this takes a device without the feature */
static void test_ublk_no_feature(struct server *s)
{
	static struct server plain;
	int tag, res, second;

	server_start(&plain, UBLK_F_USER_COPY);
	tag = block_io_start(&plain, UBLK_IO_OP_READ);
	primary(&plain, tag, 1);
	secondary(&plain, 0, IORING_OP_READ, 0, 512, 0);
	submit(&plain.ring);
	res = wait_cqe(&plain, UD_PRIMARY);
	second = cqe_res(&plain, UD_SECONDARY(0));
	block_io_finish(&plain, LEN);
	server_stop(&plain);
	CHECK(res == -EINVAL, "the primary posts %d", res);
	CHECK(second == -ECANCELED, "the secondary posts %d", second);
}

static void test_ublk_add_dev(struct server *s)
{
	int id;

	id = add_dev(UBLK_F_FUSED_CMD | UBLK_F_NEED_GET_DATA);
	if (id >= 0)
		ctrl(id, UBLK_U_CMD_DEL_DEV, NULL, 0, 0);
	CHECK(id == -EINVAL, "with NEED_GET_DATA: %d", id);
	id = add_dev(UBLK_F_FUSED_CMD | UBLK_F_UNPRIVILEGED_DEV);
	if (id >= 0)
		ctrl(id, UBLK_U_CMD_DEL_DEV, NULL, 0, 0);
	CHECK(id == -EINVAL, "with UNPRIVILEGED_DEV: %d", id);
}

static void test_ublk_fetch_addr(struct server *s)
{
	struct server other = { .want_op = -1, .got = -1 };
	struct io_uring_params p = { .flags = ring_flags };
	struct __kernel_timespec ts = { .tv_sec = 5 };
	struct io_uring_cqe *cqe = NULL;
	struct io_uring_sqe *sqe;
	int res;

	other.id = add_dev(UBLK_F_FUSED_CMD);
	CHECK(other.id >= 0, "ADD_DEV: %d", other.id);
	other.cdev = open_cdev(other.id);
	if (io_uring_queue_init_params(8, &other.ring, &p))
		FATAL("no ring");
	sqe = io_cmd_sqe(&other, &other.ring, UBLK_U_IO_FETCH_REQ, 0, 0);
	((struct ublksrv_io_cmd *)sqe->cmd)->addr = (unsigned long)s->io.buf;
	io_uring_submit_and_wait_timeout(&other.ring, &cqe, 1, &ts, NULL);
	res = cqe ? cqe->res : 1;
	io_uring_queue_exit(&other.ring);
	close(other.cdev);
	ctrl(other.id, UBLK_U_CMD_DEL_DEV, NULL, 0, 0);
	CHECK(res == -EINVAL, "FETCH_REQ with an address: %d", res);
}

/* Cases: data -------------------------------------------------------------- */

static void test_read(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	int res;

	primary(s, tag, 1);
	secondary(s, 0, IORING_OP_READ, 0, LEN, 1000);
	EXPECT(s, LEN, LEN);
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the block read ends with %d", res);
	CHECK(!differs(block_buf(s), 0, 1000, LEN), "wrong data");
}

static void test_write(struct server *s)
{
	unsigned char *content = malloc(FILE_LEN);
	int tag = block_io_start(s, UBLK_IO_OP_WRITE);
	int res;

	primary(s, tag, 1);
	secondary(s, 0, IORING_OP_WRITE, 0, LEN, 1000);
	EXPECT(s, LEN, LEN);
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the block write ends with %d", res);
	CHECK(pread(s->file, content, FILE_LEN, 0) == FILE_LEN, "cannot read the file");
	CHECK(!differs(content, 0, 0, 1000) &&
	      !differs(content + 1000, 1, 0, LEN) &&
	      !differs(content + 1000 + LEN, 0, 1000 + LEN, FILE_LEN - LEN - 1000),
	      "wrong data");
	free(content);
}

static void test_ranges(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	unsigned char *buf = block_buf(s);
	int res;

	/* odd places and lengths, one across a page, one at the very end */
	primary(s, tag, 4);
	secondary(s, 0, IORING_OP_READ, 1, 510, 0);
	secondary(s, 1, IORING_OP_READ, 4000, 5000, 10000);
	secondary(s, 2, IORING_OP_READ, LEN - 7, 7, 3);
	secondary(s, 3, IORING_OP_READ, 20000, 0, 0);
	EXPECT(s, 510 + 5000 + 7, 510, 5000, 7, 0);
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the block read ends with %d", res);
	CHECK(buf[0] == 0xee && !differs(buf + 1, 0, 0, 510) &&
	      all_are(buf + 511, 0xee, 4000 - 511) &&
	      !differs(buf + 4000, 0, 10000, 5000) &&
	      all_are(buf + 9000, 0xee, LEN - 7 - 9000) &&
	      !differs(buf + LEN - 7, 0, 3, 7), "wrong data");
}

static void test_short_read(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	unsigned char *buf = block_buf(s);
	int res;

	primary(s, tag, 3);
	secondary(s, 0, IORING_OP_READ, 0, 8192, FILE_LEN - 1000);
	secondary(s, 1, IORING_OP_READ, 16384, 4096, FILE_LEN);
	secondary(s, 2, IORING_OP_READ, 32768, 4096, 0);
	EXPECT(s, 1000 + 4096, 1000, 0, 4096);
	/* out of a worker, too */
	primary(s, tag, 1);
	secondary(s, 0, IORING_OP_READ, 40960, 8192, FILE_LEN - 1000)->flags |= IOSQE_ASYNC;
	EXPECT(s, 1000, 1000);
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the block read ends with %d", res);
	CHECK(!differs(buf, 0, FILE_LEN - 1000, 1000), "wrong data");
	CHECK(all_are(buf + 1000, 0, 8192 - 1000), "the rest of the range is not zero");
	CHECK(all_are(buf + 8192, 0xee, 8192), "zeroes outside the range");
	CHECK(all_are(buf + 16384, 0, 4096), "an empty read leaves no zeroes");
	CHECK(!differs(buf + 32768, 0, 0, 4096), "wrong data");
	CHECK(!differs(buf + 40960, 0, FILE_LEN - 1000, 1000), "wrong data from a worker");
	CHECK(all_are(buf + 41960, 0, 8192 - 1000), "a worker leaves no zeroes");
	CHECK(all_are(buf + 49152, 0xee, LEN - 49152), "zeroes outside the range");
}

static void test_pread_pwrite(struct server *s)
{
	unsigned char *content = malloc(LEN);
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	__u64 off = UBLKSRV_IO_BUF_OFFSET + ((__u64)tag << UBLK_TAG_OFF);
	int res;

	fill(content, 5, 0, LEN);
	CHECK(pwrite(s->cdev, content, 1000, off) == 1000, "pwrite: %m");
	CHECK(pwrite(s->cdev, content + 1000, LEN - 1000, off + 1000) == LEN - 1000,
	      "pwrite: %m");
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the block read ends with %d", res);
	CHECK(!differs(block_buf(s), 5, 0, LEN), "pwrite: wrong data");

	tag = block_io_start(s, UBLK_IO_OP_WRITE);
	off = UBLKSRV_IO_BUF_OFFSET + ((__u64)tag << UBLK_TAG_OFF);
	CHECK(pread(s->cdev, content, LEN, off) == LEN, "pread: %m");
	CHECK(!differs(content, 1, 0, LEN), "pread: wrong data");
	free(content);
}

/* Cases: life of a lease --------------------------------------------------- */

static void test_other_ring(struct server *s)
{
	struct io_uring_params p = {};
	struct io_uring_cqe *cqe;
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	struct io_uring other;
	int res;

	if (io_uring_queue_init_params(8, &other, &p))
		FATAL("no ring");
	/* two leases of one request, the one on our ring waits for its data */
	s->nr_cqes = 0;
	primary(s, tag, 1);
	secondary_on(&s->ring, 0, IORING_OP_READ, s->pipe[0], 0, 512, 0);
	submit(&s->ring);
	primary_on(s, &other, tag, 1);
	secondary_on(&other, 0, IORING_OP_READ, s->file, 512, LEN - 512, 512)->flags |=
		IOSQE_CQE_SKIP_SUCCESS;
	submit(&other);
	CHECK(!io_uring_wait_cqe(&other, &cqe), "no CQE");
	CHECK(cqe->user_data == UD_PRIMARY && cqe->res == LEN - 512, "primary posts %d",
	      cqe->res);
	io_uring_queue_exit(&other);
	CHECK(write(s->pipe[1], "0", 1) == 1, "cannot write to the pipe");
	res = wait_cqe(s, UD_PRIMARY);
	CHECK(res == 1, "the primary posts %d", res);
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the block read ends with %d", res);
	CHECK(block_buf(s)[0] == '0' && all_are(block_buf(s) + 1, 0, 511) &&
	      !differs(block_buf(s) + 512, 0, 512, LEN - 512), "wrong data");
}

static void test_commit_while_leased(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	char data[512];
	int res;

	s->nr_cqes = 0;
	primary(s, tag, 2);
	secondary(s, 0, IORING_OP_READ, 512, LEN - 512, 512)->flags |= IOSQE_CQE_SKIP_SUCCESS;
	secondary_on(&s->ring, 1, IORING_OP_READ, s->pipe[0], 0, 512, 0);
	submit(&s->ring);
	commit(s, tag, LEN);
	CHECK(!wait_block_io(s, 300), "the request was completed under the lease");
	CHECK(!s->cmd_res[tag], "the commit is refused: %d", s->cmd_res[tag]);
	CHECK(!s->nr_cqes, "a CQE too early");
	/* it was given back: no other lease of it */
	REFUSED(s, .tag = tag);

	s->nr_cqes = 0;
	fill(data, 9, 0, sizeof(data));
	CHECK(write(s->pipe[1], data, sizeof(data)) == sizeof(data),
	      "cannot write to the pipe");
	res = wait_cqe(s, UD_PRIMARY);
	CHECK(res == LEN, "the primary posts %d", res);
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the block read ends with %d", res);
	CHECK(!differs(block_buf(s), 9, 0, 512) &&
	      !differs(block_buf(s) + 512, 0, 512, LEN - 512), "wrong data");
}

/* Commits that move the data --------------------------------------------- */

/* A primary that commits: its CQE is that of a commit, not of a group. */
static void fused_commit(struct server *s, int tag, int nr)
{
	struct io_uring_sqe *sqe = primary(s, tag, nr);

	sqe->cmd_op = UBLK_U_IO_COMMIT_AND_FETCH_REQ;
	sqe->user_data = UD_CMD | tag;
	s->nr_cqes = 0;
	s->cmd_res[tag] = 0;
}

static void test_fused_commit(struct server *s)
{
	int tag, res;

	/* twice, so that the command that waits is a former primary */
	for (int i = 0; i < 2; i++) {
		tag = block_io_start(s, UBLK_IO_OP_READ);
		fused_commit(s, tag, 2);
		secondary(s, 0, IORING_OP_READ, 0, 512, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
		secondary(s, 1, IORING_OP_READ, 512, LEN - 512, 512)->flags |=
			IOSQE_CQE_SKIP_SUCCESS;
		s->tag[tag] = TAG_FETCHING;
		submit(&s->ring);
		res = block_io_finish(s, 0);
		CHECK(res == LEN, "the block read ends with %d", res);
		CHECK(!differs(block_buf(s), 0, 0, LEN), "wrong data");
		CHECK(!s->nr_cqes, "a CQE of a group that is well");
	}
	tag = block_io_start(s, UBLK_IO_OP_WRITE);
	fused_commit(s, tag, 1);
	secondary(s, 0, IORING_OP_WRITE, 0, LEN, 0);
	s->tag[tag] = TAG_FETCHING;
	submit(&s->ring);
	res = block_io_finish(s, 0);
	CHECK(res == LEN, "the block write ends with %d", res);
}

/* what becomes of the data becomes of the request, and the slot goes on */
static void test_fused_commit_fails(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	int res;

	fused_commit(s, tag, 1);
	secondary(s, 0, IORING_OP_READ, LEN, 512, 0);
	s->tag[tag] = TAG_FETCHING;
	submit(&s->ring);
	res = block_io_finish(s, 0);
	CHECK(res == -EIO, "the block read ends with %d", res);
	CHECK(wait_cqe(s, UD_SECONDARY(0)) == -EFAULT, "its secondary does not say why");

	/* a write that comes short is not a write */
	tag = block_io_start(s, UBLK_IO_OP_WRITE);
	fused_commit(s, tag, 1);
	secondary(s, 0, IORING_OP_WRITE, 0, LEN - 512, 0);
	s->tag[tag] = TAG_FETCHING;
	submit(&s->ring);
	res = block_io_finish(s, 0);
	CHECK(res == -EIO, "the short block write ends with %d", res);

	tag = block_io_start(s, UBLK_IO_OP_READ);
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the next block read ends with %d", res);
}

static void commit_refused(struct server *s, int line, struct ublksrv_io_cmd cmd, int want)
{
	struct io_uring_sqe *sqe = primary(s, cmd.tag, 1);

	sqe->cmd_op = UBLK_U_IO_COMMIT_AND_FETCH_REQ;
	memcpy(sqe->cmd, &cmd, sizeof(cmd));
	secondary(s, 0, IORING_OP_READ, 0, 512, 0);
	expect(s, line, want, 1, (const int[]){ -ECANCELED });
}

#define COMMIT_REFUSED(s, want, ...) \
	commit_refused(s, __LINE__, (struct ublksrv_io_cmd){ __VA_ARGS__ }, want)

static void *commit_from_thread(void *arg)
{
	struct server *s = arg;
	struct io_uring_cqe *cqe;
	struct io_uring other;
	intptr_t res;

	if (io_uring_queue_init(8, &other, 0))
		FATAL("no ring");
	primary_on(s, &other, s->got, 1)->cmd_op = UBLK_U_IO_COMMIT_AND_FETCH_REQ;
	secondary_on(&other, 0, IORING_OP_READ, s->file, 0, 512, 0)->flags |=
		IOSQE_CQE_SKIP_SUCCESS;
	submit(&other);
	do {
		if (io_uring_wait_cqe(&other, &cqe))
			FATAL("no CQE");
		res = cqe->user_data == UD_PRIMARY ? cqe->res : NO_CQE;
		io_uring_cqe_seen(&other, cqe);
	} while (res == NO_CQE);
	io_uring_queue_exit(&other);
	return (void *)res;
}

static void test_fused_commit_refused(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	pthread_t thread;
	void *res;

	COMMIT_REFUSED(s, -EINVAL, .tag = tag, .result = LEN);
	COMMIT_REFUSED(s, -EINVAL, .tag = tag, .addr = 1);
	COMMIT_REFUSED(s, -EINVAL, .tag = DEPTH);
	COMMIT_REFUSED(s, -EBUSY, .tag = (tag + 1) % DEPTH);
	if (pthread_create(&thread, NULL, commit_from_thread, s))
		FATAL("no thread");
	pthread_join(thread, &res);
	CHECK((intptr_t)res == -EINVAL, "another task may commit: %d", (int)(intptr_t)res);
	CHECK(!block_io_done(s, 0), "the request was completed");
	block_io_finish(s, LEN);

	tag = block_io_start(s, UBLK_IO_OP_FLUSH);
	COMMIT_REFUSED(s, -EINVAL, .tag = tag);
	block_io_finish(s, 0);
}

/* the request is committed otherwise while the group runs: the group's command is late */
static void test_fused_commit_twice(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	int res;

	s->nr_cqes = 0;
	primary(s, tag, 1)->cmd_op = UBLK_U_IO_COMMIT_AND_FETCH_REQ;
	secondary_on(&s->ring, 0, IORING_OP_READ, s->pipe[0], 0, 512, 0);
	submit(&s->ring);
	commit(s, tag, LEN);
	CHECK(!wait_block_io(s, 300), "the request was completed under the lease");
	CHECK(!s->nr_cqes, "a CQE too early");
	CHECK(write(s->pipe[1], "0", 1) == 1, "cannot write to the pipe");
	res = wait_cqe(s, UD_PRIMARY);
	CHECK(res == -EINVAL, "the primary posts %d", res);
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the block read ends with %d", res);
	/* the slot is as good as before */
	tag = block_io_start(s, UBLK_IO_OP_READ);
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the next block read ends with %d", res);
}

/* what is canceled is not committed: the server still has the request */
static void test_fused_commit_canceled(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	struct io_uring_sqe *sqe;
	int res;

	fused_commit(s, tag, 1);
	secondary_on(&s->ring, 0, IORING_OP_READ, s->pipe[0], 0, 512, 0);
	submit(&s->ring);
	sqe = io_uring_get_sqe(&s->ring);
	io_uring_prep_cancel64(sqe, UD_SECONDARY(0), 0);
	sqe->user_data = UD_OTHER;
	submit(&s->ring);
	CHECK(wait_cqe(s, UD_SECONDARY(0)) == -ECANCELED, "the secondary is not canceled");
	pump(s, 300);
	CHECK(s->cmd_res[tag] == -ECANCELED, "the commit posts %d", s->cmd_res[tag]);
	CHECK(!block_io_done(s, 0), "the request was completed");
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the block read ends with %d", res);
}

static void test_cancel(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	struct io_uring_sqe *sqe;
	int res;

	s->nr_cqes = 0;
	primary(s, tag, 2);
	secondary_on(&s->ring, 0, IORING_OP_READ, s->pipe[0], 0, 512, 0);
	secondary(s, 1, IORING_OP_READ, 512, 512, 0);
	submit(&s->ring);
	CHECK(!pump_until(s, cqe_posted, UD_PRIMARY, 100), "the group does not wait");

	sqe = io_uring_get_sqe(&s->ring);
	CHECK(sqe, "no SQE");
	io_uring_prep_cancel64(sqe, UD_SECONDARY(0), 0);
	sqe->user_data = UD_OTHER;
	submit(&s->ring);
	res = wait_cqe(s, UD_OTHER);
	CHECK(res == 0 || res == -EALREADY, "ASYNC_CANCEL: %d", res);
	res = wait_cqe(s, UD_PRIMARY);
	CHECK(res == -ECANCELED, "the primary posts %d", res);
	res = cqe_res(s, UD_SECONDARY(0));
	CHECK(res == -ECANCELED, "the secondary posts %d", res);
	res = cqe_res(s, UD_SECONDARY(1));
	CHECK(res == 512, "the other secondary posts %d", res);

	/* the request is as good as before */
	primary(s, tag, 1);
	secondary(s, 0, IORING_OP_READ, 0, LEN, 0);
	EXPECT(s, LEN, LEN);
	res = block_io_finish(s, LEN);
	CHECK(res == LEN && !differs(block_buf(s), 0, 0, LEN), "wrong data (%d)", res);
}

static void test_close_ring(struct server *s)
{
	struct io_uring_params p = { .flags = ring_flags };
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	struct io_uring other;
	int res;

	if (io_uring_queue_init_params(8, &other, &p))
		FATAL("no ring");
	primary_on(s, &other, tag, 2);
	secondary_on(&other, 0, IORING_OP_READ, s->pipe[0], 0, 512, 0);
	secondary_on(&other, 1, IORING_OP_READ, s->pipe[0], 512, 512, 0)->flags |= IOSQE_ASYNC;
	submit(&other);
	commit(s, tag, LEN);
	CHECK(!wait_block_io(s, 200), "the request was completed under the lease");
	io_uring_queue_exit(&other);
	CHECK(wait_block_io(s, TIMEOUT_MS), "the lease does not end");
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the block read ends with %d", res);
}

/* A server of its own with a group that waits for ever; runs in a child. */
static void server_to_kill(int to_parent, __u64 flags)
{
	static struct server s;

	server_start(&s, UBLK_F_FUSED_CMD | flags);
	if (write(to_parent, &s.id, sizeof(s.id)) != sizeof(s.id))
		FATAL("no parent");
	s.want_op = UBLK_IO_OP_READ;
	if (!pump_until(&s, request_arrived, 0, TIMEOUT_MS))
		FATAL("the request does not arrive");
	if (flags)
		fused_commit(&s, s.got, 2);
	else
		primary(&s, s.got, 2);
	secondary(&s, 0, IORING_OP_READ, 512, 512, 512);
	secondary_on(&s.ring, 1, IORING_OP_READ, s.pipe[0], 0, 512, 0);
	submit(&s.ring);
	if (write(to_parent, &s.id, sizeof(s.id)) != sizeof(s.id))
		FATAL("no parent");
	for (;;)
		pump(&s, 1000);
}

/*
 * A server that is killed while a group waits takes the request with it, and
 * its device can be deleted. The reader must not share the server's files: they
 * are closed when the last one who has them is gone.
 */
/* Kill a server of a device with @flags; with any, its group commits. */
static void kill_server(struct server *s, __u64 flags)
{
	/* its thread may outlive a check that fails */
	static struct block_io io;
	int to_parent[2], status, id, i, res;
	pid_t pid;

	io = (struct block_io){ .op = UBLK_IO_OP_READ };
	CHECK(!pipe(to_parent), "no pipe");
	fflush(stdout);
	pid = fork();
	if (!pid)
		server_to_kill(to_parent[1], flags);
	close(to_parent[1]);
	CHECK(pid > 0 && read(to_parent[0], &id, sizeof(id)) == sizeof(id),
	      "the server does not start");
	snprintf(io.path, sizeof(io.path), "/dev/ublkb%d", id);
	io.buf = s->io.buf;
	if (pthread_create(&io.thread, NULL, block_io_fn, &io))
		FATAL("no thread");
	res = read(to_parent[0], &id, sizeof(id));
	close(to_parent[0]);
	usleep(100000);
	kill(pid, SIGKILL);
	for (i = 0; i < TIMEOUT_MS / 50 && waitpid(pid, &status, WNOHANG) != pid; i++)
		usleep(50000);
	CHECK(i < TIMEOUT_MS / 50, "the server does not die");
	CHECK(res == sizeof(id), "the server fails");
	if (flags) {
		/* what broke off is not the end of the request: the next server gets it */
		usleep(500000);
		CHECK(!io.done, "the block read ends with %d", io.res);
		res = ctrl(id, UBLK_U_CMD_STOP_DEV, NULL, 0, 0);
		CHECK(!res, "STOP_DEV: %d", res);
	}
	pthread_join(io.thread, NULL);
	CHECK(io.res == -EIO, "the block read ends with %d", io.res);
	res = ctrl(id, UBLK_U_CMD_DEL_DEV, NULL, 0, 0);
	CHECK(!res, "DEL_DEV: %d", res);
}

static void test_kill(struct server *s)
{
	kill_server(s, 0);
}

static void test_kill_reissue(struct server *s)
{
	kill_server(s, UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE);
}

static const struct {
	const char *name;
	void (*fn)(struct server *s);
} tests[] = {
	{ "read", test_read },
	{ "write", test_write },
	{ "direction: READ from a block write", test_direction_of_write },
	{ "direction: WRITE to a block read", test_direction_of_read },
	{ "ublk: bad command", test_ublk_command },
	{ "ublk: tag not owned", test_ublk_not_owned },
	{ "ublk: request without data", test_ublk_no_data },
	{ "ublk: command of the wrong kind", test_ublk_wrong_op },
	{ "ublk: device without UBLK_F_FUSED_CMD", test_ublk_no_feature },
	{ "ublk: flags refused at ADD_DEV", test_ublk_add_dev },
	{ "ublk: FETCH_REQ with an address", test_ublk_fetch_addr },
	{ "ublk: pread and pwrite", test_pread_pwrite },
	{ "ranges", test_ranges },
	{ "short read leaves zeroes", test_short_read },
	{ "two leases, two rings", test_other_ring },
	{ "commit while leased", test_commit_while_leased },
	{ "commit that moves the data", test_fused_commit },
	{ "commit that fails to move the data", test_fused_commit_fails },
	{ "commit that may not move the data", test_fused_commit_refused },
	{ "commit whose secondary is canceled", test_fused_commit_canceled },
	{ "commit while another one moves the data", test_fused_commit_twice },
	{ "cancel a secondary", test_cancel },
	{ "ring closed with a group pending", test_close_ring },
	{ "server killed with a group pending", test_kill },
	{ "server killed with a commit pending, reissue", test_kill_reissue },
};

static bool run(struct server *s, void (*fn)(struct server *s))
{
	if (setjmp(case_failed))
		return false;
	fn(s);
	return true;
}

static void hung(int sig)
{
	static const char msg[] = "Bail out! the program hangs\n";

	if (write(STDOUT_FILENO, msg, sizeof(msg) - 1) < 0)
		_exit(2);
	_exit(KSFT_FAIL);
}

static void need_features(void)
{
	struct io_uring_params p = { .flags = ring_flags };
	struct io_uring ring;
	__u64 features = 0;
	int res;

	if (getuid())
		ksft_exit_skip("please run this as root\n");
	res = io_uring_queue_init_params(4, &ring, &p);
	if (res)
		ksft_exit_skip("no io_uring (%s)\n", strerror(-res));
	io_uring_queue_exit(&ring);
	if (!(p.features & IORING_FEAT_FUSED_CMD))
		ksft_exit_skip("no IORING_FEAT_FUSED_CMD\n");
	ctrl_fd = open("/dev/ublk-control", O_RDWR);
	if (ctrl_fd < 0)
		ksft_exit_skip("no /dev/ublk-control\n");
	res = ctrl(-1, UBLK_U_CMD_GET_FEATURES, &features, sizeof(features), 0);
	if (res || !(features & UBLK_F_FUSED_CMD))
		ksft_exit_skip("no UBLK_F_FUSED_CMD\n");
}

/* fused_cmd_errors [default|defer] [part of a test's name] */
int main(int argc, char **argv)
{
	const char *pick = argc > 2 ? argv[2] : "";
	static struct server s;
	unsigned int i;
	bool ok;

	if (argc > 1 && !strcmp(argv[1], "defer"))
		ring_flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
	setvbuf(stdout, NULL, _IOLBF, 0);
	ksft_print_header();
	need_features();
	ksft_set_plan(ARRAY_SIZE(tests));
	signal(SIGALRM, hung);
	signal(SIGPIPE, SIG_IGN);

	alarm(60);
	server_start(&s, UBLK_F_FUSED_CMD);
	for (i = 0; i < ARRAY_SIZE(tests); i++) {
		if (!strstr(tests[i].name, pick)) {
			ksft_test_result_skip("%s\n", tests[i].name);
			continue;
		}
		alarm(60);
		ok = run(&s, tests[i].fn);
		/* whatever it left */
		block_io_finish(&s, LEN);
		file_reset(&s);
		ksft_test_result(ok, "%s\n", tests[i].name);
	}
	server_stop(&s);
	close(ctrl_fd);
	ksft_finished();
}
