// SPDX-License-Identifier: GPL-2.0
/*
 * life_batch: servers that work on batches (UBLK_F_BATCH_IO): what is refused,
 * buffers that run out, and what else ends a command.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include "life.h"
#include "parity_bsrv.h"
#include "kselftest_harness.h"

/* Errors ------------------------------------------------------------------- */

FIXTURE(errors) {
	struct srv s;
	struct bring b;
	struct elem elems[2 * MAX_DEPTH];
};

FIXTURE_VARIANT(errors) {
	__u64 flags;
};

FIXTURE_VARIANT_ADD(errors, copy) {
	.flags = 0,
};

FIXTURE_VARIANT_ADD(errors, user_copy) {
	.flags = UBLK_F_USER_COPY,
};

FIXTURE_VARIANT_ADD(errors, auto_reg) {
	.flags = UBLK_F_AUTO_BUF_REG,
};

FIXTURE_SETUP(errors)
{
	self->s.id = -1;
	if (why_not())
		SKIP(return, "%s", why_not());
	srv_open(&self->s, variant->flags | UBLK_F_BATCH_IO, NULL);
	bring_init(&self->b, &self->s, false);
}

FIXTURE_TEARDOWN(errors)
{
	if (self->s.id < 0)
		return;
	srv_close(&self->s);
	EXPECT_EQ(0, delete_dev(self->s.id));
}

/* A command that is right, for a part of it to be changed */
static struct bio good(struct bring *b, struct elem *elems, __u32 op, int nr)
{
	struct bio io = {
		.op = op,
		.flags = batch_flags(b->s),
		.elem_bytes = batch_bytes(b->s),
		.elems = elems,
		.nr = nr,
	};

	batch_elems(b->s, elems, 0, nr, 0);
	return io;
}

/* What is wrong before anything is looked at, in any state of the device */
static const struct wrong {
	const char *what;
	int want;
	int q_id;
	int flags;		/* more flags */
	int bytes;		/* more bytes of an element */
	int tag;
	int nr;			/* instead of 1 */
	bool no_elems;
	bool unmapped;
	enum { ANY, COPIES, NO_COPY, NO_REG } only;
} wrongs[] = {
	{ "queue 1", -EINVAL, .q_id = 1 },
	{ "queue 65535", -EINVAL, .q_id = 65535 },
	{ "too many elements", -E2BIG, .nr = DEPTH + 1 },
	{ "lba", -EINVAL, .flags = UBLK_BATCH_F_HAS_ZONE_LBA, .bytes = 8 },
	{ "unknown flag", -EINVAL, .flags = 8 },
	{ "last flag", -EINVAL, .flags = 0x8000 },
	{ "larger element", -EINVAL, .bytes = 1 },
	{ "element of 0 bytes", -EINVAL, .bytes = -16, .only = COPIES },
	{ "element of 0 bytes", -EINVAL, .bytes = -8, .only = NO_COPY },
	{ "fallback", -EINVAL, .flags = UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK, .only = NO_REG },
	{ "address", -EINVAL, .flags = UBLK_BATCH_F_HAS_BUF_ADDR, .bytes = 8, .only = NO_COPY },
	{ "unmapped elements", -EFAULT, .unmapped = true },
	{ "tag = depth", -EINVAL, .tag = DEPTH },
	{ "tag 65535", -EINVAL, .tag = 65535 },
	{ "no element", 0, .no_elems = true },
};

/* The first of them that got another answer, or NULL */
static const char *accepted(struct bring *b, struct elem *elems, __u32 op)
{
	bool copies = srv_copies(b->s), registers = b->s->flags & UBLK_F_AUTO_BUF_REG;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(wrongs); i++) {
		const struct wrong *w = &wrongs[i];
		struct bio io = good(b, elems, op, 1);
		int res;

		if ((w->only == COPIES && !copies) || (w->only == NO_COPY && copies) ||
		    (w->only == NO_REG && registers))
			continue;
		io.q_id = w->q_id;
		io.flags |= w->flags;
		io.elem_bytes += w->bytes;
		if (w->tag)
			elems->tag = w->tag;
		if (w->nr || w->no_elems)
			io.nr = w->nr;
		if (w->unmapped)
			io.elems = BAD_ADDR;
		res = bring_do(b, &io);
		if (res != w->want)
			return str("%s: %s", w->what, res_name(res));
	}
	return NULL;
}

