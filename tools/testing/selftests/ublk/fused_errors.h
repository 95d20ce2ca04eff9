/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the parts of "fused_cmd_errors" share: a program that is server and user
 * of a ublk device at once, to test each rule of fused commands.
 */
#ifndef UBLK_FUSED_ERRORS_H
#define UBLK_FUSED_ERRORS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/io_uring.h>
#include <liburing.h>
#include <linux/ublk_cmd.h>

#include "kselftest.h"

#define DEPTH		4
#define LEN		(64 << 10)	/* bytes of a request */
#define FILE_LEN	(4 * LEN)
#define DEV_BYTES	(16 << 20)
/* a place where nobody looks for a partition table or a superblock */
#define OFFSET		((4 << 20) + 512 * 4099)
#define TIMEOUT_MS	20000

/* user_data: an I/O command of the server, or an SQE of a test */
#define UD_CMD		0x4000000000000000ULL
#define UD_TEST		0x2000000000000000ULL
#define UD_PRIMARY	(UD_TEST | 1000)
#define UD_SECONDARY(i)	(UD_TEST | (i))
#define UD_SENTINEL	(UD_TEST | 2000)
#define UD_OTHER	(UD_TEST | 3000)

#define NO_CQE		INT_MAX

/* a read or write of the block device by a helper thread */
struct block_io {
	pthread_t thread;
	char path[64];
	int op;
	void *buf;
	int res;
	int done;
	bool used;
};

enum tag_state { TAG_FETCHING, TAG_OWNED, TAG_GONE };

struct server {
	int id;
	int cdev;
	struct io_uring ring;
	const struct ublksrv_io_desc *desc;
	enum tag_state tag[DEPTH];
	int cmd_res[DEPTH];	/* last refusal of an I/O command, or 0 */
	int fetched;		/* tags that are not gone */
	int want_op;		/* what the test waits for, or -1 */
	int got;		/* tag of that request, or -1 */
	struct block_io io;
	/* CQEs of the test's SQEs in the order in which they were posted */
	struct io_uring_cqe cqe[128];
	int nr_cqes;
	int file;		/* memfd of FILE_LEN with a known content */
	int pipe[2];
};

/* fused_cmd_errors.c */

/* Flags of the rings that a case or server sets up */
extern unsigned int ring_flags;
/* /dev/ublk-control */
extern int ctrl_fd;

/* The case ends here unless @cond holds; call it by CHECK() */
void __printf(2, 3) check(bool cond, const char *fmt, ...);
/* The program ends here; call it by FATAL() */
void __noreturn __printf(1, 2) fatal(const char *fmt, ...);

/* FILE:LINE, as a string */
#define FILE_LINE_(line)	__FILE__ ":" #line
#define FILE_LINE(line)	FILE_LINE_(line)
#define HERE		FILE_LINE(__LINE__)

