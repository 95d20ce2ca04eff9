// SPDX-License-Identifier: GPL-2.0
/*
 * IORING_OP_FUSED_CMD whose driver keeps the primary when the group is over, and
 * takes all of the buffer that it lent for good data: what no secondary was given
 * is zeroed, and what a peer did not send is an error. So is what was not written.
 */
#include <pthread.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include "bad_disk.h"
#include "fixture.h"
#include "sockets.h"

/* An ordinary command that completes the kept one with @arg */
static void push_release(struct ring *r, int dev, __u32 arg)
{
	struct io_uring_sqe sqe[2] = { };

	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = dev;
	sqe->cmd_op = OP_RELEASE;
	sqe->user_data = UD_OTHER;
	((struct io_uring_mock_fused *)sqe->cmd)->arg = arg;
	push_sqe(r, sqe);
}

/* The same, until there is one: what the driver was told of its group */
static int release_kept(struct ring *r, int dev, struct log *log, __u32 arg)
{
	int res;

	do {
		/*
		 * Until the last secondary is freed, too, there is none, and
		 * that may take task work, which runs when one waits.
		 */
		log_rest(log, r, 0);
		log->nr = 0;
		push_release(r, dev, arg);
		if (ring_submit(r) < 0)
			return NO_CQE;
		res = log_until(log, r, UD_OTHER);
	} while (res == -ENOENT);
	return res;
}

/* the driver may keep the primary when the group is over: no CQE before it says so */
TEST_F(fused, kept)
{
	long end = now_ms() + TIMEOUT_MS;
	struct log log = { };

	INIT(OP_KEEP, 0, 4096);
	ADD_READ(0, 512, 100);
	group_push(&self->g);
	ASSERT_LT(0, ring_submit(&self->ring));
	EXPECT_EQ(512, log_until(&log, &self->ring, 0));
	log_rest(&log, &self->ring, 50);
	EXPECT_EQ(1, log.nr);
	/* but the buffer is back */
	while (pread(self->dev, self->buf, BUFFER_LEN, 0) != BUFFER_LEN) {
		ASSERT_EQ(EBUSY, errno);
		ASSERT_LT(now_ms(), end);
		log_rest(&log, &self->ring, 1);
	}
	EXPECT_TRUE(is_pattern(self->buf, 0, 100, 512));
	EXPECT_EQ(1, log.nr);

	/* the driver was told what the primary's result would have been */
	EXPECT_EQ(512, release_kept(&self->ring, self->dev, &log, 77));
	EXPECT_EQ(77, log_until(&log, &self->ring, UD_PRIMARY));
	log_rest(&log, &self->ring, 20);
	EXPECT_EQ(2, log.nr);
}

/* also after a failure, which is no failure of the primary then */
TEST_F(fused, kept_secondary_fails)
{
	struct log log = { };

	INIT(OP_KEEP, 0, 4096);
	ADD_READ(0, 512, 0);
	ADD_READ(4096, 512, 0);
	group_push(&self->g);
	ASSERT_LT(0, ring_submit(&self->ring));
	EXPECT_EQ(-EFAULT, log_until(&log, &self->ring, 1));
	log_rest(&log, &self->ring, 50);
	EXPECT_EQ(NO_CQE, log_res(&log, UD_PRIMARY));
	EXPECT_EQ(-EFAULT, release_kept(&self->ring, self->dev, &log, 0));
	EXPECT_EQ(0, log_until(&log, &self->ring, UD_PRIMARY));
}

/* a group that is refused is not kept */
TEST_F(fused, kept_refused)
{
	INIT(OP_KEEP, LEND_SOURCE, 4096);
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	INIT(OP_KEEP, 0, BUFFER_LEN + 1);
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	/* one whose result is no number of bytes */
	INIT(OP_KEEP, 0, 4096);
	group_add_cmd(&self->g, self->dev, 0);
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	/* and the buffer is back */
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(512, 512);
}

