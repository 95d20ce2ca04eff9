// SPDX-License-Identifier: GPL-2.0
/*
 * life_shmem_limits: what UBLK_U_CMD_REG_BUF and UBLK_U_CMD_UNREG_BUF refuse,
 * and how much a user may have registered.
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include "life.h"
#include "parity_shm.h"
#include "kselftest_harness.h"

#define PAGE		SHM_PAGE
#define HUGE_BYTES	(2 << 20)
#define LOCK_PAGES	64

TEST(errors)
{
	char *mem = shm_map(4 * PAGE), *hole = shm_map(2 * PAGE);
	struct ublk_shmem_buf_reg r = { .addr = (unsigned long)mem, .len = PAGE };
	char *ro = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct ublk_shmem_buf_reg flags = { .addr = (unsigned long)ro, .len = PAGE, .flags = 1 };
	int id, without;

	if (why_not())
		SKIP(return, "%s", why_not());
	id = add(UBLK_F_SHMEM_ZC);
	without = add(0);
	ASSERT_LE(0, id);
	ASSERT_LE(0, without);
	munmap(hole + PAGE, PAGE);

	EXPECT_EQ(-EOPNOTSUPP, shm_reg(without, mem, PAGE, 0));
	EXPECT_EQ(-EOPNOTSUPP, shm_unreg(without, 0));
	EXPECT_EQ(-ENODEV, shm_reg(id + 1000, mem, PAGE, 0));
	EXPECT_EQ(-EINVAL, shm_reg(id, mem, PAGE, 2));
	EXPECT_EQ(-EINVAL, shm_reg(id, mem, PAGE, 3));
	EXPECT_EQ(-EINVAL, shm_reg(id, mem, PAGE, 1U << 31));
	EXPECT_EQ(-EINVAL, shm_reg(id, mem, 0, 0));
	EXPECT_EQ(-EINVAL, shm_reg(id, mem, 512, 0));
	EXPECT_EQ(-EINVAL, shm_reg(id, mem + 512, PAGE, 0));
	EXPECT_EQ(-EINVAL, shm_reg(id, mem, (4ULL << 30) + PAGE, 0));
	EXPECT_EQ(-EINVAL, shm_reg(id, mem, -PAGE, 0));
	EXPECT_EQ(-EOVERFLOW, shm_reg(id, (void *)-(1L * PAGE), 2 * PAGE, 0));
	r.reserved = 1;
	EXPECT_EQ(-EINVAL, shm_reg_len(id, &r, sizeof(r)));
	/* what is not given is 0 */
	EXPECT_EQ(0, shm_reg_len(id, &r, 20));
	EXPECT_EQ(0, shm_unreg(id, 0));
	EXPECT_EQ(-EINVAL, shm_reg_len(id, &r, 8));
	EXPECT_EQ(-EINVAL, shm_reg_len(id, &r, 0));
	EXPECT_EQ(-EFAULT, ctrl_simple(id, UBLK_U_CMD_REG_BUF, bad_addr, sizeof(r), 0));
	EXPECT_EQ(-EFAULT, shm_reg(id, hole, 2 * PAGE, 0));
	EXPECT_EQ(-EFAULT, shm_reg(id, hole + PAGE, PAGE, 0));
	EXPECT_EQ(-EFAULT, shm_reg(id, mem, 4ULL << 30, 0));
	/* memory that the server can not write is for writes only */
	EXPECT_EQ(-EFAULT, shm_reg(id, ro, PAGE, 0));
	EXPECT_EQ(0, shm_reg_len(id, &flags, sizeof(flags)));
	EXPECT_EQ(0, shm_unreg(id, 0));

	EXPECT_EQ(0, shm_reg(id, mem + PAGE, PAGE, 0));
	EXPECT_EQ(-EEXIST, shm_reg(id, mem + PAGE, PAGE, 0));
	EXPECT_EQ(-EEXIST, shm_reg(id, mem, 4 * PAGE, 0));
	EXPECT_EQ(1, shm_reg(id, mem, PAGE, 0));
	EXPECT_EQ(2, shm_reg(id, mem + 2 * PAGE, 2 * PAGE, 0));
	EXPECT_EQ(-EEXIST, shm_reg(id, mem + 3 * PAGE, PAGE, 0));
	EXPECT_EQ(0, shm_unreg(id, 1));
	EXPECT_EQ(-ENOENT, shm_unreg(id, 1));
	EXPECT_EQ(-ENOENT, shm_unreg(id, 65535));
	EXPECT_EQ(-EINVAL, shm_unreg(id, 65536));
	EXPECT_EQ(-EINVAL, shm_unreg(id, -1));
	/* no index is cut down to one that exists */
	EXPECT_EQ(-EINVAL, shm_unreg(id, 1ULL << 32));
	EXPECT_EQ(1, shm_reg(id, mem, PAGE, 0));
	EXPECT_EQ(0, delete_dev(id));
	EXPECT_EQ(0, delete_dev(without));
}

