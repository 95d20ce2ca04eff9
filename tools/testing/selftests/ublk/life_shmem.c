// SPDX-License-Identifier: GPL-2.0
/*
 * life_shmem: memory that a server registered with UBLK_U_CMD_REG_BUF, in each
 * way that data moves.
 *
 * A client does direct I/O on it, or on memory of its own. The descriptor says
 * which; the server's own buffer, which the driver copies from and to, has
 * another pattern, so that each byte that is copied too much, or too little, is
 * seen.
 */
#include <signal.h>
#include <sys/mman.h>
#include "life.h"
#include "parity_bsrv.h"
#include "parity_shm.h"
#include "kselftest_harness.h"

#define PAGE		SHM_PAGE
#define BUF_BYTES	(64 * PAGE)

/* what the server's own buffers have, see srv_opened() */
#define OWN		0x5a
#define SERVER		0x5e

/* A server, which may work on batches */
struct server {
	struct srv s;
	struct bring b;
	__u64 fetch;
	int told;
};

static bool batch(const struct server *v)
{
	return v->s.flags & UBLK_F_BATCH_IO;
}

static void begin(struct server *v)
{
	int i;

	for (i = 0; i < NR_TAG_BUFS; i++)
		bring_provide(&v->b, i, 1, NULL);
	v->fetch = bring_fetch(&v->b, 0);
}

static void live(struct server *v, __u64 flags)
{
	flags |= UBLK_F_SHMEM_ZC;
	if (flags & UBLK_F_BATCH_IO) {
		batch_live(&v->b, &v->s, flags);
		begin(v);
	} else {
		srv_live(&v->s, flags, NULL);
	}
}

/* The next server of a device whose last one is gone */
static void live_again(struct server *v)
{
	while (ctrl_simple(v->s.id, UBLK_U_CMD_START_USER_RECOVERY, NULL, 0, 0))
		usleep(1000);
	attach(&v->s);
	if (batch(v)) {
		bring_init(&v->b, &v->s, false);
		if (batch_prep(&v->b, 0, 0, v->s.depth))
			give_up("PREP", 0);
		begin(v);
	} else {
		srv_fetch(&v->s, 0, v->s.depth);
	}
	if (ctrl_simple(v->s.id, UBLK_U_CMD_END_USER_RECOVERY, NULL, 0, getpid()))
		give_up("END_USER_RECOVERY", 0);
}

/* UBLK_IO_NEED_GET_DATA: its result */
static int give_buffer(struct server *v, int tag)
{
	struct io io = {
		.op = UBLK_U_IO_NEED_GET_DATA, .tag = tag,
		.addr = (unsigned long)v->s.buf[tag],
	};
	int res = srv_do(&v->s, &io);

	v->s.owned[tag] = true;
	return res;
}

static bool matched(struct server *v, int tag)
{
	return srv_desc(&v->s, tag)->op_flags & UBLK_IO_F_SHMEM_ZC;
}

/* Wait for a request that the server has all of: its tag */
static int next(struct server *v)
{
	int tag = -1;

	if (batch(v)) {
		if (batch_request(&v->b, v->fetch, INT_MAX, &tag) != 2)
			give_up("FETCH", 0);
		bring_provide(&v->b, v->told++ % NR_TAG_BUFS, 1, NULL);
		return tag;
	}
	while (tag < 0)
		tag = srv_request(&v->s, 1000);
	/* a server that has the data is not asked for a buffer */
	if (v->s.flags & UBLK_F_NEED_GET_DATA &&
	    (srv_desc(&v->s, tag)->op_flags & 0xff) == UBLK_IO_OP_WRITE &&
	    give_buffer(v, tag) != (matched(v, tag) ? -EINVAL : UBLK_IO_RES_OK))
		give_up("NEED_GET_DATA", 0);
	return tag;
}

static void commit(struct server *v, int tag, int res)
{
	if (!batch(v))
		srv_commit(&v->s, tag, res);
	else if (batch_commit(&v->b, 0, tag, res) != batch_bytes(&v->s))
		give_up("COMMIT", 0);
}

static pid_t client(struct server *v, bool write, void *p, size_t len, int expect)
{
	struct iovec iov = { p, len };

	return shm_client(v->s.id, write, &iov, 1, expect);
}

