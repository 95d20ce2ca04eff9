// SPDX-License-Identifier: GPL-2.0
/*
 * life_batch_late: commands of UBLK_F_BATCH_IO whose task or ring goes away when
 * they were woken up to tell the server of a request, and have not done so; and
 * commits of many requests at once whose data is registered.
 */
#include <pthread.h>
#include <sys/mman.h>
#include "life.h"
#include "parity_bsrv.h"
#include "kselftest_harness.h"

/* How it goes away */
enum end {
	RING_CLOSED,
	THREAD_EXITS,
	PROCESS_KILLED,
};

/* Somebody with a FETCH whose task work is only done when he asks for it */
struct late {
	struct srv *s;
	enum end end;
	struct bring *b;
	int fetches, may_end;
};

/* As bring_init(), but nothing happens unless it is asked for */
static void lazy_init(struct bring *b, struct srv *s)
{
	int res;

	memset(b, 0, sizeof(*b));
	b->s = s;
	b->ring = &b->own;
	b->next = 1;
	b->buf_tags = 2048;
	b->group = 7;
	res = io_uring_queue_init(64, &b->own,
				  IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
	if (res)
		give_up("ring", res);
	/* a child that waits for the disk must not keep it */
	io_uring_ring_dontfork(&b->own);
	b->br = io_uring_setup_buf_ring(b->ring, NR_TAG_BUFS, b->group, 0, &res);
	b->tags = calloc(NR_TAG_BUFS * b->buf_tags, sizeof(*b->tags));
	if (!b->br || !b->tags)
		give_up("buffers", res);
}

static void *late(void *arg)
{
	struct late *l = arg;
	struct bring *b = calloc(1, sizeof(*b));

	l->b = b;
	lazy_init(b, l->s);
	bring_provide(b, 0, 4, NULL);
	bring_fetch(b, 0);
	__atomic_store_n(&l->fetches, 1, __ATOMIC_RELEASE);
	while (!__atomic_load_n(&l->may_end, __ATOMIC_ACQUIRE))
		usleep(1000);
	if (l->end == RING_CLOSED)
		io_uring_queue_exit(&b->own);
	return NULL;
}

FIXTURE(late) {
	struct srv s;
};

FIXTURE_VARIANT(late) {
	enum end end;
	/* another command of the queue waits */
	bool another;
};

FIXTURE_VARIANT_ADD(late, ring_closed) {
	.end = RING_CLOSED,
};

FIXTURE_VARIANT_ADD(late, ring_closed_of_two) {
	.end = RING_CLOSED,
	.another = true,
};

FIXTURE_VARIANT_ADD(late, thread_exits) {
	.end = THREAD_EXITS,
};

FIXTURE_VARIANT_ADD(late, thread_exits_of_two) {
	.end = THREAD_EXITS,
	.another = true,
};

FIXTURE_SETUP(late)
{
	self->s.id = -1;
	if (why_not())
		SKIP(return, "%s", why_not());
}

FIXTURE_TEARDOWN(late)
{
	if (self->s.id < 0)
		return;
	srv_close(&self->s);
	EXPECT_EQ(0, delete_dev(self->s.id));
}

/*
 * The request is not lost with the command: somebody else is told of it, or it
 * fails. A write can not be given to a server without its memory, a read can: the
 * server would be told of it where nobody looks.
 */
static void not_lost(struct __test_metadata *_metadata, struct srv *s, enum end how, bool another,
		     enum block_op op)
{
	struct late l = { .s = s, .end = how };
	__u64 fetch = 0;
	struct blk_io io;
	pthread_t thread;
	struct bring b;
	int tag;

	batch_live(&b, s, 0);
	ASSERT_EQ(0, pthread_create(&thread, NULL, late, &l));
	while (!__atomic_load_n(&l.fetches, __ATOMIC_ACQUIRE))
		usleep(1000);
	if (another) {
		bring_provide(&b, 0, 1, NULL);
		fetch = bring_fetch(&b, 0);
	}
	block_start(&io, s->id, op, 8, 4096);
	wait_woken(s->id, 1);
	__atomic_store_n(&l.may_end, 1, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	if (how == THREAD_EXITS) {
		/*
		 * Nobody can do the task work of its ring, which is still open. That
		 * is a server that does not answer: it waits until the ring closes.
		 */
		EXPECT_EQ(BLOCKS, block_wait(&io, 100));
		io_uring_queue_exit(&l.b->own);
	}
	if (another) {
		ASSERT_EQ(2, batch_request(&b, fetch, INT_MAX, &tag));
		if (op == B_WRITE)
			EXPECT_EQ((char)0xa5, *(char *)s->buf[tag]);
		EXPECT_EQ(16, batch_commit(&b, 0, tag, 4096));
		EXPECT_EQ(1, block_wait(&io, INT_MAX));
		return;
	}
	/* the last command of the queue was gone with its task: it is closed */
	EXPECT_EQ(-EIO, block_wait(&io, INT_MAX));
	EXPECT_EQ(-ENODEV, bring_wait(&b, bring_fetch(&b, 0), INT_MAX, NULL));
}

TEST_F_TIMEOUT(late, request_is_not_lost, 120)
{
	not_lost(_metadata, &self->s, variant->end, variant->another, B_WRITE);
}

TEST_F_TIMEOUT(late, read_is_not_lost, 120)
{
	not_lost(_metadata, &self->s, variant->end, variant->another, B_READ);
}

/* The same when the whole server is killed; the request waits for the next one if it may */
static void server_killed(struct __test_metadata *_metadata, __u64 flags)
{
	int pipes[2], id, tag;
	struct blk_io io;
	struct bring b;
	__u64 fetch;
	pid_t pid;

	ASSERT_EQ(0, pipe(pipes));
	pid = child();
	if (!pid) {
		struct late l = { .end = PROCESS_KILLED };
		struct srv s;

		batch_live(&b, &s, flags);
		if (write(pipes[1], &s.id, sizeof(s.id)) != sizeof(s.id))
			give_up("write", -errno);
		l.s = &s;
		late(&l);
	}
	ASSERT_EQ((ssize_t)sizeof(id), read(pipes[0], &id, sizeof(id)));
	block_start(&io, id, B_WRITE, 8, 4096);
	wait_woken(id, 1);
	kill(pid, SIGKILL);
	EXPECT_EQ(-1, exit_status(pid));
	if (flags) {
		struct srv s = { .id = id, .flags = flags | UBLK_F_BATCH_IO, .queues = 1,
				 .depth = DEPTH, .desc_size = 24 };

		while (ctrl_simple(id, UBLK_U_CMD_START_USER_RECOVERY, NULL, 0, 0))
			usleep(1000);
		attach(&s);
		bring_init(&b, &s, false);
		bring_provide(&b, 0, 1, NULL);
		fetch = bring_fetch(&b, 0);
		ASSERT_EQ(0, batch_prep(&b, 0, 0, DEPTH));
		ASSERT_EQ(0, ctrl_simple(id, UBLK_U_CMD_END_USER_RECOVERY, NULL, 0, getpid()));
		ASSERT_EQ(2, batch_request(&b, fetch, INT_MAX, &tag));
		EXPECT_EQ(16, batch_commit(&b, 0, tag, 4096));
		EXPECT_EQ(1, block_wait(&io, INT_MAX));
		srv_close(&s);
	} else {
		EXPECT_EQ(-EIO, block_wait(&io, INT_MAX));
	}
	EXPECT_EQ(0, delete_dev(id));
}

TEST(server_is_killed)
{
	if (why_not())
		SKIP(return, "%s", why_not());
	server_killed(_metadata, 0);
	server_killed(_metadata, UBLK_F_USER_RECOVERY);
}

/* More CQEs than a FETCH posts before other work of the task has its turn */
#define NR_TURNS	40

/* It goes on by itself then: no further request wakes it up */
TEST(takes_more_than_one_turn)
{
	struct ublksrv_ctrl_dev_info info = default_info(UBLK_F_BATCH_IO | UBLK_F_USER_COPY);
	struct blk_io io[NR_TURNS];
	int i, tag = -1;
	struct bring b;
	struct srv s;
	__u64 fetch;

	if (why_not())
		SKIP(return, "%s", why_not());
	info.flags |= UBLK_F_NO_AUTO_PART_SCAN;
	info.queue_depth = NR_TURNS;
	srv_info(&s, &info, NULL);
	srv_attach(&s);
	lazy_init(&b, &s);
	for (i = 0; i < NR_TURNS; i += DEPTH)
		ASSERT_EQ(0, batch_prep(&b, 0, i, i + DEPTH));
	srv_start(&s);
	for (i = 0; i < NR_TURNS; i++)
		bring_provide(&b, i, 1, NULL);
	fetch = bring_fetch(&b, 0);
	for (i = 0; i < NR_TURNS; i++)
		block_start(&io[i], s.id, B_READ, 8 * i, 4096);
	wait_woken(s.id, NR_TURNS);
	for (i = 0; i < NR_TURNS; i++) {
		ASSERT_EQ(2, batch_request(&b, fetch, 10000, &tag));
		EXPECT_EQ(8, batch_commit(&b, 0, tag, 4096));
	}
	for (i = 0; i < NR_TURNS; i++)
		EXPECT_EQ(1, block_wait(&io[i], INT_MAX));
	bring_exit(&b);
	srv_close(&s);
	EXPECT_EQ(0, delete_dev(s.id));
}

/* Requests whose data is registered ---------------------------------------- */

#define NR_TOGETHER	8

static int buffer_cmd(struct srv *s, __u32 op, int tag, int index)
{
	struct io io = { .op = op, .tag = tag, .addr = index };

	return srv_do(s, &io);
}

/* Move the data of a request, by its registered buffer */
static int move(struct srv *s, int tag, int fd, bool write)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&s->ring);
	__u64 ud = s->next++;

	if (write)
		io_uring_prep_write_fixed(sqe, fd, NULL, 4096, tag * 4096, tag);
	else
		io_uring_prep_read_fixed(sqe, fd, NULL, 4096, tag * 4096, tag);
	sqe->user_data = ud;
	io_uring_submit(&s->ring);
	return srv_wait(s, ud, INT_MAX);
}

