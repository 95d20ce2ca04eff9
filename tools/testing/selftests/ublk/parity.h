/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the parts of "parity" share: a program that asks a ublk driver several
 * hundred questions and prints the answers, so that the answers of two drivers
 * can be compared line by line.
 */
#ifndef UBLK_PARITY_H
#define UBLK_PARITY_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>
#include <linux/io_uring.h>
#include <liburing.h>
#include <linux/ublk_cmd.h>

#include "kselftest.h"

/* In the place of a result: none came in time */
#define BLOCKS		INT_MAX

#define DEPTH		2
#define MAX_DEPTH	16
#define DEV_SECTORS	(16 << 11)
#define IO_BYTES	(1024 * 1024)

/* an address that no process has */
#define BAD_ADDR	bad_addr

/* parity_srv.c */
extern void *bad_addr;

typedef void (*scenario_fn)(const void *arg);

/*
 * Run @fn in a process of its own, kill it when it takes too long, and delete
 * the devices that it leaves behind.
 */
void run(const char *name, scenario_fn fn, const void *arg);
/* Print one case */
void __printf(4, 5)
put(const char *state, const char *cmd, const char *arg, const char *fmt, ...);
/* The scenario can not go on: this is printed as a case */
void __noreturn give_up(const char *what, int res);
/* Have device @id deleted after the scenario */
void remember(int id);
/* How long to wait for what may never come, in ms */
int patience(void);

/* parity_text.c */
/* The name of a result */
const char *res_name(int res);
/* printf() to a string */
__printf(1, 2) const char *str(const char *fmt, ...);

/* parity_dev.c: control commands */
int ctrl(__u32 op, const struct ublksrv_ctrl_cmd *cmd);
int ctrl_simple(int id, __u32 op, void *buf, unsigned int len, __u64 data);
int delete_dev(int id);
/* Go on waiting for the command that ended with BLOCKS */
int ctrl_pending(int ms);
/* The same on a ring without SQE128 */
int ctrl_small(__u32 op, const struct ublksrv_ctrl_cmd *cmd);
void ctrl_open(void);

struct ublksrv_ctrl_dev_info default_info(__u64 flags);
struct ublk_params default_params(void);
/* ADD_DEV; the id or an error. @info is what the driver wrote */
int add_info(struct ublksrv_ctrl_dev_info *info);
int add(__u64 flags);
int set_params(int id, const struct ublk_params *params);
int start(int id, int pid);
int get_info(int id, struct ublksrv_ctrl_dev_info *info);
/* DEAD, LIVE, ... or an error */
const char *dev_state(int id);
/* Wait until GET_DEV_INFO says so */
bool wait_dev_state(int id, unsigned int state);
bool has_disk(int id);
/* Wait until the last server has let go of /dev/ublkcN */
void wait_closed(int id);
int open_cdev(int id);

/* parity_srv.c: a server in this process */
struct srv {
	int id;
	int cdev;
	__u64 flags;
	int queues;
	int depth;
	struct io_uring ring;
	const char *desc;
	size_t desc_len;
	int desc_size;
	void *buf[MAX_DEPTH];
	__u64 next;		/* user_data of the next command */
	int res[4096];		/* by user_data */
	__u64 waiting[MAX_DEPTH];	/* user_data of the tag's last command */
	bool owned[MAX_DEPTH];
};

struct io {
	__u32 op;
	int q_id;
	int tag;
	int result;
	__u64 addr;
	__u64 sqe_addr;
	unsigned int sqe_flags;
	unsigned int cmd_flags;
};

/* ADD_DEV, SET_PARAMS, open */
void srv_open(struct srv *s, __u64 flags, const struct ublk_params *params);
void srv_info(struct srv *s, struct ublksrv_ctrl_dev_info *info,
	      const struct ublk_params *params);
void srv_attach(struct srv *s);
/* The same for who has opened /dev/ublkcN himself */
void srv_opened(struct srv *s, int cdev);
void srv_close(struct srv *s);
void srv_fetch(struct srv *s, int from, int to);
void srv_start(struct srv *s);
void srv_live(struct srv *s, __u64 flags, const struct ublk_params *params);
__u64 srv_addr(struct srv *s, int tag);
__u64 srv_send(struct srv *s, const struct io *io);
__u64 srv_send_on(struct srv *s, struct io_uring *ring, const struct io *io);
/* The result of a command, BLOCKS if it still waits */
int srv_wait(struct srv *s, __u64 ud, int ms);
int srv_do(struct srv *s, const struct io *io);
/* Wait for a request: its tag, or -1 */
int srv_request(struct srv *s, int ms);
void srv_commit(struct srv *s, int tag, int result);
const struct ublksrv_io_desc *srv_desc(struct srv *s, int tag);
bool srv_copies(struct srv *s);

/* parity_srv.c: somebody who uses the block device */
enum block_op {
	B_READ, B_WRITE, B_FUA, B_FLUSH, B_DISCARD, B_ZEROES, B_ZEROES_NOUNMAP,
	B_SECDISCARD,
};

struct blk_io {
	pid_t pid;
};

extern const char *const block_op_name[];
void block_start(struct blk_io *io, int id, enum block_op op, __u64 sector,
		 unsigned int bytes);
/* What it got; BLOCKS if it is not done yet */
int block_wait(struct blk_io *io, int ms);
void block_kill(struct blk_io *io);

/* the groups of cases */
void group_add(void);
void group_ctrl(void);
void group_ctrl_args(void);
void group_params(void);
void group_io(void);
void group_batch(void);
void group_data(void);
void group_file(void);
void group_sysfs(void);
void group_integrity(void);
void group_shmem(void);
void group_zoned(void);
void group_unpriv(void);
void group_recovery(void);
void group_death(void);

#endif
