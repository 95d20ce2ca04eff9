// SPDX-License-Identifier: GPL-2.0
/*
 * life_batch_share: threads of a server that work on batches of one queue
 * (UBLK_F_BATCH_IO), and that come and go.
 */
#include <fcntl.h>
#include <pthread.h>
#include "life.h"
#include "parity_bsrv.h"
#include "kselftest_harness.h"

#define MAX_THREADS	4
/* of a reader */
#define NR_IOS		400

struct worker {
	struct srv *s;
	pthread_t thread;
	/* ends after so many requests, without a word */
	int mortal;
	int served;
	bool fetches;
};

/* So few that they run out, and another thread has its turn */
#define WORKER_BUFS	4

/* A sector is full of its number */
static void fill(struct srv *s, int tag)
{
	const struct ublksrv_io_desc *desc = srv_desc(s, tag);
	__u64 *words = s->buf[tag];
	unsigned int i;

	for (i = 0; i < desc->nr_sectors * 64; i++)
		words[i] = desc->start_sector + i / 64;
}

static void *serve_batches(void *arg)
{
	struct worker *w = arg;
	struct bring *b = calloc(1, sizeof(*b));
	struct srv *s = w->s;
	struct said said;
	__u64 fetch;
	int res = -ENOBUFS, bid, i;

	bring_init(b, s, true);
	for (;;) {
		if (res == -ENOBUFS) {
			/* who ends gets no more than it will commit */
			int nr = w->mortal ? w->mortal - w->served : WORKER_BUFS;

			for (bid = 0; bid < nr; bid++)
				bring_provide(b, bid, w->mortal ? 1 : 1 + bid % 3, NULL);
			fetch = bring_fetch(b, 0);
			__atomic_store_n(&w->fetches, true, __ATOMIC_RELEASE);
		}
		res = bring_wait(b, fetch, INT_MAX, &said);
		if (res == -ENOBUFS)
			continue;
		if (res < 0)
			break;
		bid = said.flags >> IORING_CQE_BUFFER_SHIFT;
		for (i = 0; i < res / 2; i++) {
			int tag = b->tags[bid * b->buf_tags + i];
			unsigned int bytes = srv_desc(s, tag)->nr_sectors << 9;

			fill(s, tag);
			if (batch_commit(b, 0, tag, bytes) != 16)
				give_up("COMMIT", tag);
			__atomic_add_fetch(&w->served, 1, __ATOMIC_RELAXED);
		}
		if (w->mortal && w->served >= w->mortal)
			/* the ring, and the command, stay behind */
			return NULL;
	}
	bring_exit(b);
	free(b);
	return NULL;
}

/* Reads at random, and looks at what it gets; a child, for its exit status */
static pid_t reader(int id, int seed)
{
	pid_t pid = child();
	__u64 *buf;
	int fd, i;

	if (pid)
		return pid;
	close_range(3, ~0U, 0);
	srand(seed);
	fd = open(str("/dev/ublkb%d", id), O_RDONLY | O_DIRECT);
	if (fd < 0 || posix_memalign((void **)&buf, 4096, 4096))
		_exit(1);
	for (i = 0; i < NR_IOS; i++) {
		__u64 sector = rand() % (DEV_SECTORS / 8) * 8;

		if (pread(fd, buf, 4096, sector << 9) != 4096)
			_exit(2);
		if (buf[0] != sector || buf[511] != sector + 7)
			_exit(4);
	}
	_exit(0);
}

FIXTURE(threads) {
	struct srv s;
};

FIXTURE_VARIANT(threads) {
	int nr;
	int mortal;
	/* the device is stopped while there are requests all the time */
	bool busy;
};

FIXTURE_VARIANT_ADD(threads, one) {
	.nr = 1,
};

FIXTURE_VARIANT_ADD(threads, two) {
	.nr = 2,
};

FIXTURE_VARIANT_ADD(threads, four) {
	.nr = 4,
};

FIXTURE_VARIANT_ADD(threads, all_but_one_end) {
	.nr = 4,
	.mortal = 3,
};

FIXTURE_VARIANT_ADD(threads, one_ends) {
	.nr = 2,
	.mortal = 1,
};

FIXTURE_VARIANT_ADD(threads, busy) {
	.nr = 2,
	.busy = true,
};

FIXTURE_SETUP(threads)
{
	self->s.id = -1;
	if (why_not())
		SKIP(return, "%s", why_not());
}

FIXTURE_TEARDOWN(threads)
{
	if (self->s.id < 0)
		return;
	EXPECT_EQ(0, delete_dev(self->s.id));
}

