// SPDX-License-Identifier: GPL-2.0
/*
 * life_copy: the driver copies the data of a write to a server whose buffer, or a
 * part of it, is not there; or that of a read from such a server, or from one that
 * brings it in parts.
 *
 * If nothing can be copied then the driver tries it again and again. Somebody who
 * stops the device does not wait for that for ever, and neither does a user whose
 * server nobody trusts. If a part can be copied then no more than that was written,
 * whatever the server says of it. Of a read, the whole blocks are taken, and the
 * server is told of the rest.
 */
#include <sys/mman.h>
#include <sys/stat.h>
#include "life.h"
#include "parity_bsrv.h"
#include "kselftest_harness.h"

/* no process has anything there */
#define NOWHERE		((void *)0x1000)

/* A server of one kind or the other */
struct server {
	struct srv s;
	struct bring b;
	__u64 fetch;
	bool batch;
	/* those that the slots would have */
	void *bufs[DEPTH];
};

FIXTURE(copy) {
	struct server server;
};

FIXTURE_VARIANT(copy) {
	__u64 flags;
};

FIXTURE_VARIANT_ADD(copy, final) {
	.flags = 0,
};

FIXTURE_VARIANT_ADD(copy, recovery) {
	.flags = UBLK_F_USER_RECOVERY,
};

FIXTURE_VARIANT_ADD(copy, fail_io) {
	.flags = UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_FAIL_IO,
};

FIXTURE_VARIANT_ADD(copy, batch) {
	.flags = UBLK_F_BATCH_IO,
};

FIXTURE_VARIANT_ADD(copy, batch_recovery) {
	.flags = UBLK_F_BATCH_IO | UBLK_F_USER_RECOVERY,
};

FIXTURE_SETUP(copy)
{
	self->server.s.id = -1;
	if (why_not())
		SKIP(return, "%s", why_not());
	self->server.batch = variant->flags & UBLK_F_BATCH_IO;
	srv_open(&self->server.s, variant->flags, NULL);
}

/* All slots have their buffers at @addr; those of their own are kept in @bufs, until ... */
static void move_buffers(struct srv *s, void **bufs, void *addr)
{
	int i;

	for (i = 0; i < DEPTH; i++) {
		bufs[i] = s->buf[i];
		s->buf[i] = addr;
	}
}

/* ... they get them back, which they need when the server is closed */
static void restore_buffers(struct srv *s, void **bufs)
{
	int i;

	for (i = 0; i < DEPTH; i++)
		s->buf[i] = bufs[i];
}

/* The server has a command for each slot, whose buffers are at @addr, or where they were */
static void fetch_at(struct server *server, void *addr)
{
	struct srv *s = &server->s;
	int i;

	if (addr)
		move_buffers(s, server->bufs, addr);
	if (server->batch) {
		bring_init(&server->b, s, false);
		for (i = 0; i < NR_TAG_BUFS; i++)
			bring_provide(&server->b, i, 1, NULL);
		i = batch_prep(&server->b, 0, 0, s->depth);
		if (i)
			give_up("PREP", i);
		server->fetch = bring_fetch(&server->b, 0);
	} else {
		srv_fetch(s, 0, s->depth);
	}
}

/* The same, and the disk appears */
static void serve_at(struct server *server, void *addr)
{
	fetch_at(server, addr);
	srv_start(&server->s);
}

static void end(struct server *server)
{
	/* unless they were never moved */
	if (server->bufs[0])
		restore_buffers(&server->s, server->bufs);
	srv_close(&server->s);
}

FIXTURE_TEARDOWN(copy)
{
	if (self->server.s.id < 0)
		return;
	end(&self->server);
	EXPECT_EQ(0, delete_dev(self->server.s.id));
}

/* The next request: its tag. If the user is done before: -1, and what he got in @res */
static int request(struct server *server, struct blk_io *io, int *res)
{
	int tag, got;

	for (;;) {
		if (server->batch) {
			got = batch_request(&server->b, server->fetch, 20, &tag);
			if (got == 2)
				return tag;
			if (got != BLOCKS)
				give_up("FETCH", got);
		} else {
			tag = srv_request(&server->s, 20);
			if (tag >= 0)
				return tag;
		}
		*res = block_wait(io, 0);
		if (*res != BLOCKS)
			return -1;
	}
}