/* a kept primary goes with its ring: the fixture closes it, and must find the buffer */
TEST_F(fused, kept_ring_closed)
{
	struct log log = { };

	INIT(OP_KEEP, 0, 4096);
	ADD_READ(0, 512, 100);
	group_push(&self->g);
	ASSERT_LT(0, ring_submit(&self->ring));
	EXPECT_EQ(512, log_until(&log, &self->ring, 0));
	log_rest(&log, &self->ring, 20);
	EXPECT_EQ(NO_CQE, log_res(&log, UD_PRIMARY));
}

/* What the driver is told of the group that it keeps */
static int kept_result(struct ring *r, int dev, struct log *log, int nr)
{
	int i;

	for (i = 0; i < nr; i++)
		if (log_until(log, r, i) == NO_CQE)
			return NO_CQE;
	i = release_kept(r, dev, log, 0);
	if (i != NO_CQE)
		log_until(log, r, UD_PRIMARY);
	return i;
}

/* Run a group that is kept, and read the buffer; the driver is told @res_ */
#define EXPECT_KEPT(res_) ({						\
	struct log log_ = { };						\
									\
	group_push(&self->g);						\
	ASSERT_LT(0, ring_submit(&self->ring));				\
	EXPECT_EQ(res_, kept_result(&self->ring, self->dev, &log_, self->g.nr)); \
	GET_BUFFER(0);							\
})

/* What @nr ranges, which are in the order of the file, leave out of @buf is zero */
struct range { unsigned int addr, len, off; };

static bool only_ranges(const unsigned char *buf, const struct range *range, int nr)
{
	unsigned char *want = calloc(1, BUFFER_LEN);
	bool same;
	int i;

	for (i = 0; i < nr; i++)
		fill(want + range[i].addr, 0, range[i].off, range[i].len);
	same = !memcmp(buf, want, BUFFER_LEN);
	free(want);
	return same;
}

/* uapi: what the secondaries' ranges do not cover is zeroed */
TEST_F(fused, gaps)
{
	static const struct range cases[][4] = {
		/* none at all but at the end, at the start, in the middle */
		{ { 0, 512, 100 } },
		{ { BUFFER_LEN - 512, 512, 100 } },
		{ { 10000, 3, 7 } },
		/* between them, odd ones */
		{ { 1, 511, 0 }, { 4095, 2, 600 }, { 30000, 20000, 1000 } },
		/* in another order, and over each other with the same data */
		{ { 8192, 4096, 8192 }, { 0, 4096, 0 }, { 20000, 1, 20000 } },
		{ { 4096, 4096, 4096 }, { 6000, 6000, 6000 }, { 5000, 10, 5000 } },
		{ { 60000, 5536, 0 }, { 30000, 100, 0 }, { 0, 1, 0 }, { 29000, 1000, 0 } },
		/* all of it, but for a byte, or the last block */
		{ { 32768, 16384, 0 }, { 0, 16384, 9 }, { 16384, 16384, 5 }, { 49152, 16383, 1 } },
		{ { 32769, 32767, 0 }, { 0, 16384, 0 }, { 16384, 16384, 7 } },
		{ { 32768, 32256, 0 }, { 0, 16384, 3 }, { 16384, 16384, 0 } },
		{ { 32768, 32768, 0 }, { 0, 32256, 0 } },
		/* all of it */
		{ { 49152, 16384, 0 }, { 0, 16384, 4 }, { 32768, 16384, 0 }, { 16384, 16384, 8 } },
		{ { 49152, 16384, 49152 }, { 100, 32668, 100 }, { 30000, 20000, 30000 },
		  { 0, 101, 0 } },
	};
	int i, nr;

	for (i = 0; i < (int)ARRAY_SIZE(cases); i++) {
		SET_BUFFER(0, 7);
		INIT(OP_KEEP, 0, BUFFER_LEN);
		for (nr = 0; nr < 4 && cases[i][nr].len; nr++)
			ADD_READ(cases[i][nr].addr, cases[i][nr].len, cases[i][nr].off);
		group_push(&self->g);
		ASSERT_LT(0, ring_submit(&self->ring));
		{
			struct log log = { };

			EXPECT_LT(0, kept_result(&self->ring, self->dev, &log, nr));
		}
		GET_BUFFER(0);
		/* secondaries in workers may write what overlaps in any order: the same data */
		EXPECT_TRUE(only_ranges(self->buf, cases[i], nr)) TH_LOG("case %d", i);
	}
}