TEST_F_TIMEOUT(threads, share_a_queue, 240)
{
	struct ublksrv_ctrl_dev_info info = default_info(UBLK_F_BATCH_IO |
							 UBLK_F_NO_AUTO_PART_SCAN);
	struct worker workers[MAX_THREADS] = {};
	struct srv *s = &self->s;
	struct bring b;
	pid_t readers[4];
	int i;

	info.queue_depth = 8;
	srv_info(s, &info, NULL);
	srv_attach(s);
	bring_init(&b, s, false);
	ASSERT_EQ(0, batch_prep(&b, 0, 0, 8));
	srv_start(s);
	for (i = 0; i < variant->nr; i++) {
		workers[i].s = s;
		workers[i].mortal = i < variant->mortal ? 1 + i : 0;
		ASSERT_EQ(0, pthread_create(&workers[i].thread, NULL, serve_batches,
					    &workers[i]));
		/* in this order */
		while (!__atomic_load_n(&workers[i].fetches, __ATOMIC_ACQUIRE))
			usleep(100);
	}
	for (i = 0; i < 4; i++)
		readers[i] = reader(s->id, i);
	for (i = 0; i < variant->nr && variant->busy; i++)
		while (__atomic_load_n(&workers[i].served, __ATOMIC_RELAXED) < 20)
			usleep(100);
	for (i = 0; i < 4 && !variant->busy; i++)
		EXPECT_EQ(0, exit_status(readers[i]));
	ASSERT_EQ(0, ctrl_simple(s->id, UBLK_U_CMD_STOP_DEV, NULL, 0, 0));
	for (i = 0; i < 4 && variant->busy; i++)
		/* it had all that it wanted, a read failed, or the disk was gone before */
		EXPECT_GE(2u, (unsigned int)exit_status(readers[i]));
	for (i = 0; i < variant->nr; i++) {
		pthread_join(workers[i].thread, NULL);
		TH_LOG("thread %d served %d", i, workers[i].served);
		EXPECT_LT(0, workers[i].served);
	}
	srv_close(s);
}

/* How many fetch commands a device has, as far as debugfs tells; else @want */
static int nr_fetches(int id, int want)
{
	FILE *f = fopen(str("/sys/kernel/debug/ublk_rs/%d", id), "r");
	int nr = want;
	char line[200];

	if (!f)
		return want;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, " %*d tags to tell, %d commands", &nr) == 1)
			break;
	fclose(f);
	return nr;
}

/* A ring that goes, though its command only waits, does not end the service of others */
TEST(one_ring_goes)
{
	struct bring b, other;
	struct blk_io io;
	struct srv s;
	__u64 fetch;
	int tag;

	if (why_not())
		SKIP(return, "%s", why_not());
	batch_live(&b, &s, 0);
	bring_init(&other, &s, true);
	bring_provide(&b, 0, 1, NULL);
	fetch = bring_fetch(&b, 0);
	bring_fetch(&other, 0);
	bring_exit(&other);
	/* in its own time */
	while (nr_fetches(s.id, 1) != 1)
		usleep(1000);
	block_start(&io, s.id, B_READ, 0, 4096);
	ASSERT_EQ(2, batch_request(&b, fetch, INT_MAX, &tag));
	EXPECT_EQ(16, batch_commit(&b, 0, tag, 4096));
	EXPECT_EQ(1, block_wait(&io, INT_MAX));
	srv_close(&s);
	EXPECT_EQ(0, delete_dev(s.id));
}

/* All slots are prepared by a process that has ended then: what PREP returned */
static int prepare_and_go(struct srv *s)
{
	pid_t pid = child();
	struct bring b;

	if (pid)
		return -exit_status(pid);
	bring_init(&b, s, true);
	_exit(-batch_prep(&b, 0, 0, s->depth));
}

/* Somebody stops the device, who has none of the server's files; the exit status tells how */
static pid_t stop(int id)
{
	pid_t pid = child();

	if (pid)
		return pid;
	close_range(3, ~0U, 0);
	ctrl_open();
	_exit(-ctrl_simple(id, UBLK_U_CMD_STOP_DEV, NULL, 0, 0));
}

/* ... and has looked for requests of servers that are dying: the disk is being deleted */
static void wait_stopping(int id)
{
	int fd;

	while ((fd = open(str("/dev/ublkb%d", id), O_RDONLY | O_CLOEXEC)) >= 0)
		close(fd);
}

