// SPDX-License-Identifier: GPL-2.0
/*
 * IORING_OP_FUSED_CMD: the corners of the submission and the completion queue.
 */
#include "fixture.h"

/* a group that wraps around the ring, at each of its SQEs */
TEST_F(fused, wrap)
{
	int i;

	for (i = 0; i < 12; i++) {
		unsigned int to = RING_ENTRIES - 6 + i;

		while ((self->ring.tail & (RING_ENTRIES - 1)) != (to & (RING_ENTRIES - 1))) {
			push_nop(&self->ring, UD_OTHER, IOSQE_CQE_SKIP_SUCCESS);
			if (self->ring.tail - *self->ring.sq_tail > 64)
				ASSERT_LT(0, ring_submit(&self->ring));
		}
		ASSERT_LE(0, ring_submit(&self->ring));
		LEND_DEST(4096);
		ADD_READ(0, 512, i);
		ADD_READ(512, 512, i);
		ADD_READ(1024, 512, i);
		EXPECT_GROUP(1536, 512, 512, 512);
		LEND_DEST(4096);
		ADD_READ(0, 512, i);
		EXPECT_GROUP(512, 512);
	}
}

/* a bad entry of the SQ array in a group: dropped, and the group is refused */
TEST_F(fused, sq_array)
{
	struct log log = { };
	unsigned int mask = RING_ENTRIES - 1;

	if (!self->ring.sq_array || INLINE_FORM || IS_SQPOLL)
		SKIP(return, "no entries");
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	ADD_READ(0, 512, 0);
	ADD_READ(0, 512, 0);
	group_push(&self->g);
	self->ring.sq_array[(self->ring.tail - 2) & mask] = 1000000;
	/* as elsewhere, it does not count as submitted */
	ASSERT_EQ(3, ring_submit(&self->ring));
	self->ring.sq_array[(self->ring.tail - 2) & mask] = (self->ring.tail - 2) & mask;
	EXPECT_CQES(&log, -EINVAL, -ECANCELED, NO_CQE, -ECANCELED);
	EXPECT_EQ(1, *self->ring.sq_dropped);
	/* nothing is lost, nothing is left */
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(512, 512);
}

/* an SQE and its second half that would be torn by a smaller ring */
TEST_F(fused, resize)
{
	struct io_uring_params p = { .sq_entries = 4 };
	struct mode mode = variant->mode;
	struct log log = { };
	int i;

	if (!(mode.ring_flags & IORING_SETUP_SQE_MIXED) || !INLINE_FORM)
		SKIP(return, "no such SQEs");
	ring_exit(&self->ring);
	/* only such a ring can be resized */
	mode.ring_flags |= DEFER;
	ASSERT_EQ(0, mode_ring(&mode, &self->ring, 8));
	for (i = 0; i < 3; i++)
		push_nop(&self->ring, UD_OTHER, IOSQE_CQE_SKIP_SUCCESS);
	ASSERT_EQ(3, ring_submit(&self->ring));
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	group_push(&self->g);
	ASSERT_EQ(2, ring_publish(&self->ring));
	EXPECT_EQ(-EOVERFLOW,
		  ring_register(&self->ring, IORING_REGISTER_RESIZE_RINGS, &p, 1));
	ASSERT_EQ(2, ring_enter(&self->ring, 2));
	EXPECT_CQES(&log, 512, 512);
}

/* more CQEs than the ring holds */
TEST_F(fused, cq_overflow)
{
	struct mode mode = variant->mode;
	struct io_uring_params p = {
		.flags = mode.ring_flags | IORING_SETUP_CQSIZE,
		.cq_entries = 8,
		.sq_thread_idle = 50,
	};
	struct log log = { };
	int i, last;

	ring_exit(&self->ring);
	ASSERT_EQ(0, ring_init(&self->ring, 8, &p));
	for (i = 0; i < 5; i++) {
		LEND_DEST(BUFFER_LEN);
		group_cmd(&self->g)->buffer = i;
		self->g.primary->user_data = UD_PRIMARY + i;
		for (last = 0; last < (INLINE_FORM ? 1 : 6); last++) {
			ADD_READ(last * 1000, 1000, 0);
			self->g.secondary[last]->user_data = i * 10 + last;
		}
		group_push(&self->g);
		ASSERT_LT(0, ring_submit(&self->ring));
	}
	for (i = 0; i < 5; i++)
		EXPECT_EQ(last * 1000, log_until(&log, &self->ring, UD_PRIMARY + i));
	log_rest(&log, &self->ring, 20);
	EXPECT_EQ(5 * (last + 1), log.nr);
	/* the order within a group holds */
	for (i = 0; i < 5 * last; i++) {
		int group = i / last;

		EXPECT_LT(log_index(&log, group * 10 + i % last),
			  log_index(&log, UD_PRIMARY + group));
	}
}