/*
 * Eight writes are committed by one command: each ends once, with its own result,
 * and the one whose buffer is still registered does not end before that is over.
 */
TEST(registered_and_together)
{
	struct ublksrv_ctrl_dev_info info =
		default_info(UBLK_F_BATCH_IO | UBLK_F_SUPPORT_ZERO_COPY);
	int fd, i, round, told = 0, tags[NR_TOGETHER];
	struct elem elems[NR_TOGETHER] = {};
	struct blk_io io[NR_TOGETHER];
	char page[4096];
	struct bring b, cmds;
	struct srv s;
	__u64 fetch;

	if (why_not())
		SKIP(return, "%s", why_not());
	fd = memfd_create("data", MFD_CLOEXEC);
	ASSERT_LE(0, fd);
	info.flags |= UBLK_F_NO_AUTO_PART_SCAN;
	info.queue_depth = NR_TOGETHER;
	srv_info(&s, &info, NULL);
	srv_attach(&s);
	/* what is told has a ring of its own */
	bring_init(&b, &s, true);
	bring_init(&cmds, &s, true);
	ASSERT_EQ(0, batch_prep(&cmds, 0, 0, NR_TOGETHER));
	srv_start(&s);
	for (i = 0; i < NR_TAG_BUFS; i++)
		bring_provide(&b, i, 1, NULL);
	fetch = bring_fetch(&b, 0);
	for (round = 0; round < 2; round++) {
		/* 8 bytes of each */
		struct elem one = {};
		struct bio commit = {
			.op = UBLK_U_IO_COMMIT_IO_CMDS,
			.nr = NR_TOGETHER,
			.elem_bytes = 8,
			.elems = elems,
		};

		for (i = 0; i < NR_TOGETHER; i++) {
			block_start(&io[i], s.id, round ? B_READ : B_WRITE, 8 * i, 4096);
			ASSERT_EQ(2, batch_request(&b, fetch, INT_MAX, &tags[i]));
			told++;
			ASSERT_EQ(0, buffer_cmd(&s, UBLK_U_IO_REGISTER_IO_BUF, tags[i], tags[i]));
			ASSERT_EQ(4096, move(&s, tags[i], fd, !round));
			if (i != 5)
				ASSERT_EQ(0, buffer_cmd(&s, UBLK_U_IO_UNREGISTER_IO_BUF, tags[i],
							tags[i]));
			one.tag = tags[i];
			one.result = i == 3 ? -ENOSPC : 4096;
			memcpy((char *)elems + 8 * i, &one, 8);
		}
		ASSERT_EQ(8 * NR_TOGETHER, bring_do(&cmds, &commit));
		for (i = 0; i < NR_TOGETHER; i++)
			if (i != 5)
				EXPECT_EQ(i == 3 ? -ENOSPC : 1, block_wait(&io[i], INT_MAX));
		EXPECT_EQ(BLOCKS, block_wait(&io[5], 100));
		EXPECT_EQ(0, buffer_cmd(&s, UBLK_U_IO_UNREGISTER_IO_BUF, tags[5], tags[5]));
		EXPECT_EQ(1, block_wait(&io[5], INT_MAX));
		/* none of them is the server's any more */
		for (i = 0; i < NR_TOGETHER; i++)
			EXPECT_EQ(-EBUSY, batch_commit(&cmds, 0, i, 4096));
		for (i = 0; i < NR_TOGETHER && !round; i++) {
			ASSERT_EQ(4096, pread(fd, page, 4096, tags[i] * 4096));
			EXPECT_EQ((char)0xa5, page[0]);
			EXPECT_EQ((char)0xa5, page[4095]);
		}
	}
	EXPECT_EQ(2 * NR_TOGETHER, told);
	bring_exit(&b);
	bring_exit(&cmds);
	srv_close(&s);
	EXPECT_EQ(0, delete_dev(s.id));
	close(fd);
}

TEST_HARNESS_MAIN
