// SPDX-License-Identifier: GPL-2.0
/*
 * IORING_OP_FUSED_CMD: how a group is refused as a whole, and what is known
 * about the opcode.
 */
#include <sys/uio.h>
#include "fixture.h"
#include <sys/prctl.h>

#define MAX	IORING_FUSED_MAX_SECONDARY

/* uapi: the probe and the query interface report the opcode */
TEST_F(fused, probe)
{
	struct io_uring_probe *probe = calloc(1, sizeof(*probe) + 256 * sizeof(probe->ops[0]));

	ASSERT_EQ(0, ring_register(&self->ring, IORING_REGISTER_PROBE, probe, 256));
	ASSERT_LT(IORING_OP_FUSED_CMD, probe->ops_len);
	EXPECT_TRUE(probe->ops[IORING_OP_FUSED_CMD].flags & IO_URING_OP_SUPPORTED);
	EXPECT_EQ(IORING_OP_FUSED_CMD, probe->last_op);
	EXPECT_EQ(IORING_OP_FUSED_CMD + 1, IORING_OP_LAST);
	free(probe);
}

/* uapi: nr_secondary is 1 to IORING_FUSED_MAX_SECONDARY */
TEST_F(fused, nr_secondary)
{
	int i, want[MAX + 1];

	LEND_DEST(4096);
	EXPECT_GROUP(-EINVAL);

	LEND_DEST(4096);
	for (i = 0; i <= MAX; i++) {
		ADD_READ(0, 16, 0);
		want[i] = -ECANCELED;
	}
	ASSERT_EQ(NULL, group_run(&self->g, -EINVAL, MAX + 1, want));
}

/* uapi: too few SQEs left in the submission is -EINVAL */
TEST_F(fused, too_few)
{
	struct log log = { };

	/* an SQPOLL thread takes what there is, as all others do here */
	if (INLINE_FORM)
		SKIP(return, "an SQE is whole");
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	ADD_READ(512, 512, 0);
	self->g.primary->nr_secondary = 3;
	ring_push(&self->ring, self->g.primary, SQE128_RING);
	ring_push(&self->ring, self->g.secondary[0], SQE128_RING);
	ring_push(&self->ring, self->g.secondary[1], SQE128_RING);
	ASSERT_EQ(3, ring_submit(&self->ring));
	EXPECT_CQES(&log, -EINVAL, -ECANCELED, -ECANCELED);
}

/* uapi: a group that is split by the end of the submission has too few SQEs */
TEST_F(fused, split_submission)
{
	struct log log = { };

	if (INLINE_FORM || IS_SQPOLL)
		SKIP(return, "cannot be split");
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	ADD(IORING_OP_NOP, -1, 0, 0, 0);
	group_push(&self->g);
	ring_publish(&self->ring);
	ASSERT_EQ(2, ring_enter(&self->ring, 2));
	EXPECT_EQ(-EINVAL, log_until(&log, &self->ring, UD_PRIMARY));
	EXPECT_EQ(-ECANCELED, log_res(&log, 0));
	/* the one that is left is an ordinary request now */
	ASSERT_EQ(1, ring_enter(&self->ring, 1));
	EXPECT_EQ(0, log_until(&log, &self->ring, 1));
}

/* uapi: INLINE needs a 128-byte SQE, and nr_secondary is 0 then */
TEST_F(fused, inline_form)
{
	bool mixed = variant->mode.ring_flags & IORING_SETUP_SQE_MIXED;
	struct log log = { };

	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	self->g.primary->uring_cmd_flags |= IORING_FUSED_CMD_INLINE;
	self->g.primary[1] = *self->g.secondary[0];
	ring_push(&self->ring, self->g.primary, SQE128_RING || mixed);
	ASSERT_LT(0, ring_submit(&self->ring));
	if (SQE128_RING || mixed)
		EXPECT_CQES(&log, 512, 512);
	else
		EXPECT_CQES(&log, -EINVAL);
}

