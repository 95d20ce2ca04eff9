// SPDX-License-Identifier: GPL-2.0
/*
 * Fused commands when memory or a copy from user space fails, at each place:
 * no CQE is lost or doubled, and the driver has its buffer back.
 */
#include <sys/uio.h>
#include "fixture.h"

#define DEBUGFS	"/sys/kernel/debug/"

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY), ret;

	if (fd < 0)
		return -errno;
	ret = write(fd, text, strlen(text)) < 0 ? -errno : 0;
	close(fd);
	return ret;
}

/* Opened before anything can fail */
static int nth_fd = -1;

/* Have the @nth call that can fail do so; 0 is none. */
static int fail_nth(int nth)
{
	char text[16];
	int i, len = snprintf(text, sizeof(text), "%d", nth);

	/* to say so may be the call that fails */
	for (i = 0; i < 3; i++)
		if (pwrite(nth_fd, text, len, 0) == len)
			return 0;
	return -errno;
}

/* Did a call fail since? */
static bool failed(void)
{
	char text[16] = "";

	/* if this one does, none has before */
	return pread(nth_fd, text, sizeof(text) - 1, 0) > 0 && !atoi(text);
}

static bool set_up(void)
{
	nth_fd = open("/proc/thread-self/fail-nth", O_RDWR);
	return nth_fd >= 0 &&
		!write_file(DEBUGFS "failslab/ignore-gfp-wait", "N") &&
		!write_file(DEBUGFS "failslab/verbose", "0") &&
		!write_file(DEBUGFS "fail_page_alloc/ignore-gfp-wait", "N") &&
		!write_file(DEBUGFS "fail_page_alloc/min-order", "0") &&
		!write_file(DEBUGFS "fail_page_alloc/verbose", "0") &&
		!write_file(DEBUGFS "fail_usercopy/verbose", "0") && !fail_nth(0);
}

/* How a group is said: as a fused command, or by a flag with a lease or without one */
enum form { FUSED, LEADER, PLAIN_LEADER };

/* A group of many kinds, on a ring that has nothing in its caches yet */
static void make(struct group *g, struct ring *r, const struct mode *mode, enum form form,
		 int dev, int file, int sock)
{
	static const struct iovec vec[] = { { NULL, 512 }, { (void *)4096, 512 } };
	static unsigned char own[8192];
	static const struct iovec own_vec[] = { { own, 512 }, { own + 4096, 512 } };
	int i;

	if (form == FUSED)
		group_init(g, r, mode, dev, OP_LEND, LEND_SOURCE, 8192);
	else if (form == LEADER)
		group_lead_cmd(g, r, mode, dev, OP_LEND, LEND_SOURCE, 8192);
	else
		group_lead(g, r, mode, IORING_OP_SEND, sock, (uintptr_t)own, 10, 0);
	if (form == PLAIN_LEADER) {
		group_add(g, IORING_OP_WRITEV, file, (uintptr_t)own_vec, 2, 0);
		group_add(g, IORING_OP_SEND, sock, (uintptr_t)own, 100, 0);
		group_add(g, IORING_OP_WRITE, file, (uintptr_t)own, 512, 512)->flags |=
			IOSQE_ASYNC;
		return;
	}
	if (mode->inline_form)
		group_add(g, IORING_OP_WRITE, file, 0, 512, 0);
	else
		group_add(g, IORING_OP_WRITEV, file, (uintptr_t)vec, 2, 0);
	if (!mode->inline_form) {
		group_add(g, IORING_OP_SEND, sock, 0, 100, 0);
		group_add(g, IORING_OP_SEND_ZC, sock, 0, 100, 0)->addr3 = UD_OTHER;
		group_add(g, IORING_OP_WRITE_FIXED, file, 512, 512, 512)->flags |= IOSQE_ASYNC;
	}
	for (i = 0; form == LEADER && i < g->nr; i++)
		g->secondary[i]->flags |= IOSQE_IO_DRAIN;
}

