// SPDX-License-Identifier: GPL-2.0
/*
 * Random groups of IORING_OP_FUSED_CMD from several threads, with a model that
 * predicts each CQE and the contents of each buffer.
 *
 *   fused_fuzz [-t seconds] [-s seed] [-j threads]
 *   fused_fuzz -s seed -r thread:round	one round again, told in detail
 *
 * A round is a ring, some groups with other requests between them, what they
 * wait for, and their CQEs. It depends on nothing but the seed, the number of
 * its thread and its own number. Some threads are processes, to be killed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include "kselftest.h"
#include "fused.h"

#define SEND_MAX	2000
#define FILE_LEN	(2 * BUFFER_LEN)
#define MAX_GROUPS	8
#define MAX_SOCKS	8
#define ANY_CANCEL	(INT_MIN + 1)	/* -ECANCELED or -EINTR */

static unsigned long base_seed;
static bool verbose;
static bool stop;
static unsigned long rounds_done, groups_done, groups_refused, cqes_done;

/* What one SQE is expected to post */
struct expect {
	int res;
	bool skip;	/* no CQE if it is a success */
	bool zc;	/* and a notification */
	bool done;	/* it did */
};

struct socket_use {
	int fd[2];
	bool used;
	bool silent;
	__u64 user_data;
};

struct fuzz_group {
	struct group g;
	struct expect primary;
	struct expect secondary[66];
	struct expect before, after;	/* NOPs that it is linked to */
	bool has_before, has_after;
	int nr_linked;
	int buffer;		/* that it got, or -1 */
	bool dest;
	bool started;
	__u32 offset, len;
};

struct fuzz {
	unsigned int thread;
	unsigned long round;
	unsigned long long rng;
	struct mode mode;
	struct ring ring;
	int dev, in, out, null;
	struct socket_use sock[MAX_SOCKS];
	struct fuzz_group *group;
	int nr_groups;
	int nr_cqes;		/* that are still to come, notifications too */
	unsigned char *buf, *expected, *cover, *user;
	char text[300];
};

static unsigned int rnd(struct fuzz *f, unsigned int below)
{
	/* splitmix64 */
	unsigned long long z = f->rng += 0x9e3779b97f4a7c15ULL;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return below ? (z ^ z >> 31) % below : 0;
}

static bool one_in(struct fuzz *f, unsigned int n)
{
	return !rnd(f, n);
}

static void __printf(2, 3) tell(struct fuzz *f, const char *fmt, ...)
{
	va_list args;

	if (!verbose)
		return;
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
}

static void __printf(2, 3) wrong(struct fuzz *f, const char *fmt, ...)
{
	va_list args;

	printf("# seed %lu thread %u round %lu mode %x/%d/%x/%d: ", base_seed, f->thread,
	       f->round, f->mode.ring_flags, f->mode.inline_form, f->mode.secondary_flags,
	       f->mode.blocking);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\n# again: fused_fuzz -s %lu -r %u:%lu\nnot ok 1 fused_fuzz\n", base_seed,
	       f->thread, f->round);
	fflush(stdout);
	_exit(1);
}

/* A value around the interesting ones */
static __u32 around(struct fuzz *f, __u32 limit)
{
	switch (rnd(f, 6)) {
	case 0:
		return rnd(f, 5);
	case 1:
		return limit - rnd(f, 5);
	case 2:
		return 4096 * rnd(f, limit / 4096 + 1) + rnd(f, 3) - 1;
	default:
		return rnd(f, limit + 1);
	}
}

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

/* Secondaries -------------------------------------------------------------- */

static bool outside(__u64 addr, __u32 len, __u64 limit)
{
	return addr > limit || len > limit - addr;
}

static int result_of_read(__u32 len, __u64 off)
{
	if (off >= FILE_LEN)
		return 0;
	return len < FILE_LEN - off ? len : FILE_LEN - off;
}

static struct socket_use *free_socket(struct fuzz *f)
{
	struct socket_use *s = &f->sock[rnd(f, MAX_SOCKS)];

	if (s->used)
		return NULL;
	s->used = true;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, s->fd))
		wrong(f, "no socket");
	return s;
}

