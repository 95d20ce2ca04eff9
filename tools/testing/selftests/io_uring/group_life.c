// SPDX-License-Identifier: GPL-2.0
/*
 * SQE groups: cancellation and exit, and the corners of the rings.
 */
#include <poll.h>
#include <pthread.h>
#include "group.h"

/* A group whose leader is done, with a member that waits for @fd */
#define PENDING_MEMBER(fd) ({						\
	LEAD_NOP(5);							\
	ADD(IORING_OP_READ, fd, (uintptr_t)self->buf, 4, -1);		\
	ADD_NOP(6);							\
	PUSH_GROUP();							\
	SUBMIT();							\
	ASSERT_EQ(6, log_until(&log, &self->ring, 1));			\
})

/* One whose leader waits */
#define PENDING_LEADER(fd) ({						\
	LEAD(IORING_OP_READ, fd, (uintptr_t)self->buf, 4, -1);		\
	ADD_NOP(6);							\
	ADD_NOP(7);							\
	PUSH_GROUP();							\
	SUBMIT();							\
})

/* uapi: cancel of a member, and of all: the group completes, with its own result */
TEST_F(fused, cancel_member)
{
	struct log log = { };
	int fd[2], all;

	ASSERT_EQ(0, pipe(fd));
	for (all = 0; all < 2; all++) {
		log.nr = 0;
		PENDING_MEMBER(fd[0]);
		ASSERT_EQ(all ? 5 : 0, all ? cancel_all(&log, &self->ring, UD_PRIMARY) :
					     cancel_one(&log, &self->ring, 0));
		EXPECT_EQ(5, log_until(&log, &self->ring, UD_PRIMARY));
		EXPECT_TRUE(canceled(log_res(&log, 0)));
		EXPECT_EQ(2, log_index(&log, UD_PRIMARY));
		EXPECT_EQ(3, log.nr);
	}
	close(fd[0]);
	close(fd[1]);
}

/* uapi: cancel of a leader that waits ends its members as well */
TEST_F(fused, cancel_leader)
{
	struct log log = { };
	int fd[2], all, async;

	ASSERT_EQ(0, pipe(fd));
	for (all = 0; all < 2; all++) {
		for (async = 0; async < 2; async++) {
			log.nr = 0;
			LEAD(IORING_OP_READ, fd[0], (uintptr_t)self->buf, 4, -1)->flags |=
				async ? IOSQE_ASYNC : 0;
			ADD_NOP(6);
			ADD_NOP(7);
			PUSH_GROUP();
			SUBMIT();
			if (all)
				cancel_all(&log, &self->ring, UD_PRIMARY);
			else
				cancel_one(&log, &self->ring, UD_PRIMARY);
			EXPECT_TRUE(canceled(log_until(&log, &self->ring, UD_PRIMARY)));
			EXPECT_EQ(-ECANCELED, log_res(&log, 0));
			EXPECT_EQ(-ECANCELED, log_res(&log, 1));
			EXPECT_EQ(3, log.nr);
			EXPECT_EQ(2, log_index(&log, UD_PRIMARY));
		}
	}
	close(fd[0]);
	close(fd[1]);
}

/* a leader that is done, and a member that waits for it, are not there to be canceled */
TEST_F(fused, cancel_nothing)
{
	struct log log = { };
	int fd[2], ret;

	ASSERT_EQ(0, pipe(fd));
	PENDING_MEMBER(fd[0]);
	EXPECT_EQ(-ENOENT, ring_cancel(&self->ring, UD_PRIMARY, -1, 0));
	ASSERT_EQ(4, write(fd[1], "good", 4));
	EXPECT_EQ(5, log_until(&log, &self->ring, UD_PRIMARY));
	log.nr = 0;
	PENDING_LEADER(fd[0]);
	ret = ring_cancel(&self->ring, 0, -1, 0);
	EXPECT_EQ(-ENOENT, ret);
	ASSERT_EQ(4, write(fd[1], "good", 4));
	EXPECT_CQES(&log, 4, 6, 7);
	close(fd[0]);
	close(fd[1]);
}

