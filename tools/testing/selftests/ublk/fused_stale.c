// SPDX-License-Identifier: GPL-2.0
/*
 * fused_stale: a READ that is committed by a group never shows what was in its
 * pages before. The reader's buffer, of which these pages are, is filled with
 * 0xee; it gets what the secondaries brought, zeroes, or an error.
 */
#include <signal.h>
#include <sys/socket.h>
#include "fused_errors.h"
#include "kselftest_harness.h"

/* A range of the request that a secondary asks for, and what it gets of it */
struct range {
	__u32 from;
	__u32 len;
	__u64 off;	/* in the file, which has FILE_LEN */
	unsigned int sqe_flags;
};

FIXTURE(stale) {
	struct server s;
};

FIXTURE_VARIANT(stale) {
	unsigned int ring_flags;
	unsigned int sqe_flags;	/* of the secondaries */
};

FIXTURE_VARIANT_ADD(stale, default_ring) {
};

FIXTURE_VARIANT_ADD(stale, defer) {
	.ring_flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
};

FIXTURE_VARIANT_ADD(stale, worker) {
	.sqe_flags = IOSQE_ASYNC,
};

FIXTURE_VARIANT_ADD(stale, quiet) {
	.sqe_flags = IOSQE_CQE_SKIP_SUCCESS,
};

FIXTURE_SETUP(stale)
{
	struct io_uring_params p = {};
	struct io_uring ring;
	__u64 features = 0;

	self->s.id = -1;
	if (getuid())
		SKIP(return, "not root");
	if (io_uring_queue_init_params(4, &ring, &p))
		SKIP(return, "no io_uring");
	io_uring_queue_exit(&ring);
	ctrl_fd = open("/dev/ublk-control", O_RDWR);
	if (ctrl_fd < 0)
		SKIP(return, "no driver");
	ctrl(-1, UBLK_U_CMD_GET_FEATURES, &features, sizeof(features), 0);
	if (!(p.features & IORING_FEAT_FUSED_CMD) || !(features & UBLK_F_FUSED_CMD))
		SKIP(return, "no fused commands");
	signal(SIGPIPE, SIG_IGN);
	ring_flags = variant->ring_flags;
	server_start(&self->s, UBLK_F_FUSED_CMD);
}

FIXTURE_TEARDOWN(stale)
{
	if (self->s.id < 0)
		return;
	block_io_finish(&self->s, -EIO);
	server_stop(&self->s);
}

/* Does the file, from the range's offset, or zeroes explain this byte? */
static bool brought(const struct range *r, int nr, const unsigned char *buf, __u32 i)
{
	bool covered = false;

	for (; nr--; r++) {
		__u64 off = r->off + (i - r->from);

		if (i < r->from || i - r->from >= r->len)
			continue;
		if (off < FILE_LEN && !differs(buf + i, 0, off, 1))
			return true;
		/* behind the end of the file are zeroes */
		covered |= off < FILE_LEN;
	}
	return !covered && !buf[i];
}

/* What is not as it should be: a byte's number, or -1 */
static int wrong_byte(const struct range *r, int nr, const unsigned char *buf)
{
	int i;

	for (i = 0; i < LEN; i++)
		if (!brought(r, nr, buf, i))
			return i;
	return -1;
}

static void commit_group(struct server *s, int tag, const struct range *r, int nr,
			 unsigned int sqe_flags)
{
	int i;

	fused_commit(s, tag, nr);
	for (i = 0; i < nr; i++)
		secondary(s, i, IORING_OP_READ, r[i].from, r[i].len, r[i].off)->flags |=
			sqe_flags | r[i].sqe_flags;
	s->tag[tag] = TAG_FETCHING;
	submit(&s->ring);
}

/* A block READ that a group of such secondaries commits */
static void read_ranges(struct __test_metadata *_metadata, struct server *s,
			unsigned int sqe_flags, const struct range *r, int nr)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ), res, at;

	commit_group(s, tag, r, nr, sqe_flags);
	res = block_io_finish(s, 0);
	EXPECT_EQ(LEN, res);
	at = wrong_byte(r, nr, block_buf(s));
	EXPECT_EQ(-1, at) {
		TH_LOG("byte %d is %#x", at, block_buf(s)[at]);
	}
}

#define READ_RANGES(...) do {							\
	const struct range ranges_[] = { __VA_ARGS__ };				\
										\
	read_ranges(_metadata, &self->s, variant->sqe_flags, ranges_,		\
		    ARRAY_SIZE(ranges_));					\
} while (0)

