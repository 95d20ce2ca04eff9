// SPDX-License-Identifier: GPL-2.0
/*
 * Random groups of fused_fuzz, each with what its primary will post
 */
#include <errno.h>
#include <string.h>
#include "fused_fuzz.h"

/* The same for an SQE group whose members may say what any request may */
static void spoil_plain(struct fuzz *f, struct fuzz_group *fg)
{
	static const unsigned char ops[] = {
		IORING_OP_FUSED_CMD, IORING_OP_LINK_TIMEOUT, IORING_OP_LAST, 255,
	};
	int index = rnd(f, fg->g.nr);
	struct io_uring_sqe *sqe = fg->g.secondary[index];

	fg->secondary[index].zc = false;
	switch (rnd(f, 3)) {
	case 0:
		sqe->flags |= one_in(f, 2) ? IOSQE_IO_LINK : IOSQE_IO_HARDLINK;
		break;
	case 1:
		sqe->opcode = ops[rnd(f, sizeof(ops))];
		if (sqe->opcode == IORING_OP_FUSED_CMD)
			sqe->nr_secondary = rnd(f, fg->g.nr - index);
		break;
	case 2:
		sqe->personality = 1 + rnd(f, 1000);
		break;
	}
}

/* Make a group malformed that is not: -EINVAL whatever it is */
static void spoil(struct fuzz *f, struct fuzz_group *fg)
{
	int index = rnd(f, fg->g.nr), how = rnd(f, 9);
	static const unsigned char flags[] = { IOSQE_IO_LINK, IOSQE_IO_HARDLINK,
					       IOSQE_BUFFER_SELECT, IOSQE_SQE_GROUP };
	static const unsigned char ops[] = {
		IORING_OP_NOP, IORING_OP_SENDMSG, IORING_OP_RECVMSG, IORING_OP_FUSED_CMD,
		IORING_OP_TIMEOUT, IORING_OP_LAST, 255,
	};
	struct io_uring_sqe *sqe;

	/* not one without a lease, of which there are none but at the end */
	while (fg->g.secondary[index]->opcode == IORING_OP_NOP)
		index--;
	sqe = fg->g.secondary[index];
	/* it does not come as far as to have a notification */
	if (how < 3)
		fg->secondary[index].zc = false;
	switch (how) {
	case 0:
		/* the last flag would put the SQE behind the group into it */
		sqe->flags |= flags[rnd(f, sizeof(flags) - (fg->by_flag || index == fg->g.nr - 1))];
		break;
	case 1:
		sqe->opcode = ops[rnd(f, sizeof(ops))];
		if (sqe->opcode == IORING_OP_FUSED_CMD)
			sqe->nr_secondary = rnd(f, fg->g.nr - index);
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
	default:
		/* most fields are not of this opcode */
		while (!spoil_field(f, fg, index))
			;
		break;
	}
}

/* Say by a flag what was going to be a fused command. */
static void make_leader(struct fuzz *f, struct fuzz_group *fg)
{
	struct io_uring_sqe *sqe;
	int i;

	fg->g.primary->flags |= IOSQE_SQE_GROUP;
	fg->g.primary->uring_cmd_flags = 0;
	fg->g.primary->opcode = IORING_OP_URING_CMD;
	if (fg->plain) {
		fg->g.primary->opcode = IORING_OP_NOP;
		fg->g.primary->nop_flags = IORING_NOP_INJECT_RESULT |
			(one_in(f, 4) ? IORING_NOP_TW : 0);
		fg->g.primary->len = one_in(f, 4) ? -ENOSR : (int)rnd(f, 1000);
	}
	for (i = 0; i < fg->g.nr && !fg->plain; i++)
		fg->g.secondary[i]->flags |= IOSQE_IO_DRAIN;
	for (i = 0; i < 2 && fg->g.nr < 64 && one_in(f, 3); i++) {
		struct expect *e = &fg->secondary[fg->g.nr];

		e->res = one_in(f, 4) ? -ENOSR : (int)rnd(f, 1000);
		sqe = group_add_nop(&fg->g, e->res);
		sqe->user_data += (fg - f->group) * 100;
		if (one_in(f, 3))
			sqe->nop_flags |= IORING_NOP_TW;
	}
}