TEST_F(fused, inline_and_separate)
{
	bool wide = SQE128_RING || variant->mode.ring_flags & IORING_SETUP_SQE_MIXED;
	struct log log = { };

	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	ADD_READ(0, 512, 0);
	self->g.primary->uring_cmd_flags |= IORING_FUSED_CMD_INLINE;
	self->g.primary->nr_secondary = 1;
	self->g.primary[1] = *self->g.secondary[1];
	ring_push(&self->ring, self->g.primary, wide);
	ring_push(&self->ring, self->g.secondary[0], SQE128_RING);
	ASSERT_LT(0, ring_submit(&self->ring));
	/* all that there is of it is consumed */
	EXPECT_CQES(&log, -EINVAL, -ECANCELED, wide ? -ECANCELED : NO_CQE);
}

/* one half in the submission, the other behind its end */
TEST_F(fused, inline_split)
{
	struct log log = { };

	if (!(variant->mode.ring_flags & IORING_SETUP_SQE_MIXED))
		SKIP(return, "128 bytes are one entry");
	LEND_DEST(4096);
	ADD(IORING_OP_NOP, -1, 0, 0, 0);
	self->g.primary->uring_cmd_flags |= IORING_FUSED_CMD_INLINE;
	self->g.primary[1] = *self->g.secondary[0];
	ring_push(&self->ring, self->g.primary, true);
	ring_publish(&self->ring);
	ASSERT_EQ(1, ring_enter(&self->ring, 1));
	EXPECT_EQ(-EINVAL, log_until(&log, &self->ring, UD_PRIMARY));
	ASSERT_EQ(1, ring_enter(&self->ring, 1));
	EXPECT_EQ(0, log_until(&log, &self->ring, 0));
}

/* the last entry of a ring has no second half */
TEST_F(fused, inline_at_the_end)
{
	struct log log = { };
	int i;

	if (!(variant->mode.ring_flags & IORING_SETUP_SQE_MIXED))
		SKIP(return, "128 bytes are one entry");
	for (i = 0; i < RING_ENTRIES - 1; i++)
		push_nop(&self->ring, UD_OTHER, IOSQE_CQE_SKIP_SUCCESS);
	ASSERT_EQ(RING_ENTRIES - 1, ring_submit(&self->ring));
	LEND_DEST(4096);
	self->g.primary->uring_cmd_flags |= IORING_FUSED_CMD_INLINE;
	ring_push(&self->ring, self->g.primary, false);
	push_nop(&self->ring, 0, 0);
	/* what is behind is not taken for a part of it */
	ring_publish(&self->ring);
	ASSERT_EQ(1, ring_enter(&self->ring, 2));
	EXPECT_EQ(-EINVAL, log_until(&log, &self->ring, UD_PRIMARY));
	ASSERT_EQ(1, ring_enter(&self->ring, 1));
	EXPECT_EQ(0, log_until(&log, &self->ring, 0));
}

/*
 * What a secondary that is refused says to have behind it, as the primary of a group of its
 * own, is canceled with it, and never runs as if it were alone.
 */
