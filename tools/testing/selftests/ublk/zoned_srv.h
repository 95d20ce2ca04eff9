/* SPDX-License-Identifier: GPL-2.0 */
/* A server of a zoned disk, which answers nonsense if it is told to. */
#ifndef UBLK_ZONED_SRV_H
#define UBLK_ZONED_SRV_H

#include <linux/blkzoned.h>
#include "life.h"
#include "parity_bsrv.h"

/* more zones than the driver asks for at once; the last one is half of one */
#define ZONE		16ULL
#define NR_ZONES	2500
#define SECTORS		(ZONE * NR_ZONES - ZONE / 2)
#define NR_CONV		2
/* of a disk that an NVMe namespace can be: all zones are alike */
#define NR_EQUAL	8

/* What the server does about a question */
enum answer {
	RIGHT,
	SILENCE,		/* nothing: who asks waits */
	ERROR,
	NOTHING,		/* no zone */
	ONE_LESS,		/* not the last zone */
	MANY,			/* what fits in the request, not only what was asked for */
	BAD_START,
	BAD_LEN,
	BAD_CAPACITY,
	BAD_WP,
	BAD_TYPE,
	BAD_COND,
	ALL_CONV,
};

struct zoned {
	struct srv s;
	struct blk_zone *zones;
	unsigned int nr_zones;
	char *data;
	enum answer answer;
	int questions;
	/* with UBLK_F_SUPPORT_ZERO_COPY: commit while the answer is registered */
	bool early;
	/* what the server adds to where it says it has appended */
	__u64 lie;
	/* with UBLK_F_BATCH_IO: what the server is told with, and how often it was */
	struct bring b;
	__u64 fetch;
	int told;
};

/* Zones of a disk of @sectors, the first @nr_conv of which are conventional */
void fill_zones(struct zoned *z, __u64 sectors, unsigned int nr_conv);
/* A device whose zones differ, or are @equal, and its server */
void zoned_open(struct zoned *z, __u64 flags, bool equal);
void zoned_free(struct zoned *z);
/* START_DEV; its result as that of zoned_serve() */
int zoned_start(struct zoned *z);
/* Serve until the child ends; its exit status */
int zoned_serve(struct zoned *z, pid_t pid);
/* Wait until the server is asked; the tag */
int zoned_asked(struct zoned *z);
/* UBLK_U_IO_(UN)REGISTER_IO_BUF of the data of a tag */
int zoned_buffer(struct zoned *z, __u32 op, int tag);
/* A child that sends one control command and exits with what it returned */
pid_t zoned_command(int id, __u32 op, __u64 data);
/* The same for UPDATE_SIZE, as soon as nobody, for instance udev, has the disk open */
pid_t zoned_resize(int id, __u64 sectors);

/* An NVMe namespace that is the disk: nobody else can append */
#define NVMET	"/sys/kernel/config/nvmet/"
#define NQN	"ublk-zoned"
#define FABRIC	"transport=loop,nqn=" NQN

bool zoned_put(const char *path, const char *text);
/* The number of its controller, or -1 */
int zoned_nvme(void);
void zoned_nvme_remove(void);

#endif
