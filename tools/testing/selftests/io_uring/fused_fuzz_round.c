// SPDX-License-Identifier: GPL-2.0
/*
 * A round of fused_fuzz: a ring, some groups, what they wait for, and the end
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include "fused_fuzz.h"

static const struct mode modes[] = {
	{ 0 },
	{ IORING_SETUP_COOP_TASKRUN },
	{ IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN },
	{ IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL },
	{ IORING_SETUP_SQPOLL },
	{ IORING_SETUP_SQPOLL | IORING_SETUP_SQE128, .inline_form = true },
	{ IORING_SETUP_SQE128 | IORING_SETUP_CQE32, .inline_form = true },
	{ IORING_SETUP_SQE_MIXED | IORING_SETUP_CQE_MIXED, .inline_form = true },
	{ IORING_SETUP_SQE_MIXED | IORING_SETUP_NO_SQARRAY },
	{ IORING_SETUP_CQE32 | IORING_SETUP_SUBMIT_ALL },
};

static int new_ring(struct fuzz *f)
{
	struct io_uring_params p = { .flags = f->mode.ring_flags, .sq_thread_idle = 5 };
	int i, ret;

	if (one_in(f, 4)) {
		p.flags |= IORING_SETUP_CQSIZE;
		p.cq_entries = 512;
	}
	for (i = 0; i < 200; i++) {
		ret = ring_init(&f->ring, 512, &p);
		/* threads that were left behind go in their own time */
		if (ret != -ENOMEM && ret != -EAGAIN)
			break;
		usleep(5000);
	}
	return ret;
}

/* What a silent socket waits for: to be canceled, in one of several ways */
static void end_silent(struct fuzz *f)
{
	int i;

	for (i = 0; i < MAX_SOCKS; i++) {
		const struct socket_use *s = &f->sock[i];

		if (!s->silent)
			continue;
		if (one_in(f, 3))
			ring_cancel(&f->ring, s->user_data, s->fd[0],
				    IORING_ASYNC_CANCEL_FD | IORING_ASYNC_CANCEL_ALL);
		else
			ring_cancel(&f->ring, s->user_data, -1, 0);
	}
}

/* Ask the driver for the group that it keeps. */
static void release(struct fuzz *f)
{
	struct io_uring_sqe sqe[2] = { };

	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = f->dev;
	sqe->cmd_op = OP_RELEASE;
	sqe->user_data = UD_RELEASE;
	((struct io_uring_mock_fused *)sqe->cmd)->arg = f->kept->primary.res;
	push_sqe(&f->ring, sqe);
	ring_publish(&f->ring);
	if (ring_enter(&f->ring, 1) < 0)
		wrong(f, "cannot ask for the group");
	f->asked = true;
}

/* Nothing comes any more by itself. */
static void nudge(struct fuzz *f)
{
	end_silent(f);
	if (f->kept && !f->asked)
		release(f);
}

/* All that there is: a malformed group ends a submission. */
static void submit(struct fuzz *f)
{
	long end = now_ms() + TIMEOUT_MS;
	unsigned int left;

	ring_publish(&f->ring);
	while ((left = f->ring.tail - __atomic_load_n(f->ring.sq_head, __ATOMIC_ACQUIRE))) {
		if (ring_enter(&f->ring, left) < 0 || now_ms() > end)
			wrong(f, "%u SQEs are left", left);
	}
}

void one_round(struct fuzz *f)
{
	bool let_go, look;
	struct cqe cqe;
	long end;
	int i, k;

	f->rng = base_seed * 1000003 + f->thread * 7919 + f->round * 104729;
	rnd(f, 1);
	f->mode = modes[rnd(f, ARRAY_SIZE(modes))];
	if (one_in(f, 6))
		f->mode.secondary_flags = IOSQE_ASYNC;
	if (one_in(f, 6))
		f->mode.blocking = true;
	i = new_ring(f);
	if (i)
		wrong(f, "no ring: %s", strerror(-i));
	memset(f->sock, 0, sizeof(f->sock));
	f->kept = NULL;
	f->asked = false;
	f->nr_groups = 1 + rnd(f, MAX_GROUPS);
	f->nr_cqes = 0;
	look = one_in(f, 4);
	/* close the ring with all of it pending */
	let_go = one_in(f, 12);

	for (i = 0; i < f->nr_groups; i++) {
		struct fuzz_group *fg = &f->group[i];

		make_group(f, fg, i);
		if (look || let_go) {
			fill(f->buf, i, 0, BUFFER_LEN);
			if (pwrite(f->dev, f->buf, BUFFER_LEN, (off_t)i * BUFFER_LEN) !=
			    BUFFER_LEN)
				wrong(f, "buffer %d: %s", i, strerror(errno));
		}
		if (f->ring.tail - *f->ring.sq_head + fg->g.nr + 4 > f->ring.p.sq_entries) {
			f->nr_groups = i;
			break;
		}
		push_group(f, fg, i);
		tell(f, "# group %d: op %u flags %x/%x nr %d buffer %d+%u len %u, predicted %d\n",
		     i, fg->g.primary->cmd_op, fg->g.primary->flags,
		     fg->g.primary->uring_cmd_flags, fg->g.nr, fg->buffer, fg->offset,
		     fg->len, fg->primary.res);
		for (k = 0; k < fg->g.nr; k++)
			tell(f, "#   %d: op %u flags %x fd %d addr %llx len %u off %llu: %d\n",
			     k, fg->g.secondary[k]->opcode, fg->g.secondary[k]->flags,
			     fg->g.secondary[k]->fd, (unsigned long long)fg->g.secondary[k]->addr,
			     fg->g.secondary[k]->len, (unsigned long long)fg->g.secondary[k]->off,
			     fg->secondary[k].res);
		for (k = 0; k < fg->g.nr; k++)
			f->nr_cqes += nr_cqes(&fg->secondary[k]);
		f->nr_cqes += 1 + fg->has_before + fg->has_after;
		__sync_fetch_and_add(&groups_done, 1);
		__sync_fetch_and_add(&groups_refused, !fg->started);
		/* some at a time */
		if (one_in(f, 3))
			submit(f);
	}
	submit(f);
	end = now_ms() + TIMEOUT_MS;
	while (!let_go && (f->nr_cqes > 0 || f->kept || f->asked)) {
		if (ring_wait(&f->ring, &cqe, 5))
			handle_cqe(f, &cqe);
		else
			nudge(f);
		if (now_ms() > end)
			wrong(f, "%d CQEs are missing", f->nr_cqes);
	}
	if (!let_go && ring_wait(&f->ring, &cqe, 0))
		wrong(f, "CQE %llu is one too many", (unsigned long long)cqe.user_data);
	if (!let_go && *f->ring.cq_overflow)
		wrong(f, "CQEs were lost");
	ring_exit(&f->ring);
	for (i = 0; i < f->nr_groups; i++) {
		/* its secondaries were canceled, so the contents are anything */
		if (let_go)
			f->group[i].started = false;
		if (f->group[i].buffer >= 0 && (look || let_go))
			check_buffer(f, &f->group[i]);
	}
	if (let_go) {
		/* a primary in a worker may still take one of these buffers */
		close(f->dev);
		f->dev = open_device();
		if (f->dev < 0)
			wrong(f, "cannot open the device again");
	}
	for (i = 0; i < MAX_SOCKS; i++) {
		if (f->sock[i].used) {
			close(f->sock[i].fd[0]);
			close(f->sock[i].fd[1]);
		}
	}
	__sync_fetch_and_add(&rounds_done, 1);
}