static void commit(struct server *server, int tag, int result)
{
	if (!server->batch)
		srv_commit(&server->s, tag, result);
	else if (batch_commit(&server->b, 0, tag, result) != 16)
		give_up("COMMIT", tag);
}

/* STOP_DEV does not wait for a write that no server will ever see; the server lives on */
TEST_F_TIMEOUT(copy, stop_without_buffer, 120)
{
	struct server *server = &self->server;
	struct srv *s = &server->s;
	struct blk_io io;
	__u64 waiting;

	serve_at(server, NOWHERE);
	waiting = s->waiting[0];
	block_start(&io, s->id, B_WRITE, 8, 4096);
	wait_busy(s->id, 1);
	EXPECT_EQ(BLOCKS, block_wait(&io, 20));
	EXPECT_EQ(0, ctrl_simple(s->id, UBLK_U_CMD_STOP_DEV, NULL, 0, 0));
	EXPECT_EQ(-EIO, block_wait(&io, INT_MAX));
	EXPECT_EQ(-ENODEV, server->batch ?
		  bring_wait(&server->b, server->fetch, INT_MAX, NULL) :
		  srv_wait(s, waiting, INT_MAX));
}

/* DEL_DEV likewise */
TEST_F_TIMEOUT(copy, delete_without_buffer, 120)
{
	struct srv *s = &self->server.s;
	struct blk_io io;

	serve_at(&self->server, NOWHERE);
	block_start(&io, s->id, B_WRITE, 8, 4096);
	wait_busy(s->id, 1);
	EXPECT_EQ(0, ctrl_simple(s->id, UBLK_U_CMD_DEL_DEV_ASYNC, NULL, 0, 0));
	EXPECT_EQ(-EIO, block_wait(&io, INT_MAX));
	/* nothing is left for the teardown */
	end(&self->server);
	s->id = -1;
}

/*
 * The second page of the buffer is not there, and @before bytes of the first one
 * are: the server is told of the whole blocks of these, each time, until it has
 * written all.
 */
static void write_in_parts(struct __test_metadata *_metadata, struct server *server,
			   unsigned int before, unsigned int part)
{
	struct srv *s = &server->s;
	unsigned int done = 0, bad, i;
	struct blk_io io;
	int tag, res = BLOCKS;
	char *pages;

	pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, pages);
	/* there, so that nobody else gets it */
	ASSERT_EQ(0, mprotect(pages + 4096, 4096, PROT_NONE));
	serve_at(server, pages + 4096 - before);
	block_start(&io, s->id, B_WRITE, 8, 8192);
	while (done < 8192) {
		const struct ublksrv_io_desc *desc;
		unsigned int left = 8192 - done;

		tag = request(server, &io, &res);
		ASSERT_LE(0, tag) {
			TH_LOG("the write ended with %d after %u bytes", res, done);
		}
		desc = srv_desc(s, tag);
		EXPECT_EQ(8 + done / 512, desc->start_sector);
		ASSERT_EQ((left < part ? left : part) / 512, desc->nr_sectors);
		for (i = 0, bad = 0; i < desc->nr_sectors << 9; i++)
			bad += (unsigned char)pages[4096 - before + i] != 0xa5;
		EXPECT_EQ(0, bad);
		done += desc->nr_sectors << 9;
		memset(pages, 0, 4096);
		commit(server, tag, desc->nr_sectors << 9);
	}
	EXPECT_EQ(1, block_wait(&io, INT_MAX));
}

TEST_F_TIMEOUT(copy, half_a_buffer, 120)
{
	write_in_parts(_metadata, &self->server, 4096, 4096);
}

TEST_F_TIMEOUT(copy, buffer_that_ends_in_a_sector, 120)
{
	write_in_parts(_metadata, &self->server, 3000, 2560);
}

/* What the server says of the part is all the same, if it is no error */
TEST_F_TIMEOUT(copy, claims_all_of_it, 120)
{
	static const int claims[] = { 8192, 0, -ENOSPC };
	struct server *server = &self->server;
	struct srv *s = &server->s;
	struct blk_io io;
	int tag, res = BLOCKS;
	unsigned int i;
	char *pages;

	pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, pages);
	ASSERT_EQ(0, mprotect(pages + 4096, 4096, PROT_NONE));
	serve_at(server, pages);
	for (i = 0; i < ARRAY_SIZE(claims); i++) {
		block_start(&io, s->id, B_WRITE, 8, 8192);
		tag = request(server, &io, &res);
		ASSERT_LE(0, tag);
		EXPECT_EQ(8, srv_desc(s, tag)->nr_sectors);
		commit(server, tag, claims[i]);
		if (claims[i] < 0) {
			EXPECT_EQ(claims[i], block_wait(&io, INT_MAX));
			continue;
		}
		/* the rest fails, and so does the write */
		tag = request(server, &io, &res);
		ASSERT_LE(0, tag) {
			TH_LOG("the write ended with %d after 4096 bytes", res);
		}
		EXPECT_EQ(16, srv_desc(s, tag)->start_sector);
		commit(server, tag, -EIO);
		EXPECT_EQ(-EIO, block_wait(&io, INT_MAX));
	}
}