/* a group that waits in a link is canceled with what it is linked to */
TEST_F(fused, cancel_before_start)
{
	struct io_uring_sqe rd[2] = { { .opcode = IORING_OP_READ, .len = 100, .off = -1,
					.flags = IOSQE_IO_LINK, .user_data = UD_OTHER } };
	struct log log = { };
	int fd[2];

	ASSERT_EQ(0, pipe(fd));
	rd->fd = fd[0];
	rd->addr = (uintptr_t)self->buf;
	push_sqe(&self->ring, rd);
	LEAD_NOP(5);
	ADD_NOP(6);
	PUSH_GROUP();
	SUBMIT();
	ASSERT_EQ(0, cancel_one(&log, &self->ring, UD_OTHER));
	EXPECT_EQ(-ECANCELED, log_until(&log, &self->ring, UD_PRIMARY));
	EXPECT_EQ(-ECANCELED, log_res(&log, 0));
	close(fd[0]);
	close(fd[1]);
}

/* uapi: the ring is closed while the leader, or a member, waits */
TEST_F(fused, close_ring)
{
	struct log log = { };
	int fd[2], what;

	for (what = 0; what < 4; what++) {
		ASSERT_EQ(0, pipe(fd));
		if (what == 0)
			PENDING_LEADER(fd[0]);
		else if (what == 1)
			PENDING_MEMBER(fd[0]);
		if (what == 2) {
			/* nobody has run the task work that starts the members */
			LEAD_NOP(5);
			ADD(IORING_OP_READ, fd[0], (uintptr_t)self->buf, 4, -1);
			ADD_NOP(6);
			PUSH_GROUP();
			SUBMIT();
		} else if (what == 3) {
			LEAD_NOP(5)->flags |= IOSQE_ASYNC;
			ADD(IORING_OP_READ, fd[0], (uintptr_t)self->buf, 4, -1)->flags |=
				IOSQE_ASYNC;
			ADD_NOP(6);
			PUSH_GROUP();
			SUBMIT();
		}
		ring_exit(&self->ring);
		log.nr = 0;
		/* the read let go of its file */
		close(fd[0]);
		signal(SIGPIPE, SIG_IGN);
		{
			long end = now_ms() + TIMEOUT_MS;

			while (write(fd[1], "x", 1) == 1 || errno != EPIPE) {
				ASSERT_LT(now_ms(), end);
				usleep(1000);
			}
		}
		close(fd[1]);
		ASSERT_EQ(0, mode_ring(&variant->mode, &self->ring, RING_ENTRIES));
	}
}

/* the task is killed, or calls exec(): it must come to its end */
TEST_F(fused, kill_and_exec)
{
	struct mode mode = variant->mode;
	int fd[2], ready[2], status, what;
	struct log log = { };
	char c;
	pid_t pid;

	ring_exit(&self->ring);
	for (what = 0; what < 4; what++) {
		ASSERT_EQ(0, pipe(ready));
		ASSERT_EQ(0, pipe(fd));
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			ASSERT_EQ(0, mode_ring(&mode, &self->ring, 8));
			if (what & 1)
				PENDING_MEMBER(fd[0]);
			else
				PENDING_LEADER(fd[0]);
			ASSERT_EQ(1, write(ready[1], "x", 1));
			if (what & 2)
				execl("/bin/true", "true", NULL);
			pause();
		}
		ASSERT_EQ(1, read(ready[0], &c, 1));
		if (!(what & 2))
			kill(pid, SIGKILL);
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		close(fd[0]);
		close(fd[1]);
		close(ready[0]);
		close(ready[1]);
	}
	ASSERT_EQ(0, mode_ring(&variant->mode, &self->ring, 8));
}

/* What has to end with its thread, beside a READ that does not end by itself */
enum leaves {
	LEAVES_MEMBER,		/* a wait for a private futex; the READ leads */
	LEAVES_LEADER,		/* a request about a ring, which is done */
	LEAVES_OTHER_MEMBER,	/* the wait, of a leader that is done */
	LEAVES_LINKED,		/* the wait, linked behind the group */
	NR_LEAVES
};

struct submitter {
	struct ring *ring;
	const struct mode *mode;
	enum leaves leaves;
	int fd;
};

/* FUTEX2_SIZE_U32 and FUTEX2_PRIVATE */
static void futex_wait(struct io_uring_sqe *sqe)
{
	static unsigned int futex;

	sqe->opcode = IORING_OP_FUTEX_WAIT;
	sqe->fd = 2 | 128;
	sqe->addr = (uintptr_t)&futex;
	sqe->addr3 = ~0U;
}