/* an SQPOLL thread takes 8 SQEs of a ring at a time if there are more rings */
TEST_F(fused, sqpoll_cap)
{
	struct io_uring_params p = {
		.flags = variant->mode.ring_flags | IORING_SETUP_ATTACH_WQ,
		.sq_thread_idle = 50,
		.wq_fd = self->ring.fd,
	};
	int i, n, want[20];
	struct ring other;

	if (!IS_SQPOLL)
		SKIP(return, "no SQPOLL");
	ASSERT_EQ(0, ring_init(&other, 8, &p));
	for (n = 6; n < 20; n++) {
		LEND_DEST(BUFFER_LEN);
		for (i = 0; i < n; i++) {
			ADD_READ(i * 1024, 1024, i * 1024);
			want[i] = 1024;
		}
		ASSERT_EQ(NULL, group_run(&self->g, n * 1024, n, want));
	}
	ring_exit(&other);
}

/* an SQPOLL thread that sees the first half of a group takes it as it is */
TEST_F(fused, sqpoll_halves)
{
	struct log log = { };
	int i;

	if (!IS_SQPOLL || INLINE_FORM)
		SKIP(return, "a group comes in one piece");
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	ADD(IORING_OP_NOP, -1, 0, 0, 0);
	group_push(&self->g);
	/* the primary and the first */
	self->ring.tail--;
	ASSERT_LT(0, ring_submit(&self->ring));
	ASSERT_EQ(-EINVAL, log_until(&log, &self->ring, UD_PRIMARY));
	EXPECT_EQ(-ECANCELED, log_res(&log, 0));
	self->ring.tail++;
	ASSERT_LT(0, ring_submit(&self->ring));
	ASSERT_EQ(0, log_until(&log, &self->ring, 1));
	for (i = 0; i < 3; i++) {
		LEND_DEST(4096);
		ADD_READ(0, 512, 0);
		EXPECT_GROUP(512, 512);
	}
}

/* without SUBMIT_ALL a malformed group ends the submission, with it not */
TEST_F(fused, submit_all)
{
	struct log log = { };
	int i;

	if (IS_SQPOLL)
		SKIP(return, "it goes on in any case");
	for (i = 0; i < 2; i++) {
		struct io_uring_params p = {
			.flags = variant->mode.ring_flags |
				(i ? IORING_SETUP_SUBMIT_ALL : 0),
		};

		log.nr = 0;
		ring_exit(&self->ring);
		ASSERT_EQ(0, ring_init(&self->ring, 16, &p));
		LEND_DEST(4096);
		ADD(IORING_OP_NOP, -1, 0, 0, 0);
		group_push(&self->g);
		push_nop(&self->ring, UD_OTHER, 0);
		ring_publish(&self->ring);
		ASSERT_LT(0, ring_enter(&self->ring, self->ring.tail));
		ASSERT_EQ(-EINVAL, log_until(&log, &self->ring, UD_PRIMARY));
		ASSERT_EQ(-ECANCELED, log_res(&log, 0));
		log_rest(&log, &self->ring, 10);
		EXPECT_EQ(i ? 0 : NO_CQE, log_res(&log, UD_OTHER));
	}
}

/* groups of all fates, many times round the ring: nothing is lost */
TEST_F(fused, again_and_again)
{
	int i;

	for (i = 0; i < 300; i++) {
		if (i % 3 == 0) {
			LEND_DEST(4096);
			ADD_READ(0, 512, i);
			EXPECT_GROUP(512, 512);
		} else if (i % 3 == 1) {
			LEND_DEST(4096);
			ADD_READ(0, 512, i);
			ADD_READ(4096, 1, i);
			EXPECT_GROUP(-EFAULT, 512, -EFAULT);
		} else {
			INIT(OP_REFUSE, 0, 0);
			group_cmd(&self->g)->arg = EPERM;
			ADD_READ(0, 512, i);
			EXPECT_GROUP(-EPERM, -ECANCELED);
		}
	}
}

TEST_HARNESS_MAIN