/* One page at two addresses of one buffer */
TEST(twice_in_one)
{
	char *mem = shm_map(2 * PAGE);
	int id;

	if (why_not())
		SKIP(return, "%s", why_not());
	id = add(UBLK_F_SHMEM_ZC);
	ASSERT_LE(0, id);
	ASSERT_EQ(mem + PAGE, mremap(mem, 0, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, mem + PAGE));
	EXPECT_EQ(-EEXIST, shm_reg(id, mem, 2 * PAGE, 0));
	EXPECT_EQ(0, shm_reg(id, mem, PAGE, 0));
	EXPECT_EQ(0, delete_dev(id));
}

/* Whether a write of physically contiguous memory matches; where, if it does */
static bool found(struct srv *s, char *p, size_t len, __u64 *addr)
{
	struct iovec iov = { p, len };
	pid_t pid = shm_client(s->id, true, &iov, 1, 0);
	bool yes;
	int tag;

	while ((tag = srv_request(s, 1000)) < 0)
		;
	yes = srv_desc(s, tag)->op_flags & UBLK_IO_F_SHMEM_ZC;
	*addr = srv_desc(s, tag)->addr;
	srv_commit(s, tag, len);
	if (exit_status(pid))
		give_up("write", 0);
	return yes;
}

/* A huge page is found by any of its pages, if all of the data is in the buffer */
TEST(huge)
{
	size_t len = 16 * PAGE;
	struct srv s = {};
	__u64 addr;
	char *mem;
	int fd;

	if (why_not())
		SKIP(return, "%s", why_not());
	fd = open("/proc/sys/vm/nr_hugepages", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "8", 1) != 1)
		SKIP(return, "no huge pages");
	close(fd);
	mem = mmap(NULL, 2 * HUGE_BYTES, PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1, 0);
	if (mem == MAP_FAILED)
		SKIP(return, "no huge pages");
	srv_live(&s, UBLK_F_SHMEM_ZC, NULL);
	ASSERT_EQ(0, shm_reg(s.id, mem, 2 * HUGE_BYTES, 0));
	EXPECT_TRUE(found(&s, mem + HUGE_BYTES - len, len, &addr));
	EXPECT_EQ(HUGE_BYTES - len, addr);
	EXPECT_TRUE(found(&s, mem + 2 * HUGE_BYTES - len, len, &addr));
	EXPECT_EQ(2 * HUGE_BYTES - len, addr);
	ASSERT_EQ(0, shm_unreg(s.id, 0));

	/* from the second page on, and without the last */
	ASSERT_EQ(0, shm_reg(s.id, mem + PAGE, HUGE_BYTES - 2 * PAGE, 0));
	EXPECT_FALSE(found(&s, mem, len, &addr));
	EXPECT_FALSE(found(&s, mem + HUGE_BYTES - len, len, &addr));
	EXPECT_FALSE(found(&s, mem + HUGE_BYTES - len - 512, len, &addr));
	EXPECT_TRUE(found(&s, mem + HUGE_BYTES - len - PAGE, len, &addr));
	EXPECT_EQ(HUGE_BYTES - len - 2 * PAGE, addr);
	srv_close(&s);
	EXPECT_EQ(0, delete_dev(s.id));
}

