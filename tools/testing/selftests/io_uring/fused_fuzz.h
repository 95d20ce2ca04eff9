/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the files of fused_fuzz share: a round, its groups, and what they are
 * expected to do.
 */
#ifndef SELFTESTS_IO_URING_FUSED_FUZZ_H
#define SELFTESTS_IO_URING_FUSED_FUZZ_H

#include <sys/uio.h>
#include "kselftest.h"
#include "fused.h"

#define FILE_LEN	(2 * BUFFER_LEN)
#define MAX_GROUPS	8
#define MAX_SOCKS	8
#define MAX_PIECES	4
#define UD_RELEASE	4000	/* of the command that asks for a kept group */
#define ANY_CANCEL	(INT_MIN + 1)	/* -ECANCELED or -EINTR */

extern unsigned long base_seed;
extern bool verbose;
extern unsigned long rounds_done, groups_done, groups_refused, cqes_done;

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
	/* of a secondary that is vectored: what its SQE points to */
	struct iovec piece[66][MAX_PIECES];
	struct expect before, after;	/* NOPs that it is linked to */
	bool has_before, has_after;
	int nr_linked;
	int buffer;		/* that it got, or -1 */
	bool dest;
	bool by_flag;		/* an SQE group */
	bool plain;		/* one whose members have buffers of their own */
	bool started;
	bool kept;		/* by the driver, when it is over */
	int told;		/* what the driver is told of it then */
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
	struct fuzz_group *kept;	/* one at most; NULL when it was released */
	bool asked;		/* for it: an answer is to come */
	int nr_cqes;		/* that are still to come, notifications too */
	unsigned char *buf, *expected, *cover, *user;
	char text[300];
};

/* fused_fuzz.c */
/* What a round does, if that is wanted */
void __printf(2, 3) tell(struct fuzz *f, const char *fmt, ...);
/* What the kernel did not do as it should: the test fails, and ends. */
void __printf(2, 3) wrong(struct fuzz *f, const char *fmt, ...);

/* fused_fuzz_rnd.c */
unsigned int rnd(struct fuzz *f, unsigned int below);
bool one_in(struct fuzz *f, unsigned int n);
/* A value around the interesting ones */
__u32 around(struct fuzz *f, __u32 limit);

/* fused_fuzz_secondary.c */
/* The model of one secondary that is issued, with @limit bytes of lease */
void add_secondary(struct fuzz *f, struct fuzz_group *fg, bool leased, bool dest,
		   __u32 limit);
bool outside(__u64 addr, __u64 len, __u64 limit);
bool is_vectored(const struct io_uring_sqe *sqe);
/* How many ranges of the lease secondary @index is given, and which */
int nr_ranges(const struct fuzz_group *fg, int index);
struct iovec nth_range(const struct fuzz_group *fg, int index, int i);
/* All of them together */
__u64 sum_of_ranges(const struct fuzz_group *fg, int index);
/* Set a bit in some field of a secondary that is not allowed there: can it be done? */
bool spoil_field(struct fuzz *f, struct fuzz_group *fg, int index);
int result_of_read(__u32 len, __u64 off);

/* fused_fuzz_group.c */
void make_group(struct fuzz *f, struct fuzz_group *fg, int index);
int malformed(const struct fuzz_group *fg);
/* Put the group between NOPs that it is linked to. */
void push_group(struct fuzz *f, struct fuzz_group *fg, int index);

/* fused_fuzz_check.c */
/* CQEs that are still to come */
int nr_cqes(const struct expect *e);
void handle_cqe(struct fuzz *f, const struct cqe *cqe);
/* Is @got what was expected? */
bool fits(int want, int got);
/* What must be in the buffer of a group that wrote to it */
void check_buffer(struct fuzz *f, struct fuzz_group *fg);

/* fused_fuzz_round.c */
void one_round(struct fuzz *f);

#endif