/* Each SQE that was consumed posts once, the primary last. NULL if so. */
static const char *account(struct group *g, struct log *log, int consumed)
{
	int i, last = -1, nr;

	for (i = 0; i < g->nr; i++) {
		nr = 0;
		for (int k = 0; k < log->nr; k++)
			if (log->cqe[k].user_data == (__u64)i) {
				nr++;
				last = k;
			}
		if (nr != 1)
			return nr ? "a secondary posts twice" : "a secondary posts nothing";
	}
	if (log_index(log, UD_PRIMARY) < last)
		return "the primary is not the last";
	return NULL;
}

static void sweep(struct __test_metadata *_metadata, struct ring *r, const struct mode *mode,
		  enum form form, int dev, int file, bool linked)
{
	int nth, sock[2], done = 0, injected = 0;
	char buf[4096];
	struct group g;

	if (mode->ring_flags & IORING_SETUP_SQPOLL)
		SKIP(return, "another task allocates");
	if (!set_up())
		SKIP(return, "no fault injection in this kernel");
	ring_exit(r);
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
	for (nth = 1; nth < 200 && !done; nth++) {
		long end = now_ms() + TIMEOUT_MS;
		struct log log = { };
		const char *wrong;
		int ret, left;

		ASSERT_EQ(0, mode_ring(mode, r, 32));
		if (linked)
			push_nop(r, UD_OTHER + 1, IOSQE_IO_LINK);
		make(&g, r, mode, form, dev, file, sock[0]);
		group_push(&g);
		left = ring_publish(r);
		ASSERT_EQ(0, fail_nth(nth));
		ret = ring_enter(r, left);
		done = !failed();
		ASSERT_EQ(0, fail_nth(0));
		injected += !done;
		/* what was not consumed still can be */
		while (r->tail != *r->sq_head) {
			ASSERT_LT(now_ms(), end);
			left = r->tail - *r->sq_head;
			/* it may stand in the middle of a link, not of a group */
			ASSERT_TRUE(ret < 0 || left == 0 || linked);
			ring_enter(r, left);
		}
		ASSERT_NE(NO_CQE, log_until(&log, r, UD_PRIMARY))
			TH_LOG("nth %d: no CQE of the primary, %d others", nth, log.nr);
		log_rest(&log, r, 1);
		wrong = account(&g, &log, left);
		ASSERT_EQ(NULL, wrong) TH_LOG("nth %d: %s", nth, wrong);
		while (pread(dev, buf, 512, 0) != 512) {
			ASSERT_EQ(EBUSY, errno);
			ASSERT_LT(now_ms(), end);
		}
		ring_exit(r);
		while (recv(sock[1], buf, 4096, MSG_DONTWAIT) > 0)
			;
	}
	TH_LOG("%d failures injected", injected);
	/* at least the group's state, what its opcodes keep, and a message */
	EXPECT_LE(3, injected);
	EXPECT_TRUE(done);
	close(sock[0]);
	close(sock[1]);
	ASSERT_EQ(0, mode_ring(mode, r, 32));
}

TEST_F_TIMEOUT(fused, nth_fails, 120)
{
	sweep(_metadata, &self->ring, &variant->mode, FUSED, self->dev, self->file, false);
}

TEST_F_TIMEOUT(fused, nth_fails_linked, 120)
{
	sweep(_metadata, &self->ring, &variant->mode, FUSED, self->dev, self->file, true);
}

TEST_F_TIMEOUT(fused, nth_fails_leader, 120)
{
	sweep(_metadata, &self->ring, &variant->mode, LEADER, self->dev, self->file, false);
}

TEST_F_TIMEOUT(fused, nth_fails_plain_leader, 120)
{
	sweep(_metadata, &self->ring, &variant->mode, PLAIN_LEADER, self->dev, self->file, true);
}

TEST_HARNESS_MAIN