/* The same for a FETCH */
static const char *fetch_accepted(struct bring *b)
{
	static const struct {
		const char *what;
		int q_id, bytes, flags, nr;
		bool one_shot;
	} cmds[] = {
		{ "queue 1", .q_id = 1, .bytes = 2 },
		{ "not multishot", .bytes = 2, .one_shot = true },
		{ "4 bytes", .bytes = 4 },
		{ "flags", .bytes = 2, .flags = UBLK_BATCH_F_HAS_BUF_ADDR },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(cmds); i++) {
		struct bio io = {
			.op = UBLK_U_IO_FETCH_IO_CMDS,
			.q_id = cmds[i].q_id,
			.flags = cmds[i].flags,
			.elem_bytes = cmds[i].bytes,
			.sqe_flags = cmds[i].one_shot ? 0 : IOSQE_BUFFER_SELECT,
			.cmd_flags = cmds[i].one_shot ? 0 : IORING_URING_CMD_MULTISHOT,
			.group = b->group,
		};
		int res = bring_do(b, &io);

		if (res != -EINVAL)
			return str("%s: %s", cmds[i].what, res_name(res));
	}
	return NULL;
}

#define EXPECT_REFUSED(call)							\
do {										\
	const char *_what = call;						\
										\
	EXPECT_EQ(NULL, _what)							\
		TH_LOG("%s", _what);						\
} while (0)

TEST_F_TIMEOUT(errors, each_command, 120)
{
	struct bring *b = &self->b;
	struct io one = { .op = UBLK_U_IO_FETCH_REQ };
	int copies = srv_copies(&self->s);
	struct elem *elem = self->elems;
	int bytes = batch_bytes(&self->s);
	struct bio io;

	/* nothing is prepared */
	EXPECT_REFUSED(accepted(b, elem, UBLK_U_IO_PREP_IO_CMDS));
	EXPECT_REFUSED(accepted(b, elem, UBLK_U_IO_COMMIT_IO_CMDS));
	EXPECT_REFUSED(fetch_accepted(b));
	EXPECT_EQ(-EBUSY, batch_commit(b, 0, 0, 0));
	EXPECT_EQ(-EOPNOTSUPP, srv_do(&self->s, &one));
	one.tag = self->s.depth;
	EXPECT_EQ(-EINVAL, srv_do(&self->s, &one));

	/* all or nothing: the second element is wrong, so the first one is not prepared */
	io = good(b, elem, UBLK_U_IO_PREP_IO_CMDS, 2);
	*(__u16 *)((char *)elem + bytes) = 0;
	EXPECT_EQ(-EINVAL, bring_do(b, &io));
	*(__u16 *)((char *)elem + bytes) = self->s.depth;
	EXPECT_EQ(-EINVAL, bring_do(b, &io));
	io = good(b, elem, UBLK_U_IO_PREP_IO_CMDS, 1);
	elem->addr = 0;
	if (copies)
		EXPECT_EQ(-EINVAL, bring_do(b, &io));
	EXPECT_EQ(0, batch_prep(b, 0, 0, 1));
	EXPECT_EQ(-EINVAL, batch_prep(b, 0, 0, 1));
	EXPECT_EQ(-EINVAL, batch_prep(b, 0, 0, 2));
	EXPECT_EQ(0, batch_prep(b, 0, 1, 2));

	/* all is prepared */
	EXPECT_REFUSED(accepted(b, elem, UBLK_U_IO_PREP_IO_CMDS));
	EXPECT_EQ(-EBUSY, batch_prep(b, 0, 0, 1));
	EXPECT_EQ(-EBUSY, batch_commit(b, 0, 0, 0));
	srv_start(&self->s);
	EXPECT_EQ(-EBUSY, batch_prep(b, 0, 0, 1));
	EXPECT_REFUSED(accepted(b, elem, UBLK_U_IO_COMMIT_IO_CMDS));
	EXPECT_REFUSED(fetch_accepted(b));
}