/* The primary has @res without its secondaries being issued */
static void refused(struct fuzz *f, struct fuzz_group *fg, int res)
{
	int i;

	fg->primary.res = res;
	if (f->kept == fg)
		f->kept = NULL;
	fg->kept = false;
	for (i = 0; i < fg->g.nr; i++)
		fg->secondary[i] = (struct expect){ .res = -ECANCELED,
						    .zc = fg->secondary[i].zc };
	fg->started = false;
}

/* What becomes of a group that is started: the sum, or the first error */
static void predict(struct fuzz *f, struct fuzz_group *fg)
{
	long long sum = 0;
	int i, res, error = 0;

	for (i = 0; i < fg->g.nr && !error; i++) {
		const struct io_uring_sqe *sqe = fg->g.secondary[i];

		res = fg->secondary[i].res;
		if (res < 0)
			error = res;
		else if (fg->kept && sqe->opcode == IORING_OP_RECV && res != (int)sqe->len)
			/* a peer that sent less is no good data */
			error = -EIO;
		else
			sum += res;
	}
	res = error ? error : sum > INT_MAX ? INT_MAX : sum;
	/* a leader has its own */
	if (fg->by_flag)
		res = fg->plain ? (int)fg->g.primary->len : 0;
	if (fg->kept) {
		/* its result is what it is released with */
		fg->told = res;
		res = rnd(f, 1000);
	}
	fg->primary.res = res;
}

void make_group(struct fuzz *f, struct fuzz_group *fg, int index)
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
		op = 100 + rnd(f, 1000);
		res = -ENOTTY;
	} else if (!f->kept && one_in(f, 3)) {
		op = OP_KEEP;
		fg->kept = true;
		f->kept = fg;
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
	fg->by_flag = !fg->kept && one_in(f, 3);
	fg->plain = fg->by_flag && !leased;
	if (fg->by_flag)
		make_leader(f, fg);
	if (fg->plain && (int)fg->g.primary->len < 0)
		res = fg->g.primary->len;

	/* what the driver says, then what the SQEs say, which counts first */
	if (res) {
		refused(f, fg, res);
	} else if (!fg->plain && one_in(f, 15)) {
		switch (rnd(f, 4)) {
		case 0:
			/* one that no device knows */
			group_cmd(&fg->g)->flags |= 1U << (8 + rnd(f, 8));
			break;
		case 1:
			fg->g.primary->uring_cmd_flags ^= IORING_FUSED_CMD_BUF;
			/* a bad address would be found first */
			for (i = 0; leased && !fg->by_flag && i < fg->g.nr; i++) {
				fg->g.secondary[i]->addr = (uintptr_t)f->user;
				fg->g.secondary[i]->len = is_vectored(fg->g.secondary[i]) ? 0 : 100;
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
		refused(f, fg, -EINVAL);
		fg->buffer = -1;
	}
	if (one_in(f, 10)) {
		if (fg->plain)
			spoil_plain(f, fg);
		else
			spoil(f, fg);
		refused(f, fg, -EINVAL);
		fg->buffer = -1;
	}

	if (fg->started)
		predict(f, fg);
}

int malformed(const struct fuzz_group *fg)
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

		if (sqe->fd == f->in && res >= 0 && res != (int)sum_of_ranges(fg, i))
			return true;
	}
	return false;
}

/* A member that fails breaks the group's link, though the leader does not say so. */
static bool member_fails(struct fuzz_group *fg)
{
	for (int i = 0; i < fg->g.nr; i++)
		if (fg->secondary[i].res < 0)
			return true;
	return false;
}

void push_group(struct fuzz *f, struct fuzz_group *fg, int index)
{
	bool fails = fg->primary.res < 0 || comes_short(f, fg) || member_fails(fg);

	if (one_in(f, 8)) {
		fg->has_before = true;
		push_nop(&f->ring, UD_SENTINEL + index, IOSQE_IO_LINK);
	}
	/* whether it breaks depends on when it is refused; -EINVAL is either */
	if (one_in(f, 8) && !malformed(fg) && !fg->kept) {
		fg->has_after = true;
		fg->g.primary->flags |= IOSQE_IO_LINK;
		if (fails)
			fg->after.res = -ECANCELED;
	}
	group_push(&fg->g);
	if (fg->has_after)
		push_nop(&f->ring, UD_OTHER + index, 0);
}