/* Pieces that are physically contiguous may have no page in common, wherever they begin */
TEST(overlap)
{
	char *mem;
	int fd, id;

	if (why_not())
		SKIP(return, "%s", why_not());
	fd = open("/proc/sys/vm/nr_hugepages", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "8", 1) != 1)
		SKIP(return, "no huge pages");
	close(fd);
	mem = mmap(NULL, HUGE_BYTES, PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1, 0);
	if (mem == MAP_FAILED)
		SKIP(return, "no huge pages");
	id = add(UBLK_F_SHMEM_ZC);
	ASSERT_LE(0, id);
	ASSERT_EQ(0, shm_reg(id, mem + 4 * PAGE, 4 * PAGE, 0));
	/* all of it, its begin, its end, its middle, and more */
	EXPECT_EQ(-EEXIST, shm_reg(id, mem + 4 * PAGE, 4 * PAGE, 0));
	EXPECT_EQ(-EEXIST, shm_reg(id, mem + 3 * PAGE, 2 * PAGE, 0));
	EXPECT_EQ(-EEXIST, shm_reg(id, mem + 7 * PAGE, 2 * PAGE, 0));
	EXPECT_EQ(-EEXIST, shm_reg(id, mem + 5 * PAGE, PAGE, 0));
	EXPECT_EQ(-EEXIST, shm_reg(id, mem, HUGE_BYTES, 0));
	/* its neighbours are free */
	EXPECT_EQ(1, shm_reg(id, mem, 4 * PAGE, 0));
	EXPECT_EQ(2, shm_reg(id, mem + 8 * PAGE, 4 * PAGE, 0));
	EXPECT_EQ(0, shm_unreg(id, 0));
	EXPECT_EQ(0, shm_reg(id, mem + 4 * PAGE, 4 * PAGE, 0));
	EXPECT_EQ(0, delete_dev(id));
	munmap(mem, HUGE_BYTES);
}

/* With the path of the node in front, as who has no privileges has to */
static int own_ctrl(int id, __u32 op, void *buf, unsigned int len, __u64 data)
{
	char cmd_buf[64 + sizeof(struct ublk_shmem_buf_reg)] = "";
	struct ublksrv_ctrl_cmd cmd = {
		.dev_id = id, .queue_id = -1, .addr = (unsigned long)cmd_buf,
		.len = 64 + len, .dev_path_len = 64, .data = { data },
	};

	snprintf(cmd_buf, 64, "/dev/ublkc%d", id);
	if (len)
		memcpy(cmd_buf + 64, buf, len);
	return ctrl(op, &cmd);
}

static int own_reg(int id, char *p, unsigned int pages)
{
	struct ublk_shmem_buf_reg r = { .addr = (unsigned long)p, .len = pages * PAGE };

	return own_ctrl(id, UBLK_U_CMD_REG_BUF, &r, sizeof(r), 0);
}

static void must(int line, int want, int got)
{
	if (got != want)
		give_up(str("line %d", line), got);
}

#define MUST(want, expr)	must(__LINE__, want, expr)

static int own_dev(void)
{
	int id = add(UBLK_F_SHMEM_ZC | UBLK_F_UNPRIVILEGED_DEV);

	if (id < 0)
		give_up("ADD_DEV", id);
	become(0);
	if (chmod(str("/dev/ublkc%d", id), 0666))
		give_up("chmod", -errno);
	become(NOBODY);
	return id;
}

static void delete_as_root(int id)
{
	become(0);
	MUST(0, delete_dev(id));
	become(NOBODY);
}

