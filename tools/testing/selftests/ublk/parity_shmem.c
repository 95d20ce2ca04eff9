// SPDX-License-Identifier: GPL-2.0
/* parity: memory that is registered, and requests with data in it. */
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include "parity_shm.h"

#define PAGE	SHM_PAGE
#define GIB	(1024 * 1024 * 1024ULL)

/* Arguments ---------------------------------------------------------------- */

/* Register, and unregister again what was taken */
static void reg_case(int id, const char *cmd, const char *arg,
		     struct ublk_shmem_buf_reg *reg, unsigned int len)
{
	int res = shm_reg_len(id, reg, len);

	put("shmem", cmd, arg, "%s", res_name(res));
	if (res >= 0 && res != BLOCKS)
		put("shmem", cmd, arg, "UNREG_BUF %s", res_name(shm_unreg(id, res)));
}

static void reg_args(int id, const char *cmd)
{
	static const __u64 lens[] = {
		0, 1, 512, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, 4 * PAGE, 5 * PAGE, GIB,
		4 * GIB - PAGE, 4 * GIB, 4 * GIB + 1, 4 * GIB + PAGE, 8 * GIB, 1ULL << 63,
		-1ULL * PAGE, -1ULL,
	};
	static const __u32 flags[] = { 0, 1, 2, 3, 4, 1U << 31, -1U };
	static const unsigned int sizes[] = { 0, 1, 8, 12, 16, 17, 20, 23, 24, 25, 4096, 65535 };
	char *mem = shm_map(4 * PAGE);
	char *ro = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	const __u64 addrs[] = {
		(unsigned long)mem, (unsigned long)mem + 1, (unsigned long)mem + 512,
		(unsigned long)mem + 3 * PAGE, (unsigned long)mem + 4 * PAGE, 0, PAGE,
		(unsigned long)ro, 1ULL << 47, -1ULL * PAGE, -1ULL,
	};
	struct ublk_shmem_buf_reg reg;
	unsigned int i, j;

	for (i = 0; i < ARRAY_SIZE(addrs); i++) {
		for (j = 0; j < ARRAY_SIZE(lens); j++) {
			reg = (struct ublk_shmem_buf_reg){ .addr = addrs[i], .len = lens[j] };
			reg_case(id, cmd, str("addr %u len %llx", i, lens[j]), &reg, sizeof(reg));
		}
		for (j = 0; j < ARRAY_SIZE(flags); j++) {
			reg = (struct ublk_shmem_buf_reg){
				.addr = addrs[i], .len = PAGE, .flags = flags[j],
			};
			reg_case(id, cmd, str("addr %u flags %x", i, flags[j]), &reg, sizeof(reg));
			reg.reserved = flags[j];
			reg_case(id, cmd, str("addr %u flags and reserved %x", i, flags[j]),
				 &reg, sizeof(reg));
		}
	}
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		static struct {
			struct ublk_shmem_buf_reg reg;
			char rest[65536];
		} big;

		big.reg = (struct ublk_shmem_buf_reg){
			.addr = addrs[0], .len = PAGE, .reserved = 1,
		};
		reg_case(id, cmd, str("%u bytes, reserved", sizes[i]), &big.reg, sizes[i]);
		big.reg.reserved = 0;
		big.reg.flags = 1;
		reg_case(id, cmd, str("%u bytes, read only", sizes[i]), &big.reg, sizes[i]);
		put("shmem", cmd, str("%u bytes, unmapped", sizes[i]), "%s",
		    res_name(ctrl_simple(id, UBLK_U_CMD_REG_BUF, bad_addr, sizes[i], 0)));
	}
}

static void args(const void *arg)
{
	static const __u64 indexes[] = {
		0, 1, 2, 3, 65534, 65535, 65536, 1U << 31, -1U, 1ULL << 32, (1ULL << 32) + 1,
		1ULL << 63, -1ULL,
	};
	int id = add(UBLK_F_SHMEM_ZC), without = add(0);
	char *mem = shm_map(8 * PAGE);
	unsigned int i;

	reg_args(id, "REG_BUF");
	reg_args(without, "REG_BUF without the feature");
	for (i = 0; i < 4; i++)
		put("shmem", "REG_BUF", str("again %u", i), "%s",
		    res_name(shm_reg(id, mem + i * PAGE, (i + 1) * PAGE, i % 2)));
	for (i = 0; i < ARRAY_SIZE(indexes); i++) {
		put("shmem", "UNREG_BUF without the feature", str("%llx", indexes[i]), "%s",
		    res_name(shm_unreg(without, indexes[i])));
		put("shmem", "UNREG_BUF", str("%llx", indexes[i]), "%s",
		    res_name(shm_unreg(id, indexes[i])));
		put("shmem", "UNREG_BUF", str("%llx again", indexes[i]), "%s",
		    res_name(shm_unreg(id, indexes[i])));
		put("shmem", "REG_BUF", str("after %llx", indexes[i]), "%s",
		    res_name(shm_reg(id, mem + 6 * PAGE, PAGE, 0)));
	}
}