static size_t count(const void *p, int c, size_t len)
{
	const unsigned char *b = p;
	size_t n = 0;

	while (len--)
		n += *b++ == c;
	return n;
}

/* How many bytes the driver has copied to the server, of a write */
static size_t copied(struct server *v, int tag)
{
	return IO_BYTES - count(v->s.buf[tag], OWN, IO_BYTES);
}

FIXTURE(shmem) {
	struct server v;
	char *mem;
};

FIXTURE_VARIANT(shmem) {
	__u64 flags;
};

FIXTURE_VARIANT_ADD(shmem, copy) {
	.flags = 0,
};

FIXTURE_VARIANT_ADD(shmem, get_data) {
	.flags = UBLK_F_NEED_GET_DATA,
};

FIXTURE_VARIANT_ADD(shmem, user_copy) {
	.flags = UBLK_F_USER_COPY,
};

FIXTURE_VARIANT_ADD(shmem, zero_copy) {
	.flags = UBLK_F_SUPPORT_ZERO_COPY,
};

FIXTURE_VARIANT_ADD(shmem, auto_reg) {
	.flags = UBLK_F_AUTO_BUF_REG,
};

FIXTURE_VARIANT_ADD(shmem, fused) {
	.flags = UBLK_F_FUSED_CMD,
};

FIXTURE_VARIANT_ADD(shmem, batch_copy) {
	.flags = UBLK_F_BATCH_IO,
};

FIXTURE_VARIANT_ADD(shmem, batch_user_copy) {
	.flags = UBLK_F_BATCH_IO | UBLK_F_USER_COPY,
};

FIXTURE_VARIANT_ADD(shmem, batch_auto_reg) {
	.flags = UBLK_F_BATCH_IO | UBLK_F_AUTO_BUF_REG,
};

FIXTURE_VARIANT_ADD(shmem, batch_fused) {
	.flags = UBLK_F_BATCH_IO | UBLK_F_FUSED_CMD,
};

FIXTURE_SETUP(shmem)
{
	self->v.s.id = -1;
	if (why_not())
		SKIP(return, "%s", why_not());
	self->mem = shm_map(BUF_BYTES);
	live(&self->v, variant->flags | UBLK_F_USER_RECOVERY);
}

FIXTURE_TEARDOWN(shmem)
{
	if (self->v.s.id < 0)
		return;
	srv_close(&self->v.s);
	EXPECT_EQ(0, delete_dev(self->v.s.id));
}

/* A request whose data is registered, at an offset: nothing is copied */
TEST_F(shmem, matches)
{
	struct server *v = &self->v;
	char *at = self->mem + 3 * PAGE + 512;
	size_t len = 4 * PAGE;
	pid_t pid;
	int tag;

	ASSERT_EQ(0, shm_reg(v->s.id, self->mem, BUF_BYTES, 0));
	pid = client(v, true, at, len, 0);
	tag = next(v);
	EXPECT_TRUE(matched(v, tag));
	EXPECT_EQ(3 * PAGE + 512, srv_desc(&v->s, tag)->addr);
	EXPECT_EQ(len >> 9, srv_desc(&v->s, tag)->nr_sectors);
	EXPECT_EQ(len, count(at, SHM_WRITTEN, len));
	EXPECT_EQ(0, copied(v, tag));
	commit(v, tag, len);
	EXPECT_EQ(0, exit_status(pid));

	pid = client(v, false, at, len, SERVER);
	tag = next(v);
	EXPECT_TRUE(matched(v, tag));
	EXPECT_EQ(3 * PAGE + 512, srv_desc(&v->s, tag)->addr);
	memset(at, SERVER, len);
	commit(v, tag, len);
	EXPECT_EQ(0, exit_status(pid));
}