TEST_F(fused, nested)
{
	struct log cmd = { }, lead = { }, member = { }, counted = { };
	int i;

	/* a fused command, as an inline secondary where there are such */
	LEND_DEST(4096);
	ADD(IORING_OP_FUSED_CMD, self->dev, 0, 0, 0)->nr_secondary = 2;
	if (INLINE_FORM)
		group_push(&self->g);
	ADD_READ(0, 512, 0);
	ADD_READ(512, 512, 0);
	self->g.primary->nr_secondary = 1;
	for (i = INLINE_FORM ? 1 : -1; i < 3; i++)
		push_sqe(&self->ring, i < 0 ? self->g.primary : self->g.secondary[i]);
	ASSERT_LT(0, ring_submit(&self->ring));
	EXPECT_CQES(&cmd, -EINVAL, -ECANCELED, -ECANCELED, -ECANCELED);

	/* the leader of an SQE group */
	LEND_DEST(4096);
	ADD_READ(0, 512, 0)->flags |= IOSQE_SQE_GROUP;
	if (INLINE_FORM)
		group_push(&self->g);
	ADD_READ(512, 512, 0);
	self->g.primary->nr_secondary = 1;
	for (i = INLINE_FORM ? 1 : -1; i < 2; i++)
		push_sqe(&self->ring, i < 0 ? self->g.primary : self->g.secondary[i]);
	ASSERT_LT(0, ring_submit(&self->ring));
	EXPECT_CQES(&lead, -EINVAL, -ECANCELED, -ECANCELED);

	/* a fused command as the last member */
	group_lead(&self->g, &self->ring, &variant->mode, IORING_OP_NOP, -1, 0, 0, 0);
	ADD(IORING_OP_FUSED_CMD, self->dev, 0, 0, 0)->nr_secondary = 2;
	ADD(IORING_OP_NOP, -1, 0, 0, 0);
	ADD(IORING_OP_NOP, -1, 0, 0, 0);
	for (i = -1; i < 3; i++)
		push_sqe(&self->ring, i < 0 ? self->g.primary : self->g.secondary[i]);
	ASSERT_LT(0, ring_submit(&self->ring));
	EXPECT_CQES(&member, -EINVAL, -ECANCELED, -ECANCELED, -ECANCELED);

	/* one whose secondaries the group has counted: it has not more than it says */
	LEND_DEST(4096);
	ADD(IORING_OP_FUSED_CMD, self->dev, 0, 0, 0)->nr_secondary = 2;
	ADD_READ(0, 512, 0)->flags |= IOSQE_SQE_GROUP;
	ADD_READ(512, 512, 0);
	group_push(&self->g);
	push_nop(&self->ring, UD_OTHER, 0);
	ASSERT_LT(0, ring_submit(&self->ring));
	/* a group that fails ends the submission */
	if (!IS_SQPOLL)
		ASSERT_EQ(1, ring_enter(&self->ring, 1));
	EXPECT_EQ(0, log_until(&counted, &self->ring, UD_OTHER));
	for (i = 0; i < 3; i++)
		EXPECT_EQ(-ECANCELED, log_res(&counted, i));
	EXPECT_EQ(-EINVAL, log_res(&counted, UD_PRIMARY));
}

/* a secondary that may not be one, and has a second half, which is no SQE either */
TEST_F(fused, inline_member)
{
	struct log log = { };

	if (!(variant->mode.ring_flags & IORING_SETUP_SQE_MIXED) || INLINE_FORM)
		SKIP(return, "no such SQEs");
	LEND_DEST(4096);
	ADD(IORING_OP_FUSED_CMD, self->dev, 0, 0, 0)->uring_cmd_flags = IORING_FUSED_CMD_INLINE;
	ADD_READ(0, 512, 0);
	self->g.primary->nr_secondary = 2;
	ring_push(&self->ring, self->g.primary, false);
	ring_push(&self->ring, self->g.secondary[0], false);
	push_nop(&self->ring, UD_OTHER, 0);
	ring_push(&self->ring, self->g.secondary[1], false);
	ASSERT_LT(0, ring_submit(&self->ring));
	EXPECT_CQES(&log, -EINVAL, -ECANCELED, -ECANCELED);
	log_rest(&log, &self->ring, 20);
	EXPECT_EQ(NO_CQE, log_res(&log, UD_OTHER));
}

static bool may_be_secondary(int op)
{
	switch (op) {
	case IORING_OP_READ:
	case IORING_OP_READ_FIXED:
	case IORING_OP_WRITE:
	case IORING_OP_WRITE_FIXED:
	case IORING_OP_READV:
	case IORING_OP_READV_FIXED:
	case IORING_OP_WRITEV:
	case IORING_OP_WRITEV_FIXED:
	case IORING_OP_RECV:
	case IORING_OP_SEND:
	case IORING_OP_SEND_ZC:
	case IORING_OP_URING_CMD:
		return true;
	}
	return false;
}

/* uapi: any other opcode as a secondary is -EINVAL */
TEST_F(fused, opcode)
{
	int op;

	for (op = 0; op <= IORING_OP_LAST; op++) {
		if (may_be_secondary(op))
			continue;
		LEND_DEST(4096);
		ADD_READ(0, 512, 0);
		ADD(op, self->file, 0, 512, 0);
		/* 128 bytes of it, where such an opcode takes them */
		if (variant->mode.ring_flags & IORING_SETUP_SQE_MIXED &&
		    (op == IORING_OP_NOP128 || op == IORING_OP_URING_CMD128)) {
			struct log log = { };

			self->g.primary->nr_secondary = 2;
			/* never at the last entry */
			push_nop(&self->ring, UD_OTHER, IOSQE_CQE_SKIP_SUCCESS);
			ring_push(&self->ring, self->g.primary, false);
			ring_push(&self->ring, self->g.secondary[0], false);
			ring_push(&self->ring, self->g.secondary[1], true);
			ASSERT_LT(0, ring_submit(&self->ring));
			EXPECT_CQES(&log, -EINVAL, -ECANCELED, -ECANCELED);
			continue;
		}
		EXPECT_GROUP(-EINVAL, -ECANCELED, -ECANCELED);
	}
}

