// SPDX-License-Identifier: GPL-2.0
/* fused_cmd_errors: the server, its I/O commands and its loop. */
#include <time.h>
#include <sys/mman.h>
#include "fused_errors.h"

static long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000L + ts.tv_nsec / 1000000;
}

struct io_uring_sqe *io_cmd_sqe(struct server *s, struct io_uring *ring,
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

void submit(struct io_uring *ring)
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

void commit(struct server *s, int tag, int result)
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
int pump(struct server *s, int ms)
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
bool pump_until(struct server *s, bool (*cond)(struct server *s, __u64 arg),
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

bool cqe_posted(struct server *s, __u64 user_data)
{
	return find_cqe(s, user_data);
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
int cqe_res(struct server *s, __u64 user_data)
{
	const struct io_uring_cqe *cqe = find_cqe(s, user_data);

	return cqe ? cqe->res : NO_CQE;
}

int wait_cqe(struct server *s, __u64 user_data)
{
	pump_until(s, cqe_posted, user_data, TIMEOUT_MS);
	return cqe_res(s, user_data);
}

/* A server's life ---------------------------------------------------------- */

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

struct ublk_params server_params(__u32 attrs)
{
	return (struct ublk_params){
		.len = sizeof(struct ublk_params),
		.types = UBLK_PARAM_TYPE_BASIC,
		.basic = {
			.attrs = attrs,
			.logical_bs_shift = 9,
			.physical_bs_shift = 12,
			.io_opt_shift = 12,
			.io_min_shift = 9,
			.max_sectors = (1 << 20) >> 9,
			.dev_sectors = DEV_BYTES >> 9,
		},
	};
}

const struct ublksrv_io_desc *map_desc(int cdev)
{
	void *p = mmap(NULL, getpagesize(), PROT_READ, MAP_SHARED, cdev,
		       UBLKSRV_CMD_BUF_OFFSET);

	if (p == MAP_FAILED)
		FATAL("cannot map the descriptors");
	return p;
}

void server_start(struct server *s, __u64 flags)
{
	struct ublk_params params = server_params(UBLK_ATTR_VOLATILE_CACHE);
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

void server_stop(struct server *s)
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