/* A request with other memory is served as if nothing were registered */
TEST_F(shmem, does_not_match)
{
	struct server *v = &self->v;
	char *own = shm_map(4 * PAGE);
	bool copies = srv_copies(&v->s);
	size_t len = 4 * PAGE;
	pid_t pid;
	int tag;

	ASSERT_EQ(0, shm_reg(v->s.id, self->mem, BUF_BYTES, 0));
	pid = client(v, true, own, len, 0);
	tag = next(v);
	EXPECT_FALSE(matched(v, tag));
	if (copies)
		EXPECT_EQ((unsigned long)v->s.buf[tag], srv_desc(&v->s, tag)->addr);
	EXPECT_EQ(copies ? len : 0, copied(v, tag));
	commit(v, tag, len);
	EXPECT_EQ(0, exit_status(pid));

	pid = client(v, false, own, len, copies ? SERVER : -1);
	tag = next(v);
	EXPECT_FALSE(matched(v, tag));
	memset(v->s.buf[tag], SERVER, len);
	commit(v, tag, len);
	EXPECT_EQ(0, exit_status(pid));
}

/* Whether a write of these pieces matches */
static bool piecewise(struct server *v, const struct iovec *iov, int nr)
{
	pid_t pid = shm_client(v->s.id, true, iov, nr, 0);
	int tag = next(v);
	bool yes = matched(v, tag);

	commit(v, tag, srv_desc(&v->s, tag)->nr_sectors << 9);
	if (exit_status(pid))
		give_up("write", 0);
	return yes;
}

/* Only what lies in one buffer as a whole, in the order of the data */
TEST_F(shmem, only_as_one_piece)
{
	struct server *v = &self->v;
	char *mem = self->mem;
	struct iovec seam[] = { { mem, PAGE }, { mem + PAGE, PAGE } };
	struct iovec swapped[] = { { mem + PAGE, PAGE }, { mem, PAGE } };
	struct iovec gap[] = { { mem, PAGE }, { mem + 2 * PAGE, PAGE } };
	struct iovec twice[] = { { mem, PAGE }, { mem, PAGE } };
	struct iovec last = { mem + 6 * PAGE, 2 * PAGE };
	struct iovec beyond = { mem + 6 * PAGE, 4 * PAGE };
	struct iovec outside = { mem + 20 * PAGE, PAGE };
	struct iovec before = { mem + 31 * PAGE, 2 * PAGE };

	ASSERT_EQ(0, shm_reg(v->s.id, mem, 8 * PAGE, 0));
	/* contiguous with it, but another one */
	ASSERT_EQ(1, shm_reg(v->s.id, mem + 8 * PAGE, 8 * PAGE, 0));
	ASSERT_EQ(2, shm_reg(v->s.id, mem + 32 * PAGE, 8 * PAGE, 0));
	EXPECT_TRUE(piecewise(v, seam, 2));
	EXPECT_TRUE(piecewise(v, &last, 1));
	EXPECT_FALSE(piecewise(v, swapped, 2));
	EXPECT_FALSE(piecewise(v, gap, 2));
	EXPECT_FALSE(piecewise(v, twice, 2));
	EXPECT_FALSE(piecewise(v, &beyond, 1));
	EXPECT_FALSE(piecewise(v, &outside, 1));
	EXPECT_FALSE(piecewise(v, &before, 1));
}

/* Memory that the server only reads is no place for the data of a read */
TEST_F(shmem, read_only)
{
	struct server *v = &self->v;
	bool copies = srv_copies(&v->s);
	pid_t pid;
	int tag;

	ASSERT_EQ(0, shm_reg(v->s.id, self->mem, BUF_BYTES, UBLK_SHMEM_BUF_READ_ONLY));
	pid = client(v, true, self->mem, PAGE, 0);
	tag = next(v);
	EXPECT_TRUE(matched(v, tag));
	EXPECT_EQ(0, copied(v, tag));
	commit(v, tag, PAGE);
	EXPECT_EQ(0, exit_status(pid));

	pid = client(v, false, self->mem, PAGE, copies ? OWN : -1);
	tag = next(v);
	EXPECT_FALSE(matched(v, tag));
	commit(v, tag, PAGE);
	EXPECT_EQ(0, exit_status(pid));
}

