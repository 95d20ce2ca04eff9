// SPDX-License-Identifier: GPL-2.0
/*
 * Random secondaries of fused_fuzz, each with what it will post
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include "fields.h"
#include "fused_fuzz.h"

#define SEND_MAX	2000

bool outside(__u64 addr, __u64 len, __u64 limit)
{
	return addr > limit || len > limit - addr;
}

bool is_vectored(const struct io_uring_sqe *sqe)
{
	return sqe->opcode == IORING_OP_READV || sqe->opcode == IORING_OP_READV_FIXED ||
		sqe->opcode == IORING_OP_WRITEV || sqe->opcode == IORING_OP_WRITEV_FIXED;
}

int nr_ranges(const struct fuzz_group *fg, int index)
{
	const struct io_uring_sqe *sqe = fg->g.secondary[index];

	return is_vectored(sqe) ? (int)sqe->len : 1;
}

struct iovec nth_range(const struct fuzz_group *fg, int index, int i)
{
	const struct io_uring_sqe *sqe = fg->g.secondary[index];

	if (is_vectored(sqe))
		return fg->piece[index][i];
	return (struct iovec){ (void *)sqe->addr, sqe->len };
}

__u64 sum_of_ranges(const struct fuzz_group *fg, int index)
{
	__u64 sum = 0;
	int i;

	for (i = 0; i < nr_ranges(fg, index); i++)
		sum += nth_range(fg, index, i).iov_len;
	return sum;
}

/* Pieces in place of one range: how many, and whether one of them is bad */
static int make_pieces(struct fuzz *f, struct iovec *piece, __u32 limit, bool *bad)
{
	int i, nr = rnd(f, MAX_PIECES + 1);

	*bad = false;
	for (i = 0; i < nr; i++) {
		__u64 addr = around(f, limit), len = addr < limit ? around(f, limit - addr) : 1;

		if (one_in(f, 30))
			addr = ~0ULL - rnd(f, 3);
		if (!len && !one_in(f, 20))
			len = 1;
		piece[i] = (struct iovec){ (void *)addr, len };
		*bad |= !len || outside(addr, len, limit);
	}
	return nr;
}

/* Does secondary @index say that its buffer is leased? */
static bool asks_for_lease(const struct fuzz_group *fg, int index)
{
	if (fg->by_flag)
		return fg->g.secondary[index]->flags & IOSQE_IO_DRAIN;
	return fg->g.primary->uring_cmd_flags & IORING_FUSED_CMD_BUF;
}

bool spoil_field(struct fuzz *f, struct fuzz_group *fg, int index)
{
	struct io_uring_sqe *sqe = fg->g.secondary[index];
	const struct field *field = fields;
	unsigned int nr = 0, bit;
	const __u8 *op;
	__u64 value = 0;

	while (field[nr].name)
		nr++;
	field += rnd(f, nr);
	op = memchr(field->ops, sqe->opcode, sizeof(field->ops));
	bit = rnd(f, field->size * 8);
	if (!op || field->allowed & (1ULL << bit))
		return false;
	/* a member's flags say more; this one would have the SQE behind the group in it */
	if (field->offset == offsetof(struct io_uring_sqe, flags) &&
	    (fg->by_flag || (index == fg->g.nr - 1 && 1 << bit == IOSQE_SQE_GROUP)))
		return false;
	/* it means what it always does */
	if (field->offset == offsetof(struct io_uring_sqe, buf_index) &&
	    !asks_for_lease(fg, index))
		return false;
	memcpy(&value, (char *)sqe + field->offset, field->size);
	value |= 1ULL << bit;
	memcpy((char *)sqe + field->offset, &value, field->size);
	/* a SEND_ZC looks at these before it has a notification */
	if (field->offset == offsetof(struct io_uring_sqe, flags) ||
	    field->offset == offsetof(struct io_uring_sqe, buf_index) ||
	    field->offset == offsetof(struct io_uring_sqe, __pad2))
		fg->secondary[index].zc = false;
	tell(f, "# spoiled: %s, bit %u of opcode %u\n", field->name, bit, *op);
	return true;
}

int result_of_read(__u32 len, __u64 off)
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

void add_secondary(struct fuzz *f, struct fuzz_group *fg, bool leased, bool dest,
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
		/* its result is no number of bytes: that group would be refused */
		if (fg->kept)
			break;
		e->res = one_in(f, 4) ? -ENOSPC : (int)rnd(f, 1000);
		sqe = group_add_cmd(&fg->g, f->dev, e->res);
		break;
	case 1:
		sqe = add_socket(f, fg, e, dest, addr, len, out, user_data);
		break;
	}
	if (!sqe && leased && one_in(f, 3)) {
		int nr = make_pieces(f, fg->piece[index], limit, &out);
		__u64 pieces = (uintptr_t)fg->piece[index];

		if (dest)
			sqe = group_add(&fg->g, one_in(f, 2) ? IORING_OP_READV :
					IORING_OP_READV_FIXED, f->in, pieces, nr, off);
		else
			sqe = group_add(&fg->g, one_in(f, 2) ? IORING_OP_WRITEV :
					IORING_OP_WRITEV_FIXED, f->out, pieces, nr, off);
		len = sum_of_ranges(fg, index);
		e->res = out ? -EFAULT : dest ? result_of_read(len, off) : (int)len;
		/* pieces that overlap are no more than there is once */
		if (!out && dest && len > limit)
			e->res = -EINVAL;
	} else if (!sqe) {
		if (dest) {
			sqe = group_add(&fg->g, leased && one_in(f, 3) ? IORING_OP_READ_FIXED :
					IORING_OP_READ, f->in, addr, len, off);
			e->res = out ? -EFAULT : result_of_read(len, off);
		} else {
			sqe = group_add(&fg->g, leased && one_in(f, 3) ? IORING_OP_WRITE_FIXED :
					IORING_OP_WRITE, f->out, addr, len, off);
			e->res = out ? -EFAULT : (int)len;
		}
	}
	if ((sqe->fd == f->in || sqe->fd == f->out) && one_in(f, 25)) {
		sqe->fd = -1;
		e->res = -EBADF;
	}
	sqe->user_data = user_data;
	if (one_in(f, 6))
		sqe->flags |= IOSQE_ASYNC;
	if (!e->zc && !one_in(f, 3)) {
		sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
		/* a short read speaks, as a short receive of a lease does */
		e->skip = e->res == (int)sum_of_ranges(fg, index) ||
			  (sqe->fd != f->in && !(leased && sqe->opcode == IORING_OP_RECV));
	}
}