/* The process that prepared the slots ends; who was told of a request has all the time it wants */
TEST(who_prepared_goes)
{
	struct blk_io io;
	struct bring b;
	pid_t stopper;
	struct srv s;
	__u64 fetch;
	int tag;

	if (why_not())
		SKIP(return, "%s", why_not());
	srv_open(&s, UBLK_F_BATCH_IO, NULL);
	ASSERT_EQ(0, prepare_and_go(&s));
	bring_init(&b, &s, false);
	srv_start(&s);
	bring_provide(&b, 0, 1, NULL);
	fetch = bring_fetch(&b, 0);
	block_start(&io, s.id, B_READ, 0, 4096);
	ASSERT_EQ(2, batch_request(&b, fetch, INT_MAX, &tag));
	stopper = stop(s.id);
	wait_stopping(s.id);
	EXPECT_EQ(BLOCKS, block_wait(&io, 100));
	EXPECT_EQ(16, batch_commit(&b, 0, tag, 4096));
	EXPECT_EQ(1, block_wait(&io, INT_MAX));
	EXPECT_EQ(0, exit_status(stopper));
	srv_close(&s);
	EXPECT_EQ(0, delete_dev(s.id));
}

/* Somebody who works on batches of slots that a process has prepared which is gone */
FIXTURE(untold) {
	struct srv s;
	struct bring b;
	/* hears of a request only when it asks */
	struct bring late;
	__u64 later;
};

FIXTURE_SETUP(untold)
{
	struct srv *s = &self->s;
	int i;

	s->id = -1;
	if (why_not())
		SKIP(return, "%s", why_not());
	srv_open(s, UBLK_F_BATCH_IO, NULL);
	ASSERT_EQ(0, prepare_and_go(s));
	srv_start(s);
	bring_init(&self->b, s, false);
	bring_init_defer(&self->late, s);
	for (i = 0; i < DEPTH; i++)
		bring_provide(&self->late, i, 1, NULL);
}

FIXTURE_TEARDOWN(untold)
{
	if (self->s.id < 0)
		return;
	bring_exit(&self->late);
	srv_close(&self->s);
	EXPECT_EQ(0, delete_dev(self->s.id));
}

/* The next request is told, and its server says that it is done */
static int serve_late(struct bring *late, __u64 later)
{
	int res, tag;

	res = batch_request(late, later, INT_MAX, &tag);
	return res == 2 ? batch_commit(late, 0, tag, 4096) : res;
}

/* The server will be told of the requests as soon as it asks, though the device is stopped */
TEST_F_TIMEOUT(untold, did_not_ask, 120)
{
	int id = self->s.id, i;
	struct blk_io io[DEPTH];
	pid_t stopper;

	self->later = bring_fetch(&self->late, 0);
	for (i = 0; i < DEPTH; i++)
		block_start(&io[i], id, i % 2 ? B_WRITE : B_READ, i * 8, 4096);
	wait_woken(id, DEPTH);
	stopper = stop(id);
	wait_stopping(id);
	ASSERT_EQ(BLOCKS, block_wait(&io[0], 100));
	for (i = 0; i < DEPTH; i++)
		ASSERT_EQ(16, serve_late(&self->late, self->later));
	for (i = 0; i < DEPTH; i++)
		EXPECT_EQ(1, block_wait(&io[i], INT_MAX));
	EXPECT_EQ(0, exit_status(stopper));
	EXPECT_EQ(-ENODEV, bring_wait(&self->late, self->later, INT_MAX, NULL));
}

/* The command of which it was told the first request has no buffer for the second one */
TEST_F_TIMEOUT(untold, ran_out, 120)
{
	struct blk_io told, untold;
	int id = self->s.id, tag;
	pid_t stopper;
	__u64 fetch;

	bring_provide(&self->b, 0, 1, NULL);
	fetch = bring_fetch(&self->b, 0);
	self->later = bring_fetch(&self->late, 0);
	block_start(&told, id, B_READ, 0, 4096);
	ASSERT_EQ(2, batch_request(&self->b, fetch, INT_MAX, &tag));
	block_start(&untold, id, B_WRITE, 8, 4096);
	ASSERT_EQ(-ENOBUFS, bring_wait(&self->b, fetch, INT_MAX, NULL));
	wait_woken(id, 1);
	stopper = stop(id);
	wait_stopping(id);
	ASSERT_EQ(BLOCKS, block_wait(&untold, 100));
	EXPECT_EQ(16, batch_commit(&self->b, 0, tag, 4096));
	EXPECT_EQ(16, serve_late(&self->late, self->later));
	EXPECT_EQ(1, block_wait(&told, INT_MAX));
	EXPECT_EQ(1, block_wait(&untold, INT_MAX));
	EXPECT_EQ(0, exit_status(stopper));
	EXPECT_EQ(-ENODEV, bring_wait(&self->late, self->later, INT_MAX, NULL));
}

TEST_HARNESS_MAIN
