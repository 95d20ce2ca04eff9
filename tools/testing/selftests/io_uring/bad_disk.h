/* SPDX-License-Identifier: GPL-2.0 */
/* A disk that can not be read everywhere: null_blk with bad sectors */
#ifndef BAD_DISK_H
#define BAD_DISK_H

#define BAD_DISK_LEN	(1024 * 1024)
/* Sectors 16 to 23 */
#define BAD_FROM	8192

/* Make it and open it; -ENODEV if there is no null_blk. It has a queue to be polled */
int open_bad_disk(int flags);
int remove_bad_disk(void);

#endif