/* uapi: the same between the pieces of one secondary, and of several */
TEST_F(fused, gaps_of_pieces)
{
	static const struct range cases[][4] = {
		/* how many of them are the first secondary's, then they */
		{ { 2 }, { 0, 512, 0 }, { 4096, 512, 512 } },
		{ { 3 }, { 100, 50, 0 }, { 30000, 5000, 50 }, { 10000, 5, 5050 } },
		{ { 1 }, { 5000, 9, 0 }, { 0, 1000, 9 }, { BUFFER_LEN - 1, 1, 1009 } },
		{ { 2 }, { 8192, 8192, 0 }, { 0, 8191, 8192 }, { 40000, 1, 16383 } },
		{ { 3 }, { 0, 1, 0 }, { 1, 4095, 1 }, { 4096, BUFFER_LEN - 4096, 4096 } },
	};
	struct iovec vec[3];
	struct log log;
	int i, k;

	for (i = 0; i < (int)ARRAY_SIZE(cases); i++) {
		const struct range *range = cases[i] + 1;
		int first = cases[i]->addr, nr = 2 + !!range[2].len;

		for (k = 0; k < nr; k++)
			vec[k] = (struct iovec){ (void *)(uintptr_t)range[k].addr, range[k].len };
		SET_BUFFER(0, 7);
		INIT(OP_KEEP, 0, BUFFER_LEN);
		ADD(IORING_OP_READV, self->file, (uintptr_t)vec, first, range->off);
		if (nr > first)
			ADD(IORING_OP_READV_FIXED, self->file, (uintptr_t)(vec + first),
			    nr - first, range[first].off);
		group_push(&self->g);
		ASSERT_LT(0, ring_submit(&self->ring));
		log.nr = 0;
		EXPECT_LT(0, kept_result(&self->ring, self->dev, &log, self->g.nr));
		GET_BUFFER(0);
		EXPECT_TRUE(only_ranges(self->buf, range, nr)) TH_LOG("case %d", i);
	}
	/* one without a piece covers nothing */
	SET_BUFFER(0, 7);
	INIT(OP_KEEP, 0, BUFFER_LEN);
	ADD(IORING_OP_READV, self->file, (uintptr_t)vec, 0, 0);
	EXPECT_KEPT(0);
	EXPECT_TRUE(all_are(self->buf, 0, BUFFER_LEN));
}

/* all of it is covered, in order: nothing else is written */
TEST_F(fused, covered)
{
	SET_BUFFER(0, 7);
	INIT(OP_KEEP, 0, BUFFER_LEN);
	ADD_READ(0, BUFFER_LEN, 0);
	EXPECT_KEPT(BUFFER_LEN);
	EXPECT_TRUE(is_pattern(self->buf, 0, 0, BUFFER_LEN));
	/* a part of the buffer: nor what is beside it */
	SET_BUFFER(0, 7);
	INIT(OP_KEEP, 0, 8192);
	group_cmd(&self->g)->offset = 4000;
	ADD_READ(100, 512, 0);
	EXPECT_KEPT(512);
	EXPECT_TRUE(is_pattern(self->buf, 7, 0, 4000));
	EXPECT_TRUE(all_are(self->buf + 4000, 0, 100));
	EXPECT_TRUE(is_pattern(self->buf + 4100, 0, 0, 512));
	EXPECT_TRUE(all_are(self->buf + 4612, 0, 8192 - 612));
	EXPECT_TRUE(is_pattern(self->buf + 12192, 7, 12192, BUFFER_LEN - 12192));
	/* a buffer that is read stays as it is */
	SET_BUFFER(0, 7);
	INIT(OP_KEEP, LEND_SOURCE, BUFFER_LEN);
	ADD(IORING_OP_WRITE, self->file, 4096, 512, 0);
	EXPECT_KEPT(512);
	EXPECT_TRUE(is_pattern(self->buf, 7, 0, BUFFER_LEN));
}