/* A secondary for a socket, if there is one left that will do */
static struct io_uring_sqe *add_socket(struct fuzz *f, struct fuzz_group *fg, struct expect *e,
				       bool dest, __u64 addr, __u32 len, bool out,
				       __u64 user_data)
{
	struct socket_use *s = free_socket(f);
	int res = out ? -EFAULT : (int)len;

	if (!s)
		return NULL;
	if (!dest && len && len <= SEND_MAX) {
		e->res = res;
		return group_add(&fg->g, IORING_OP_SEND, s->fd[0], addr, len, 0);
	}
	if (!dest) {
		/* a file that cannot */
		e->res = -EOPNOTSUPP;
		e->zc = true;
		return group_add(&fg->g, IORING_OP_SEND_ZC, s->fd[0], addr, len, 0);
	}
	if (!len || len > BUFFER_LEN)
		return NULL;

	s->user_data = user_data;
	if (!out && one_in(f, 2)) {
		/* some of it is there */
		res = rnd(f, len < 3000 ? len : 3000) + 1;
		if (send(s->fd[1], f->buf, res, MSG_DONTWAIT) != res)
			wrong(f, "cannot send %d", res);
	} else if (!out) {
		res = ANY_CANCEL;
		s->silent = true;
	}
	e->res = res;
	return group_add(&fg->g, IORING_OP_RECV, s->fd[0], addr, len, 0);
}

/* The model of one secondary that is issued, with @limit bytes of lease */
static void add_secondary(struct fuzz *f, struct fuzz_group *fg, bool leased, bool dest,
			  __u32 limit)
{
	int index = fg->g.nr;
	struct expect *e = &fg->secondary[index];
	__u64 user_data = (__u64)(fg - f->group) * 100 + index, addr = around(f, limit);
	__u32 len = addr < limit ? around(f, limit - addr) : rnd(f, 2), off = around(f, FILE_LEN);
	struct io_uring_sqe *sqe;
	bool out;

	if (one_in(f, 30))
		addr = ~0ULL - rnd(f, 3);
	if (one_in(f, 30))
		len = -1 - rnd(f, 5);
	out = outside(addr, len, limit);
	memset(e, 0, sizeof(*e));
	if (!leased)
		/* memory that is there, in the place of an offset */
		addr = (uintptr_t)f->user + rnd(f, 4096), len = rnd(f, 4096), out = false;

	sqe = NULL;
	switch (rnd(f, 10)) {
	case 0:
		sqe = group_add(&fg->g, IORING_OP_URING_CMD, f->dev, 0, 0, 0);
		sqe->cmd_op = OP_RESULT;
		sqe->uring_cmd_flags = IORING_URING_CMD_FIXED;
		e->res = one_in(f, 4) ? -ENOSPC : (int)rnd(f, 1000);
		((struct device_cmd *)sqe->cmd)->arg = e->res;
		break;
	case 1:
		sqe = add_socket(f, fg, e, dest, addr, len, out, user_data);
		break;
	}
	if (!sqe) {
		if (dest) {
			sqe = group_add(&fg->g, leased && one_in(f, 3) ? IORING_OP_READ_FIXED :
					IORING_OP_READ, f->in, addr, len, off);
			e->res = out ? -EFAULT : result_of_read(len, off);
		} else {
			sqe = group_add(&fg->g, leased && one_in(f, 3) ? IORING_OP_WRITE_FIXED :
					IORING_OP_WRITE, f->out, addr, len, off);
			e->res = out ? -EFAULT : (int)len;
		}
		if (leased)
			sqe->buf_index = rnd(f, 3);
		if (one_in(f, 25)) {
			sqe->fd = -1;
			e->res = -EBADF;
		}
	}
	sqe->user_data = user_data;
	if (one_in(f, 6))
		sqe->flags |= IOSQE_ASYNC;
	if (!e->zc && !one_in(f, 3)) {
		sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
		/* a short read speaks: it breaks links as a failed one does */
		e->skip = sqe->fd != f->in || e->res == (int)sqe->len;
	}
}