TEST_F_TIMEOUT(errors, commit, 120)
{
	struct bring *b = &self->b;
	struct elem *elem = self->elems;
	int bytes = batch_bytes(&self->s), tag[2], i;
	struct blk_io io[2];
	struct bio commit;
	__u64 fetch;

	ASSERT_EQ(0, batch_prep(b, 0, 0, 2));
	srv_start(&self->s);
	for (i = 0; i < 4; i++)
		bring_provide(b, i, 1, NULL);
	fetch = bring_fetch(b, 0);
	for (i = 0; i < 2; i++) {
		block_start(&io[i], self->s.id, B_WRITE, 8 * i, 4096);
		ASSERT_EQ(2, batch_request(b, fetch, INT_MAX, &tag[i]));
	}
	EXPECT_NE(tag[0], tag[1]);

	/* the second one fails: the first one is committed, and the result says so */
	commit = good(b, elem, UBLK_U_IO_COMMIT_IO_CMDS, 1);
	elem->tag = tag[0];
	elem->result = 4096;
	memcpy((char *)elem + bytes, elem, bytes);
	commit.nr = 2;
	EXPECT_EQ(bytes, bring_do(b, &commit));
	EXPECT_EQ(1, block_wait(&io[0], INT_MAX));
	/* not twice */
	EXPECT_EQ(-EBUSY, bring_do(b, &commit));
	if (srv_copies(&self->s)) {
		elem->tag = tag[1];
		elem->addr = 0;
		commit.nr = 1;
		EXPECT_EQ(-EINVAL, bring_do(b, &commit));
	}
	EXPECT_EQ(bytes, batch_commit(b, 0, tag[1], -ENOSPC));
	EXPECT_EQ(-ENOSPC, block_wait(&io[1], INT_MAX));
}

/* Buffers ------------------------------------------------------------------ */

FIXTURE(batch) {
	struct srv s;
	struct bring b;
};

FIXTURE_SETUP(batch)
{
	self->s.id = -1;
	if (why_not())
		SKIP(return, "%s", why_not());
	batch_live(&self->b, &self->s, 0);
}

FIXTURE_TEARDOWN(batch)
{
	if (self->s.id < 0)
		return;
	srv_close(&self->s);
	EXPECT_EQ(0, delete_dev(self->s.id));
}

TEST_F_TIMEOUT(batch, buffers_run_out, 120)
{
	struct bring *b = &self->b;
	struct blk_io io[2];
	struct said said;
	__u64 fetch;
	int tag[2];

	/* no buffer: the command ends when there is something to tell, the request waits */
	fetch = bring_fetch(b, 0);
	EXPECT_EQ(BLOCKS, bring_wait(b, fetch, 50, &said));
	block_start(&io[0], self->s.id, B_READ, 0, 4096);
	EXPECT_EQ(-ENOBUFS, bring_wait(b, fetch, INT_MAX, &said));
	EXPECT_EQ(0, said.flags & IORING_CQE_F_MORE);
	EXPECT_EQ(-ENOBUFS, bring_wait(b, bring_fetch(b, 0), INT_MAX, &said));

	/* a buffer that can not be written: nothing is lost either */
	bring_provide(b, 0, 1, BAD_ADDR);
	EXPECT_EQ(-ENOBUFS, bring_wait(b, bring_fetch(b, 0), INT_MAX, &said));
	bring_no_bufs(b);

	/* one that has no room for a tag */
	io_uring_buf_ring_add(b->br, b->tags, 1, 0, io_uring_buf_ring_mask(NR_TAG_BUFS), 0);
	io_uring_buf_ring_advance(b->br, 1);
	EXPECT_EQ(-ENOBUFS, bring_wait(b, bring_fetch(b, 0), INT_MAX, &said));
	bring_no_bufs(b);

	/* room for one, and then for no other */
	bring_provide(b, 2, 1, NULL);
	fetch = bring_fetch(b, 0);
	ASSERT_EQ(2, batch_request(b, fetch, INT_MAX, &tag[0]));
	block_start(&io[1], self->s.id, B_READ, 80, 4096);
	EXPECT_EQ(-ENOBUFS, bring_wait(b, fetch, INT_MAX, &said));
	EXPECT_EQ(16, batch_commit(b, 0, tag[0], 4096));
	EXPECT_EQ(1, block_wait(&io[0], INT_MAX));

	/* the next command gets what is left */
	bring_provide(b, 3, 4, NULL);
	ASSERT_EQ(2, batch_request(b, bring_fetch(b, 0), INT_MAX, &tag[1]));
	EXPECT_EQ(16, batch_commit(b, 0, tag[1], 4096));
	EXPECT_EQ(1, block_wait(&io[1], INT_MAX));
}

