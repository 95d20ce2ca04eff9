/* SPDX-License-Identifier: GPL-2.0 */
/* What the parts of batch_fuzz's server share. */
#ifndef UBLK_BATCH_FUZZ_SRV_H
#define UBLK_BATCH_FUZZ_SRV_H

#include "batch_fuzz.h"

#define NR_BUFS		64
#define MAX_TOLD	128
#define NR_FETCHES	6
/* above the user_data of all other commands */
#define FETCH_UD	0x100000000ULL
#define GROUP		3
#define NO_GROUP	4
#define TABLE		64
/* for the 16 SQEs and 1024 CQEs of a ring */
#define RING_BYTES	32768
/* seconds that a command may take */
#define PATIENCE	60

struct fetch {
	bool active, no_group;
	__u64 ud;
	int q_id;
};

struct thread {
	pthread_t id;
	int nr;
	unsigned int seed;
	struct io_uring ring;
	void *ring_mem;
	struct io_uring_buf_ring *br;
	/* the buffers for tags that are provided, the next one first */
	__u16 *mem;
	struct { int bid, bytes; bool bad; } bufs[NR_BUFS];
	int nr_bufs;
	__u64 free_bids;
	struct fetch fetch[NR_FETCHES];
	/* what we were told, and have not noted yet */
	struct { int q_id, tag; } told[1024];
	int nr_told;
	/* the command that is waited for */
	__u64 next_ud, ud;
	int res;
	bool done, sent_away;
	/* a page for elements, and one that can not be read behind it */
	char *page;
};

/*
 * Requests that nobody works on. A registered buffer is taken out of the table by
 * a commit on the same ring only, so there each thread has its own.
 */
struct hands {
	pthread_mutex_t lock;
	int tags[8 * MAX_TAGS];
	int nr;
};

extern struct hands hands[MAX_THREADS][MAX_QUEUES];
extern int cdev;
extern const char *descs[MAX_QUEUES];

/* batch_fuzz_ring.c: the ring of a thread */
struct hands *hands_of(struct thread *t, int q_id);
void open_ring(struct thread *t);
void close_ring(struct thread *t);
/* A buffer for tags, perhaps one that can not be written to */
void provide(struct thread *t, int bytes, bool bad);
/* What is in the CQ ring; without a system call */
void drain(struct thread *t);
/* Submit, and wait that long at most */
void enter(struct thread *t, int us);
struct io_uring_sqe *new_sqe(struct thread *t, __u32 op);
/* Send the command, and wait for its result */
int finish(struct thread *t, struct io_uring_sqe *sqe);
/* Tell the model what we were told */
void note_told(struct thread *t);

/* batch_fuzz_cmds.c: commands but for commits, and what those are made of */
void send_fetch(struct thread *t, int q_id, bool no_group);
void bad_fetch(struct thread *t);
/* A command of a server without batches */
void legacy(struct thread *t);
void cancel_fetch(struct thread *t);
void prepare(struct thread *t);
struct list new_list(struct thread *t, __u32 op);
struct elem *add_elem(struct thread *t, struct list *l, int tag, int result);
void add_wrong(struct thread *t, struct list *l);
/* No element follows; the list as a whole may become wrong */
void close_list(struct thread *t, struct list *l);
int send_list(struct thread *t, struct list *l);

/* batch_fuzz_commit.c: work on requests, and commit them */
void commit(struct thread *t);
/* Commits without asking anybody */
void spoil(struct thread *t);

#endif
