// SPDX-License-Identifier: GPL-2.0
/* Memory that servers register, and clients that use it: UBLK_F_SHMEM_ZC. */
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include "parity_shm.h"

void *shm_map(size_t bytes)
{
	int fd = memfd_create("shm", MFD_CLOEXEC);
	void *p;

	if (fd < 0 || ftruncate(fd, bytes))
		give_up("memfd", -errno);
	p = mmap(NULL, bytes + SHM_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		give_up("mmap", -errno);
	p = mmap(p, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_POPULATE, fd, 0);
	if (p == MAP_FAILED)
		give_up("mmap", -errno);
	close(fd);
	return p;
}

int shm_reg_len(int id, struct ublk_shmem_buf_reg *reg, unsigned int len)
{
	return ctrl_simple(id, UBLK_U_CMD_REG_BUF, reg, len, 0);
}

int shm_reg(int id, void *p, __u64 len, __u32 flags)
{
	struct ublk_shmem_buf_reg reg = {
		.addr = (unsigned long)p, .len = len, .flags = flags,
	};

	return shm_reg_len(id, &reg, sizeof(reg));
}

int shm_unreg(int id, __u64 index)
{
	return ctrl_simple(id, UBLK_U_CMD_UNREG_BUF, NULL, 0, index);
}

static int direct_io(int id, bool write, const struct iovec *iov, int nr, int expect)
{
	size_t j, bytes = 0;
	ssize_t res;
	int fd, i;

	/* as in block_start() */
	close_range(3, ~0U, 0);
	fd = open(str("/dev/ublkb%d", id), O_RDWR | O_DIRECT);
	if (fd < 0)
		return errno;
	for (i = 0; i < nr; i++) {
		memset(iov[i].iov_base, write ? SHM_WRITTEN : 0, iov[i].iov_len);
		bytes += iov[i].iov_len;
	}
	res = write ? pwritev(fd, iov, nr, 0) : preadv(fd, iov, nr, 0);
	if (res < 0)
		return errno;
	if ((size_t)res != bytes)
		return SHM_WRONG;
	for (i = 0; !write && expect >= 0 && i < nr; i++)
		for (j = 0; j < iov[i].iov_len; j++)
			if (((unsigned char *)iov[i].iov_base)[j] != expect)
				return SHM_WRONG;
	return 0;
}

pid_t shm_client(int id, bool write, const struct iovec *iov, int nr, int expect)
{
	pid_t pid = fork();

	if (pid < 0)
		give_up("fork", -errno);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(direct_io(id, write, iov, nr, expect));
	}
	return pid;
}
