/* SPDX-License-Identifier: GPL-2.0 */
/* Memory that servers register, and clients that use it: UBLK_F_SHMEM_ZC. */
#ifndef UBLK_PARITY_SHM_H
#define UBLK_PARITY_SHM_H

#include <sys/uio.h>
#include "parity.h"

#define SHM_PAGE	4096

/* What a client writes */
#define SHM_WRITTEN	0xc1
/* The exit status of a client that read something else */
#define SHM_WRONG	200

/* Memory that children share, with nothing mapped behind it */
void *shm_map(size_t bytes);
/* UBLK_U_CMD_REG_BUF, also of less or more than the structure */
int shm_reg_len(int id, struct ublk_shmem_buf_reg *reg, unsigned int len);
int shm_reg(int id, void *p, __u64 len, __u32 flags);
int shm_unreg(int id, __u64 index);
/*
 * Direct I/O on pieces of memory, by a child: a write is of SHM_WRITTEN, a read
 * must bring @expect, if that is not negative. It exits with 0, an errno, or
 * SHM_WRONG.
 */
pid_t shm_client(int id, bool write, const struct iovec *iov, int nr, int expect);

#endif