TEST_F(stale, gaps)
{
	/* behind, before, between, pages or not, all of it but a byte */
	READ_RANGES({ 0, 512, 0 });
	READ_RANGES({ 0, LEN - 1, 0 });
	READ_RANGES({ LEN - 512, 512, 0 });
	READ_RANGES({ 1, LEN - 1, 0 });
	READ_RANGES({ 0, 4096, 0 }, { 8192, LEN - 8192, 8192 });
	READ_RANGES({ 0, 1000, 7 }, { 1001, 20000, 3 }, { 21005, 3, 0 });
	READ_RANGES({ 30000, 1, 0 });
}

TEST_F(stale, any_order)
{
	READ_RANGES({ 32768, 32768, 32768 }, { 0, 32768, 0 });
	READ_RANGES({ 40000, 100, 0 }, { 20000, 100, 0 }, { 60000, 100, 0 }, { 0, 100, 0 });
	READ_RANGES({ 8192, LEN - 8192, 0 }, { 0, 8191, 0 });
	/* as long as all of it, but not all of it */
	READ_RANGES({ 32768, 32768, 0 }, { 32768, 32768, 0 });
	READ_RANGES({ 32768, 32768, 0 }, { 0, 16384, 0 }, { 0, 16384, 0 });
}

TEST_F(stale, overlaps)
{
	READ_RANGES({ 0, 40000, 0 }, { 30000, LEN - 30000, 30000 });
	READ_RANGES({ 0, 40000, 0 }, { 10000, 100, 5 });
	READ_RANGES({ 10000, 100, 5 }, { 0, 40000, 0 }, { 39999, 2, 17 });
	/* the sum of the lengths is that of the request */
	READ_RANGES({ 0, LEN / 2, 0 }, { 512, LEN / 2, 0 });
	READ_RANGES({ 512, LEN / 2, 0 }, { 0, LEN / 2, 0 });
}

TEST_F(stale, short_file)
{
	READ_RANGES({ 0, LEN, FILE_LEN - 1000 });
	READ_RANGES({ 0, LEN / 2, FILE_LEN - 1000 }, { LEN / 2, LEN / 2, 0 });
	READ_RANGES({ LEN / 2, LEN / 2, 0 }, { 0, LEN / 2, FILE_LEN - 1000 });
	READ_RANGES({ 0, 4096, FILE_LEN }, { 8192, 4096, 0 });
	READ_RANGES({ 100, 4096, FILE_LEN - 1 }, { 8192, 4096, FILE_LEN });
	/* the end of the file is no gap in the sum */
	READ_RANGES({ 0, LEN, FILE_LEN - LEN / 2 }, { 0, LEN / 2, 0 });
}

TEST_F(stale, nothing)
{
	static const struct range nothing[] = {
		{ 0, LEN, FILE_LEN }, { 0, 0, 0 }, { 8192, 512, FILE_LEN + 4096 },
	};
	struct server *s = &self->s;
	unsigned int i;
	int tag;

	for (i = 0; i < ARRAY_SIZE(nothing); i++) {
		tag = block_io_start(s, UBLK_IO_OP_READ);
		commit_group(s, tag, &nothing[i], 1, variant->sqe_flags);
		EXPECT_EQ(-EIO, block_io_finish(s, 0));
	}
	/* nothing but the result */
	tag = block_io_start(s, UBLK_IO_OP_READ);
	EXPECT_EQ(-EIO, block_io_finish(s, 0));
}

/* One that fails makes the request fail, whatever the others brought. */
TEST_F(stale, failed)
{
	struct server *s = &self->s;
	int tag = block_io_start(s, UBLK_IO_OP_READ), fd;

	fused_commit(s, tag, 2);
	secondary(s, 0, IORING_OP_READ, 0, 4096, 0)->flags |= variant->sqe_flags;
	secondary(s, 1, IORING_OP_READ, LEN - 512, 1024, 0)->flags |= variant->sqe_flags;
	s->tag[tag] = TAG_FETCHING;
	submit(&s->ring);
	EXPECT_EQ(-EIO, block_io_finish(s, 0));
	EXPECT_EQ(-EFAULT, wait_cqe(s, UD_SECONDARY(1)));

	fd = open("/dev/null", O_WRONLY);
	ASSERT_LE(0, fd);
	tag = block_io_start(s, UBLK_IO_OP_READ);
	fused_commit(s, tag, 2);
	secondary_on(&s->ring, 0, IORING_OP_READ, fd, 0, 4096, 0)->flags |= variant->sqe_flags;
	secondary(s, 1, IORING_OP_READ, 4096, LEN - 4096, 0)->flags |= variant->sqe_flags;
	s->tag[tag] = TAG_FETCHING;
	submit(&s->ring);
	EXPECT_EQ(-EIO, block_io_finish(s, 0));
	EXPECT_EQ(-EBADF, wait_cqe(s, UD_SECONDARY(0)));
	close(fd);
}