/* the same for the inline form: it takes 64 bytes whatever is in them */
TEST_F(fused, inline_opcode)
{
	int op;

	if (!INLINE_FORM)
		SKIP(return, "separate form");
	for (op = 0; op <= IORING_OP_LAST; op++) {
		if (may_be_secondary(op))
			continue;
		LEND_DEST(4096);
		ADD(op, self->file, 0, 512, 0);
		EXPECT_GROUP(-EINVAL, -ECANCELED);
	}
}

/* uapi: URING_CMD is a secondary with IORING_URING_CMD_FIXED only */
TEST_F(fused, uring_cmd_not_fixed)
{
	LEND_DEST(4096);
	ADD(IORING_OP_URING_CMD, self->dev, 0, 0, 0)->cmd_op = OP_RESULT;
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	INIT(OP_START, 0, 0);
	ADD(IORING_OP_URING_CMD, self->dev, 0, 0, 0)->cmd_op = OP_RESULT;
	EXPECT_GROUP(-EINVAL, -ECANCELED);
}

/* uapi: flags that are -EINVAL for the group */
TEST_F(fused, secondary_flags)
{
	static const int flags[] = {
		IOSQE_IO_LINK, IOSQE_IO_HARDLINK, IOSQE_IO_DRAIN, IOSQE_BUFFER_SELECT, 1 << 7,
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		LEND_DEST(4096);
		ADD_READ(0, 512, 0)->flags |= flags[i];
		EXPECT_GROUP(-EINVAL, -ECANCELED);
		LEND_DEST(4096);
		ADD_READ(0, 512, 0);
		ADD_READ(0, 512, 0)->flags |= flags[i];
		ADD_READ(0, 512, 0);
		EXPECT_GROUP(-EINVAL, -ECANCELED, -ECANCELED, -ECANCELED);
	}
	/* not even in a failed group does a flag have an effect */
	push_nop(&self->ring, UD_OTHER, 0);
	ASSERT_EQ(1, ring_submit(&self->ring));
}

TEST_F(fused, secondary_personality)
{
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	ADD_READ(0, 512, 0)->personality = 77;
	EXPECT_GROUP(-EINVAL, -ECANCELED, -ECANCELED);
}

