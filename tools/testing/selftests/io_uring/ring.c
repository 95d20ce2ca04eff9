// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include "ring.h"

long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000L + ts.tv_nsec / 1000000;
}

static int enter(struct ring *r, unsigned int submit, unsigned int wait,
		 unsigned int flags, int ms)
{
	struct __kernel_timespec ts = { ms / 1000, ms % 1000 * 1000000LL };
	struct io_uring_getevents_arg arg = { .ts = ms < 0 ? 0 : (uintptr_t)&ts };
	int ret;

	ret = syscall(__NR_io_uring_enter, r->fd, submit, wait,
		      flags | (wait ? IORING_ENTER_EXT_ARG : 0),
		      wait ? &arg : NULL, wait ? sizeof(arg) : 0);
	return ret < 0 ? -errno : ret;
}

int ring_init(struct ring *r, unsigned int entries, struct io_uring_params *p)
{
	size_t sq_len, cq_len;

	memset(r, 0, sizeof(*r));
	r->fd = syscall(__NR_io_uring_setup, entries, p);
	if (r->fd < 0)
		return -errno;
	r->p = *p;
	sq_len = p->sq_off.array + p->sq_entries * sizeof(unsigned int);
	cq_len = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe) *
		(p->flags & IORING_SETUP_CQE32 ? 2 : 1);
	r->rings_len = sq_len > cq_len ? sq_len : cq_len;
	r->rings = mmap(NULL, r->rings_len, PROT_READ | PROT_WRITE, MAP_SHARED,
			r->fd, IORING_OFF_SQ_RING);
	r->sqes_len = p->sq_entries * sizeof(struct io_uring_sqe) *
		(p->flags & IORING_SETUP_SQE128 ? 2 : 1);
	r->sqes = mmap(NULL, r->sqes_len, PROT_READ | PROT_WRITE, MAP_SHARED,
		       r->fd, IORING_OFF_SQES);
	if (r->rings == MAP_FAILED || r->sqes == MAP_FAILED)
		return -ENOMEM;
	r->sq_head = r->rings + p->sq_off.head;
	r->sq_tail = r->rings + p->sq_off.tail;
	r->sq_flags = r->rings + p->sq_off.flags;
	r->sq_dropped = r->rings + p->sq_off.dropped;
	if (!(p->flags & IORING_SETUP_NO_SQARRAY)) {
		unsigned int i;

		r->sq_array = r->rings + p->sq_off.array;
		for (i = 0; i < p->sq_entries; i++)
			r->sq_array[i] = i;
	}
	r->cq_head = r->rings + p->cq_off.head;
	r->cq_tail = r->rings + p->cq_off.tail;
	r->cq_overflow = r->rings + p->cq_off.overflow;
	r->cqes = r->rings + p->cq_off.cqes;
	return 0;
}

void ring_exit(struct ring *r)
{
	munmap(r->rings, r->rings_len);
	munmap(r->sqes, r->sqes_len);
	close(r->fd);
}

static void put(struct ring *r, const struct io_uring_sqe *sqe, int halves)
{
	unsigned int shift = r->p.flags & IORING_SETUP_SQE128 ? 1 : 0;
	unsigned int i = r->tail & (r->p.sq_entries - 1);

	memcpy(&r->sqes[i << shift], sqe, halves * sizeof(*sqe));
	/* 128 bytes take two entries where SQEs usually have 64 */
	r->tail += shift ? 1 : halves;
}

void ring_push(struct ring *r, const struct io_uring_sqe *sqe, bool big)
{
	unsigned int mask = r->p.sq_entries - 1;

	/* not around the end of the ring */
	if (big && r->p.flags & IORING_SETUP_SQE_MIXED && (r->tail & mask) == mask) {
		struct io_uring_sqe nop = {
			.opcode = IORING_OP_NOP,
			.flags = IOSQE_CQE_SKIP_SUCCESS,
		};

		put(r, &nop, 1);
	}
	put(r, sqe, big ? 2 : 1);
}