/*
 * The data of a request is registered, or the server told that it has to do so,
 * and then the request can not be told: all of it is undone, and done again.
 */
TEST(told_again)
{
	static const struct {
		int index, flags;
	} regs[] = {
		{ 3, 0 },
		{ 3, UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK },
		/* no such index */
		{ 99, UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK },
	};
	unsigned int i;

	if (why_not())
		SKIP(return, "%s", why_not());
	for (i = 0; i < ARRAY_SIZE(regs); i++) {
		struct elem elems[2] = { { .buf_index = regs[i].index } };
		struct bio prep = {
			.op = UBLK_U_IO_PREP_IO_CMDS,
			.flags = regs[i].flags,
			.nr = 2,
			.elem_bytes = 8,
			.elems = elems,
		};
		struct blk_io io;
		struct bring b;
		struct srv s;
		bool must_register;
		int tag, round;

		srv_open(&s, UBLK_F_BATCH_IO | UBLK_F_AUTO_BUF_REG, NULL);
		bring_init(&b, &s, false);
		memcpy((char *)elems + 8, elems, 8);
		((struct elem *)((char *)elems + 8))->tag = 1;
		ASSERT_EQ(0, bring_do(&b, &prep));
		srv_start(&s);
		for (round = 0; round < 2; round++) {
			block_start(&io, s.id, B_READ, 8, 4096);
			bring_provide(&b, 0, 1, BAD_ADDR);
			EXPECT_EQ(-ENOBUFS, bring_wait(&b, bring_fetch(&b, 0), INT_MAX, NULL));
			bring_no_bufs(&b);
			bring_provide(&b, 1, 1, NULL);
			ASSERT_EQ(2, batch_request(&b, bring_fetch(&b, 0), INT_MAX, &tag));
			must_register = ublksrv_get_flags(srv_desc(&s, tag)) &
				(UBLK_IO_F_NEED_REG_BUF >> 8);
			EXPECT_EQ(regs[i].index == 99, must_register);
			prep.op = UBLK_U_IO_COMMIT_IO_CMDS;
			prep.nr = 1;
			elems[0].tag = tag;
			elems[0].result = 4096;
			EXPECT_EQ(8, bring_do(&b, &prep));
			EXPECT_EQ(1, block_wait(&io, INT_MAX));
		}
		srv_close(&s);
		EXPECT_EQ(0, delete_dev(s.id));
	}
}

/*
 * A device that registers data automatically, or by hand, with a disk that has
 * requests without data. All its slots are prepared by @io and its @elem, to
 * which the tag is added. Returns the command that tells of requests.
 */
static __u64 auto_live(struct __test_metadata *_metadata, struct bring *b, struct srv *s,
		       struct bio *io, struct elem *elem)
{
	struct ublk_params params = default_params();
	int i;

	params.types |= UBLK_PARAM_TYPE_DISCARD;
	params.discard.discard_granularity = 512;
	params.discard.max_discard_sectors = 65536;
	params.discard.max_discard_segments = 1;
	srv_open(s, UBLK_F_BATCH_IO | UBLK_F_AUTO_BUF_REG | UBLK_F_SUPPORT_ZERO_COPY, &params);
	bring_init(b, s, false);
	io->op = UBLK_U_IO_PREP_IO_CMDS;
	for (i = 0; i < DEPTH; i++) {
		elem->tag = i;
		EXPECT_EQ(0, bring_do(b, io));
	}
	srv_start(s);
	for (i = 0; i < NR_TAG_BUFS; i++)
		bring_provide(b, i, 1, NULL);
	io->op = UBLK_U_IO_COMMIT_IO_CMDS;
	return bring_fetch(b, 0);
}

/*
 * Data that can not be registered: the request fails, and the same slot and
 * command get the next one. Without data, there is nothing to register.
 */