/* The case goes no further unless @cond holds */
#define CHECK(cond, fmt, ...) \
	check(cond, HERE ": " fmt, ##__VA_ARGS__)

/* Nothing that follows would mean anything */
#define FATAL(fmt, ...) \
	fatal(HERE ": " fmt "\n", ##__VA_ARGS__)

/* fused_errors_buf.c: what byte is where depends on the block @seed */

/* Write what is in block @seed at @from */
void fill(void *buf, unsigned int seed, size_t from, size_t len);
/* Is this anything else? */
int differs(const void *buf, unsigned int seed, size_t from, size_t len);
/* Is it nothing but @byte? */
int all_are(const void *buf, int byte, size_t len);
/* Has the server's file the content that it had at first? */
int file_untouched(struct server *s);
/* Give the file its content back */
void file_reset(struct server *s);

/* fused_errors_ctrl.c: control commands */

/* Set up a ring for ctrl_submit() */
void ctrl_open(struct io_uring *ring);
/* Submit a control command and do not wait */
void ctrl_submit(struct io_uring *ring, int id, __u32 op, void *buf,
		 __u16 len, __u64 data);
/* Wait for its CQE; 0 if there was one */
int ctrl_wait(struct io_uring *ring, int ms, int *res);
/* Do a control command: its result */
int ctrl(int id, __u32 op, void *buf, __u16 len, __u64 data);
/* The device's id, or an error */
int add_dev(__u64 flags);
/* Open /dev/ublkcN, which may take a while to appear */
int open_cdev(int id);

/* fused_errors_srv.c: the server */

/* Parameters of a device of DEV_BYTES with these UBLK_ATTR_* */
struct ublk_params server_params(__u32 attrs);
/* Map the descriptors of its queue */
const struct ublksrv_io_desc *map_desc(int cdev);
/* Add and start a device and serve it */
void server_start(struct server *s, __u64 flags);
/* Stop and delete it */
void server_stop(struct server *s);
/* An SQE with an I/O command */
struct io_uring_sqe *io_cmd_sqe(struct server *s, struct io_uring *ring,
				__u32 op, int q_id, int tag);
/* io_uring_submit() that must not fail */
void submit(struct io_uring *ring);
/* Complete a request and fetch the next one */
void commit(struct server *s, int tag, int result);
/* Wait a little for a CQE and handle all there are; 0 if there was one */
int pump(struct server *s, int ms);
/* Serve until @cond holds, for some time at most */
bool pump_until(struct server *s, bool (*cond)(struct server *s, __u64 arg),
		__u64 arg, int ms);
/* Condition: there is a CQE with this user_data */
bool cqe_posted(struct server *s, __u64 user_data);
/* What an SQE of the test posted, NO_CQE if nothing (yet) */
int cqe_res(struct server *s, __u64 user_data);
/* Serve until it posts something: what */
int wait_cqe(struct server *s, __u64 user_data);

/* fused_errors_block.c: who uses the block device */

/* The helper thread; @arg is a struct block_io */
void *block_io_fn(void *arg);
/* The LEN bytes that are read or written */
unsigned char *block_buf(struct server *s);
/* Condition: the read or write of the block device has ended */
bool block_io_done(struct server *s, __u64 unused);
/* Condition: the server owns the request, or there will be none */
bool request_arrived(struct server *s, __u64 unused);
/* Serve until the read or write has ended; false if it does not */
bool wait_block_io(struct server *s, int ms);
/* Start it and wait until the server owns the request: its tag */
int block_io_start(struct server *s, int op);
/* Complete the request and wait for its reader or writer: what that one got */
int block_io_finish(struct server *s, int res);

/* fused_errors_group.c: groups */

/* The primary of a group with @nr secondaries on this ring */
struct io_uring_sqe *primary_on(struct server *s, struct io_uring *ring,
				int tag, int nr);
/* The same on the server's ring */
struct io_uring_sqe *primary(struct server *s, int tag, int nr);
/* A secondary on this ring, for this file */
struct io_uring_sqe *secondary_on(struct io_uring *ring, int idx, int op,
				  int fd, __u64 addr, __u32 len, __u64 off);
/* A secondary on the server's ring, for the server's file */
struct io_uring_sqe *secondary(struct server *s, int idx, int op,
			       __u64 addr, __u32 len, __u64 off);
/* What the primary of a group gets on a ring of the current task's own */
int primary_elsewhere(struct server *s, __u32 cmd_op, int tag);
/* A primary that commits: its CQE is that of a commit, not of a group. */
struct io_uring_sqe *fused_commit(struct server *s, int tag, int nr);
/* Submit a group and check its CQEs; call it by EXPECT() */
void expect(struct server *s, const char *where, int primary_res, int nr,
	    const int *sec_res);
/* A group whose primary has this command is refused; call it by REFUSED() */
void refused(struct server *s, const char *where, struct ublksrv_io_cmd cmd);

/* The group posts @res and, in their order, these results of secondaries */
#define EXPECT(s, res, ...) \
	expect(s, HERE, res, sizeof((int[]){ __VA_ARGS__ }) / sizeof(int), \
	       (const int[]){ __VA_ARGS__ })

/* A primary with these fields in its command is refused */
#define REFUSED(s, ...) \
	refused(s, HERE, (struct ublksrv_io_cmd){ __VA_ARGS__ })

/* fused_errors_ublk.c: what ublk refuses */
void test_direction_of_write(struct server *s);
void test_direction_of_read(struct server *s);
void test_ublk_command(struct server *s);
void test_ublk_not_owned(struct server *s);
void test_ublk_no_data(struct server *s);
void test_ublk_wrong_op(struct server *s);
void test_ublk_no_feature(struct server *s);
void test_ublk_add_dev(struct server *s);
void test_ublk_fetch_addr(struct server *s);

/* fused_errors_data.c: data */
void test_read(struct server *s);
void test_write(struct server *s);
void test_ranges(struct server *s);
void test_short_read(struct server *s);
void test_pread_pwrite(struct server *s);

/* fused_errors_commit.c: commits that move the data */
void test_fused_commit(struct server *s);
void test_fused_commit_async(struct server *s);
void test_fused_commit_fails(struct server *s);
void test_fused_commit_refused(struct server *s);
void test_fused_commit_twice(struct server *s);
void test_fused_commit_canceled(struct server *s);

/* fused_errors_leader.c: SQE groups */
void test_leader_read(struct server *s);
void test_leader_write(struct server *s);
void test_leader_refused(struct server *s);

/* fused_errors_life.c: the life of a lease, and what ends it */
void test_other_ring(struct server *s);
void test_commit_while_leased(struct server *s);
void test_cancel(struct server *s);
void test_close_ring(struct server *s);
void test_kill(struct server *s);
void test_kill_reissue(struct server *s);

#endif
