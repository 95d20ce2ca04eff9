// SPDX-License-Identifier: GPL-2.0
/*
 * SQE groups: every combination of flags of leader and member, with each of the
 * two failing, or not, or being malformed; then two groups linked to each other.
 */
#include "group.h"

enum fate { FINE, LEADER_FAILS, MEMBER_FAILS, BOTH_FAIL, MALFORMED, NR_FATES };

#define LINKS	(IOSQE_IO_LINK | IOSQE_IO_HARDLINK)

/* What is posted, NO_CQE for nothing */
struct want {
	int leader, first, second, nop;
};

static bool is_malformed(int leader_res)
{
	return leader_res == -EINVAL || leader_res == -EOPNOTSUPP;
}

/*
 * A group of a leader and two members, of which the first has the flags and the
 * fate, with a NOP behind it.
 */
static struct want model(unsigned int leader, unsigned int member, enum fate fate,
			 bool drain_refused)
{
	bool leader_fails = fate == LEADER_FAILS || fate == BOTH_FAIL;
	struct want w = { .leader = 5, .first = 6, .second = 7, .nop = 0 };
	bool fails = fate != FINE;

	if (drain_refused) {
		w = (struct want){ -EOPNOTSUPP, -ECANCELED, -ECANCELED, 0 };
		fails = true;
	} else if (fate == MALFORMED || member & LINKS || member & IOSQE_IO_DRAIN) {
		/* a NOP takes no buffer */
		w = (struct want){ -EINVAL, -ECANCELED, -ECANCELED, 0 };
		fails = true;
	} else if (leader_fails) {
		w = (struct want){ -EIO, -ECANCELED, -ECANCELED, 0 };
	} else {
		if (fate == MEMBER_FAILS)
			w.first = -ENOENT;
		else if (member & IOSQE_CQE_SKIP_SUCCESS)
			w.first = NO_CQE;
		if (leader & IOSQE_CQE_SKIP_SUCCESS && !fails)
			w.leader = NO_CQE;
	}
	/* malformed ones break hard links, too */
	if (leader & LINKS && fails &&
	    (is_malformed(w.leader) || !(leader & IOSQE_IO_HARDLINK)))
		w.nop = leader & IOSQE_CQE_SKIP_SUCCESS ? NO_CQE : -ECANCELED;
	return w;
}

/* Push group number @nr */
static void push_group(struct group *g, struct ring *r, const struct mode *mode, int nr,
		       unsigned int leader, unsigned int member, enum fate fate)
{
	bool leader_fails = fate == LEADER_FAILS || fate == BOTH_FAIL;
	bool member_fails = fate == MEMBER_FAILS || fate == BOTH_FAIL;
	struct io_uring_sqe *sqe;

	sqe = group_lead(g, r, mode, IORING_OP_NOP, -1, 0, leader_fails ? -EIO : 5, 0);
	sqe->nop_flags = IORING_NOP_INJECT_RESULT;
	sqe->flags |= leader;
	sqe->user_data = UD_PRIMARY + nr;
	sqe = group_add_nop(g, member_fails ? -ENOENT : 6);
	sqe->flags |= member;
	sqe->user_data = nr * 10;
	sqe = group_add_nop(g, 7);
	sqe->user_data = nr * 10 + 1;
	if (fate == MALFORMED)
		sqe->nop_flags = ~0U;
	group_push(g);
}

/* Submit all that was pushed: what is malformed ends a submission. */
static int submit_all(struct ring *r)
{
	unsigned int left;
	int ret = 0;

	ring_publish(r);
	while (ret >= 0 && (left = r->tail - *r->sq_head) > 0)
		ret = ring_enter(r, left);
	return ret;
}

/* Collect what comes before the CQE of a NOP that is submitted now. */
static void collect(struct log *log, struct ring *r)
{
	push_nop(r, UD_SENTINEL, 0);
	if (ring_submit(r) >= 0)
		log_until(log, r, UD_SENTINEL);
}

static struct want posted(const struct log *log, int nr)
{
	return (struct want) {
		.leader	= log_res(log, UD_PRIMARY + nr),
		.first	= log_res(log, nr * 10),
		.second	= log_res(log, nr * 10 + 1),
		.nop	= log_res(log, UD_OTHER),
	};
}

/* Is the CQE of the leader behind those of its members? */
static bool in_order(const struct log *log, int nr)
{
	int at = log_index(log, UD_PRIMARY + nr);

	return at < 0 || (log_index(log, nr * 10) < at && log_index(log, nr * 10 + 1) < at);
}

/* Has group @nr posted what it should? NULL, or a text that says what is wrong */
static const char *wrong(const struct log *log, int nr, struct want w)
{
	struct want is = posted(log, nr);
	static char text[200];

	if (!memcmp(&w, &is, sizeof(w)) && in_order(log, nr))
		return NULL;
	snprintf(text, sizeof(text),
		 "group %d posts %d %d %d, NOP %d; should be %d %d %d, NOP %d%s", nr,
		 is.leader, is.first, is.second, is.nop, w.leader, w.first, w.second, w.nop,
		 in_order(log, nr) ? "" : "; not in order");
	return text;
}

static int nr_cqes(struct want w)
{
	return (w.leader != NO_CQE) + (w.first != NO_CQE) + (w.second != NO_CQE) +
		(w.nop != NO_CQE);
}

