/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The fixture of the tests of fused commands, with all modes as variants:
 * what is true for a group is true on every ring, in both forms, whether the
 * driver or the secondaries sleep or not.
 */
#ifndef SELFTESTS_IO_URING_FIXTURE_H
#define SELFTESTS_IO_URING_FIXTURE_H

#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "kselftest_harness.h"
#include "fused.h"

#define RING_ENTRIES	128
#define FILE_LEN	(4 * BUFFER_LEN)

/* flags that a ring with task work of all kinds has in common */
#define DEFER	(IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN)

FIXTURE(fused)
{
	struct ring ring;
	struct group g;
	int dev;
	int file;		/* memfd with pattern 0 */
	unsigned char *buf;	/* BUFFER_LEN of memory */
};

FIXTURE_VARIANT(fused)
{
	struct mode mode;
};

FIXTURE_VARIANT_ADD(fused, default_ring) {
	.mode = {
		.ring_flags = 0,
	},
};

FIXTURE_VARIANT_ADD(fused, coop) {
	.mode = {
		.ring_flags = IORING_SETUP_COOP_TASKRUN,
	},
};

FIXTURE_VARIANT_ADD(fused, defer) {
	.mode = {
		.ring_flags = DEFER,
	},
};

FIXTURE_VARIANT_ADD(fused, sqpoll) {
	.mode = {
		.ring_flags = IORING_SETUP_SQPOLL,
	},
};

FIXTURE_VARIANT_ADD(fused, sqe128) {
	.mode = {
		.ring_flags = IORING_SETUP_SQE128,
	},
};

FIXTURE_VARIANT_ADD(fused, sqe128_inline) {
	.mode = {
		.ring_flags = IORING_SETUP_SQE128 | DEFER,
		.inline_form = true,
	},
};

FIXTURE_VARIANT_ADD(fused, sqe_mixed) {
	.mode = {
		.ring_flags = IORING_SETUP_SQE_MIXED | DEFER,
	},
};

FIXTURE_VARIANT_ADD(fused, sqe_mixed_inline) {
	.mode = {
		.ring_flags = IORING_SETUP_SQE_MIXED,
		.inline_form = true,
	},
};

FIXTURE_VARIANT_ADD(fused, cqe32) {
	.mode = {
		.ring_flags = IORING_SETUP_CQE32,
	},
};

FIXTURE_VARIANT_ADD(fused, cqe_mixed) {
	.mode = {
		.ring_flags = IORING_SETUP_CQE_MIXED | IORING_SETUP_NO_SQARRAY,
	},
};

FIXTURE_VARIANT_ADD(fused, workers) {
	.mode = {
		.ring_flags = 0,
		.secondary_flags = IOSQE_ASYNC,
	},
};

FIXTURE_VARIANT_ADD(fused, driver_sleeps) {
	.mode = {
		.ring_flags = 0,
		.blocking = true,
	},
};

FIXTURE_VARIANT_ADD(fused, defer_all_sleep) {
	.mode = {
		.ring_flags = DEFER,
		.secondary_flags = IOSQE_ASYNC,
		.blocking = true,
	},
};

FIXTURE_VARIANT_ADD(fused, sqpoll_inline) {
	.mode = {
		.ring_flags = IORING_SETUP_SQPOLL | IORING_SETUP_SQE128,
		.inline_form = true,
		.blocking = true,
	},
};

FIXTURE_SETUP(fused)
{
	int ret = mode_ring(&variant->mode, &self->ring, RING_ENTRIES);

	ASSERT_EQ(0, ret);
	if (!(self->ring.p.features & IORING_FEAT_FUSED_CMD))
		SKIP(return, "no IORING_FEAT_FUSED_CMD");
	self->dev = open_device();
	if (self->dev == -ENOENT)
		SKIP(return, "no %s: see README", device_name());
	ASSERT_LE(0, self->dev);
	self->buf = malloc(FILE_LEN);
	ASSERT_NE(NULL, self->buf);
	self->file = memfd_create("fused", 0);
	fill(self->buf, 0, 0, FILE_LEN);
	ASSERT_EQ(FILE_LEN, write(self->file, self->buf, FILE_LEN));
}

FIXTURE_TEARDOWN(fused)
{
	ring_exit(&self->ring);
	free(self->buf);
	close(self->file);
	close(self->dev);
}

/* Start a group */
#define INIT(op, flags, len) \
	group_init(&self->g, &self->ring, &variant->mode, self->dev, op, flags, len)
#define LEND_DEST(len)		INIT(OP_LEND, 0, len)
#define LEND_SRC(len)		INIT(OP_LEND, LEND_SOURCE, len)
#define ADD(op, fd, addr, len, off) \
	group_add(&self->g, op, fd, addr, len, off)
/* the usual secondary of a buffer that is written */
#define ADD_READ(addr, len, off) \
	ADD(IORING_OP_READ, self->file, addr, len, off)

/* Run it: the result of the primary, and those of the secondaries */
#define EXPECT_GROUP(res, ...) ({					\
	const int want_[] = { __VA_ARGS__ };				\
	const char *wrong_ = group_run(&self->g, res,			\
				       sizeof(want_) / sizeof(int), want_); \
	ASSERT_EQ(NULL, wrong_) TH_LOG("%s", wrong_);			\
})
/* The same for one that was submitted, with what it posted so far */
#define EXPECT_CQES(log, res, ...) ({					\
	const int want_[] = { __VA_ARGS__ };				\
	const char *wrong_ = group_check(&self->g, log, res,		\
					 sizeof(want_) / sizeof(int), want_); \
	ASSERT_EQ(NULL, wrong_) TH_LOG("%s", wrong_);			\
})

/* Each secondary has the same result alone and in the group, which has @res. */
#define LIKE_ALONE(res, ...) ({						\
	const int alone_[] = { __VA_ARGS__ };				\
	int i_;								\
									\
	for (i_ = 0; i_ < (int)ARRAY_SIZE(alone_); i_++)		\
		ASSERT_EQ(alone_[i_],					\
			  group_alone(&self->g, self->buf, i_))		\
			TH_LOG("alone: %d", i_);			\
	EXPECT_GROUP(res, __VA_ARGS__);					\
})

/* The whole buffer @index of the device */
#define GET_BUFFER(index) \
	ASSERT_EQ(BUFFER_LEN, pread(self->dev, self->buf, BUFFER_LEN,	\
				    (off_t)(index) * BUFFER_LEN))
#define SET_BUFFER(index, seed) ({					\
	fill(self->buf, seed, 0, BUFFER_LEN);				\
	ASSERT_EQ(BUFFER_LEN, pwrite(self->dev, self->buf, BUFFER_LEN,	\
				     (off_t)(index) * BUFFER_LEN));	\
})

/* A group whose only secondary is inline, or would be */
#define INLINE_FORM	(variant->mode.inline_form)
#define SQE128_RING	(variant->mode.ring_flags & IORING_SETUP_SQE128)
#define IS_SQPOLL	(variant->mode.ring_flags & IORING_SETUP_SQPOLL)

#endif