/* Submits a group that waits, and goes. */
static void *submit_and_exit(void *arg)
{
	static unsigned char buf[4];
	struct io_uring_sqe linked[2] = { { .user_data = UD_OTHER } };
	struct submitter *s = arg;
	struct ring *r = s->ring;
	struct group g;
	struct cqe cqe;

	if (mode_ring(s->mode, r, 8))
		return arg;
	if (s->leaves == LEAVES_MEMBER)
		group_lead(&g, r, s->mode, IORING_OP_READ, s->fd, (uintptr_t)buf, 4, -1);
	else if (s->leaves == LEAVES_LEADER)
		group_lead(&g, r, s->mode, IORING_OP_POLL_ADD, r->fd, 0, 0,
			   0)->poll32_events = POLLOUT;
	else
		group_lead(&g, r, s->mode, IORING_OP_NOP, -1, 0, 0, 0);
	if (s->leaves == LEAVES_LINKED)
		g.primary->flags |= IOSQE_IO_LINK;
	if (s->leaves == LEAVES_MEMBER || s->leaves == LEAVES_OTHER_MEMBER)
		futex_wait(group_add(&g, IORING_OP_NOP, -1, 0, 0, 0));
	if (s->leaves != LEAVES_MEMBER)
		group_add(&g, IORING_OP_READ, s->fd, (uintptr_t)buf, 4, -1);
	group_push(&g);
	if (s->leaves == LEAVES_LINKED) {
		futex_wait(linked);
		push_sqe(r, linked);
	}
	if (ring_submit(r) < 0)
		return arg;
	/* the members are started by task work; nothing ends */
	return ring_wait(r, &cqe, 20) ? arg : NULL;
}

/* a thread ends, though a group waits that has something which had to end before */
TEST_F(fused, thread_exits)
{
	struct submitter s = { .ring = &self->ring, .mode = &variant->mode };
	pthread_t thread;
	void *failed;
	int fd[2];

	ASSERT_EQ(0, pipe(fd));
	s.fd = fd[0];
	for (s.leaves = 0; s.leaves < NR_LEAVES; s.leaves++) {
		ring_exit(&self->ring);
		ASSERT_EQ(0, pthread_create(&thread, NULL, submit_and_exit, &s));
		ASSERT_EQ(0, pthread_join(thread, &failed));
		EXPECT_EQ(NULL, failed) TH_LOG("%d", s.leaves);
	}
	close(fd[0]);
	close(fd[1]);
}

/* Submits what was pushed, and goes. */
static void *only_submit(void *arg)
{
	return ring_submit(arg) < 0 ? arg : NULL;
}

/* what the other requests of a thread that is gone let start is canceled, in both forms */
TEST_F(fused, drained_thread_exits)
{
	int fd[2], leads;

	/* these belong to their thread, or to one that stays */
	if (IS_SQPOLL || variant->mode.ring_flags & IORING_SETUP_DEFER_TASKRUN)
		SKIP(return, "not such a ring");
	for (leads = 0; leads < 2; leads++) {
		struct log log = { };
		pthread_t thread;
		void *failed;

		ASSERT_EQ(0, pipe(fd));
		push_gate(&self->ring, fd[0], self->buf, 0);
		if (leads) {
			LEAD_NOP(5);
			ADD_NOP(6);
		} else {
			LEND_DEST(4096);
			ADD_READ(0, 512, 0);
		}
		self->g.primary->flags |= IOSQE_IO_DRAIN;
		PUSH_GROUP();
		ASSERT_EQ(0, pthread_create(&thread, NULL, only_submit, &self->ring));
		ASSERT_EQ(0, pthread_join(thread, &failed));
		ASSERT_EQ(NULL, failed);
		ASSERT_EQ(4, write(fd[1], "good", 4));
		EXPECT_EQ(-ECANCELED, log_until(&log, &self->ring, UD_PRIMARY)) TH_LOG("%d", leads);
		EXPECT_EQ(-ECANCELED, log_res(&log, 0)) TH_LOG("%d", leads);
		close(fd[0]);
		close(fd[1]);
	}
}

/* more CQEs than the ring holds: none is lost, the leaders' come last */
TEST_F(fused, cq_overflow)
{
	struct io_uring_params p = {
		.flags = variant->mode.ring_flags | IORING_SETUP_CQSIZE,
		.cq_entries = 8,
		.sq_thread_idle = 50,
	};
	struct log log = { };
	int i, j;

	ring_exit(&self->ring);
	ASSERT_EQ(0, ring_init(&self->ring, 8, &p));
	for (i = 0; i < 5; i++) {
		LEAD_NOP(50 + i)->user_data = UD_PRIMARY + i;
		for (j = 0; j < 6; j++)
			ADD_NOP(j)->user_data = i * 10 + j;
		PUSH_GROUP();
		SUBMIT();
	}
	for (i = 0; i < 5; i++)
		log_until(&log, &self->ring, UD_PRIMARY + i);
	log_rest(&log, &self->ring, 20);
	EXPECT_EQ(5 * 7, log.nr);
	for (i = 0; i < 5 * 6; i++) {
		int leader = i / 6;

		EXPECT_EQ(50 + leader, log_res(&log, UD_PRIMARY + leader));
		EXPECT_LT(log_index(&log, leader * 10 + i % 6),
			  log_index(&log, UD_PRIMARY + leader));
	}
}