/* A short read is asked for again from there on, where the driver copies; else it is all */
TEST_F(shmem, short_read)
{
	struct server *v = &self->v;
	pid_t pid;
	int tag;

	ASSERT_EQ(0, shm_reg(v->s.id, self->mem, BUF_BYTES, 0));
	pid = client(v, false, self->mem, 2 * PAGE, SERVER);
	tag = next(v);
	EXPECT_TRUE(matched(v, tag));
	memset(self->mem, SERVER, 2 * PAGE);
	commit(v, tag, PAGE);
	if (srv_copies(&v->s)) {
		tag = next(v);
		EXPECT_TRUE(matched(v, tag));
		EXPECT_EQ(PAGE, srv_desc(&v->s, tag)->addr);
		EXPECT_EQ(PAGE >> 9, srv_desc(&v->s, tag)->start_sector);
		/* more than there is */
		commit(v, tag, 64 * PAGE);
	} else {
		EXPECT_EQ(0, exit_status(pid));
		pid = client(v, false, self->mem, 2 * PAGE, SERVER);
		tag = next(v);
		EXPECT_TRUE(matched(v, tag));
		memset(self->mem, SERVER, 2 * PAGE);
		commit(v, tag, 100);
	}
	EXPECT_EQ(0, exit_status(pid));
}

/* Both commands while the server has a request, which keeps its index */
TEST_F(shmem, changes_under_a_request)
{
	struct server *v = &self->v;
	char *other = shm_map(PAGE);
	pid_t pid;
	int i, tag;

	for (i = 0; i < 2; i++) {
		ASSERT_EQ(0, shm_reg(v->s.id, self->mem, BUF_BYTES, 0));
		pid = client(v, !i, self->mem + PAGE, PAGE, SERVER);
		tag = next(v);
		EXPECT_EQ(1, shm_reg(v->s.id, other, PAGE, 0));
		EXPECT_EQ(0, shm_unreg(v->s.id, 1));
		EXPECT_EQ(0, shm_unreg(v->s.id, 0));
		EXPECT_EQ(-ENOENT, shm_unreg(v->s.id, 0));
		/* the index stands for the memory of that request */
		EXPECT_EQ(1, shm_reg(v->s.id, other, PAGE, 0));
		EXPECT_TRUE(matched(v, tag));
		EXPECT_EQ(PAGE, srv_desc(&v->s, tag)->addr);
		EXPECT_EQ(0, copied(v, tag));
		memset(self->mem + PAGE, SERVER, PAGE);
		commit(v, tag, PAGE);
		EXPECT_EQ(0, exit_status(pid));
		EXPECT_EQ(0, shm_unreg(v->s.id, 1));
	}
	ASSERT_EQ(0, shm_reg(v->s.id, self->mem, PAGE, 0));
}

/* A fused command whose secondary writes the data of a request to @fd */
static int fused(struct server *v, struct io_uring *ring, __u32 op, int tag, int fd)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct ublksrv_io_cmd *cmd = (void *)sqe->cmd;
	struct io_uring_cqe *cqe;
	int res = BLOCKS;

	memset(sqe, 0, sizeof(*sqe));
	memset(cmd, 0, sizeof(*cmd));
	sqe->opcode = IORING_OP_FUSED_CMD;
	sqe->fd = v->s.cdev;
	sqe->cmd_op = op;
	sqe->uring_cmd_flags = IORING_FUSED_CMD_BUF;
	sqe->nr_secondary = 1;
	cmd->tag = tag;
	sqe = io_uring_get_sqe(ring);
	io_uring_prep_write(sqe, fd, NULL, PAGE, 0);
	sqe->user_data = 1;
	io_uring_submit(ring);
	while (res == BLOCKS) {
		if (io_uring_wait_cqe(ring, &cqe))
			give_up("io_uring_wait_cqe", 0);
		if (cqe->user_data == 1)
			res = cqe->res;
		io_uring_cqe_seen(ring, cqe);
	}
	return res;
}

