/* SPDX-License-Identifier: GPL-2.0 */
/* What the parts of batch_fuzz share. */
#ifndef UBLK_BATCH_FUZZ_H
#define UBLK_BATCH_FUZZ_H

#include <pthread.h>
#include "parity.h"

#define MAX_QUEUES	2
#define MAX_TAGS	64
#define MAX_THREADS	4
/* Places of the client, each for one request at a time, and their distance in sectors */
#define NR_PLACES	24
#define PLACE_SECTORS	8
#define STRIDE		16
#define NR_SECTORS	(NR_PLACES * STRIDE)

/* What a commit of a request that we were not told of says; and a server that fails */
#define WILD_RESULT	(-ENODATA)
#define FAIL_RESULT	(-ENOSPC)

enum mode { COPY, USER_COPY, AUTO_REG, NR_MODES };

/* Commits of tags that we were not told of */
enum wild {
	TAME,		/* none */
	WILD,		/* as long as no other thread has them in its hands */
	SPOIL,		/* of any tag, at any time: data are not looked at */
	NR_WILD,
};

enum ending {
	QUIET,		/* all requests have ended, all is counted, STOP_DEV */
	STOPPED,	/* STOP_DEV under load */
	KILLED,		/* SIGKILL under load */
	RECOVERED,	/* the same, another server goes on */
	REISSUED,	/* the same, no request fails */
	NR_ENDINGS,
};

struct plan {
	unsigned int seed;
	enum mode mode;
	enum wild wild;
	enum ending ending;
	int depth, queues, threads, requests;
	bool defer_taskrun;
	/* threads close their rings */
	bool closing;
};

/* What the processes of a round share */
struct shared {
	struct plan plan;
	int id;
	/* the disk: the version of each sector */
	__u32 version[NR_SECTORS];
	/* set by the server */
	int all_prepared, fetching, checked;
	/* set by the parent */
	int quiet, stopping, killing;
	/* requests that were committed as WILD_RESULT and FAIL_RESULT, and that may be */
	int wild, fail, wild_trying, fail_trying;
	/* what the client got: the disk, and from it */
	int got_disk, got_wild, got_fail, got_data;
	/* commands, by their outcome */
	unsigned long accepted, refused, told, closed, dry;
};

extern struct shared *sh;
extern unsigned long base_seed, round_nr;

#define get(x)		__atomic_load_n(&(x), __ATOMIC_ACQUIRE)
#define set(x, v)	__atomic_store_n(&(x), v, __ATOMIC_RELEASE)
#define add(x, n)	__atomic_add_fetch(&(x), n, __ATOMIC_RELAXED)

/* The model does not allow this: the test ends */
void __noreturn __printf(1, 2) wrong(const char *fmt, ...);
/* 0 to n - 1 */
int below(unsigned int *seed, int n);
/* 1 of n times */
bool once_in(unsigned int *seed, int n);

/* A word of a sector's data */
__u64 word(unsigned int sector, __u32 version);

/* batch_fuzz_user.c: the client. Returns if it had all it wanted, or the disk is gone */
void client(void);

/* batch_fuzz_srv.c: the server of the device */
void __noreturn server(void);

/* batch_fuzz_model.c: what is known of a tag */
struct tag {
	pthread_mutex_t lock;
	bool prepared;
	/* we were told, and have not committed it */
	bool seen;
	/* commits that were accepted before we were told */
	int debt;
	/* in all: how often we were told, how many commits were accepted */
	unsigned int told, accepted;
	/* the buffer and the index for the next request */
	__u64 addr;
	__u16 index;
	void *buf[2];
};

extern struct tag tags[MAX_QUEUES][MAX_TAGS];
extern pthread_mutex_t prep_lock;

/* One element of a command, before it is laid out */
struct elem {
	__u16 tag;
	__u16 index;
	__s32 result;
	__u64 addr;
};

/* A command with elements */
struct list {
	__u32 op;
	int q_id, flags, nr, bytes;
	struct elem elem[MAX_TAGS + 2];
	/* how many elements it says there are, if not nr; bytes that can be read */
	int says, readable;
	/* the tags that are locked */
	__u64 locked;
};

int list_flags(void);
int list_bytes(void);
/* Lock the tags of a command, and unlock them */
void list_lock(struct list *l);
void list_unlock(struct list *l);
/* Look at the result of a command; how many of its elements were accepted */
int prep_judge(struct list *l, int res);
int commit_judge(struct list *l, int res);
/* We were told. Is the request ours? */
bool tag_told(int q_id, int tag);
/* No request is left */
void model_check(void);

#endif