/* a secondary whose preparation fails for a reason of its own */
TEST_F(fused, secondary_malformed)
{
	LEND_DEST(4096);
	ADD(IORING_OP_RECV, self->file, 0, 512, 0)->ioprio = 0xff00;
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	LEND_SRC(4096);
	ADD(IORING_OP_SEND, self->file, 0, 512, 0)->ioprio = IORING_SEND_VECTORIZED;
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	LEND_SRC(4096);
	ADD(IORING_OP_SEND_ZC, self->file, 0, 512, 0)->ioprio = IORING_SEND_VECTORIZED;
	self->g.secondary[0]->addr3 = UD_OTHER;
	group_push(&self->g);
	ASSERT_LT(0, ring_submit(&self->ring));
	{
		struct log log = { };

		/* as alone: its notification is posted all the same */
		EXPECT_NE(NO_CQE, log_until(&log, &self->ring, UD_OTHER));
		EXPECT_CQES(&log, -EINVAL, -ECANCELED);
	}
	LEND_DEST(4096);
	ADD(IORING_OP_RECV, self->file, 0, 512, 0)->ioprio = IORING_RECV_MULTISHOT;
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	/* as alone: there is no CQE to tell that a notification follows */
	LEND_SRC(4096);
	ADD(IORING_OP_SEND_ZC, self->file, 0, 512, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
	self->g.secondary[0]->addr3 = UD_OTHER;
	EXPECT_GROUP(-EINVAL, -ECANCELED);
}

/* uapi: BUFFER_SELECT on the primary is -EINVAL; and all that URING_CMD refuses */
TEST_F(fused, primary_malformed)
{
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	self->g.primary->flags = IOSQE_BUFFER_SELECT;
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	self->g.primary->flags = 1 << 7;
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	self->g.primary->ioprio = 1;
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	self->g.primary->__pad1 = 1;
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	self->g.primary->personality = 77;
	EXPECT_GROUP(-EINVAL, -ECANCELED);
}

/* any bit of uring_cmd_flags but BUF and INLINE; some mean a lot inside */
TEST_F(fused, primary_flags)
{
	int bit;

	for (bit = 0; bit < 32; bit++) {
		if (1U << bit & (IORING_FUSED_CMD_BUF | IORING_FUSED_CMD_INLINE))
			continue;
		LEND_DEST(4096);
		ADD_READ(0, 512, 0);
		self->g.primary->uring_cmd_flags |= 1U << bit;
		EXPECT_GROUP(-EINVAL, -ECANCELED);
	}
}

/* Say that the group, of @count secondaries, is an SQE group as well: neither form runs any */
#define PUSH_BOTH_FORMS(count) ({					\
	int i_;								\
									\
	self->g.primary->flags = IOSQE_SQE_GROUP;			\
	self->g.primary->nr_secondary = (count);			\
	ring_push(&self->ring, self->g.primary, SQE128_RING);		\
	for (i_ = 0; i_ < self->g.nr; i_++)				\
		ring_push(&self->ring, self->g.secondary[i_], SQE128_RING); \
	ASSERT_LT(0, ring_submit(&self->ring));				\
})

TEST_F(fused, both_forms)
{
	bool wide = SQE128_RING || variant->mode.ring_flags & IORING_SETUP_SQE_MIXED;
	struct io_uring_sqe nop[2] = { { .opcode = IORING_OP_NOP128, .fd = -1 } };
	struct log log = { };
	int i;

	/* those that it counts, though the flag would end with the first of them */
	LEND_DEST(4096);
	for (i = 0; i < 3; i++)
		ADD_READ(0, 512, 0);
	PUSH_BOTH_FORMS(3);
	EXPECT_CQES(&log, -EINVAL, -ECANCELED, -ECANCELED, -ECANCELED);
	/* and those that the last of them says there are */
	log.nr = 0;
	LEND_DEST(4096);
	for (i = 0; i < 4; i++)
		ADD_READ(0, 512, 0)->flags |= i == 1 || i == 2 ? IOSQE_SQE_GROUP : 0;
	PUSH_BOTH_FORMS(2);
	EXPECT_CQES(&log, -EINVAL, -ECANCELED, -ECANCELED, -ECANCELED, -ECANCELED);
	/* not one behind */
	log.nr = 0;
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	self->g.primary->flags = IOSQE_SQE_GROUP;
	self->g.primary->nr_secondary = 1;
	ring_push(&self->ring, self->g.primary, SQE128_RING);
	ring_push(&self->ring, self->g.secondary[0], SQE128_RING);
	push_nop(&self->ring, 100, 0);
	ASSERT_LT(0, ring_submit(&self->ring));
	/* a submission may end with the first that fails */
	ASSERT_LE(0, ring_enter(&self->ring, 1));
	ASSERT_EQ(0, log_until(&log, &self->ring, 100));
	EXPECT_EQ(-EINVAL, log_res(&log, UD_PRIMARY));
	EXPECT_EQ(-ECANCELED, log_res(&log, 0));
	EXPECT_EQ(3, log.nr);
	/* in the inline form, its half and the next one */
	if (!wide)
		return;
	log.nr = 0;
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	ADD_READ(512, 512, 0);
	self->g.primary->flags = IOSQE_SQE_GROUP;
	self->g.primary->uring_cmd_flags |= IORING_FUSED_CMD_INLINE;
	self->g.primary[1] = *self->g.secondary[0];
	ring_push(&self->ring, self->g.primary, true);
	ring_push(&self->ring, self->g.secondary[1], SQE128_RING);
	ASSERT_LT(0, ring_submit(&self->ring));
	EXPECT_CQES(&log, -EINVAL, -ECANCELED, -ECANCELED);
	/* which may be a wide one: not its first half only */
	if (SQE128_RING)
		return;
	log.nr = 0;
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	self->g.primary->flags = IOSQE_SQE_GROUP;
	self->g.primary->uring_cmd_flags |= IORING_FUSED_CMD_INLINE;
	self->g.primary[1] = *self->g.secondary[0];
	ring_push(&self->ring, self->g.primary, true);
	nop[0].user_data = 1;
	nop[1].user_data = 2;
	ring_push(&self->ring, nop, true);
	ASSERT_LT(0, ring_submit(&self->ring));
	EXPECT_CQES(&log, -EINVAL, -ECANCELED, -ECANCELED);
}