/* A request that matches may as well be served by what the device has otherwise */
TEST_F(shmem, served_otherwise)
{
	bool fuses = variant->flags & UBLK_F_FUSED_CMD;
	int tag, i, fd = memfd_create("data", MFD_CLOEXEC);
	struct server *v = &self->v;
	struct io_uring ring;
	char data[PAGE];
	pid_t pid;

	if (!fuses && !(variant->flags & UBLK_F_USER_COPY))
		SKIP(return, "by nothing");
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, io_uring_queue_init(8, &ring, 0));
	ASSERT_EQ(0, shm_reg(v->s.id, self->mem, BUF_BYTES, 0));
	for (i = 0; i < 2; i++) {
		bool commits = i && fuses && !batch(v);

		pid = client(v, true, self->mem + PAGE, PAGE, 0);
		tag = next(v);
		EXPECT_TRUE(matched(v, tag));
		memset(data, 0, PAGE);
		if (fuses) {
			EXPECT_EQ(PAGE, fused(v, &ring, commits ? UBLK_U_IO_COMMIT_AND_FETCH_REQ :
					      UBLK_U_IO_FUSED_SUBMIT_IO, tag, fd));
			EXPECT_EQ(PAGE, pread(fd, data, PAGE, 0));
		} else {
			EXPECT_EQ(PAGE, pread(v->s.cdev, data, PAGE, UBLKSRV_IO_BUF_OFFSET +
					      ((__u64)tag << UBLK_TAG_OFF)));
		}
		EXPECT_EQ(PAGE, count(data, SHM_WRITTEN, PAGE));
		if (!commits)
			commit(v, tag, PAGE);
		EXPECT_EQ(0, exit_status(pid));
		/* the buffer is not needed any more */
		EXPECT_EQ(0, shm_unreg(v->s.id, 0));
		EXPECT_EQ(0, shm_reg(v->s.id, self->mem, BUF_BYTES, 0));
	}
	io_uring_queue_exit(&ring);
	close(fd);
}

/* A server with a request of this kind of device, which says where it is */
static pid_t doomed(__u64 flags, char *mem, int to_parent)
{
	struct server v = {};
	pid_t pid = child();
	int tag;

	if (pid)
		return pid;
	live(&v, flags);
	if (shm_reg(v.s.id, mem, BUF_BYTES, 0) || shm_reg(v.s.id, shm_map(PAGE), PAGE, 0) != 1)
		give_up("REG_BUF", 0);
	if (write(to_parent, &v.s.id, sizeof(v.s.id)) != sizeof(v.s.id))
		give_up("write", -errno);
	tag = next(&v);
	if (!matched(&v, tag) || shm_unreg(v.s.id, 1))
		give_up("request", 0);
	tell(to_parent);
	for (;;)
		pause();
}

/*
 * The server is killed while it has a request. Buffers outlive it: index and
 * offset say the same to the next server, to which the request goes.
 */
TEST_F(shmem, server_dies)
{
	__u64 flags = variant->flags | UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE;
	struct server v = {
		.s = {
			.flags = flags | UBLK_F_SHMEM_ZC,
			.queues = 1,
			.depth = DEPTH,
			.desc_size = sizeof(struct ublksrv_io_desc),
		},
	};
	int pipes[2], tag;
	pid_t server, pid;

	ASSERT_EQ(0, pipe(pipes));
	server = doomed(flags, self->mem, pipes[1]);
	ASSERT_EQ(sizeof(v.s.id), read(pipes[0], &v.s.id, sizeof(v.s.id)));
	pid = client(&v, true, self->mem + PAGE, PAGE, 0);
	hear(pipes[0]);
	EXPECT_EQ(0, kill(server, SIGKILL));
	EXPECT_EQ(-1, exit_status(server));
	live_again(&v);
	tag = next(&v);
	EXPECT_TRUE(matched(&v, tag));
	EXPECT_EQ(PAGE, srv_desc(&v.s, tag)->addr);
	EXPECT_EQ(PAGE, count(self->mem + PAGE, SHM_WRITTEN, PAGE));
	EXPECT_EQ(-EEXIST, shm_reg(v.s.id, self->mem, PAGE, 0));
	/* no more than this request keeps the buffer */
	EXPECT_EQ(0, shm_unreg(v.s.id, 0));
	EXPECT_EQ(1, shm_reg(v.s.id, self->mem, PAGE, 0));
	commit(&v, tag, PAGE);
	EXPECT_EQ(0, exit_status(pid));
	EXPECT_EQ(0, shm_reg(v.s.id, self->mem + PAGE, PAGE, 0));
	srv_close(&v.s);
	EXPECT_EQ(0, delete_dev(v.s.id));
}