/* Flags by number, once without any that skips CQEs, then those that have one */
static bool combination(unsigned int i, unsigned int *leader, unsigned int *member)
{
	static const unsigned int member_flags[] = {
		0, IOSQE_ASYNC, IOSQE_CQE_SKIP_SUCCESS, IOSQE_ASYNC | IOSQE_CQE_SKIP_SUCCESS,
		IOSQE_IO_LINK, IOSQE_IO_HARDLINK, IOSQE_IO_DRAIN,
	};
	static const unsigned int leader_flags[] = {
		IOSQE_IO_LINK, IOSQE_IO_HARDLINK, IOSQE_IO_DRAIN, IOSQE_ASYNC,
		IOSQE_CQE_SKIP_SUCCESS,
	};
	const unsigned int nr_members = ARRAY_SIZE(member_flags);
	const unsigned int nr_leaders = 1 << ARRAY_SIZE(leader_flags);
	unsigned int bit;

	*member = member_flags[i % nr_members];
	*leader = 0;
	for (bit = 0; bit < ARRAY_SIZE(leader_flags); bit++)
		if (i / nr_members % nr_leaders & 1 << bit)
			*leader |= leader_flags[bit];
	return i < 2 * nr_members * nr_leaders;
}

static bool is_second_pass(unsigned int i)
{
	return i >= 7 * 32;
}

TEST_F_TIMEOUT(fused, flags, 120)
{
	unsigned int i, leader, member;
	enum fate fate;
	struct log log;

	for (i = 0; combination(i, &leader, &member); i++) {
		bool skips = (leader | member) & IOSQE_CQE_SKIP_SUCCESS;

		/* once CQEs were skipped, a ring does not drain */
		if (skips != is_second_pass(i))
			continue;
		for (fate = 0; fate < NR_FATES; fate++) {
			struct want want = model(leader, member, fate,
						 skips && leader & IOSQE_IO_DRAIN);

			push_group(&self->g, &self->ring, &variant->mode, 0, leader, member, fate);
			push_nop(&self->ring, UD_OTHER, 0);
			ASSERT_LE(0, submit_all(&self->ring));
			log.nr = 0;
			if (want.nop != NO_CQE)
				log_until(&log, &self->ring, UD_OTHER);
			if (want.leader != NO_CQE)
				log_until(&log, &self->ring, UD_PRIMARY);
			if (want.first != NO_CQE)
				log_until(&log, &self->ring, 0);
			log_until(&log, &self->ring, 1);
			collect(&log, &self->ring);
			ASSERT_EQ(NULL, wrong(&log, 0, want))
				TH_LOG("leader %x member %x fate %d: %s", leader, member, fate,
				       wrong(&log, 0, want));
			ASSERT_EQ(nr_cqes(want) + 1, log.nr);
			/* what is linked comes behind the group */
			ASSERT_TRUE(!(leader & LINKS) || want.nop == NO_CQE ||
				    want.leader == NO_CQE || is_malformed(want.leader) ||
				    log_index(&log, UD_PRIMARY) < log_index(&log, UD_OTHER));
		}
	}
	/* all were tried */
	EXPECT_EQ(2 * 7 * 32, i);
}

/* What two groups post of which the second is linked to the first */
static void model_two(unsigned int first, const enum fate fate[2], struct want want[2])
{
	static const struct want canceled = { -ECANCELED, -ECANCELED, -ECANCELED, NO_CQE };
	int i;

	for (i = 0; i < 2; i++) {
		want[i] = model(0, 0, fate[i], false);
		want[i].nop = NO_CQE;
	}
	/* one that is malformed fails all of the link */
	for (i = 0; i < 2; i++)
		if (fate[!i] == MALFORMED && fate[i] != MALFORMED)
			want[i] = canceled;
	if (fate[0] != FINE && fate[0] != MALFORMED && fate[1] != MALFORMED &&
	    !(first & IOSQE_IO_HARDLINK))
		want[1] = canceled;
}

/* Two groups, linked, with every combination of fates, ASYNC, DRAIN and hardness */
TEST_F_TIMEOUT(fused, two, 120)
{
	unsigned int i, bits, g;
	struct log log;

	for (i = 0; i < 32 * NR_FATES * NR_FATES; i++) {
		const enum fate fate[] = { i % NR_FATES, i / NR_FATES % NR_FATES };
		unsigned int first, second;
		struct want want[2];

		bits = i / (NR_FATES * NR_FATES);
		first = (bits & 1 ? IOSQE_IO_HARDLINK : IOSQE_IO_LINK) |
			(bits & 2 ? IOSQE_ASYNC : 0) | (bits & 4 ? IOSQE_IO_DRAIN : 0);
		second = (bits & 8 ? IOSQE_ASYNC : 0) | (bits & 16 ? IOSQE_IO_DRAIN : 0);
		model_two(first, fate, want);
		push_group(&self->g, &self->ring, &variant->mode, 0, first, 0, fate[0]);
		push_group(&self->g, &self->ring, &variant->mode, 1, second, 0, fate[1]);
		ASSERT_LE(0, submit_all(&self->ring));
		log.nr = 0;
		log_until(&log, &self->ring, UD_PRIMARY);
		log_until(&log, &self->ring, UD_PRIMARY + 1);
		collect(&log, &self->ring);
		for (g = 0; g < 2; g++) {
			const char *text = wrong(&log, g, want[g]);

			ASSERT_EQ(NULL, text)
				TH_LOG("%x %x, fates %d %d: %s", first, second, fate[0], fate[1],
				       text);
		}
		ASSERT_EQ(7, log.nr);
		/* members of the second are not issued before the first has ended */
		ASSERT_TRUE(fate[0] == MALFORMED || fate[1] == MALFORMED ||
			    log_index(&log, UD_PRIMARY) < log_index(&log, 10));
	}
}

TEST_HARNESS_MAIN