/* a driver that does not keep the primary gets the sum, and the rest is its own affair */
TEST_F(fused, not_kept)
{
	SET_BUFFER(0, 7);
	LEND_DEST(BUFFER_LEN);
	ADD_READ(4096, 512, 0);
	EXPECT_GROUP(512, 512);
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf, 7, 0, 4096));
	EXPECT_TRUE(is_pattern(self->buf + 4608, 7, 4608, BUFFER_LEN - 4608));
}

/* what is short because of an error is no good data, but what the end of a disk cut is */
TEST_F(fused, bad_sector)
{
	int fd = open_bad_disk(O_RDONLY);

	if (fd == -ENODEV)
		SKIP(return, "no null_blk");
	ASSERT_LE(0, fd);
	INIT(OP_KEEP, 0, BUFFER_LEN);
	ADD(IORING_OP_READ, fd, 0, 32768, 0);
	EXPECT_KEPT(-EIO);
	INIT(OP_KEEP, 0, BUFFER_LEN);
	ADD(IORING_OP_READ, fd, 0, 8192, 0);
	EXPECT_KEPT(8192);
	INIT(OP_KEEP, 0, BUFFER_LEN);
	ADD(IORING_OP_READ, fd, 0, 8192, BAD_DISK_LEN - 4096);
	EXPECT_KEPT(4096);
	close(fd);
	EXPECT_EQ(0, remove_bad_disk());
}

/* uapi: behind the end of a file there are zeroes */
TEST_F(fused, end_of_file)
{
	const struct iovec vec[] = { { (void *)4096, 4096 }, { NULL, 4096 } };

	SET_BUFFER(0, 7);
	INIT(OP_KEEP, 0, 8192);
	ADD_READ(0, 8192, FILE_LEN - 100);
	EXPECT_KEPT(100);
	EXPECT_TRUE(is_pattern(self->buf, 0, FILE_LEN - 100, 100));
	EXPECT_TRUE(all_are(self->buf + 100, 0, 8092));
	/* in whichever piece that is */
	SET_BUFFER(0, 7);
	INIT(OP_KEEP, 0, 8192);
	ADD(IORING_OP_READV, self->file, (uintptr_t)vec, 2, FILE_LEN - 4196);
	EXPECT_KEPT(4196);
	EXPECT_TRUE(is_pattern(self->buf + 4096, 0, FILE_LEN - 4196, 4096));
	EXPECT_TRUE(is_pattern(self->buf, 0, FILE_LEN - 100, 100));
	EXPECT_TRUE(all_are(self->buf + 100, 0, 3996));
}