/* A request that fails because the server is killed does not keep its buffer */
TEST_F(shmem, server_dies_and_fails_it)
{
	struct server v = {};
	int pipes[2];
	pid_t server, pid;

	ASSERT_EQ(0, pipe(pipes));
	server = doomed(variant->flags, self->mem, pipes[1]);
	ASSERT_EQ(sizeof(v.s.id), read(pipes[0], &v.s.id, sizeof(v.s.id)));
	pid = client(&v, true, self->mem + PAGE, PAGE, 0);
	hear(pipes[0]);
	EXPECT_EQ(0, kill(server, SIGKILL));
	EXPECT_EQ(-1, exit_status(server));
	EXPECT_EQ(EIO, exit_status(pid));
	EXPECT_EQ(0, shm_unreg(v.s.id, 0));
	EXPECT_EQ(0, shm_reg(v.s.id, self->mem, PAGE, 0));
	EXPECT_EQ(0, delete_dev(v.s.id));
}

/*
 * Clients write and read back in memory that is registered in two ways in turn,
 * while the server has their requests. It looks the index up when it is about
 * to commit.
 */
#define CLIENTS	3
#define ROUNDS	60
#define PART	(BUF_BYTES / CLIENTS / PAGE * PAGE)

static int write_and_read_back(int id, unsigned char *mem, int part)
{
	int fd = open(str("/dev/ublkb%d", id), O_RDWR | O_DIRECT);
	int i, j;

	if (fd < 0)
		return errno;
	for (i = 0; i < ROUNDS; i++) {
		unsigned char *at = mem + i % 4 * PAGE;
		int len = (1 + i % 3) * PAGE;

		for (j = 0; j < len; j++)
			at[j] = i * 31 + j / 512 + part;
		if (pwrite(fd, at, len, part * PART) != len)
			return 201;
		memset(at, 0, len);
		if (pread(fd, at, len, part * PART) != len)
			return 202;
		for (j = 0; j < len; j++)
			if (at[j] != (unsigned char)(i * 31 + j / 512 + part))
				return SHM_WRONG;
	}
	return 0;
}

TEST_F(shmem, changes_under_load)
{
	struct server *v = &self->v;
	char *disk = shm_map(BUF_BYTES);
	char *base[3 * CLIENTS];
	pid_t pid[CLIENTS];
	int i, tag, index, at = 0, n = 0, hits = 0;

	/* where the driver does not copy, there is no other way here */
	if (!srv_copies(&v->s) || v->s.flags & UBLK_F_NEED_GET_DATA)
		SKIP(return, "data moves otherwise");
	ASSERT_EQ(0, shm_reg(v->s.id, self->mem, BUF_BYTES, 0));
	index = 0;
	base[0] = self->mem;
	for (i = 0; i < CLIENTS; i++) {
		pid[i] = child();
		if (!pid[i]) {
			close_range(3, ~0U, 0);
			_exit(write_and_read_back(v->s.id, (void *)self->mem + i * PART, i));
		}
	}
	for (; n < 2 * CLIENTS * ROUNDS; n++) {
		const struct ublksrv_io_desc *desc;
		char *data, *where;
		bool write;
		size_t len;

		tag = next(v);
		if (n % 4 == 0) {
			ASSERT_EQ(0, shm_unreg(v->s.id, index));
			at = PAGE - at;
			index = shm_reg(v->s.id, self->mem + at, BUF_BYTES - at, 0);
			ASSERT_LE(0, index);
			ASSERT_GT(ARRAY_SIZE(base), index);
			base[index] = self->mem + at;
		}
		desc = srv_desc(&v->s, tag);
		len = desc->nr_sectors << 9;
		write = (desc->op_flags & 0xff) == UBLK_IO_OP_WRITE;
		data = v->s.buf[tag];
		if (matched(v, tag)) {
			data = base[desc->addr >> 32] + (__u32)desc->addr;
			hits++;
		}
		where = disk + (desc->start_sector << 9);
		if (write)
			memcpy(where, data, len);
		else
			memcpy(data, where, len);
		commit(v, tag, len);
	}
	for (i = 0; i < CLIENTS; i++)
		EXPECT_EQ(0, exit_status(pid[i]));
	EXPECT_LT(n / 2, hits);
}

TEST_HARNESS_MAIN