/* Make a group malformed that is not: -EINVAL whatever it is */
static void spoil(struct fuzz *f, struct fuzz_group *fg)
{
	int index = rnd(f, fg->g.nr), how = rnd(f, 7);
	static const unsigned char flags[] = { IOSQE_IO_LINK, IOSQE_IO_HARDLINK,
					       IOSQE_BUFFER_SELECT, 1 << 7 };
	static const unsigned char ops[] = {
		IORING_OP_NOP, IORING_OP_READV, IORING_OP_RECVMSG, IORING_OP_FUSED_CMD,
		IORING_OP_TIMEOUT, IORING_OP_LAST, 255,
	};
	struct io_uring_sqe *sqe = fg->g.secondary[index];

	/* it does not come as far as to have a notification */
	if (how < 3)
		fg->secondary[index].zc = false;
	switch (how) {
	case 0:
		sqe->flags |= flags[rnd(f, sizeof(flags))];
		break;
	case 1:
		sqe->opcode = ops[rnd(f, sizeof(ops))];
		break;
	case 2:
		sqe->personality = 1 + rnd(f, 1000);
		break;
	case 3:
		fg->g.primary->ioprio = 1;
		break;
	case 4:
		fg->g.primary->__pad1 = 1 + rnd(f, 1000);
		break;
	case 5:
		fg->g.primary->uring_cmd_flags |= 1U << (4 + rnd(f, 28));
		break;
	case 6:
		fg->g.primary->flags |= IOSQE_BUFFER_SELECT;
		break;
	}
}

/* Groups ------------------------------------------------------------------- */

/* The primary has @res without its secondaries being issued */
static void refused(struct fuzz_group *fg, int res)
{
	int i;

	fg->primary.res = res;
	for (i = 0; i < fg->g.nr; i++)
		fg->secondary[i] = (struct expect){ .res = -ECANCELED,
						    .zc = fg->secondary[i].zc };
	fg->started = false;
}

static void make_group(struct fuzz *f, struct fuzz_group *fg, int index)
{
	unsigned int op = OP_LEND, flags = 0;
	bool leased = true;
	int i, nr, res = 0;

	memset(fg, 0, sizeof(*fg));
	fg->buffer = -1;
	fg->dest = rnd(f, 2);
	if (!fg->dest)
		flags |= LEND_SOURCE;
	if (one_in(f, 6)) {
		op = OP_START;
		leased = false;
	} else if (one_in(f, 12)) {
		op = OP_REFUSE;
		res = -ENODEV;
	} else if (one_in(f, 25)) {
		op = OP_RELEASE + 1 + rnd(f, 1000);
		res = -ENOTTY;
	}
	fg->offset = one_in(f, 2) ? 0 : rnd(f, BUFFER_LEN - 1);
	fg->len = 1 + around(f, BUFFER_LEN - fg->offset - 1);
	if (!fg->len || fg->len > BUFFER_LEN - fg->offset)
		fg->len = BUFFER_LEN - fg->offset;
	group_init(&fg->g, &f->ring, &f->mode, f->dev, op, flags, fg->len);
	if (leased)
		fg->g.primary->uring_cmd_flags |= IORING_FUSED_CMD_BUF;
	group_cmd(&fg->g)->buffer = index;
	group_cmd(&fg->g)->offset = fg->offset;
	group_cmd(&fg->g)->arg = ENODEV;
	if (one_in(f, 8))
		group_cmd(&fg->g)->flags |= LEND_BLOCKING;
	fg->g.primary->user_data = UD_PRIMARY + index;
	if (one_in(f, 10))
		fg->g.primary->flags |= IOSQE_ASYNC;

	nr = one_in(f, 3) ? 1 : one_in(f, 10) ? 1 + rnd(f, 64) : 1 + rnd(f, 6);
	for (i = 0; i < nr; i++)
		add_secondary(f, fg, leased, fg->dest, leased ? fg->len : BUFFER_LEN);
	fg->started = true;
	if (leased && !res)
		fg->buffer = index;

	/* what the driver says, then what the SQEs say, which counts first */
	if (res) {
		refused(fg, res);
	} else if (one_in(f, 15)) {
		switch (rnd(f, 4)) {
		case 0:
			group_cmd(&fg->g)->flags |= 1U << (2 + rnd(f, 14));
			break;
		case 1:
			fg->g.primary->uring_cmd_flags ^= IORING_FUSED_CMD_BUF;
			/* a bad address would be found first */
			for (i = 0; leased && i < fg->g.nr; i++) {
				fg->g.secondary[i]->addr = (uintptr_t)f->user;
				fg->g.secondary[i]->len = 100;
			}
			break;
		case 2:
			if (!leased)
				group_cmd(&fg->g)->flags |= 1U << 15;
			else
				group_cmd(&fg->g)->buffer = NR_BUFFERS + rnd(f, 100);
			break;
		case 3:
			if (!leased)
				group_cmd(&fg->g)->flags |= 1U << 15;
			else
				group_cmd(&fg->g)->len = BUFFER_LEN + 1 + rnd(f, 100);
			break;
		}
		refused(fg, -EINVAL);
		fg->buffer = -1;
	}
	if (one_in(f, 10)) {
		spoil(f, fg);
		refused(fg, -EINVAL);
		fg->buffer = -1;
	}

	/* the sum, or the first error */
	if (fg->started) {
		long long sum = 0;

		for (i = 0; i < fg->g.nr && !fg->primary.res; i++) {
			res = fg->secondary[i].res;
			if (res == ANY_CANCEL || res < 0)
				fg->primary.res = res;
			else
				sum += res;
		}
		if (!fg->primary.res)
			fg->primary.res = sum > INT_MAX ? INT_MAX : sum;
	}
}