/* uapi: a peer that goes away in the middle is an error, whatever reads from it */
TEST_F(fused, cut)
{
	const __u8 op[] = { IORING_OP_RECV, IORING_OP_READ, IORING_OP_READ_FIXED };
	const struct iovec vec[] = { { (void *)5, 4091 }, { NULL, 5 } };
	int kind, i, fd[2];

	for (kind = 0; kind < 2 * NR_KINDS; kind++) {
		for (i = 0; i < 3; i++) {
			struct io_uring_sqe *sqe;
			int sent = kind & 1 ? 1000 : 0;

			if (!is_stream(kind / 2) || sockets(kind / 2, fd))
				continue;
			ASSERT_EQ(sent, send(fd[1], self->buf, sent, 0));
			close(fd[1]);
			SET_BUFFER(0, 7);
			INIT(OP_KEEP, 0, 4096);
			sqe = ADD(op[i], fd[0], 0, 4096, i ? -1 : 0);
			if (!i)
				sqe->msg_flags = MSG_WAITALL;
			EXPECT_KEPT(-EIO);
			EXPECT_TRUE(all_are(self->buf + sent, 0, 4096 - sent))
				TH_LOG("kind %d, %d", kind, i);
			close(fd[0]);
		}
	}
	/* a pipe */
	ASSERT_EQ(0, pipe(fd));
	ASSERT_EQ(10, write(fd[1], self->buf, 10));
	INIT(OP_KEEP, 0, 4096);
	ADD(IORING_OP_READ, fd[0], 0, 4096, -1);
	EXPECT_KEPT(-EIO);
	ASSERT_EQ(10, write(fd[1], self->buf, 10));
	SET_BUFFER(0, 7);
	INIT(OP_KEEP, 0, 4096);
	ADD(IORING_OP_READV, fd[0], (uintptr_t)vec, 2, -1);
	EXPECT_KEPT(-EIO);
	EXPECT_TRUE(all_are(self->buf, 0, 5) && all_are(self->buf + 15, 0, 4081));
	close(fd[0]);
	close(fd[1]);
	/* the first error in SQE order counts */
	ASSERT_EQ(0, sockets(UNIX_STREAM, fd));
	close(fd[1]);
	INIT(OP_KEEP, 0, 4096);
	ADD_READ(4000, 4096, 0);
	ADD(IORING_OP_RECV, fd[0], 0, 4096, 0);
	EXPECT_KEPT(-EFAULT);
	close(fd[0]);
}

/* uapi: one that is canceled is canceled, also if it has received something before */
TEST_F(fused, canceled_in_the_middle)
{
	enum kind kinds[] = { UNIX_STREAM, TCP };
	int sock[2], i;

	if (variant->mode.secondary_flags & IOSQE_ASYNC)
		SKIP(return, "a worker may just be at it");
	for (i = 0; i < 2; i++) {
		struct log log = { };

		ASSERT_EQ(0, sockets(kinds[i], sock));
		INIT(OP_KEEP, 0, 4096);
		ADD(IORING_OP_RECV, sock[0], 0, 4096, 0)->msg_flags = MSG_WAITALL;
		group_push(&self->g);
		ASSERT_LT(0, ring_submit(&self->ring));
		ASSERT_EQ(1000, send(sock[1], self->buf, 1000, 0));
		log_rest(&log, &self->ring, 20);
		ASSERT_EQ(0, log.nr);
		EXPECT_LE(0, cancel_one(&log, &self->ring, 0));
		EXPECT_EQ(1000, log_until(&log, &self->ring, 0));
		EXPECT_EQ(-ECANCELED, kept_result(&self->ring, self->dev, &log, 0))
			TH_LOG("%d", i);
		GET_BUFFER(0);
		close2(sock);
	}
}

/* Secondaries of a lease that is read: a mirror, of which one side is @op to @fd */
#define ADD_MIRROR(op, fd, off, first) ({				\
	__u8 opcode_ = (op);						\
	bool vectored_ = opcode_ == IORING_OP_WRITEV || opcode_ == IORING_OP_WRITEV_FIXED; \
	bool first_ = (first);						\
									\
	if (!first_)							\
		ADD(IORING_OP_WRITE, self->file, 0, 8192, 0);		\
	ADD(opcode_, fd, vectored_ ? (uintptr_t)mirrored : 0, vectored_ ? 2 : 8192, off); \
	if (first_)							\
		ADD(IORING_OP_WRITE, self->file, 0, 8192, 0);		\
})

static const struct iovec mirrored[] = { { (void *)4096, 4096 }, { NULL, 4096 } };
static const __u8 writes[] = {
	IORING_OP_WRITE, IORING_OP_WRITE_FIXED, IORING_OP_WRITEV, IORING_OP_WRITEV_FIXED,
};