/* Requests ----------------------------------------------------------------- */

static const struct mode {
	const char *name;
	__u64 flags;
} modes[] = {
	{ "copy", 0 }, { "get_data", UBLK_F_NEED_GET_DATA }, { "user_copy", UBLK_F_USER_COPY },
	{ "zero_copy", UBLK_F_SUPPORT_ZERO_COPY }, { "auto_reg", UBLK_F_AUTO_BUF_REG },
};

/* In pages: two pieces of the memory, of which the second may be empty */
static const struct place {
	int at, nr, at2, nr2;
	int skip;		/* bytes */
} places[] = {
	{ 0, 1 }, { 1, 3 }, { 7, 1 }, { 7, 2 }, { 8, 1 }, { 6, 4 }, { 12, 1 }, { 11, 2 },
	{ 0, 1, 1, 1 }, { 1, 1, 0, 1 }, { 0, 1, 2, 1 }, { 0, 1, 0, 1 }, { 7, 1, 8, 1 },
	{ 0, 1, 0, 0, 512 }, { 7, 1, 0, 0, 512 },
};

/* Serve the requests of a client with what is there, by whole or half results */
static int requests(struct srv *s, const char *name, const char *what, pid_t pid, bool half)
{
	int n = 0, status, tag;

	while (waitpid(pid, &status, WNOHANG) != pid) {
		const struct ublksrv_io_desc *desc;
		unsigned int bytes;
		int res = 0;

		tag = srv_request(s, 20);
		if (tag < 0)
			continue;
		desc = srv_desc(s, tag);
		bytes = desc->nr_sectors << 9;
		put(name, what, str("request %d", n), "op %x sectors %u addr %llx",
		    desc->op_flags, desc->nr_sectors,
		    desc->op_flags & UBLK_IO_F_SHMEM_ZC ? (unsigned long long)desc->addr : 0);
		if (s->flags & UBLK_F_NEED_GET_DATA && ublksrv_get_op(desc) == UBLK_IO_OP_WRITE) {
			struct io get = {
				.op = UBLK_U_IO_NEED_GET_DATA, .tag = tag,
				.addr = (unsigned long)s->buf[tag],
			};

			res = srv_do(s, &get);
			put(name, what, str("data %d", n), "%s", res_name(res));
			s->owned[tag] = true;
		}
		srv_commit(s, tag, half && !n++ ? bytes / 2 : bytes);
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void matches(const void *arg)
{
	const struct mode *m = arg;
	unsigned int i, write, flags;
	char *mem = shm_map(16 * PAGE);
	struct srv s;

	srv_open(&s, m->flags | UBLK_F_SHMEM_ZC, NULL);
	srv_fetch(&s, 0, s.depth);
	for (flags = 0; flags < 2; flags++) {
		put(m->name, "REG_BUF", str("%u", flags), "%s",
		    res_name(shm_reg(s.id, mem, 8 * PAGE, flags)));
		put(m->name, "REG_BUF", str("%u, next", flags), "%s",
		    res_name(shm_reg(s.id, mem + 8 * PAGE, 4 * PAGE, 0)));
		if (!flags)
			srv_start(&s);
		for (i = 0; i < 2 * ARRAY_SIZE(places); i++) {
			const struct place *p = &places[i / 2];
			struct iovec iov[] = {
				{ mem + p->at * PAGE + p->skip, p->nr * PAGE },
				{ mem + p->at2 * PAGE, p->nr2 * PAGE },
			};
			const char *what;
			pid_t pid;

			write = i % 2;
			what = str("flags %u %s %d %d %d %d %d", flags, write ? "WRITE" : "READ",
				   p->at, p->nr, p->at2, p->nr2, p->skip);
			pid = shm_client(s.id, write, iov, p->nr2 ? 2 : 1, -1);
			put(m->name, what, "end", "%d", requests(&s, m->name, what, pid, false));
		}
		for (write = 0; write < 2; write++) {
			struct iovec iov = { mem, 2 * PAGE };
			const char *what = str("short, flags %u %s", flags,
					       write ? "WRITE" : "READ");
			pid_t pid = shm_client(s.id, write, &iov, 1, -1);

			put(m->name, what, "end", "%d", requests(&s, m->name, what, pid, true));
		}
		put(m->name, "UNREG_BUF", str("%u", flags), "%s, %s",
		    res_name(shm_unreg(s.id, 0)), res_name(shm_unreg(s.id, 1)));
	}
}

void group_shmem(void)
{
	unsigned int i;

	run("shmem, arguments", args, NULL);
	for (i = 0; i < ARRAY_SIZE(modes); i++)
		run(str("shmem, %s", modes[i].name), matches, &modes[i]);
}