static int malformed(const struct fuzz_group *fg)
{
	/* as opposed to one that the driver refuses, which links hard, too */
	return !fg->started && fg->primary.res == -EINVAL;
}

/* A read that comes short breaks the group's link as it would its own. */
static bool comes_short(struct fuzz *f, struct fuzz_group *fg)
{
	for (int i = 0; i < fg->g.nr; i++) {
		const struct io_uring_sqe *sqe = fg->g.secondary[i];
		int res = fg->secondary[i].res;

		if (sqe->fd == f->in && res >= 0 && res != (int)sqe->len)
			return true;
	}
	return false;
}

/* Put the group between NOPs that it is linked to. */
static void push_group(struct fuzz *f, struct fuzz_group *fg, int index)
{
	bool fails = fg->primary.res < 0 || comes_short(f, fg);

	if (one_in(f, 8)) {
		fg->has_before = true;
		push_nop(&f->ring, UD_SENTINEL + index, IOSQE_IO_LINK);
	}
	/* whether it breaks depends on when it is refused; -EINVAL is either */
	if (one_in(f, 8) && !malformed(fg)) {
		fg->has_after = true;
		fg->g.primary->flags |= IOSQE_IO_LINK;
		if (fails)
			fg->after.res = -ECANCELED;
	}
	group_push(&fg->g);
	if (fg->has_after)
		push_nop(&f->ring, UD_OTHER + index, 0);
}

/* CQEs that are still to come */
static int nr_cqes(const struct expect *e)
{
	return (!e->done && (e->res < 0 || !e->skip)) + e->zc;
}

/* CQEs --------------------------------------------------------------------- */

static bool fits(int want, int got)
{
	if (want == ANY_CANCEL)
		return got == -ECANCELED || got == -EINTR;
	return want == got;
}

static void check_cqe(struct fuzz *f, struct expect *e, const struct cqe *cqe, const char *what,
		      int group, int index)
{
	if (cqe->flags & IORING_CQE_F_NOTIF && e->zc) {
		e->zc = false;
	} else if (!fits(e->res, cqe->res)) {
		wrong(f, "%s %d of group %d posts %d, should be %d", what, index, group, cqe->res,
		      e->res);
	} else if (e->done || (e->res >= 0 && e->skip)) {
		wrong(f, "%s %d of group %d posts twice, or though it skips", what, index, group);
	} else {
		e->done = true;
	}
	f->nr_cqes--;
}