/* uapi: one that writes less than it should is an error, whatever the others have written */
TEST_F(fused, short_write)
{
	const off_t end = 1 << 30;
	struct rlimit old, limit;
	int i, first, fd[2], file;

	for (i = 0; i < 4; i++) {
		for (first = 0; first < 2; first++) {
			/* has room for a half, and nobody waits for more */
			ASSERT_EQ(0, pipe2(fd, O_NONBLOCK));
			ASSERT_EQ(4096, fcntl(fd[1], F_SETPIPE_SZ, 4096));
			INIT(OP_KEEP, LEND_SOURCE, 8192);
			ADD_MIRROR(writes[i], fd[1], -1, first);
			EXPECT_KEPT(-EIO);
			close(fd[0]);
			close(fd[1]);
			/* all is written, twice */
			INIT(OP_KEEP, LEND_SOURCE, 8192);
			ADD_MIRROR(writes[i], self->file, 8192, first);
			EXPECT_KEPT(16384);
		}
	}
	/* a driver that does not keep the primary is told how much that is */
	ASSERT_EQ(0, pipe2(fd, O_NONBLOCK));
	ASSERT_EQ(4096, fcntl(fd[1], F_SETPIPE_SZ, 4096));
	LEND_SRC(8192);
	ADD(IORING_OP_WRITE, self->file, 0, 8192, 0);
	ADD(IORING_OP_WRITE, fd[1], 0, 8192, -1);
	EXPECT_GROUP(12288, 8192, 4096);
	close(fd[0]);
	close(fd[1]);
	/* one that is tried again for the rest; no log is as long as that */
	signal(SIGXFSZ, SIG_IGN);
	ASSERT_EQ(0, getrlimit(RLIMIT_FSIZE, &old));
	limit = old;
	limit.rlim_cur = end;
	file = memfd_create("mirror", 0);
	for (i = 0; i < 4; i++) {
		INIT(OP_KEEP, LEND_SOURCE, 8192);
		ADD_MIRROR(writes[i], file, end - 1000, i & 1);
		ASSERT_EQ(0, setrlimit(RLIMIT_FSIZE, &limit));
		EXPECT_KEPT(-EIO);
		ASSERT_EQ(0, setrlimit(RLIMIT_FSIZE, &old));
	}
	close(file);
}

static void *take_all(void *arg)
{
	static unsigned char data[BUFFER_LEN];
	const int *fd = arg;

	usleep(20000);
	recv_all(*fd, data, BUFFER_LEN);
	return NULL;
}

/* the same of one that is sent; one that is sent in several turns is whole */
TEST_F(fused, short_send)
{
	static unsigned char data[9000];
	int small = 4096, fd[2];
	pthread_t thread;

	ASSERT_EQ(0, sockets(UNIX_STREAM, fd));
	setsockopt(fd[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	INIT(OP_KEEP, LEND_SOURCE, BUFFER_LEN);
	ADD(IORING_OP_SEND, fd[0], 0, BUFFER_LEN, 0)->msg_flags = MSG_DONTWAIT;
	ADD(IORING_OP_WRITE, self->file, 0, BUFFER_LEN, 0);
	EXPECT_KEPT(-EIO);
	close2(fd);

	ASSERT_EQ(0, sockets(UNIX_STREAM, fd));
	setsockopt(fd[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	INIT(OP_KEEP, LEND_SOURCE, BUFFER_LEN);
	ADD(IORING_OP_SEND, fd[0], 0, BUFFER_LEN, 0)->msg_flags = MSG_WAITALL;
	ASSERT_EQ(0, pthread_create(&thread, NULL, take_all, &fd[1]));
	EXPECT_KEPT(BUFFER_LEN);
	pthread_join(thread, NULL);
	close2(fd);

	ASSERT_EQ(0, tcp_pair(fd));
	INIT(OP_KEEP, LEND_SOURCE, BUFFER_LEN);
	ADD(IORING_OP_SEND_ZC, fd[0], 100, 9000, 0)->addr3 = UD_OTHER + 1;
	EXPECT_KEPT(9000);
	ASSERT_EQ(9000, recv_all(fd[1], data, 9000));
	close2(fd);
}

TEST_HARNESS_MAIN
