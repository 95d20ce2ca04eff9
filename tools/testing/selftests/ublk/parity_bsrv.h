/* SPDX-License-Identifier: GPL-2.0 */
/* A server that works on batches, for the tests of UBLK_F_BATCH_IO. */
#ifndef UBLK_PARITY_BSRV_H
#define UBLK_PARITY_BSRV_H

#include "parity.h"

/* The largest element of a command */
struct elem {
	__u16 tag;
	__u16 buf_index;
	__s32 result;
	__u64 addr;
	__u64 lba;
};

/* A command about many tags */
struct bio {
	__u32 op;
	int q_id;
	int flags;
	int nr;
	int elem_bytes;		/* what the command says */
	const void *elems;
	unsigned int sqe_flags;
	unsigned int cmd_flags;
	int group;
};

/* What a ring of a server has said */
struct said {
	__u64 ud;
	int res;
	unsigned int flags;
};

/* A ring, with buffers for tags, that may belong to any thread */
struct bring {
	struct srv *s;
	struct io_uring *ring;
	struct io_uring own;
	struct io_uring_buf_ring *br;
	__u16 *tags;		/* NR_TAG_BUFS buffers of buf_tags tags each */
	int buf_tags;
	int group;
	__u64 next;
	/* CQEs that somebody else waits for */
	struct said kept[64];
	int nr_kept;
};

#define NR_TAG_BUFS	64
#define FETCH_UD	1000000

/* A ring of its own, or that of the server */
void bring_init(struct bring *b, struct srv *s, bool own);
/* One of its own, whose task work waits for who waits for CQEs */
void bring_init_defer(struct bring *b, struct srv *s);
void bring_exit(struct bring *b);
/* Provide a buffer for @nr_tags tags at @at, or, without, buffer @bid */
void bring_provide(struct bring *b, int bid, int nr_tags, void *at);
/* Take all buffers away */
void bring_no_bufs(struct bring *b);
/* Send a command; its user_data */
__u64 bring_send(struct bring *b, const struct bio *io);
/* Its result, BLOCKS if it still waits after @ms */
int bring_wait(struct bring *b, __u64 ud, int ms, struct said *said);
int bring_do(struct bring *b, const struct bio *io);
/* A FETCH; its user_data */
__u64 bring_fetch(struct bring *b, int q_id);
/* The flags and the size of an element on this device */
int batch_flags(struct srv *s);
int batch_bytes(struct srv *s);
/* Elements for the tags from @from to @to, in @buf; the end of it */
void *batch_elems(struct srv *s, void *buf, int from, int to, int result);
int batch_prep(struct bring *b, int q_id, int from, int to);
int batch_commit(struct bring *b, int q_id, int tag, int result);
/* All slots of all queues, and START_DEV */
void batch_live(struct bring *b, struct srv *s, __u64 flags);
/* The next tag that the server is told, or the result of @fetch, or BLOCKS */
int batch_request(struct bring *b, __u64 fetch, int ms, int *tag);

#endif