unsigned int ring_publish(struct ring *r)
{
	unsigned int nr = r->tail - *r->sq_tail;

	__atomic_store_n(r->sq_tail, r->tail, __ATOMIC_RELEASE);
	return nr;
}

int ring_enter(struct ring *r, unsigned int nr)
{
	long end = now_ms() + 20000;

	if (!(r->p.flags & IORING_SETUP_SQPOLL))
		return nr ? enter(r, nr, 0, 0, 0) : 0;

	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (__atomic_load_n(r->sq_flags, __ATOMIC_RELAXED) & IORING_SQ_NEED_WAKEUP)
		enter(r, nr, 0, IORING_ENTER_SQ_WAKEUP, 0);
	while (__atomic_load_n(r->sq_head, __ATOMIC_ACQUIRE) != r->tail) {
		if (now_ms() > end)
			return -ETIME;
		usleep(100);
	}
	return nr;
}

int ring_submit(struct ring *r)
{
	return ring_enter(r, ring_publish(r));
}

static bool peek(struct ring *r, struct cqe *cqe)
{
	unsigned int head = *r->cq_head, mask = r->p.cq_entries - 1;
	bool wide = r->p.flags & IORING_SETUP_CQE32;
	struct io_uring_cqe *c;

	for (;;) {
		if (head == __atomic_load_n(r->cq_tail, __ATOMIC_ACQUIRE))
			return false;
		c = (void *)r->cqes + (size_t)(head & mask) * sizeof(*c) * (wide ? 2 : 1);
		if (!(c->flags & IORING_CQE_F_SKIP))
			break;
		/* filler before the end of a ring with CQEs of both sizes */
		head++;
		__atomic_store_n(r->cq_head, head, __ATOMIC_RELEASE);
	}
	memset(cqe, 0, sizeof(*cqe));
	cqe->user_data = c->user_data;
	cqe->res = c->res;
	cqe->flags = c->flags;
	if (wide || c->flags & IORING_CQE_F_32)
		memcpy(cqe->extra, c + 1, sizeof(cqe->extra));
	head += !wide && c->flags & IORING_CQE_F_32 ? 2 : 1;
	__atomic_store_n(r->cq_head, head, __ATOMIC_RELEASE);
	return true;
}

bool ring_wait(struct ring *r, struct cqe *cqe, int ms)
{
	long end = now_ms() + ms, left;

	while (!peek(r, cqe)) {
		left = end - now_ms();
		if (left < 0)
			return false;
		/* in one go: a task that is not woken is to be noticed */
		enter(r, 0, 1, IORING_ENTER_GETEVENTS, left + 1);
	}
	return true;
}

int ring_submit_and_wait(struct ring *r, unsigned int nr)
{
	unsigned int submit = ring_publish(r), flags = IORING_ENTER_GETEVENTS;

	if (r->p.flags & IORING_SETUP_SQPOLL) {
		flags |= IORING_ENTER_SQ_WAKEUP;
		submit = 0;
	}
	return enter(r, submit, nr, flags, -1);
}

unsigned int ring_nr_cqes(struct ring *r)
{
	return __atomic_load_n(r->cq_tail, __ATOMIC_ACQUIRE) - *r->cq_head;
}

int ring_register(struct ring *r, unsigned int op, void *arg, unsigned int nr)
{
	int ret = syscall(__NR_io_uring_register, r->fd, op, arg, nr);

	return ret < 0 ? -errno : ret;
}

int ring_cancel(struct ring *r, __u64 user_data, int fd, __u32 flags)
{
	struct io_uring_sync_cancel_reg reg = {
		.addr = user_data,
		.fd = fd,
		.flags = flags,
		.timeout = { .tv_sec = -1, .tv_nsec = -1 },
	};

	return ring_register(r, IORING_REGISTER_SYNC_CANCEL, &reg, 1);
}
