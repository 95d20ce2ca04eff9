/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of a device's life share ("life_*.c"). Control commands, the
 * server and the users of its disk are those of parity, but here a command has
 * all the time in the world: one that never ends is not taken for one that
 * waits, the harness ends the test.
 */
#ifndef UBLK_LIFE_H
#define UBLK_LIFE_H

#include "parity.h"

#define NOBODY	65534

/* life.c */

/* Open the control device; why the test can not run, or NULL */
const char *why_not(void);
/* A child that ends with us, in none of the server's files */
pid_t child(void);
/* Wait for a child: its exit status, or -1 if a signal ended it */
int exit_status(pid_t pid);
/* Say something by a pipe, or wait until the other side says it or is gone */
void tell(int fd);
void hear(int fd);
/* Become somebody else, or root again */
void become(unsigned int uid);
/* A command of an unprivileged device, which has the path of its node in front */
int ctrl_path(int id, __u32 op, void *buf, unsigned int len, __u64 data);

/* Open /dev/ublkcN as soon as the last server is done with */
int open_free(int id);
/* A server of the device, as soon as the last one is done with */
void attach(struct srv *s);
/* Serve all that comes with what is in the buffers, and errors, until the child ends */
int serve(struct srv *s, pid_t pid);

/* Wait until the disk has @nr requests that have not ended, wherever they are */
void wait_busy(int id, unsigned int nr);
/* Wait until nobody was told of @nr requests of batches, and the FETCH is on its way */
void wait_woken(int id, int nr);

#endif
