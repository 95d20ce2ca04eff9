// SPDX-License-Identifier: GPL-2.0
/*
 * life_copy: the driver copies the data of a write to a server whose buffer, or a
 * part of it, is not there.
 *
 * If nothing can be copied then the driver tries it again and again. Somebody who
 * stops the device does not wait for that for ever, and neither does a user whose
 * server nobody trusts. If a part can be copied then no more than that was written,
 * whatever the server says of it.
 */
#include <sys/mman.h>
#include <sys/stat.h>
#include "life.h"
#include "parity_bsrv.h"
#include "kselftest_harness.h"

/* no process has anything there */
#define NOWHERE		((void *)0x1000)

FIXTURE(copy) {
	struct srv s;
	struct bring b;
	__u64 fetch;
	bool batch;
	/* those that the slots would have */
	void *bufs[DEPTH];
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
	self->s.id = -1;
	if (why_not())
		SKIP(return, "%s", why_not());
	self->batch = variant->flags & UBLK_F_BATCH_IO;
	srv_open(&self->s, variant->flags, NULL);
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

/* The buffers of all slots are at @addr; the disk appears */
static void serve_at(FIXTURE_DATA(copy) *self, void *addr)
{
	struct srv *s = &self->s;
	int i;

	move_buffers(s, self->bufs, addr);
	if (self->batch) {
		bring_init(&self->b, s, false);
		for (i = 0; i < NR_TAG_BUFS; i++)
			bring_provide(&self->b, i, 1, NULL);
		i = batch_prep(&self->b, 0, 0, s->depth);
		if (i)
			give_up("PREP", i);
		self->fetch = bring_fetch(&self->b, 0);
	} else {
		srv_fetch(s, 0, s->depth);
	}
	srv_start(s);
}

static void end(FIXTURE_DATA(copy) *self)
{
	/* unless it never served */
	if (self->bufs[0])
		restore_buffers(&self->s, self->bufs);
	srv_close(&self->s);
}

FIXTURE_TEARDOWN(copy)
{
	if (self->s.id < 0)
		return;
	end(self);
	EXPECT_EQ(0, delete_dev(self->s.id));
}

/* The next request: its tag. If the user is done before: -1, and what he got in @res */
static int request(FIXTURE_DATA(copy) *self, struct blk_io *io, int *res)
{
	int tag, got;

	for (;;) {
		if (self->batch) {
			got = batch_request(&self->b, self->fetch, 20, &tag);
			if (got == 2)
				return tag;
			if (got != BLOCKS)
				give_up("FETCH", got);
		} else {
			tag = srv_request(&self->s, 20);
			if (tag >= 0)
				return tag;
		}
		*res = block_wait(io, 0);
		if (*res != BLOCKS)
			return -1;
	}
}

static void commit(FIXTURE_DATA(copy) *self, int tag, int result)
{
	if (!self->batch)
		srv_commit(&self->s, tag, result);
	else if (batch_commit(&self->b, 0, tag, result) != 16)
		give_up("COMMIT", tag);
}

/* Wait until the disk has a request that has not ended, wherever that is */
static void wait_busy(int id)
{
	unsigned int busy = 0;
	FILE *f;

	while (!busy) {
		usleep(1000);
		f = fopen(str("/sys/block/ublkb%d/stat", id), "r");
		if (!f)
			give_up("statistics of the disk", -errno);
		if (fscanf(f, "%*u %*u %*u %*u %*u %*u %*u %*u %u", &busy) != 1)
			give_up("statistics of the disk", -EINVAL);
		fclose(f);
	}
}

/* STOP_DEV does not wait for a write that no server will ever see; the server lives on */
TEST_F_TIMEOUT(copy, stop_without_buffer, 120)
{
	struct srv *s = &self->s;
	struct blk_io io;
	__u64 waiting;

	serve_at(self, NOWHERE);
	waiting = s->waiting[0];
	block_start(&io, s->id, B_WRITE, 8, 4096);
	wait_busy(s->id);
	EXPECT_EQ(BLOCKS, block_wait(&io, 20));
	EXPECT_EQ(0, ctrl_simple(s->id, UBLK_U_CMD_STOP_DEV, NULL, 0, 0));
	EXPECT_EQ(-EIO, block_wait(&io, INT_MAX));
	EXPECT_EQ(-ENODEV, self->batch ? bring_wait(&self->b, self->fetch, INT_MAX, NULL) :
		  srv_wait(s, waiting, INT_MAX));
}

/* DEL_DEV likewise */
TEST_F_TIMEOUT(copy, delete_without_buffer, 120)
{
	struct srv *s = &self->s;
	struct blk_io io;

	serve_at(self, NOWHERE);
	block_start(&io, s->id, B_WRITE, 8, 4096);
	wait_busy(s->id);
	EXPECT_EQ(0, ctrl_simple(s->id, UBLK_U_CMD_DEL_DEV_ASYNC, NULL, 0, 0));
	EXPECT_EQ(-EIO, block_wait(&io, INT_MAX));
	/* nothing is left for the teardown */
	end(self);
	self->s.id = -1;
}

/*
 * The second page of the buffer is not there, and @before bytes of the first one
 * are: the server is told of the whole blocks of these, each time, until it has
 * written all.
 */
static void write_in_parts(struct __test_metadata *_metadata, FIXTURE_DATA(copy) *self,
			   unsigned int before, unsigned int part)
{
	struct srv *s = &self->s;
	unsigned int done = 0, bad, i;
	struct blk_io io;
	int tag, res = BLOCKS;
	char *pages;

	pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, pages);
	/* there, so that nobody else gets it */
	ASSERT_EQ(0, mprotect(pages + 4096, 4096, PROT_NONE));
	serve_at(self, pages + 4096 - before);
	block_start(&io, s->id, B_WRITE, 8, 8192);
	while (done < 8192) {
		const struct ublksrv_io_desc *desc;
		unsigned int left = 8192 - done;

		tag = request(self, &io, &res);
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
		commit(self, tag, desc->nr_sectors << 9);
	}
	EXPECT_EQ(1, block_wait(&io, INT_MAX));
}