static void limit(void)
{
	struct rlimit limit = { LOCK_PAGES * PAGE, LOCK_PAGES * PAGE };

	if (setrlimit(RLIMIT_MEMLOCK, &limit))
		give_up("setrlimit", -errno);
	become(NOBODY);
}

/* What is pinned counts for the user, until it is not pinned any more */
static void counts(void)
{
	char *mem = shm_map(2 * LOCK_PAGES * PAGE);
	int id, id2;

	limit();
	id = own_dev();
	id2 = own_dev();
	MUST(-ENOMEM, own_reg(id, mem, LOCK_PAGES + 1));
	MUST(0, own_reg(id, mem, LOCK_PAGES / 2));
	/* what fails gives back what it counted */
	MUST(-EEXIST, own_reg(id, mem, LOCK_PAGES / 2));
	MUST(-EFAULT, own_reg(id, mem + (2 * LOCK_PAGES - 1) * PAGE, 2));
	MUST(-ENOMEM, own_reg(id2, mem, LOCK_PAGES / 2 + 1));
	MUST(0, own_reg(id2, mem, LOCK_PAGES / 2));
	MUST(-ENOMEM, own_reg(id2, mem + LOCK_PAGES * PAGE, 1));
	MUST(0, own_ctrl(id2, UBLK_U_CMD_UNREG_BUF, NULL, 0, 0));
	MUST(0, own_reg(id2, mem + LOCK_PAGES * PAGE, LOCK_PAGES / 2));
	delete_as_root(id);
	MUST(1, own_reg(id2, mem, LOCK_PAGES / 2));
	MUST(-ENOMEM, own_reg(id2, mem + LOCK_PAGES / 2 * PAGE, 1));
	delete_as_root(id2);
	/* all of it is back */
	id = own_dev();
	MUST(0, own_reg(id, mem, LOCK_PAGES));
	delete_as_root(id);
}

/* Also when the process that registered it was killed */
static void outlives(void)
{
	char *mem = shm_map(2 * LOCK_PAGES * PAGE);
	int id, pipes[2];
	pid_t pid;

	limit();
	id = own_dev();
	if (pipe(pipes))
		give_up("pipe", -errno);
	pid = child();
	if (!pid) {
		MUST(0, own_reg(id, mem, LOCK_PAGES));
		tell(pipes[1]);
		for (;;)
			pause();
	}
	hear(pipes[0]);
	kill(pid, SIGKILL);
	exit_status(pid);
	MUST(-ENOMEM, own_reg(id, mem + LOCK_PAGES * PAGE, 1));
	MUST(0, own_ctrl(id, UBLK_U_CMD_UNREG_BUF, NULL, 0, 0));
	MUST(0, own_reg(id, mem + LOCK_PAGES * PAGE, LOCK_PAGES));
	delete_as_root(id);
}

/* Who may lock any amount is not counted */
static void unlimited(void)
{
	struct rlimit limit = { 0, 0 };
	char *mem = shm_map(LOCK_PAGES * PAGE);
	int id = add(UBLK_F_SHMEM_ZC);

	MUST(0, setrlimit(RLIMIT_MEMLOCK, &limit));
	MUST(0, shm_reg(id, mem, LOCK_PAGES * PAGE, 0));
	MUST(0, delete_dev(id));
}

static int in_child(void (*fn)(void))
{
	pid_t pid = child();

	if (!pid) {
		ctrl_open();
		fn();
		_exit(0);
	}
	return exit_status(pid);
}

TEST(limit_counts)
{
	if (why_not())
		SKIP(return, "%s", why_not());
	EXPECT_EQ(0, in_child(counts));
}

TEST(limit_outlives_server)
{
	if (why_not())
		SKIP(return, "%s", why_not());
	EXPECT_EQ(0, in_child(outlives));
}

TEST(limit_of_root)
{
	if (why_not())
		SKIP(return, "%s", why_not());
	EXPECT_EQ(0, in_child(unlimited));
}

TEST_HARNESS_MAIN