TEST(not_registered)
{
	struct elem elems[2] = { { .buf_index = 99 } };
	struct bio bio = {
		.nr = 1, .elem_bytes = 8, .elems = elems,
	};
	struct blk_io io, none[DEPTH];
	int tags[DEPTH], round, i;
	struct bring b;
	struct srv s;
	__u64 fetch;

	if (why_not())
		SKIP(return, "%s", why_not());
	fetch = auto_live(_metadata, &b, &s, &bio, elems);
	for (round = 0; round < 2 * DEPTH; round++) {
		block_start(&io, s.id, B_READ, 8, 4096);
		EXPECT_EQ(-EIO, block_wait(&io, INT_MAX));
	}
	/* all slots still wait; two discards would wait for each other */
	for (i = 0; i < DEPTH; i++)
		block_start(&none[i], s.id, i ? B_DISCARD : B_FLUSH, 0, i * 4096);
	for (i = 0; i < DEPTH; i++) {
		ASSERT_EQ(2, batch_request(&b, fetch, INT_MAX, &tags[i]));
		EXPECT_FALSE(i && tags[i] == tags[0]);
	}
	for (i = 0; i < DEPTH; i++) {
		elems[0].tag = tags[i];
		EXPECT_EQ(8, bring_do(&b, &bio));
	}
	for (i = 0; i < DEPTH; i++)
		EXPECT_EQ(0, block_wait(&none[i], INT_MAX));
	srv_close(&s);
	EXPECT_EQ(0, delete_dev(s.id));
}

/*
 * Requests with the same index: what is registered for the first stays, though
 * one that has no data commits, and one that can not be registered.
 */
TEST(one_index)
{
	struct elem elems[2] = { { .buf_index = 3 } };
	struct bio bio = {
		.flags = UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK,
		.nr = 1,
		.elem_bytes = 8,
		.elems = elems,
	};
	struct io unregister = { .op = UBLK_U_IO_UNREGISTER_IO_BUF, .addr = 3 };
	struct blk_io first, other;
	struct bring b;
	struct srv s;
	__u64 fetch;
	int tag, i;

	if (why_not())
		SKIP(return, "%s", why_not());
	fetch = auto_live(_metadata, &b, &s, &bio, elems);
	block_start(&first, s.id, B_READ, 8, 4096);
	ASSERT_EQ(2, batch_request(&b, fetch, INT_MAX, &unregister.tag));
	for (i = 0; i < 2; i++) {
		block_start(&other, s.id, i ? B_READ : B_DISCARD, 16, 4096);
		ASSERT_EQ(2, batch_request(&b, fetch, INT_MAX, &tag));
		elems[0].tag = tag;
		elems[0].result = i ? 4096 : 0;
		EXPECT_EQ(8, bring_do(&b, &bio));
		EXPECT_EQ(i, block_wait(&other, INT_MAX));
	}
	EXPECT_EQ(0, srv_do(&s, &unregister));
	elems[0].tag = unregister.tag;
	EXPECT_EQ(8, bring_do(&b, &bio));
	EXPECT_EQ(1, block_wait(&first, INT_MAX));
	srv_close(&s);
	EXPECT_EQ(0, delete_dev(s.id));
}

/* A command that ends gives what is left to the next one, on another ring */
TEST_F_TIMEOUT(batch, next_command, 120)
{
	struct bring *b = &self->b, *other = calloc(1, sizeof(*other));
	struct blk_io io;
	struct said said;
	__u64 first, second;
	int tag;

	bring_init(other, &self->s, true);
	bring_provide(other, 0, 1, NULL);
	first = bring_fetch(b, 0);
	second = bring_fetch(other, 0);
	block_start(&io, self->s.id, B_READ, 0, 4096);
	EXPECT_EQ(-ENOBUFS, bring_wait(b, first, INT_MAX, &said));
	ASSERT_EQ(2, batch_request(other, second, INT_MAX, &tag));
	EXPECT_EQ(16, batch_commit(b, 0, tag, 4096));
	EXPECT_EQ(1, block_wait(&io, INT_MAX));
	bring_exit(other);
	free(other);
}

