// SPDX-License-Identifier: GPL-2.0
/*
 * A task that waits for just the CQEs that a group posts, without a time-out,
 * wakes up: for each kind of secondary, whether its data is there, comes while
 * the task sleeps, or is waited for by a worker, with the CQEs of secondaries
 * skipped or not. A task that is not woken is killed by the harness.
 */
#include "fixture.h"
#include "ways.h"

/* Nothing but what is waited for, and the primary's CQE the last */
TEST_F(fused, all_cqes)
{
	struct pending p = { .nr = WAY_MOST };
	struct cqe cqe = { };
	int skip, nr, i;

	signal(SIGPIPE, SIG_IGN);
	for (skip = 0; skip < 2; skip++) {
		while (way_next(&p, self->buf)) {
			if (skip && p.way->no_skip)
				continue;
			nr = p.nr * (skip ? 0 : p.way->nr_cqes) + 1;
			INIT(OP_LEND, p.way->writes ? 0 : LEND_SOURCE, BUFFER_LEN);
			way_add(&p, &self->g, self->dev, skip);
			group_push(&self->g);
			ASSERT_LE(0, way_wait(&p, &self->ring, nr));
			for (i = 0; i < nr; i++) {
				ASSERT_TRUE(ring_wait(&self->ring, &cqe, 0))
					TH_LOG("%s x %d, skip %d: %d of %d CQEs",
					       p.way->name, p.nr, skip, i, nr);
				EXPECT_TRUE(way_is_fine(p.way, cqe.res))
					TH_LOG("%s: CQE %d is %d", p.way->name, i, cqe.res);
			}
			EXPECT_EQ(UD_PRIMARY, cqe.user_data) TH_LOG("%s", p.way->name);
			ASSERT_FALSE(ring_wait(&self->ring, &cqe, 0))
				TH_LOG("%s: too many CQEs", p.way->name);
		}
	}
}

TEST_HARNESS_MAIN
