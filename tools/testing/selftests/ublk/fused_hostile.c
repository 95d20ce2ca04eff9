// SPDX-License-Identifier: GPL-2.0
/*
 * fused_hostile: a server of another user, whom nobody has to trust.
 *
 * Its device is UBLK_F_UNPRIVILEGED_DEV | UBLK_F_FUSED_CMD. Whatever it tries,
 * it gets nothing of a READ's pages, nothing of a WRITE but the data, nothing
 * before or after its time, and the reader sees what a secondary brought,
 * zeroes, or an error.
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include "fused_errors.h"
#include "kselftest_harness.h"

#define NOBODY	65534
#define PATH	64

/* Root remains the saved user */
static void become(unsigned int uid)
{
	if ((!uid && setresuid(0, 0, 0)) || setresgid(uid, uid, 0) ||
	    (uid && setresuid(uid, uid, 0)))
		FATAL("setresuid: %m");
}

/* A command of an unprivileged device has the path of its node in front */
static int ctrl_path(int id, __u32 op, const void *buf, unsigned int len, __u64 data)
{
	char all[PATH + sizeof(struct ublk_params)] = "";
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	struct io_uring ring;
	int res;

	snprintf(all, PATH, "/dev/ublkc%d", id);
	if (len)
		memcpy(all + PATH, buf, len);
	ctrl_open(&ring);
	sqe = io_uring_get_sqe(&ring);
	if (!sqe)
		FATAL("the submission queue is full");
	memset(sqe, 0, 2 * sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = ctrl_fd;
	sqe->cmd_op = op;
	*(struct ublksrv_ctrl_cmd *)sqe->cmd = (struct ublksrv_ctrl_cmd){
		.dev_id = id, .queue_id = -1, .addr = (unsigned long)all,
		.len = PATH + len, .dev_path_len = PATH, .data = { data },
	};
	submit(&ring);
	if (io_uring_wait_cqe(&ring, &cqe))
		FATAL("no CQE");
	res = cqe->res;
	io_uring_queue_exit(&ring);
	return res;
}

/* The node of a device becomes that of its owner, as udev would do it */
static void give_node(const char *fmt, int id)
{
	char path[PATH];
	int i;

	snprintf(path, sizeof(path), fmt, id);
	become(0);
	for (i = 0; chown(path, NOBODY, NOBODY); i++) {
		if (i == 1000)
			FATAL("%s: %m", path);
		usleep(10000);
	}
	become(NOBODY);
}

static void start_hostile(struct server *s)
{
	struct ublk_params params = server_params(0);
	int tag, res;

	give_node("/dev/ublkc%d", s->id);
	s->cdev = open_cdev(s->id);
	res = ctrl_path(s->id, UBLK_U_CMD_SET_PARAMS, &params, sizeof(params), 0);
	if (res)
		FATAL("SET_PARAMS: %s", strerror(-res));
	s->desc = map_desc(s->cdev);
	if (io_uring_queue_init(128, &s->ring, 0))
		FATAL("no ring");
	for (tag = 0; tag < DEPTH; tag++) {
		io_cmd_sqe(s, &s->ring, UBLK_U_IO_FETCH_REQ, 0, tag)->user_data = UD_CMD | tag;
		s->tag[tag] = TAG_FETCHING;
	}
	s->fetched = DEPTH;
	submit(&s->ring);
	res = ctrl_path(s->id, UBLK_U_CMD_START_DEV, NULL, 0, getpid());
	if (res)
		FATAL("START_DEV: %s", strerror(-res));
	snprintf(s->io.path, sizeof(s->io.path), "/dev/ublkb%d", s->id);
	give_node("/dev/ublkb%d", s->id);
	s->file = memfd_create("fused", 0);
	file_reset(s);
	if (pipe(s->pipe) || posix_memalign(&s->io.buf, 4096, LEN + 4096))
		FATAL("no memory");
}

FIXTURE(hostile) {
	struct server s;
};

FIXTURE_SETUP(hostile)
{
	__u64 features = 0;

	self->s.id = -1;
	if (getuid())
		SKIP(return, "not root");
	ctrl_fd = open("/dev/ublk-control", O_RDWR);
	if (ctrl_fd < 0)
		SKIP(return, "no driver");
	ctrl(-1, UBLK_U_CMD_GET_FEATURES, &features, sizeof(features), 0);
	if (!(features & UBLK_F_FUSED_CMD) || !(features & UBLK_F_UNPRIVILEGED_DEV))
		SKIP(return, "no fused commands, or no unprivileged devices");
	signal(SIGPIPE, SIG_IGN);
	become(NOBODY);
	self->s = (struct server){ .want_op = -1, .got = -1 };
	self->s.id = add_dev(UBLK_F_UNPRIVILEGED_DEV | UBLK_F_FUSED_CMD);
	ASSERT_LE(0, self->s.id);
	start_hostile(&self->s);
}

FIXTURE_TEARDOWN(hostile)
{
	if (self->s.id < 0)
		return;
	block_io_finish(&self->s, -EIO);
	io_uring_queue_exit(&self->s.ring);
	munmap((void *)self->s.desc, getpagesize());
	close(self->s.cdev);
	EXPECT_EQ(0, ctrl_path(self->s.id, UBLK_U_CMD_DEL_DEV, NULL, 0, 0));
}

/* The reader got no byte but zeroes and, at this place, @len of the file's @off */
static bool only_brought(struct server *s, __u32 at, __u32 len, size_t off)
{
	unsigned char *buf = block_buf(s);

	return all_are(buf, 0, at) && !differs(buf + at, 0, off, len) &&
		all_are(buf + at + len, 0, LEN - at - len);
}

/* A group of one secondary that commits is refused, and nothing is issued. */
static void commit_refused(struct server *s, const char *where, struct io_uring_sqe *sqe,
			   int op, int want)
{
	sqe->cmd_op = UBLK_U_IO_COMMIT_AND_FETCH_REQ;
	secondary(s, 0, op, 0, 512, 0);
	expect(s, where, want, 1, (const int[]){ -ECANCELED });
}

#define COMMIT_REFUSED(tag, op, want) \
	commit_refused(s, HERE, primary(s, tag, 1), op, want)

/* What gives it other ways to complete a request is not to be had. */
TEST_F(hostile, features)
{
	static const __u64 more[] = { UBLK_F_BATCH_IO, UBLK_F_SHMEM_ZC };
	const __u64 flags = UBLK_F_UNPRIVILEGED_DEV | UBLK_F_FUSED_CMD;
	unsigned int i;
	int id;

	for (i = 0; i < ARRAY_SIZE(more); i++) {
		id = add_dev(flags | more[i]);
		EXPECT_EQ(-EINVAL, id) TH_LOG("flags %llx", (unsigned long long)more[i]);
		/* root gets a device that is not an unprivileged one */
		become(0);
		if (id >= 0)
			ctrl_path(id, UBLK_U_CMD_DEL_DEV, NULL, 0, 0);
		id = add_dev(flags | more[i]);
		EXPECT_LE(0, id);
		if (id >= 0)
			EXPECT_EQ(0, ctrl(id, UBLK_U_CMD_DEL_DEV, NULL, 0, 0));
		become(NOBODY);
	}
}

/* It can be used for what it is made for. */
TEST_F(hostile, serves)
{
	struct server *s = &self->s;
	int tag = block_io_start(s, UBLK_IO_OP_READ);

	fused_commit(s, tag, 1);
	secondary(s, 0, IORING_OP_READ, 0, LEN, 77);
	s->tag[tag] = TAG_FETCHING;
	submit(&s->ring);
	EXPECT_EQ(LEN, block_io_finish(s, 0));
	EXPECT_TRUE(only_brought(s, 0, LEN, 77));

	tag = block_io_start(s, UBLK_IO_OP_WRITE);
	fused_commit(s, tag, 1);
	secondary(s, 0, IORING_OP_WRITE, 0, LEN, 0);
	s->tag[tag] = TAG_FETCHING;
	submit(&s->ring);
	EXPECT_EQ(LEN, block_io_finish(s, 0));
}

TEST_F(hostile, commits_with_a_gap)
{
	struct server *s = &self->s;
	int tag = block_io_start(s, UBLK_IO_OP_READ);

	fused_commit(s, tag, 1);
	secondary(s, 0, IORING_OP_READ, 4000, 5000, 77);
	s->tag[tag] = TAG_FETCHING;
	submit(&s->ring);
	EXPECT_EQ(LEN, block_io_finish(s, 0));
	EXPECT_TRUE(only_brought(s, 4000, 5000, 77));
}

TEST_F(hostile, commits_without_secondaries)
{
	static const int results[] = { 1, 512, LEN / 2, LEN - 1, LEN, LEN + 4096, INT_MAX };
	struct server *s = &self->s;
	unsigned int i;
	int res;

	for (i = 0; i < ARRAY_SIZE(results); i++) {
		block_io_start(s, UBLK_IO_OP_READ);
		res = block_io_finish(s, results[i]);
		EXPECT_TRUE(res == -EIO || (res == LEN && all_are(block_buf(s), 0, LEN))) {
			TH_LOG("result %d: the reader gets %d and %#x", results[i], res,
			       block_buf(s)[0]);
		}
	}
	block_io_start(s, UBLK_IO_OP_READ);
	EXPECT_EQ(-EIO, block_io_finish(s, 0));
	block_io_start(s, UBLK_IO_OP_READ);
	EXPECT_EQ(-EIO, block_io_finish(s, -EPERM));
}

/* Data of a group that was canceled do not count. */
TEST_F(hostile, commits_after_a_cancel)
{
	struct server *s = &self->s;
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	struct io_uring_sqe *sqe;

	fused_commit(s, tag, 2);
	secondary_on(&s->ring, 0, IORING_OP_READ, s->pipe[0], 0, 512, 0);
	secondary(s, 1, IORING_OP_READ, 512, 512, 0);
	submit(&s->ring);
	sqe = io_uring_get_sqe(&s->ring);
	ASSERT_NE(NULL, sqe);
	io_uring_prep_cancel64(sqe, UD_SECONDARY(0), 0);
	sqe->user_data = UD_OTHER;
	submit(&s->ring);
	while (!s->cmd_res[tag])
		pump(s, 20);
	EXPECT_EQ(-ECANCELED, s->cmd_res[tag]);
	EXPECT_EQ(LEN, block_io_finish(s, LEN));
	EXPECT_TRUE(all_are(block_buf(s), 0, LEN));
}

/* What is to be read is not to be looked at, what is to be written not to be changed. */
TEST_F(hostile, wrong_direction)
{
	static const int takers[] = {
		IORING_OP_WRITE, IORING_OP_WRITE_FIXED, IORING_OP_SEND, IORING_OP_SEND_ZC,
	};
	static const int givers[] = { IORING_OP_READ, IORING_OP_READ_FIXED, IORING_OP_RECV };
	struct server *s = &self->s;
	unsigned int i;
	int tag;

	tag = block_io_start(s, UBLK_IO_OP_READ);
	for (i = 0; i < ARRAY_SIZE(takers); i++)
		COMMIT_REFUSED(tag, takers[i], -EINVAL);
	EXPECT_TRUE(file_untouched(s));
	EXPECT_EQ(-EIO, block_io_finish(s, 0));

	tag = block_io_start(s, UBLK_IO_OP_WRITE);
	for (i = 0; i < ARRAY_SIZE(givers); i++)
		COMMIT_REFUSED(tag, givers[i], -EINVAL);
	EXPECT_EQ(LEN, block_io_finish(s, LEN));
	EXPECT_FALSE(differs(block_buf(s), 1, 0, LEN));
}

/* Memory beside the request is not lent. */
TEST_F(hostile, beyond_the_request)
{
	static const struct {
		__u64 addr;
		__u32 len;
	} beyond[] = {
		{ LEN, 1 }, { LEN - 1, 2 }, { 0, LEN + 1 }, { LEN, 4096 }, { 1 << 20, 512 },
		{ 1ULL << 32, 512 }, { ~0ULL, 2 }, { ~511ULL, 1024 }, { 1ULL << 63, LEN },
		{ 512, INT_MAX },
	};
	struct server *s = &self->s;
	unsigned int i;
	int tag, write;

	for (i = 0; i < 2 * ARRAY_SIZE(beyond); i++) {
		write = i % 2;
		tag = block_io_start(s, write ? UBLK_IO_OP_WRITE : UBLK_IO_OP_READ);
		fused_commit(s, tag, 1);
		secondary(s, 0, write ? IORING_OP_WRITE : IORING_OP_READ, beyond[i / 2].addr,
			  beyond[i / 2].len, 0);
		s->tag[tag] = TAG_FETCHING;
		submit(&s->ring);
		EXPECT_EQ(-EIO, block_io_finish(s, 0));
		EXPECT_EQ(-EFAULT, wait_cqe(s, UD_SECONDARY(0)));
		EXPECT_TRUE(file_untouched(s));
	}
}

TEST_F(hostile, not_its_request)
{
	struct server *s = &self->s;
	int tag = block_io_start(s, UBLK_IO_OP_READ), t;
	struct io_uring_sqe *sqe;

	for (t = 0; t < DEPTH; t++)
		if (t != tag)
			COMMIT_REFUSED(t, IORING_OP_READ, -EBUSY);
	COMMIT_REFUSED(DEPTH, IORING_OP_READ, -EINVAL);
	COMMIT_REFUSED(USHRT_MAX, IORING_OP_READ, -EINVAL);
	sqe = primary(s, tag, 1);
	((struct ublksrv_io_cmd *)sqe->cmd)->q_id = 1;
	commit_refused(s, HERE, sqe, IORING_OP_READ, -EINVAL);
	sqe = primary(s, tag, 1);
	((struct ublksrv_io_cmd *)sqe->cmd)->result = LEN;
	commit_refused(s, HERE, sqe, IORING_OP_READ, -EINVAL);
	sqe = primary(s, tag, 1);
	((struct ublksrv_io_cmd *)sqe->cmd)->addr = 4096;
	commit_refused(s, HERE, sqe, IORING_OP_READ, -EINVAL);
	EXPECT_EQ(LEN, block_io_finish(s, LEN));
	/* it had it */
	COMMIT_REFUSED(tag, IORING_OP_READ, -EBUSY);
	COMMIT_REFUSED(tag, IORING_OP_WRITE, -EBUSY);
	EXPECT_TRUE(file_untouched(s));
	EXPECT_TRUE(all_are(block_buf(s), 0, LEN));
}

/* These lend the data and tell nobody what became of it. */
TEST_F(hostile, submits_without_commit)
{
	static const int op[] = { UBLK_IO_OP_READ, UBLK_IO_OP_WRITE };
	struct server *s = &self->s;
	int i, tag;

	for (i = 0; i < 2; i++) {
		tag = block_io_start(s, op[i]);
		primary(s, tag, 1);
		secondary(s, 0, i ? IORING_OP_WRITE : IORING_OP_READ, 0, LEN, 0);
		EXPECT(s, -EPERM, -ECANCELED);
		EXPECT_TRUE(file_untouched(s));
		EXPECT_EQ(LEN, block_io_finish(s, LEN));
		EXPECT_TRUE(i || all_are(block_buf(s), 0, LEN));
	}
}

TEST_F(hostile, copies)
{
	static const int op[] = { UBLK_IO_OP_READ, UBLK_IO_OP_WRITE };
	struct server *s = &self->s;
	char data[512] = "mine";
	__u64 off;
	int i;

	for (i = 0; i < 2; i++) {
		off = UBLKSRV_IO_BUF_OFFSET +
			((__u64)block_io_start(s, op[i]) << UBLK_TAG_OFF);
		EXPECT_EQ(-1, pread(s->cdev, data, sizeof(data), off));
		EXPECT_EQ(EPERM, errno);
		EXPECT_EQ(-1, pwrite(s->cdev, data, sizeof(data), off));
		EXPECT_EQ(EPERM, errno);
		EXPECT_EQ(LEN, block_io_finish(s, LEN));
		EXPECT_TRUE(i || all_are(block_buf(s), 0, LEN));
		EXPECT_FALSE(i && differs(block_buf(s), 1, 0, LEN));
	}
	EXPECT_STREQ("mine", data);
}

TEST_F(hostile, registers)
{
	static const int op[] = { UBLK_IO_OP_READ, UBLK_IO_OP_WRITE };
	struct server *s = &self->s;
	struct io_uring_sqe *sqe;
	int i, tag;

	ASSERT_EQ(0, io_uring_register_buffers_sparse(&s->ring, 4));
	for (i = 0; i < 2; i++) {
		tag = block_io_start(s, op[i]);
		s->nr_cqes = 0;
		sqe = io_cmd_sqe(s, &s->ring, UBLK_U_IO_REGISTER_IO_BUF, 0, tag);
		sqe->user_data = UD_OTHER;
		submit(&s->ring);
		EXPECT_EQ(-EPERM, wait_cqe(s, UD_OTHER));
		s->nr_cqes = 0;
		secondary(s, 0, i ? IORING_OP_WRITE_FIXED : IORING_OP_READ_FIXED, 0, 512, 0);
		submit(&s->ring);
		EXPECT_EQ(-EFAULT, wait_cqe(s, UD_SECONDARY(0)));
		EXPECT_TRUE(file_untouched(s));
		EXPECT_EQ(LEN, block_io_finish(s, LEN));
		EXPECT_TRUE(i || all_are(block_buf(s), 0, LEN));
	}
}

TEST_F(hostile, from_elsewhere)
{
	struct server *s = &self->s;
	int tag = block_io_start(s, UBLK_IO_OP_READ), status;
	pid_t pid;

	/* a ring of ours is no way around, a task that does not own the slot neither */
	EXPECT_EQ(-EPERM, primary_elsewhere(s, UBLK_U_IO_FUSED_SUBMIT_IO, tag));
	fflush(stdout);
	pid = fork();
	if (!pid) {
		become(0);
		become(NOBODY);
		_exit(-primary_elsewhere(s, UBLK_U_IO_COMMIT_AND_FETCH_REQ, tag) != EINVAL);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_FALSE(block_io_done(s, 0));
	EXPECT_EQ(LEN, block_io_finish(s, LEN));
	EXPECT_TRUE(all_are(block_buf(s), 0, LEN));
}

TEST_F(hostile, maps)
{
	struct server *s = &self->s;
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	__u64 off = UBLKSRV_IO_BUF_OFFSET + ((__u64)tag << UBLK_TAG_OFF);

	EXPECT_EQ(MAP_FAILED, mmap(NULL, 4096, PROT_READ, MAP_SHARED, s->cdev, off));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, s->cdev,
				   UBLKSRV_CMD_BUF_OFFSET));
	EXPECT_EQ(-EIO, block_io_finish(s, 0));
}

/* A reader whose server goes in the middle gets an error. */
TEST_F(hostile, goes)
{
	struct server *s = &self->s;
	int tag = block_io_start(s, UBLK_IO_OP_READ);

	fused_commit(s, tag, 2);
	secondary(s, 0, IORING_OP_READ, 0, 512, 0);
	secondary_on(&s->ring, 1, IORING_OP_READ, s->pipe[0], 512, 512, 0);
	submit(&s->ring);
	io_uring_queue_exit(&s->ring);
	munmap((void *)s->desc, getpagesize());
	close(s->cdev);
	pthread_join(s->io.thread, NULL);
	EXPECT_EQ(-EIO, s->io.res);
	EXPECT_EQ(0, ctrl_path(s->id, UBLK_U_CMD_DEL_DEV, NULL, 0, 0));
	s->id = -1;
}

TEST_HARNESS_MAIN