/* uapi: a secondary that would use the buffer the wrong way is refused first */
TEST_F(fused, direction)
{
	static const int writers[] = {
		IORING_OP_READ, IORING_OP_READ_FIXED, IORING_OP_READV, IORING_OP_READV_FIXED,
		IORING_OP_RECV,
	};
	static const int readers[] = {
		IORING_OP_WRITE, IORING_OP_WRITE_FIXED, IORING_OP_WRITEV, IORING_OP_WRITEV_FIXED,
		IORING_OP_SEND,
	};
	struct iovec vec = { NULL, 512 };
	int sock[2];
	unsigned int i;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
	for (i = 0; i < ARRAY_SIZE(writers); i++) {
		bool vectored = i == 2 || i == 3;
		int fd = i < 4 ? self->file : sock[0], len = vectored ? 1 : 512;
		__u64 addr = vectored ? (uintptr_t)&vec : 0;

		LEND_SRC(4096);
		ADD(writers[i], fd, addr, len, 0);
		EXPECT_GROUP(-EINVAL, -ECANCELED);
		LEND_DEST(4096);
		ADD(readers[i], fd, addr, len, 0);
		EXPECT_GROUP(-EINVAL, -ECANCELED);
		/* one is enough, and the good one is not issued */
		LEND_DEST(4096);
		ADD_READ(0, 512, 0);
		ADD(readers[i], fd, addr, len, 0);
		EXPECT_GROUP(-EINVAL, -ECANCELED, -ECANCELED);
	}
	LEND_DEST(4096);
	ADD(IORING_OP_SEND_ZC, sock[0], 0, 512, 0)->addr3 = UD_OTHER;
	group_push(&self->g);
	ASSERT_LT(0, ring_submit(&self->ring));
	{
		struct log log = { };

		EXPECT_CQES(&log, -EINVAL, -ECANCELED);
	}
	/* nothing was written or sent */
	ASSERT_EQ(FILE_LEN, pread(self->file, self->buf, FILE_LEN, 0));
	EXPECT_TRUE(is_pattern(self->buf, 0, 0, FILE_LEN));
	EXPECT_EQ(-1, recv(sock[1], self->buf, 512, MSG_DONTWAIT));
	GET_BUFFER(0);
	EXPECT_TRUE(all_are(self->buf, 0, BUFFER_LEN));
	close(sock[0]);
	close(sock[1]);
}