static void handle_cqe(struct fuzz *f, const struct cqe *cqe)
{
	__u64 ud = cqe->user_data;
	struct fuzz_group *fg;
	int i;

	tell(f, "# cqe %llu res %d flags %x\n", (unsigned long long)ud, cqe->res, cqe->flags);
	if (cqe->extra[0] || cqe->extra[1])
		wrong(f, "CQE %llu has extra data", (unsigned long long)ud);
	if (ud >= UD_OTHER && ud < UD_OTHER + f->nr_groups) {
		fg = &f->group[ud - UD_OTHER];
		check_cqe(f, &fg->after, cqe, "linked", ud - UD_OTHER, 0);
	} else if (ud >= UD_SENTINEL && ud < UD_SENTINEL + f->nr_groups) {
		/* it is canceled if the link is malformed: either is fine */
		fg = &f->group[ud - UD_SENTINEL];
		if (cqe->res && (cqe->res != -ECANCELED || !malformed(fg)))
			wrong(f, "the head of a link posts %d", cqe->res);
		f->nr_cqes--;
	} else if (ud >= UD_PRIMARY && ud < UD_PRIMARY + f->nr_groups) {
		int group = ud - UD_PRIMARY;

		fg = &f->group[group];
		check_cqe(f, &fg->primary, cqe, "primary", group, 0);
		/* the order: nothing of its secondaries may follow */
		for (i = 0; i < fg->g.nr && fg->started; i++)
			/* only a lease is waited for until the notification */
			if (nr_cqes(&fg->secondary[i]) &&
			    (fg->buffer >= 0 || !fg->secondary[i].zc || !fg->secondary[i].done))
				wrong(f, "group %d: the primary comes before secondary %d",
				      group, i);
	} else if (ud / 100 < (unsigned int)f->nr_groups) {
		fg = &f->group[ud / 100];
		i = ud % 100;
		if (i >= fg->g.nr)
			wrong(f, "CQE of secondary %d of %d", i, fg->g.nr);
		check_cqe(f, &fg->secondary[i], cqe, "secondary", ud / 100, i);
	} else {
		wrong(f, "CQE of nobody: %llu", (unsigned long long)ud);
	}
	__sync_fetch_and_add(&cqes_done, 1);
}

/* What a silent socket waits for: to be canceled, in one of several ways */
static void end_silent(struct fuzz *f)
{
	int i;

	for (i = 0; i < MAX_SOCKS; i++) {
		struct io_uring_sync_cancel_reg cancel = {
			.addr = f->sock[i].user_data, .fd = -1,
			.timeout = { .tv_sec = -1, .tv_nsec = -1 },
		};

		if (!f->sock[i].silent)
			continue;
		if (one_in(f, 3)) {
			cancel.fd = f->sock[i].fd[0];
			cancel.flags = IORING_ASYNC_CANCEL_FD | IORING_ASYNC_CANCEL_ALL;
		}
		ring_register(&f->ring, IORING_REGISTER_SYNC_CANCEL, &cancel, 1);
	}
}

/* Buffers ------------------------------------------------------------------ */

/* What must be in the buffer of a group that wrote to it */
static void check_buffer(struct fuzz *f, struct fuzz_group *fg)
{
	long end = now_ms() + TIMEOUT_MS;
	unsigned int i, k, from, len;
	const struct io_uring_sqe *sqe;
	int res;

	while (pread(f->dev, f->buf, BUFFER_LEN, (off_t)fg->buffer * BUFFER_LEN) != BUFFER_LEN) {
		if (errno != EBUSY || now_ms() > end)
			wrong(f, "buffer %d is not back: %s", fg->buffer, strerror(errno));
		usleep(100);
	}
	if (!fg->started)
		return;
	fill(f->expected, fg->buffer, 0, BUFFER_LEN);
	memset(f->cover, 0, BUFFER_LEN);
	for (i = 0; i < (unsigned int)fg->g.nr && fg->dest; i++) {
		sqe = fg->g.secondary[i];
		if (sqe->opcode == IORING_OP_URING_CMD || outside(sqe->addr, sqe->len, fg->len))
			continue;
		from = fg->offset + sqe->addr;
		len = sqe->len;
		/* more than one, or one that the model says too little about */
		for (k = from; k < from + len; k++)
			f->cover[k] += f->cover[k] < 3;
		if (sqe->opcode == IORING_OP_RECV || sqe->fd == -1) {
			for (k = from; k < from + len; k++)
				f->cover[k] = 3;
			continue;
		}
		res = result_of_read(len, sqe->off);
		fill(f->expected + from, 0, sqe->off, res);
		memset(f->expected + from + res, 0, len - res);
	}
	for (k = 0; k < BUFFER_LEN; k++)
		if (f->cover[k] < 2 && f->buf[k] != f->expected[k])
			wrong(f, "buffer %d has %02x at %u, should be %02x", fg->buffer, f->buf[k],
			      k, f->expected[k]);
}

/* Rounds ------------------------------------------------------------------- */

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