/* No two words of the disk are the same */
static void fill(void *at, __u64 sector, unsigned int bytes)
{
	__u64 *words = at;
	unsigned int i;

	for (i = 0; i < bytes / 8; i++)
		words[i] = sector * 64 + i;
}

/*
 * Two reads of 4 KiB, of which the block layer makes one request: 1, or 2 if they got wrong
 * data, or -errno
 */
static int read_two(int id, __u64 sector)
{
	struct io_uring_cqe *cqe;
	struct io_uring ring;
	char *got, want[8192];
	int fd, i, res = 0;

	fd = open(str("/dev/ublkb%d", id), O_RDONLY | O_DIRECT);
	if (fd < 0)
		return -errno;
	if (posix_memalign((void **)&got, 4096, sizeof(want)) ||
	    io_uring_queue_init(4, &ring, 0))
		return -ENOMEM;
	memset(got, 0xa5, sizeof(want));
	/* what comes in threes, or more, is given to it at once */
	io_uring_prep_nop(io_uring_get_sqe(&ring));
	for (i = 0; i < 2; i++)
		io_uring_prep_read(io_uring_get_sqe(&ring), fd, got + i * 4096, 4096,
				   (sector << 9) + i * 4096);
	io_uring_submit(&ring);
	for (i = 0; i < 3; i++) {
		if (io_uring_wait_cqe(&ring, &cqe))
			return -EINTR;
		if (cqe->res < 0)
			res = cqe->res;
		io_uring_cqe_seen(&ring, cqe);
	}
	if (res)
		return res;
	fill(want, sector, sizeof(want));
	return memcmp(got, want, sizeof(want)) ? 2 : 1;
}

/* What block_wait() returns of them is 2 if they got something else than fill() says */
static void read_start(struct blk_io *io, int id, __u64 sector)
{
	int res;

	io->pid = child();
	if (io->pid)
		return;
	/* as in block_start() */
	close_range(3, ~0U, 0);
	res = read_two(id, sector);
	_exit(res < 0 ? -res : 256 - res);
}

/*
 * Of the server's buffer at @addr so many bytes are @there. It says the numbers of
 * bytes in @says, and when these have come to their end, 0, that it brings all that
 * is left. Each time the driver takes whole sectors.
 */
static void read_in_parts(struct __test_metadata *_metadata, struct server *server,
			  void *addr, unsigned int there, const unsigned int *says)
{
	struct srv *s = &server->s;
	unsigned int done = 0;
	struct blk_io io;
	int tag, res = BLOCKS;

	serve_at(server, addr);
	read_start(&io, s->id, 8);
	while (done < 8192) {
		unsigned int left = 8192 - done, brings = *says ? *says++ : left;
		const struct ublksrv_io_desc *desc;

		tag = request(server, &io, &res);
		ASSERT_LE(0, tag) {
			TH_LOG("the read ended with %d after %u bytes", res, done);
		}
		desc = srv_desc(s, tag);
		EXPECT_EQ(8 + done / 512, desc->start_sector);
		ASSERT_EQ(left / 512, desc->nr_sectors);
		fill(addr, desc->start_sector, left < there ? left : there);
		commit(server, tag, brings);
		done += (brings < there ? brings : there) / 512 * 512;
	}
	EXPECT_EQ(1, block_wait(&io, INT_MAX));
}

/* In the first block, and from there into the second one */
TEST_F_TIMEOUT(copy, brings_no_whole_sectors, 120)
{
	static const unsigned int says[] = { 1000, 4200, 0 };
	void *pages;

	pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, pages);
	read_in_parts(_metadata, &self->server, pages, 8192, says);
}