/* uapi: the driver refuses, the primary's CQE carries the error */
TEST_F(fused, driver_refuses)
{
	INIT(OP_REFUSE, 0, 0);
	group_cmd(&self->g)->arg = ENOSPC;
	ADD_READ(0, 512, 0);
	ADD_READ(0, 512, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
	EXPECT_GROUP(-ENOSPC, -ECANCELED, -ECANCELED);
	INIT(999, 0, 0);
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(-ENOTTY, -ECANCELED);
	/* what is lent is gone, and comes back */
	LEND_DEST(4096);
	group_cmd(&self->g)->buffer = NR_BUFFERS;
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	LEND_DEST(BUFFER_LEN + 1);
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	GET_BUFFER(0);
	LEND_DEST(0);
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	GET_BUFFER(0);
}

/* codes by which the parts of io_uring talk to each other are not a driver's to use */
TEST_F(fused, driver_forges)
{
	/*
	 * IOU_REQUEUE, IOU_FUSED_START, EIOCBQUEUED; ERESTARTSYS, ERESTART_RESTARTBLOCK;
	 * ENOIOCTLCMD, in the midst of those, is as of any command
	 */
	const int codes[][2] = {
		{ 3072, -EIO }, { 3074, -EIO }, { 529, -EIO }, { 512, -EINTR }, { 516, -EINTR },
		{ 515, -515 },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(codes); i++) {
		INIT(OP_REFUSE, 0, 0);
		group_cmd(&self->g)->arg = codes[i][0];
		ADD_READ(0, 512, 0);
		EXPECT_GROUP(codes[i][1], -ECANCELED);
	}
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(512, 512);
}

/* a driver that answers EAGAIN again where it may sleep */
TEST_F(fused, driver_always_eagain)
{
	INIT(OP_REFUSE, 0, 0);
	group_cmd(&self->g)->arg = EAGAIN;
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(-EAGAIN, -ECANCELED);
}

/* uapi: a file whose driver does not know fused commands: -EOPNOTSUPP */
TEST_F(fused, file)
{
	int null = open("/dev/null", O_RDWR);

	/* has ->uring_cmd() */
	LEND_DEST(4096);
	self->g.primary->fd = null;
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(-EOPNOTSUPP, -ECANCELED);
	/* has none */
	LEND_DEST(4096);
	self->g.primary->fd = self->file;
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(-EOPNOTSUPP, -ECANCELED);
	LEND_DEST(4096);
	self->g.primary->fd = -1;
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(-EBADF, -ECANCELED);
	close(null);
}

/* uapi: IORING_FUSED_CMD_BUF says that the driver leases a buffer */
TEST_F(fused, buffer_flag)
{
	LEND_DEST(4096);
	self->g.primary->uring_cmd_flags = 0;
	ADD(IORING_OP_READ, self->file, (uintptr_t)self->buf, 512, 0);
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	GET_BUFFER(0);
	INIT(OP_START, 0, 0);
	self->g.primary->uring_cmd_flags = IORING_FUSED_CMD_BUF;
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(-EINVAL, -ECANCELED);
}

/* uapi: the ring's restrictions apply to each secondary, and to the primary */
static void restrict_to(struct __test_metadata *_metadata, struct ring *r,
			const struct mode *mode, const int *ops, int nr)
{
	struct io_uring_restriction res[8] = { };
	struct mode disabled = *mode;
	int i;

	for (i = 0; i < nr; i++) {
		res[i].opcode = IORING_RESTRICTION_SQE_OP;
		res[i].sqe_op = ops[i];
	}
	res[nr].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
	res[nr].sqe_flags = IOSQE_ASYNC;
	ring_exit(r);
	disabled.ring_flags |= IORING_SETUP_R_DISABLED;
	ASSERT_EQ(0, mode_ring(&disabled, r, RING_ENTRIES));
	ASSERT_EQ(0, ring_register(r, IORING_REGISTER_RESTRICTIONS, res, nr + 1));
	ASSERT_EQ(0, ring_register(r, IORING_REGISTER_ENABLE_RINGS, NULL, 0));
}

TEST_F(fused, restrictions)
{
	static const int ops[] = { IORING_OP_FUSED_CMD, IORING_OP_READ, IORING_OP_NOP };
	static const int no_fused[] = { IORING_OP_READ, IORING_OP_NOP };

	restrict_to(_metadata, &self->ring, &variant->mode, ops, 3);
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(512, 512);
	/* forbidden alone, forbidden here, whatever it is executed as */
	LEND_SRC(4096);
	ADD(IORING_OP_WRITE, self->file, 0, 512, 0);
	EXPECT_GROUP(-EACCES, -ECANCELED);
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	ADD(IORING_OP_READ_FIXED, self->file, 0, 512, 0);
	EXPECT_GROUP(-EACCES, -ECANCELED, -ECANCELED);
	/* a flag that is not allowed */
	LEND_DEST(4096);
	ADD_READ(0, 512, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
	EXPECT_GROUP(-EACCES, -ECANCELED);

	restrict_to(_metadata, &self->ring, &variant->mode, no_fused, 2);
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(-EACCES, -ECANCELED);
}

TEST_HARNESS_MAIN
