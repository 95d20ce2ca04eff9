/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A bare io_uring: the tests here place SQEs where a library would not let
 * them, and read CQEs of every size.
 */
#ifndef SELFTESTS_IO_URING_RING_H
#define SELFTESTS_IO_URING_RING_H

#include <stdbool.h>
#include <stdint.h>
#include <linux/io_uring.h>

struct ring {
	int fd;
	struct io_uring_params p;
	void *rings;
	size_t rings_len;
	unsigned int *sq_head, *sq_tail, *sq_flags, *sq_dropped, *sq_array;
	unsigned int *cq_head, *cq_tail, *cq_overflow;
	struct io_uring_sqe *sqes;
	size_t sqes_len;
	unsigned int tail;	/* what is filled in, but not yet published */
	char *cqes;
};

struct cqe {
	uint64_t user_data;
	int32_t res;
	uint32_t flags;
	uint64_t extra[2];
};

/* 0 or -errno */
int ring_init(struct ring *r, unsigned int entries, struct io_uring_params *p);
void ring_exit(struct ring *r);

/* Put one SQE, of 128 bytes if @big, behind the others. Publishes nothing. */
void ring_push(struct ring *r, const struct io_uring_sqe *sqe, bool big);
/* Let the kernel see what was pushed. Returns how many entries that are. */
unsigned int ring_publish(struct ring *r);
/* Have @nr entries submitted, or for SQPOLL wait until all are consumed. */
int ring_enter(struct ring *r, unsigned int nr);
/* ring_publish() and ring_enter() for all of it */
int ring_submit(struct ring *r);

/* The next CQE within @ms milliseconds, false if there is none */
bool ring_wait(struct ring *r, struct cqe *cqe, int ms);
/* Submit what was pushed and sleep until there are @nr CQEs, for ever if need be */
int ring_submit_and_wait(struct ring *r, unsigned int nr);
/* CQEs, or entries of the CQ ring where they have two sizes, that can be read */
unsigned int ring_nr_cqes(struct ring *r);

int ring_register(struct ring *r, unsigned int op, void *arg, unsigned int nr);
/* Cancel what has this @user_data, or @fd, as @flags say; wait until it ended. */
int ring_cancel(struct ring *r, __u64 user_data, int fd, __u32 flags);
long now_ms(void);

#endif