/* It says that it brings all, of which no more than 3000 bytes can be copied */
TEST_F_TIMEOUT(copy, brings_what_is_not_there, 120)
{
	static const unsigned int says[] = { 0 };
	void *pages;

	pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, pages);
	ASSERT_EQ(0, mprotect(pages + 4096, 4096, PROT_NONE));
	read_in_parts(_metadata, &self->server, pages + 4096 - 3000, 3000, says);
}

/* Of a part of a sector nothing can be taken: the read fails, at its beginning and later */
TEST_F_TIMEOUT(copy, brings_less_than_a_sector, 120)
{
	struct server *server = &self->server;
	struct srv *s = &server->s;
	int tag, later, res = BLOCKS;
	struct blk_io io;

	serve_at(server, NULL);
	for (later = 0; later < 2; later++) {
		read_start(&io, s->id, 8);
		if (later) {
			tag = request(server, &io, &res);
			ASSERT_LE(0, tag);
			commit(server, tag, 1000);
		}
		tag = request(server, &io, &res);
		ASSERT_LE(0, tag) {
			TH_LOG("the read ended with %d", res);
		}
		EXPECT_EQ(8 + later, srv_desc(s, tag)->start_sector);
		commit(server, tag, 100);
		tag = request(server, &io, &res);
		ASSERT_EQ(-1, tag) {
			TH_LOG("the server was told of sector %llu",
			       (unsigned long long)srv_desc(s, tag)->start_sector);
		}
		EXPECT_EQ(-EIO, res);
	}
}

/* Sectors that are no whole blocks are not taken */
TEST(brings_no_whole_blocks)
{
	struct ublk_params params = default_params();
	int tag, later, res = BLOCKS;
	struct server server = {};
	struct srv *s = &server.s;
	struct blk_io io;

	if (why_not())
		SKIP(return, "%s", why_not());
	params.basic.logical_bs_shift = 12;
	params.basic.io_min_shift = 12;
	srv_open(s, 0, &params);
	serve_at(&server, NULL);
	for (later = 0; later < 2; later++) {
		read_start(&io, s->id, 8);
		tag = request(&server, &io, &res);
		ASSERT_LE(0, tag);
		EXPECT_EQ(16, srv_desc(s, tag)->nr_sectors);
		fill(s->buf[tag], 8, 8192);
		commit(&server, tag, 5120);
		tag = request(&server, &io, &res);
		ASSERT_LE(0, tag) {
			TH_LOG("the read ended with %d after 5120 bytes", res);
		}
		EXPECT_EQ(16, srv_desc(s, tag)->start_sector);
		EXPECT_EQ(8, srv_desc(s, tag)->nr_sectors);
		fill(s->buf[tag], 16, 4096);
		commit(&server, tag, later ? 3584 : 4096);
		EXPECT_EQ(later ? -EIO : 1, block_wait(&io, INT_MAX));
	}
	end(&server);
	EXPECT_EQ(0, delete_dev(s->id));
}

/* A part of a block can not be written: it is as if nothing could be copied */
TEST(less_than_a_block)
{
	struct ublk_params params = default_params();
	struct blk_io io;
	struct srv s;
	char *pages;
	void *bufs[DEPTH];

	if (why_not())
		SKIP(return, "%s", why_not());
	params.basic.logical_bs_shift = 12;
	params.basic.io_min_shift = 12;
	srv_open(&s, UBLK_F_USER_RECOVERY, &params);
	pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, pages);
	ASSERT_EQ(0, mprotect(pages + 4096, 4096, PROT_NONE));
	move_buffers(&s, bufs, pages + 1024);
	srv_fetch(&s, 0, s.depth);
	srv_start(&s);
	block_start(&io, s.id, B_WRITE, 8, 4096);
	wait_busy(s.id, 1);
	EXPECT_EQ(-1, srv_request(&s, 50));
	EXPECT_EQ(0, ctrl_simple(s.id, UBLK_U_CMD_STOP_DEV, NULL, 0, 0));
	EXPECT_EQ(-EIO, block_wait(&io, INT_MAX));
	restore_buffers(&s, bufs);
	srv_close(&s);
	EXPECT_EQ(0, delete_dev(s.id));
}

