/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of IORING_OP_FUSED_CMD share: groups, their expected CQEs,
 * and the device of samples/rust/rust_fused_cmd.rs.
 */
#ifndef SELFTESTS_IO_URING_FUSED_H
#define SELFTESTS_IO_URING_FUSED_H

#include <limits.h>
#include "ring.h"

/* samples/rust/rust_fused_cmd.rs */
#define DEVICE		"/dev/rust_fused_cmd"
#define OP_LEND		1
#define OP_START	2
#define OP_REFUSE	3
#define OP_RESULT	4
#define OP_IS_128	5
#define OP_KEEP		6
#define OP_RELEASE	7
#define OP_LEND_MEMORY	8
#define OP_STRAY	9
#define LEND_SOURCE	1
#define LEND_BLOCKING	2
#define NR_BUFFERS	16
#define BUFFER_LEN	(64 << 10)

struct device_cmd {
	__u16 buffer;
	__u16 flags;
	__u32 offset;
	__u32 len;
	__u32 arg;
};

/* user_data of the SQEs of a group, and of the NOP behind it */
#define UD_PRIMARY	1000
#define UD_SENTINEL	2000
#define UD_OTHER	3000

/* no result is this low */
#define NO_CQE		INT_MIN
#define TIMEOUT_MS	15000

/* How a test runs: the ring, the form of groups, what runs in workers. */
struct mode {
	unsigned int ring_flags;
	bool inline_form;	/* of groups with one secondary */
	unsigned int secondary_flags;
	bool blocking;		/* the driver has to sleep */
};

struct group {
	struct ring *ring;
	const struct mode *mode;
	struct io_uring_sqe primary[2];
	/* 128 bytes each, so that they can be used on any ring */
	struct io_uring_sqe secondary[66][2];
	int nr;
};

/* An initialised ring for @mode */
int mode_ring(const struct mode *mode, struct ring *r, unsigned int entries);

/* A group whose primary is command @op to @dev, for @len bytes of buffer 0 */
void group_init(struct group *g, struct ring *r, const struct mode *mode, int dev,
		unsigned int op, unsigned int flags, unsigned int len);
struct device_cmd *group_cmd(struct group *g);
/* One more secondary */
struct io_uring_sqe *group_add(struct group *g, int op, int fd, __u64 addr,
			       __u32 len, __u64 off);
/* One that is a command to the device, and has this @result */
struct io_uring_sqe *group_add_cmd(struct group *g, int fd, __u32 result);
/* One that is a NOP with this @result */
struct io_uring_sqe *group_add_nop(struct group *g, __u32 result);
/*
 * A group in the form of IOSQE_SQE_GROUP. Its leader, which is returned, is
 * ->primary, its members are ->secondary.
 */
struct io_uring_sqe *group_lead(struct group *g, struct ring *r, const struct mode *mode,
				int op, int fd, __u64 addr, __u32 len, __u64 off);
/* The same, led by command @op to @dev, for @len bytes of buffer 0 */
void group_lead_cmd(struct group *g, struct ring *r, const struct mode *mode, int dev,
		    unsigned int op, unsigned int flags, unsigned int len);
/* Fill in the SQEs; publishes nothing. */
void group_push(struct group *g);

/* An SQE as large as the ring's */
void push_sqe(struct ring *r, const struct io_uring_sqe *sqe);
void push_nop(struct ring *r, __u64 user_data, unsigned int flags);

/* CQEs in the order in which they came */
struct log {
	struct cqe cqe[200];
	int nr;
};

/* Collect CQEs until that of @user_data: its result, or NO_CQE */
int log_until(struct log *log, struct ring *r, __u64 user_data);
/* What @user_data posted, NO_CQE if nothing */
int log_res(const struct log *log, __u64 user_data);
/* The place of that CQE, or -1 */
int log_index(const struct log *log, __u64 user_data);
/*
 * Cancel a request that waits or soon will: one that is between a worker and the
 * place where it waits is not found, so this tries again, with task work run in
 * between. Returns what the last try did.
 */
int cancel_one(struct log *log, struct ring *r, __u64 user_data);
/* The same for all there are, until there is the CQE of @user_data: its result */
int cancel_all(struct log *log, struct ring *r, __u64 user_data);
/* A worker that is canceled while it waits is interrupted. */
bool canceled(int res);
/* All that comes within @ms more */
void log_rest(struct log *log, struct ring *r, int ms);

/*
 * Submit the group and check its CQEs: these results, no others, the primary's
 * last, no SQE left. Returns NULL, or a text that says what is wrong.
 */
const char *group_run(struct group *g, int primary_res, int nr, const int *res);
/* The same for a group that was submitted */
const char *group_check(struct group *g, struct log *log, int primary_res, int nr,
			const int *res);
/*
 * Submit secondary @i of the group, but not the group: one that names a range of
 * a lease gets one of @buf. Returns its result.
 */
int group_alone(struct group *g, void *buf, int i);

/* Write to a file that exists. Returns 0, or -1 if not all was taken. */
int put_file(const char *path, const void *data, size_t len);
/* Cover @dir by a tmpfs that nobody else sees: 0 or -1 */
int private_dir(const char *dir);

/* what byte a buffer or file has at @i */
unsigned char pattern(unsigned int seed, size_t i);
void fill(void *buf, unsigned int seed, size_t from, size_t len);
bool is_pattern(const void *buf, unsigned int seed, size_t from, size_t len);
bool all_are(const void *buf, int byte, size_t len);

#endif