/* STOP_DEV ends all commands that wait, and no other one is taken */
TEST_F_TIMEOUT(batch, stop, 120)
{
	struct bring *b = &self->b;
	struct said said;
	__u64 fetch[3];
	int i;

	for (i = 0; i < 3; i++)
		fetch[i] = bring_fetch(b, 0);
	ASSERT_EQ(0, ctrl_simple(self->s.id, UBLK_U_CMD_STOP_DEV, NULL, 0, 0));
	for (i = 0; i < 3; i++)
		EXPECT_EQ(-ENODEV, bring_wait(b, fetch[i], INT_MAX, &said));
	EXPECT_EQ(-ENODEV, bring_wait(b, bring_fetch(b, 0), INT_MAX, &said));
	EXPECT_EQ(-ENODEV, batch_prep(b, 0, 0, 1));
}

/* A primary that names a request, and a secondary that writes its data to @fd */
static void fused(struct srv *s, __u32 op, int tag, int fd, int res[2])
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&s->ring);
	struct ublksrv_io_cmd *cmd;
	struct io_uring_cqe *cqe;
	int i;

	if (!sqe)
		give_up("too many commands", -ENOSPC);
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_FUSED_CMD;
	sqe->fd = s->cdev;
	sqe->cmd_op = op;
	sqe->uring_cmd_flags = IORING_FUSED_CMD_BUF;
	sqe->nr_secondary = 1;
	sqe->user_data = 0;
	cmd = (void *)sqe->cmd;
	memset(cmd, 0, sizeof(*cmd));
	cmd->tag = tag;
	sqe = io_uring_get_sqe(&s->ring);
	io_uring_prep_write(sqe, fd, NULL, 4096, 0);
	sqe->user_data = 1;
	io_uring_submit(&s->ring);
	for (i = 0; i < 2; i++) {
		if (io_uring_wait_cqe(&s->ring, &cqe))
			give_up("io_uring_wait_cqe", 0);
		if (cqe->user_data < 2)
			res[cqe->user_data] = cqe->res;
		io_uring_cqe_seen(&s->ring, cqe);
	}
}

/* Fused commands move the data of a request, but none commits */
TEST(fused_commands)
{
	struct ublksrv_ctrl_cmd features = { .len = 8, .queue_id = -1 };
	int fd, tag, res[2];
	__u64 known = 0;
	char data[4096];
	struct blk_io io;
	struct bring b;
	struct srv s;

	if (why_not())
		SKIP(return, "%s", why_not());
	features.addr = (unsigned long)&known;
	ASSERT_EQ(0, ctrl(UBLK_U_CMD_GET_FEATURES, &features));
	if (!(known & UBLK_F_FUSED_CMD))
		SKIP(return, "no fused commands");
	fd = memfd_create("data", MFD_CLOEXEC);
	ASSERT_LE(0, fd);
	batch_live(&b, &s, UBLK_F_FUSED_CMD);
	bring_provide(&b, 0, 1, NULL);
	block_start(&io, s.id, B_WRITE, 8, 4096);
	ASSERT_EQ(2, batch_request(&b, bring_fetch(&b, 0), INT_MAX, &tag));
	fused(&s, UBLK_U_IO_COMMIT_AND_FETCH_REQ, tag, fd, res);
	EXPECT_EQ(-EINVAL, res[0]);
	EXPECT_EQ(-ECANCELED, res[1]);
	fused(&s, UBLK_U_IO_COMMIT_IO_CMDS, tag, fd, res);
	EXPECT_EQ(-EINVAL, res[0]);
	fused(&s, UBLK_U_IO_FUSED_SUBMIT_IO, !tag, fd, res);
	EXPECT_EQ(-EINVAL, res[0]);
	fused(&s, UBLK_U_IO_FUSED_SUBMIT_IO, tag, fd, res);
	EXPECT_EQ(4096, res[0]);
	EXPECT_EQ(4096, res[1]);
	ASSERT_EQ(4096, pread(fd, data, 4096, 0));
	EXPECT_EQ((char)0xa5, data[0]);
	EXPECT_EQ((char)0xa5, data[4095]);
	EXPECT_EQ(8, batch_commit(&b, 0, tag, 4096));
	EXPECT_EQ(1, block_wait(&io, INT_MAX));
	srv_close(&s);
	EXPECT_EQ(0, delete_dev(s.id));
	close(fd);
}

TEST_HARNESS_MAIN