/* STOP_DEV likewise while the next server has fetched, and has not said that it is there */
TEST(next_server_without_buffer)
{
	struct ublksrv_ctrl_dev_info info;
	struct srv s, next = { .queues = 1, .depth = DEPTH,
			       .desc_size = sizeof(struct ublksrv_io_desc) };
	void *bufs[DEPTH];
	struct blk_io io;

	if (why_not())
		SKIP(return, "%s", why_not());
	next.flags = UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_FAIL_IO;
	srv_open(&s, next.flags, NULL);
	next.id = s.id;
	srv_fetch(&s, 0, s.depth);
	srv_start(&s);
	srv_close(&s);
	do {
		usleep(1000);
		ASSERT_EQ(0, get_info(next.id, &info));
	} while (info.state != UBLK_S_DEV_FAIL_IO);
	ASSERT_EQ(0, ctrl_simple(next.id, UBLK_U_CMD_START_USER_RECOVERY, NULL, 0, 0));
	srv_attach(&next);
	move_buffers(&next, bufs, NOWHERE);
	srv_fetch(&next, 0, DEPTH);
	block_start(&io, next.id, B_WRITE, 8, 4096);
	wait_busy(next.id, 1);
	EXPECT_EQ(BLOCKS, block_wait(&io, 20));
	EXPECT_EQ(0, ctrl_simple(next.id, UBLK_U_CMD_STOP_DEV, NULL, 0, 0));
	EXPECT_EQ(-EIO, block_wait(&io, INT_MAX));
	restore_buffers(&next, bufs);
	srv_close(&next);
	EXPECT_EQ(0, delete_dev(next.id));
}

/* The device of a server that nobody trusts */
static void distrust(struct __test_metadata *_metadata, struct server *server, __u64 flags,
		     void *addr)
{
	struct ublk_params params = default_params();
	struct srv *s = &server->s;

	server->batch = flags & UBLK_F_BATCH_IO;
	*s = (struct srv){ .queues = 1, .depth = DEPTH, .flags = flags,
			   .desc_size = sizeof(struct ublksrv_io_desc) };
	become(NOBODY);
	s->id = add(UBLK_F_UNPRIVILEGED_DEV | flags);
	become(0);
	ASSERT_LE(0, s->id);
	chmod(str("/dev/ublkc%d", s->id), 0666);
	become(NOBODY);
	ASSERT_EQ(0, ctrl_path(s->id, UBLK_U_CMD_SET_PARAMS, &params, sizeof(params), 0));
	srv_attach(s);
	fetch_at(server, addr);
	ASSERT_EQ(0, ctrl_path(s->id, UBLK_U_CMD_START_DEV, NULL, 0, getpid()));
	become(0);
}

/*
 * Such a server has 30 s to come by a buffer, and another one, meanwhile, to bring
 * a read, of which it brings a sector each second.
 */
static void distrusted(struct __test_metadata *_metadata, __u64 flags)
{
	struct server bare = {}, slow = {};
	int tag, parts, res = BLOCKS;
	struct blk_io write, read;

	distrust(_metadata, &bare, flags, NOWHERE);
	distrust(_metadata, &slow, flags, NULL);
	block_start(&write, bare.s.id, B_WRITE, 8, 4096);
	/* so many sectors that it would take longer */
	block_start(&read, slow.s.id, B_READ, 8, 48 * 512);
	/* it might have come by one any time */
	EXPECT_EQ(BLOCKS, block_wait(&write, 5000));
	for (parts = 0; (tag = request(&slow, &read, &res)) >= 0; parts++) {
		EXPECT_EQ(8 + parts, srv_desc(&slow.s, tag)->start_sector);
		sleep(1);
		commit(&slow, tag, 512);
	}
	EXPECT_EQ(-EIO, res);
	TH_LOG("%d parts of 48 were brought", parts);
	/* what came in time was taken */
	EXPECT_LT(5, parts);
	EXPECT_EQ(-EIO, block_wait(&write, INT_MAX));
	end(&slow);
	EXPECT_EQ(0, delete_dev(slow.s.id));
	end(&bare);
	EXPECT_EQ(0, delete_dev(bare.s.id));
}

FIXTURE(distrusted) {
	int unused;
};

FIXTURE_SETUP(distrusted)
{
	if (why_not())
		SKIP(return, "%s", why_not());
}

FIXTURE_TEARDOWN(distrusted)
{
}

TEST_F_TIMEOUT(distrusted, one_by_one, 180)
{
	distrusted(_metadata, 0);
}

TEST_F_TIMEOUT(distrusted, in_batches, 180)
{
	distrusted(_metadata, UBLK_F_BATCH_IO);
}

TEST_HARNESS_MAIN
