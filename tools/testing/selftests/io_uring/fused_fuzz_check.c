// SPDX-License-Identifier: GPL-2.0
/*
 * The CQEs and buffers of fused_fuzz, against what the model says of them
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include "fused_fuzz.h"

int nr_cqes(const struct expect *e)
{
	return (!e->done && (e->res < 0 || !e->skip)) + e->zc;
}

bool fits(int want, int got)
{
	if (want == ANY_CANCEL)
		return canceled(got);
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

void handle_cqe(struct fuzz *f, const struct cqe *cqe)
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
	} else if (f->asked && ud == UD_RELEASE) {
		f->asked = false;
		/* a group that is not over is not there yet */
		if (cqe->res == -ENOENT)
			return;
		if (!fits(f->kept->told, cqe->res))
			wrong(f, "the driver is told %d, should be %d", cqe->res, f->kept->told);
		f->kept = NULL;
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

/* What secondary @index has brought into the buffer, as far as that is known */
static void expect_ranges(struct fuzz *f, struct fuzz_group *fg, int index)
{
	const struct io_uring_sqe *sqe = fg->g.secondary[index];
	int i, res = fg->secondary[index].res;
	__u64 done = 0, known;

	/* nothing, if one of its ranges is bad, or all are too much */
	if (sqe->opcode == IORING_OP_URING_CMD || sqe->opcode == IORING_OP_NOP ||
	    res == -EFAULT || res == -EINVAL)
		return;
	/* of a receive, it only says what must be zeroes */
	known = sqe->opcode == IORING_OP_RECV && res > 0 ? res : 0;
	if (sqe->fd == -1 || (sqe->opcode == IORING_OP_RECV && !known))
		known = sum_of_ranges(fg, index);
	if (sqe->fd == f->in)
		known = result_of_read(sum_of_ranges(fg, index), sqe->off);
	for (i = 0; i < nr_ranges(fg, index); i++) {
		struct iovec range = nth_range(fg, index, i);
		__u32 from = fg->offset + (uintptr_t)range.iov_base, len = range.iov_len, k;
		__u32 moved = known - done < len ? known - done : len;

		if (outside((uintptr_t)range.iov_base, len, fg->len))
			return;
		/* more than one, or one that the model says too little about */
		for (k = from; k < from + len; k++)
			f->cover[k] += f->cover[k] < 3;
		if (sqe->fd == f->in)
			fill(f->expected + from, 0, sqe->off + done, moved);
		else
			memset(f->cover + from, 3, moved);
		memset(f->expected + from + moved, 0, len - moved);
		done += moved;
	}
}

void check_buffer(struct fuzz *f, struct fuzz_group *fg)
{
	long end = now_ms() + TIMEOUT_MS;
	unsigned int i, k;

	while (pread(f->dev, f->buf, BUFFER_LEN, (off_t)fg->buffer * BUFFER_LEN) != BUFFER_LEN) {
		if (errno != EBUSY || now_ms() > end)
			wrong(f, "buffer %d is not back: %s", fg->buffer, strerror(errno));
		usleep(100);
	}
	if (!fg->started)
		return;
	fill(f->expected, fg->buffer, 0, BUFFER_LEN);
	memset(f->cover, 0, BUFFER_LEN);
	/* what no secondary was given is zeroed if all of it is taken for good data */
	if (fg->kept && fg->dest) {
		memset(f->expected + fg->offset, 0, fg->len);
		if (fg->told < 0)
			memset(f->cover + fg->offset, 3, fg->len);
	}
	for (i = 0; i < (unsigned int)fg->g.nr && fg->dest; i++)
		expect_ranges(f, fg, i);
	for (k = 0; k < BUFFER_LEN; k++)
		if (f->cover[k] < 2 && f->buf[k] != f->expected[k])
			wrong(f, "buffer %d has %02x at %u, should be %02x", fg->buffer, f->buf[k],
			      k, f->expected[k]);
}