/* more members than a byte can count, and more that take the lease than there are bits */
TEST_F(fused, many)
{
	const int plain = 600, leased = 300, len = 200;
	bool seen[600] = { };
	struct cqe cqe;
	int i;

	ring_exit(&self->ring);
	ASSERT_EQ(0, mode_ring(&variant->mode, &self->ring, 1024));
	LEAD_NOP(5);
	ring_push(&self->ring, self->g.primary, SQE128_RING);
	for (i = 0; i < plain; i++)
		push_nop(&self->ring, i, i < plain - 1 ? IOSQE_SQE_GROUP : 0);
	ASSERT_EQ(plain + 1, ring_submit(&self->ring));
	for (i = 0; i < plain; i++) {
		ASSERT_TRUE(ring_wait(&self->ring, &cqe, TIMEOUT_MS)) TH_LOG("%d", i);
		ASSERT_GT(plain, cqe.user_data);
		ASSERT_FALSE(seen[cqe.user_data]);
		seen[cqe.user_data] = true;
		ASSERT_EQ(0, cqe.res);
	}
	ASSERT_TRUE(ring_wait(&self->ring, &cqe, TIMEOUT_MS));
	EXPECT_EQ(UD_PRIMARY, cqe.user_data);
	EXPECT_EQ(5, cqe.res);
	EXPECT_FALSE(ring_wait(&self->ring, &cqe, 10));

	SET_BUFFER(0, 9);
	group_lead_cmd(&self->g, &self->ring, &variant->mode, self->dev, OP_LEND, 0, BUFFER_LEN);
	ring_push(&self->ring, self->g.primary, SQE128_RING);
	for (i = 0; i < leased; i++) {
		struct io_uring_sqe *sqe;

		self->g.nr = 0;
		sqe = ADD_READ(i * len, len, 1000 + i * len);
		sqe->user_data = i;
		sqe->flags |= IOSQE_IO_DRAIN;
		if (i < leased - 1)
			sqe->flags |= IOSQE_SQE_GROUP | IOSQE_CQE_SKIP_SUCCESS;
		push_sqe(&self->ring, sqe);
	}
	ASSERT_EQ(leased + 1, ring_submit(&self->ring));
	ASSERT_TRUE(ring_wait(&self->ring, &cqe, TIMEOUT_MS));
	EXPECT_EQ(leased - 1, cqe.user_data);
	EXPECT_EQ(len, cqe.res);
	ASSERT_TRUE(ring_wait(&self->ring, &cqe, TIMEOUT_MS));
	EXPECT_EQ(UD_PRIMARY, cqe.user_data);
	EXPECT_EQ(0, cqe.res);
	EXPECT_FALSE(ring_wait(&self->ring, &cqe, 10));
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf, 0, 1000, leased * len));
	EXPECT_TRUE(is_pattern(self->buf + leased * len, 9, leased * len,
			       BUFFER_LEN - leased * len));
}

/* a task that waits for just the CQEs of a group is woken, once */
TEST_F(fused, wake)
{
	int fd[2], i;

	for (i = 0; i < 3; i++) {
		struct log log = { };
		pid_t pid;
		int status;

		ASSERT_EQ(0, pipe(fd));
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid) {
			usleep(30000);
			if (write(fd[1], "good", 4) != 4)
				_exit(1);
			_exit(0);
		}
		LEAD(IORING_OP_READ, fd[0], (uintptr_t)self->buf, 4, -1);
		ADD_NOP(1)->nop_flags |= i == 1 ? IORING_NOP_TW : 0;
		ADD_NOP(2)->flags |= i == 2 ? IOSQE_ASYNC : 0;
		PUSH_GROUP();
		ASSERT_LE(0, ring_submit_and_wait(&self->ring, 3));
		log_rest(&log, &self->ring, 0);
		EXPECT_EQ(3, log.nr);
		EXPECT_EQ(2, log_index(&log, UD_PRIMARY));
		ASSERT_EQ(pid, waitpid(pid, &status, 0));
		EXPECT_EQ(0, status);
		close(fd[0]);
		close(fd[1]);
	}
}