TEST_F_TIMEOUT(copy, half_a_buffer, 120)
{
	write_in_parts(_metadata, self, 4096, 4096);
}

TEST_F_TIMEOUT(copy, buffer_that_ends_in_a_sector, 120)
{
	write_in_parts(_metadata, self, 3000, 2560);
}

/* What the server says of the part is all the same, if it is no error */
TEST_F_TIMEOUT(copy, claims_all_of_it, 120)
{
	static const int claims[] = { 8192, 0, -ENOSPC };
	struct srv *s = &self->s;
	struct blk_io io;
	int tag, res = BLOCKS;
	unsigned int i;
	char *pages;

	pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, pages);
	ASSERT_EQ(0, mprotect(pages + 4096, 4096, PROT_NONE));
	serve_at(self, pages);
	for (i = 0; i < ARRAY_SIZE(claims); i++) {
		block_start(&io, s->id, B_WRITE, 8, 8192);
		tag = request(self, &io, &res);
		ASSERT_LE(0, tag);
		EXPECT_EQ(8, srv_desc(s, tag)->nr_sectors);
		commit(self, tag, claims[i]);
		if (claims[i] < 0) {
			EXPECT_EQ(claims[i], block_wait(&io, INT_MAX));
			continue;
		}
		/* the rest fails, and so does the write */
		tag = request(self, &io, &res);
		ASSERT_LE(0, tag) {
			TH_LOG("the write ended with %d after 4096 bytes", res);
		}
		EXPECT_EQ(16, srv_desc(s, tag)->start_sector);
		commit(self, tag, -EIO);
		EXPECT_EQ(-EIO, block_wait(&io, INT_MAX));
	}
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
	wait_busy(s.id);
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
	wait_busy(next.id);
	EXPECT_EQ(BLOCKS, block_wait(&io, 20));
	EXPECT_EQ(0, ctrl_simple(next.id, UBLK_U_CMD_STOP_DEV, NULL, 0, 0));
	EXPECT_EQ(-EIO, block_wait(&io, INT_MAX));
	restore_buffers(&next, bufs);
	srv_close(&next);
	EXPECT_EQ(0, delete_dev(next.id));
}

/* A server that nobody trusts has 30 s to come by a buffer */
static void distrusted(struct __test_metadata *_metadata, __u64 flags)
{
	struct ublk_params params = default_params();
	struct srv s = { .queues = 1, .depth = DEPTH, .flags = flags,
			 .desc_size = sizeof(struct ublksrv_io_desc) };
	void *bufs[DEPTH];
	struct blk_io io;
	struct bring b;

	become(NOBODY);
	s.id = add(UBLK_F_UNPRIVILEGED_DEV | flags);
	become(0);
	ASSERT_LE(0, s.id);
	chmod(str("/dev/ublkc%d", s.id), 0666);
	become(NOBODY);
	ASSERT_EQ(0, ctrl_path(s.id, UBLK_U_CMD_SET_PARAMS, &params, sizeof(params), 0));
	srv_attach(&s);
	move_buffers(&s, bufs, NOWHERE);
	if (flags & UBLK_F_BATCH_IO) {
		bring_init(&b, &s, false);
		bring_provide(&b, 0, 1, NULL);
		ASSERT_EQ(0, batch_prep(&b, 0, 0, DEPTH));
		bring_fetch(&b, 0);
	} else {
		srv_fetch(&s, 0, DEPTH);
	}
	ASSERT_EQ(0, ctrl_path(s.id, UBLK_U_CMD_START_DEV, NULL, 0, getpid()));
	become(0);
	block_start(&io, s.id, B_WRITE, 8, 4096);
	/* it might have come by one any time */
	EXPECT_EQ(BLOCKS, block_wait(&io, 5000));
	EXPECT_EQ(-EIO, block_wait(&io, INT_MAX));
	restore_buffers(&s, bufs);
	srv_close(&s);
	EXPECT_EQ(0, delete_dev(s.id));
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

TEST_F_TIMEOUT(distrusted, without_buffer, 180)
{
	distrusted(_metadata, 0);
}

TEST_F_TIMEOUT(distrusted, batch_without_buffer, 180)
{
	distrusted(_metadata, UBLK_F_BATCH_IO);
}

TEST_HARNESS_MAIN
