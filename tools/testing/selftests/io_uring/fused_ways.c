// SPDX-License-Identifier: GPL-2.0
/*
 * IORING_OP_FUSED_CMD with each kind of secondary: drain, links, cancellation.
 */
#include "fixture.h"
#include "ways.h"

/* A group of the kind @p_, if there are such files */
#define PUSH_WAY(p_, primary_flags) ({					\
	struct pending *push_ = &(p_);					\
									\
	INIT(OP_LEND, push_->way->writes ? 0 : LEND_SOURCE, BUFFER_LEN); \
	self->g.primary->flags = primary_flags;				\
	way_add(push_, &self->g, self->dev, false);			\
	group_push(&self->g);						\
})

/* Wait for all CQEs, with one system call: these many, no others */
#define WAIT_WAY(p_, to, nr_) ({					\
	struct pending *wait_ = &(p_);					\
	struct log *log_ = (to);					\
	const int want_ = (nr_);					\
									\
	ASSERT_LE(0, way_wait(wait_, &self->ring, want_))		\
		TH_LOG("%s x %d", wait_->way->name, wait_->nr);		\
	log_->nr = 0;							\
	log_rest(log_, &self->ring, 0);					\
	ASSERT_EQ(want_, log_->nr)					\
		TH_LOG("%s x %d", wait_->way->name, wait_->nr);		\
})

/* A read that keeps what comes behind it waiting until the task sleeps */
static void push_gate(struct ring *r, struct pending *p, void *buf, unsigned int flags)
{
	struct io_uring_sqe sqe[2] = { {
		.opcode = IORING_OP_READ,
		.flags = flags,
		.fd = p->gate[0],
		.addr = (uintptr_t)buf,
		.len = 1,
		.off = -1,
		.user_data = UD_OTHER,
	} };

	push_sqe(r, sqe);
}

/* CQEs of the group */
static int nr_cqes(const struct pending *p)
{
	return p->nr * p->way->nr_cqes + 1;
}

/* uapi: IO_DRAIN on the primary works with every kind of secondary */
TEST_F(fused, drain)
{
	struct pending p = { .nr = WAY_MOST };
	struct log log;
	int nr, i;

	signal(SIGPIPE, SIG_IGN);
	ASSERT_EQ(0, gate_open(&p));
	while (way_next(&p, self->buf)) {
		nr = nr_cqes(&p);
		push_gate(&self->ring, &p, self->buf, 0);
		PUSH_WAY(p, IOSQE_IO_DRAIN);
		push_nop(&self->ring, UD_OTHER + 1, IOSQE_IO_DRAIN);
		WAIT_WAY(p, &log, nr + 2);
		EXPECT_EQ(0, log_index(&log, UD_OTHER));
		EXPECT_EQ(nr, log_index(&log, UD_PRIMARY)) TH_LOG("%s", p.way->name);
		EXPECT_EQ(nr + 1, log_index(&log, UD_OTHER + 1));
		for (i = 0; i < log.nr; i++)
			EXPECT_TRUE(way_is_fine(p.way, log.cqe[i].res)) TH_LOG("%s", p.way->name);
	}
	gate_close(&p);
}

/* a group that comes behind a request that drains waits with it */
TEST_F(fused, behind_a_drain)
{
	struct pending p = { .nr = WAY_MOST };
	struct log log;

	signal(SIGPIPE, SIG_IGN);
	ASSERT_EQ(0, gate_open(&p));
	while (way_next(&p, self->buf)) {
		push_gate(&self->ring, &p, self->buf, 0);
		push_nop(&self->ring, UD_OTHER + 1, IOSQE_IO_DRAIN);
		PUSH_WAY(p, 0);
		push_nop(&self->ring, UD_OTHER + 2, 0);
		WAIT_WAY(p, &log, nr_cqes(&p) + 3);
		EXPECT_EQ(0, log_index(&log, UD_OTHER));
		EXPECT_EQ(1, log_index(&log, UD_OTHER + 1)) TH_LOG("%s", p.way->name);
		EXPECT_TRUE(way_is_fine(p.way, log_res(&log, UD_PRIMARY)))
			TH_LOG("%s", p.way->name);
	}
	gate_close(&p);
}

/* what is linked behind the group comes after the primary, what is before it first */
TEST_F(fused, linked)
{
	struct pending p = { .nr = WAY_MOST };
	struct log log;
	int nr;

	signal(SIGPIPE, SIG_IGN);
	ASSERT_EQ(0, gate_open(&p));
	while (way_next(&p, self->buf)) {
		nr = nr_cqes(&p);
		push_gate(&self->ring, &p, self->buf, IOSQE_IO_LINK);
		PUSH_WAY(p, IOSQE_IO_LINK);
		push_nop(&self->ring, UD_OTHER + 1, 0);
		WAIT_WAY(p, &log, nr + 2);
		EXPECT_EQ(0, log_index(&log, UD_OTHER));
		EXPECT_EQ(nr, log_index(&log, UD_PRIMARY)) TH_LOG("%s", p.way->name);
		EXPECT_EQ(nr + 1, log_index(&log, UD_OTHER + 1));
		EXPECT_TRUE(way_is_fine(p.way, log_res(&log, UD_OTHER + 1)))
			TH_LOG("%s", p.way->name);
	}
	gate_close(&p);
}

/* a secondary that waits is canceled, or all of them are; the ring goes on */
TEST_F(fused, canceled)
{
	struct pending p = { .nr = WAY_MOST };
	struct log log;
	int i, j, res;

	signal(SIGPIPE, SIG_IGN);
	for (p.way = ways; p.way->name; p.way++) {
		/* a notification is the network's to give */
		if (!p.way->later || p.way->opcode == IORING_OP_SEND_ZC)
			continue;
		for (i = 0; i < 2; i++) {
			log.nr = 0;
			ASSERT_TRUE(way_open(&p, self->buf));
			PUSH_WAY(p, 0);
			ASSERT_LT(0, ring_submit(&self->ring));
			log_rest(&log, &self->ring, 5);
			ASSERT_EQ(0, log.nr) TH_LOG("%s", p.way->name);
			for (j = 0; j < p.nr && !i; j++)
				EXPECT_EQ(0, cancel_one(&log, &self->ring, j))
					TH_LOG("%s", p.way->name);
			res = i ? cancel_all(&log, &self->ring, UD_PRIMARY) :
				log_until(&log, &self->ring, UD_PRIMARY);
			EXPECT_TRUE(canceled(res)) TH_LOG("%s", p.way->name);
			for (j = 0; j < p.nr; j++)
				EXPECT_TRUE(canceled(log_res(&log, j)));
			EXPECT_EQ(p.nr + 1, log.nr);
			GET_BUFFER(0);
			way_close(&p);
		}
	}
}

TEST_HARNESS_MAIN
