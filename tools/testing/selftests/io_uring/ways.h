/* SPDX-License-Identifier: GPL-2.0 */
/*
 * All kinds of secondaries: what is true for a group is true whatever its
 * secondaries are, and however they come to their end.
 */
#ifndef SELFTESTS_IO_URING_WAYS_H
#define SELFTESTS_IO_URING_WAYS_H

#include <pthread.h>
#include "fused.h"

/* bytes of each secondary, and how many a group has */
#define WAY_LEN		512
#define WAY_MOST	2

/* A kind of secondary, and how it comes to its end */
struct way {
	const char *name;	/* NULL behind the last one */
	__u8 opcode;
	bool writes;		/* the buffer, or else it reads it */
	int nr_cqes;		/* of a secondary, if it does not skip */
	bool no_skip;		/* it has to post them */
	/* open the file, or return false if there is none */
	bool (*open)(int fd[2], unsigned char *buf);
	/* let the secondary end; NULL if it does so by itself */
	void (*later)(int fd[2]);
};

extern const struct way ways[];

/* The secondaries of one group, and what they need to end */
struct pending {
	const struct way *way;
	int nr;
	int gate[2];		/* a pipe that is written to first, if it is open */
	int fd[WAY_MOST][2];
	int opened;
	pid_t tid;
};

/* Open a pipe for a read that is to wait until the task sleeps; 0 if it is there */
int gate_open(struct pending *p);
void gate_close(struct pending *p);
/* Open the files of @p->nr secondaries; false if there are no such files here */
bool way_open(struct pending *p, unsigned char *buf);
void way_close(struct pending *p);
/* Close them, and go on to the next kind that there are files for; false behind the last */
bool way_next(struct pending *p, unsigned char *buf);
/*
 * May a secondary, or the primary, have this result? What is sent to a peer that
 * resets the connection may or may not arrive.
 */
bool way_is_fine(const struct way *way, int res);
/* Add them to a group */
void way_add(struct pending *p, struct group *g, int dev, bool skip);
/*
 * Submit what was pushed and sleep, with one system call and no time-out, until
 * there are @nr_cqes. A thread opens the gate and lets the secondaries end, one
 * by one, whenever this task is asleep.
 */
int way_wait(struct pending *p, struct ring *r, unsigned int nr_cqes);

#endif
