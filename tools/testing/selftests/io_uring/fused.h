/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of IORING_OP_FUSED_CMD share: groups, their expected CQEs, and
 * the device that lends buffers.
 */
#ifndef SELFTESTS_IO_URING_FUSED_H
#define SELFTESTS_IO_URING_FUSED_H

#include <limits.h>
#include <linux/io_uring/mock_file.h>
#include "ring.h"

/* What a file that lends its buffers is told to do */
#define OP_LEND		IORING_MOCK_CMD_LEND
#define OP_START	IORING_MOCK_CMD_START
#define OP_REFUSE	IORING_MOCK_CMD_REFUSE
#define OP_RESULT	IORING_MOCK_CMD_RESULT
#define OP_IS_128	IORING_MOCK_CMD_IS_128
#define OP_KEEP		IORING_MOCK_CMD_KEEP
#define OP_RELEASE	IORING_MOCK_CMD_RELEASE
#define OP_LEND_MEMORY	IORING_MOCK_CMD_LEND_MEMORY
#define OP_STRAY	IORING_MOCK_CMD_STRAY
#define LEND_SOURCE	IORING_MOCK_FUSED_SOURCE
#define LEND_BLOCKING	IORING_MOCK_FUSED_BLOCKING
/* These only the mock file knows. */
#define OP_LEND_PARTS	IORING_MOCK_CMD_LEND_PARTS
#define OP_PART_RESULT	IORING_MOCK_CMD_PART_RESULT
#define LEND_DEFER	IORING_MOCK_FUSED_DEFER
#define NR_BUFFERS	IORING_MOCK_FUSED_MAX_BUFS
#define BUFFER_LEN	IORING_MOCK_FUSED_BUF_SIZE

/*
 * The device that lends buffers: "/dev/io_uring_mock", or what FUSED_DEVICE in
 * the environment names instead.
 */
#define MOCK_DEVICE	"/dev/io_uring_mock"
const char *device_name(void);
/* A file of it with NR_BUFFERS buffers, or a negative error: -ENOENT if it is not there */
int open_device(void);
bool is_mock(void);

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
struct io_uring_mock_fused *group_cmd(struct group *g);
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