static void one_round(struct fuzz *f)
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
	while (!let_go && f->nr_cqes > 0) {
		if (ring_wait(&f->ring, &cqe, 5))
			handle_cqe(f, &cqe);
		else
			end_silent(f);
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
		f->dev = open(DEVICE, O_RDWR);
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

static void fuzz_init(struct fuzz *f)
{
	f->dev = open(DEVICE, O_RDWR);
	f->in = memfd_create("in", 0);
	f->out = memfd_create("out", 0);
	f->buf = malloc(BUFFER_LEN);
	f->expected = malloc(BUFFER_LEN);
	f->cover = malloc(BUFFER_LEN);
	f->user = malloc(BUFFER_LEN);
	f->group = calloc(MAX_GROUPS, sizeof(*f->group));
	if (f->dev < 0 || f->in < 0 || f->out < 0 || !f->buf || !f->expected || !f->cover ||
	    !f->user || !f->group)
		wrong(f, "cannot start: %s", strerror(errno));
	fill(f->buf, 0, 0, BUFFER_LEN);
	if (write(f->in, f->buf, BUFFER_LEN) != BUFFER_LEN)
		wrong(f, "no file");
	fill(f->buf, 0, BUFFER_LEN, BUFFER_LEN);
	if (write(f->in, f->buf, BUFFER_LEN) != BUFFER_LEN || ftruncate(f->out, FILE_LEN))
		wrong(f, "no file");
}

static void *fuzz_thread(void *arg)
{
	struct fuzz f = { .thread = (uintptr_t)arg };

	fuzz_init(&f);
	for (f.round = 0; !__atomic_load_n(&stop, __ATOMIC_RELAXED); f.round++)
		one_round(&f);
	return NULL;
}

/* A process that is killed in the middle, again and again */
static void killed_thread(unsigned int thread, long end)
{
	unsigned int seed = base_seed + thread;
	unsigned long start = 0;
	int status;
	pid_t pid;

	while (now_ms() < end) {
		pid = fork();
		if (!pid) {
			struct fuzz f = { .thread = thread };

			fuzz_init(&f);
			for (f.round = start;; f.round++)
				one_round(&f);
		}
		usleep(50000 + rand_r(&seed) % 500000);
		kill(pid, SIGKILL);
		if (waitpid(pid, &status, 0) != pid || !WIFSIGNALED(status))
			_exit(1);
		start += 1000;
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	unsigned int threads = 3, i;
	unsigned long seconds = 20;
	pthread_t thread[64];
	int opt, status, bad = 0;
	struct fuzz f = { };
	pid_t killed;
	long end;

	base_seed = time(NULL);
	while ((opt = getopt(argc, argv, "t:s:j:r:")) != -1) {
		switch (opt) {
		case 't':
			seconds = strtoul(optarg, NULL, 0);
			break;
		case 's':
			base_seed = strtoul(optarg, NULL, 0);
			break;
		case 'j':
			threads = strtoul(optarg, NULL, 0);
			break;
		case 'r':
			verbose = true;
			if (sscanf(optarg, "%u:%lu", &f.thread, &f.round) != 2)
				return 2;
			break;
		default:
			return 2;
		}
	}
	if (threads > 64)
		threads = 64;
	printf("TAP version 13\n1..1\n# seed %lu, %u threads, %lu s\n", base_seed, threads,
	       seconds);
	if (access(DEVICE, F_OK)) {
		printf("ok 1 # SKIP no " DEVICE "\n");
		return 4;
	}
	signal(SIGPIPE, SIG_IGN);
	if (verbose) {
		fuzz_init(&f);
		one_round(&f);
		printf("ok 1 fused_fuzz\n");
		return 0;
	}
	fflush(stdout);
	end = now_ms() + seconds * 1000;
	killed = fork();
	if (!killed)
		killed_thread(threads, end);
	for (i = 0; i < threads; i++)
		pthread_create(&thread[i], NULL, fuzz_thread, (void *)(uintptr_t)i);
	while (now_ms() < end)
		usleep(100000);
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
	if (waitpid(killed, &status, 0) != killed || status)
		bad = 1;
	printf("# %lu rounds, %lu groups, %lu of them refused, %lu CQEs\n", rounds_done,
	       groups_done, groups_refused, cqes_done);
	printf("%sok 1 fused_fuzz\n", bad ? "not " : "");
	return bad;
}