/* a bad entry of the SQ array in a group: dropped, and the group is refused */
TEST_F(fused, sq_array)
{
	unsigned int mask = RING_ENTRIES - 1;
	struct log log = { };

	if (!self->ring.sq_array || IS_SQPOLL)
		SKIP(return, "no entries");
	LEAD_NOP(5);
	ADD_NOP(6);
	ADD_NOP(7);
	ADD_NOP(8);
	PUSH_GROUP();
	self->ring.sq_array[(self->ring.tail - 2) & mask] = 1000000;
	ASSERT_EQ(3, ring_submit(&self->ring));
	self->ring.sq_array[(self->ring.tail - 2) & mask] = (self->ring.tail - 2) & mask;
	EXPECT_CQES(&log, -EINVAL, -ECANCELED, NO_CQE, -ECANCELED);
	EXPECT_EQ(1, *self->ring.sq_dropped);
	LEAD_NOP(5);
	ADD_NOP(6);
	EXPECT_GROUP(5, 6);
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
		LEAD_NOP(n);
		for (i = 0; i < n; i++) {
			ADD_NOP(i);
			want[i] = i;
		}
		ASSERT_EQ(NULL, group_run(&self->g, n, n, want));
	}
	ring_exit(&other);
}

/* members and leaders of 128 bytes among those of 64 */
TEST_F(fused, mixed)
{
	static const int want[] = { 6, 7 };
	struct log log = { };

	if (!(variant->mode.ring_flags & IORING_SETUP_SQE_MIXED))
		SKIP(return, "SQEs have one size");
	LEAD_NOP(5)->opcode = IORING_OP_NOP128;
	ADD_NOP(6)->opcode = IORING_OP_NOP128;
	ADD_NOP(7);
	self->g.secondary[0]->flags |= IOSQE_SQE_GROUP;
	ring_push(&self->ring, self->g.primary, true);
	ring_push(&self->ring, self->g.secondary[0], true);
	ring_push(&self->ring, self->g.secondary[1], false);
	SUBMIT();
	ASSERT_EQ(NULL, group_check(&self->g, &log, 5, 2, want));
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
			.flags = variant->mode.ring_flags | (i ? IORING_SETUP_SUBMIT_ALL : 0),
		};

		log.nr = 0;
		ring_exit(&self->ring);
		ASSERT_EQ(0, ring_init(&self->ring, 16, &p));
		LEAD_NOP(5);
		ADD_NOP(6)->flags |= IOSQE_IO_LINK;
		ADD_NOP(7);
		PUSH_GROUP();
		push_nop(&self->ring, UD_OTHER, 0);
		ring_publish(&self->ring);
		ASSERT_LT(0, ring_enter(&self->ring, self->ring.tail));
		ASSERT_EQ(-EINVAL, log_until(&log, &self->ring, UD_PRIMARY));
		ASSERT_EQ(-ECANCELED, log_res(&log, 0));
		ASSERT_EQ(-ECANCELED, log_res(&log, 1));
		log_rest(&log, &self->ring, 10);
		EXPECT_EQ(i ? 0 : NO_CQE, log_res(&log, UD_OTHER));
	}
}

/* IOPOLL: NOPs, which have nothing to be polled for; fused_nvme has what has */
TEST(iopoll)
{
	struct mode mode = { .ring_flags = IORING_SETUP_IOPOLL };
	static const int want[] = { 6, 7, 8 };
	struct ring ring;
	struct group g;
	int i;

	ASSERT_EQ(0, mode_ring(&mode, &ring, 16));
	for (i = 0; i < 4; i++) {
		group_lead(&g, &ring, &mode, IORING_OP_NOP, -1, 0, 5, 0)->nop_flags =
			IORING_NOP_INJECT_RESULT;
		if (i == 1)
			g.primary->flags |= IOSQE_ASYNC;
		group_add_nop(&g, 6)->flags |= i == 2 ? IOSQE_ASYNC : 0;
		group_add_nop(&g, 7)->nop_flags |= i == 3 ? IORING_NOP_TW : 0;
		group_add_nop(&g, 8);
		ASSERT_EQ(NULL, group_run(&g, 5, 3, want)) TH_LOG("%d", i);
	}
	/* and what can not be polled is malformed */
	group_lead(&g, &ring, &mode, IORING_OP_NOP, -1, 0, 5, 0);
	group_add(&g, IORING_OP_FSYNC, 0, 0, 0, 0);
	ASSERT_EQ(NULL, group_run(&g, -EINVAL, 1, (int[]){ -ECANCELED }));
	ring_exit(&ring);
}

TEST_HARNESS_MAIN