/* What is canceled leaves the request to the server, and its next try as good. */
TEST_F(stale, canceled)
{
	static const struct range half = { LEN / 2, LEN / 2, 0 };
	struct server *s = &self->s;
	int tag = block_io_start(s, UBLK_IO_OP_READ), at;
	struct io_uring_sqe *sqe;

	fused_commit(s, tag, 2);
	secondary_on(&s->ring, 0, IORING_OP_READ, s->pipe[0], 0, 512, 0)->flags |=
		variant->sqe_flags;
	secondary(s, 1, IORING_OP_READ, 512, 512, 0)->flags |= variant->sqe_flags;
	submit(&s->ring);
	/* a worker has to be there before it can be interrupted */
	do {
		sqe = io_uring_get_sqe(&s->ring);
		ASSERT_NE(NULL, sqe);
		io_uring_prep_cancel64(sqe, UD_SECONDARY(0), 0);
		sqe->user_data = UD_OTHER;
		submit(&s->ring);
		at = wait_cqe(s, UD_OTHER);
	} while (at == -ENOENT && !usleep(1000) && !(s->nr_cqes = 0));
	EXPECT_EQ(-ECANCELED, wait_cqe(s, UD_SECONDARY(0)));
	while (!s->cmd_res[tag])
		pump(s, 20);
	EXPECT_EQ(-ECANCELED, s->cmd_res[tag]);
	EXPECT_FALSE(block_io_done(s, 0));

	commit_group(s, tag, &half, 1, variant->sqe_flags);
	EXPECT_EQ(LEN, block_io_finish(s, 0));
	at = wrong_byte(&half, 1, block_buf(s));
	EXPECT_EQ(-1, at) {
		TH_LOG("byte %d is %#x", at, block_buf(s)[at]);
	}
}

/* A block READ from a socket, of which the peer sends so much and then goes */
static int receive(struct server *s, unsigned int sqe_flags, int type, size_t sent,
		   int msg_flags, __u32 len)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ), socks[2], res;
	char *data = malloc(LEN);
	struct io_uring_sqe *sqe;

	if (!data || socketpair(AF_UNIX, type, 0, socks))
		FATAL("no sockets");
	res = LEN + 4096;
	setsockopt(socks[0], SOL_SOCKET, SO_SNDBUF, &res, sizeof(res));
	fill(data, 3, 0, LEN);
	if (sent && send(socks[0], data, sent, 0) != (ssize_t)sent)
		FATAL("send: %m");
	close(socks[0]);
	fused_commit(s, tag, 1);
	sqe = secondary_on(&s->ring, 0, IORING_OP_RECV, socks[1], 0, len, 0);
	sqe->msg_flags = msg_flags;
	sqe->flags |= sqe_flags;
	s->tag[tag] = TAG_FETCHING;
	submit(&s->ring);
	res = block_io_finish(s, 0);
	close(socks[1]);
	free(data);
	return res;
}

/* A peer that goes away in the middle, or a message that is too short, is no end of file. */
TEST_F(stale, cut_connection)
{
	struct server *s = &self->s;
	unsigned int f = variant->sqe_flags;

	EXPECT_EQ(LEN, receive(s, f, SOCK_STREAM, LEN, MSG_WAITALL, LEN));
	EXPECT_FALSE(differs(block_buf(s), 3, 0, LEN));
	EXPECT_EQ(-EIO, receive(s, f, SOCK_STREAM, LEN - 1, MSG_WAITALL, LEN));
	EXPECT_EQ(-EIO, receive(s, f, SOCK_STREAM, 1000, MSG_WAITALL, LEN));
	EXPECT_EQ(-EIO, receive(s, f, SOCK_STREAM, 1000, 0, LEN));
	EXPECT_EQ(-EIO, receive(s, f, SOCK_STREAM, 0, MSG_WAITALL, LEN));
	EXPECT_EQ(-EIO, receive(s, f, SOCK_DGRAM, 1000, 0, LEN));
	EXPECT_EQ(LEN, receive(s, f, SOCK_DGRAM, LEN, 0, LEN));
	EXPECT_FALSE(differs(block_buf(s), 3, 0, LEN));
}

/* All that was asked for came, but not all of the request was. */
TEST_F(stale, receive_with_a_gap)
{
	struct server *s = &self->s;

	EXPECT_EQ(LEN, receive(s, variant->sqe_flags, SOCK_STREAM, LEN, MSG_WAITALL, 5000));
	EXPECT_FALSE(differs(block_buf(s), 3, 0, 5000));
	EXPECT_TRUE(all_are(block_buf(s) + 5000, 0, LEN - 5000));
}

TEST_HARNESS_MAIN
