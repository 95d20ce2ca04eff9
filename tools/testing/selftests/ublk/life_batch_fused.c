// SPDX-License-Identifier: GPL-2.0
/*
 * life_batch_fused: one fused command that commits many requests, each with what
 * its own secondaries have moved (UBLK_F_BATCH_IO, UBLK_U_IO_COMMIT_IO_CMDS as a
 * primary).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include "life.h"
#include "parity_bsrv.h"
#include "kselftest_harness.h"

#define LEN	4096
#define MANY	4
#define TAGS	8

/* A secondary that moves a part of the data of a request */
struct sec {
	int op;
	int fd;
	__u64 off;
	unsigned int at, len;
};

/* A command, to be changed where it is wrong */
struct group {
	struct ublk_elem_header elem[IORING_FUSED_MAX_SECONDARY + 1];
	struct sec sec[IORING_FUSED_MAX_SECONDARY];
	int nr_elem, nr_sec;
	int q_id, elem_bytes, elem_flags, nr_announced;
	unsigned int sqe_flags, cmd_flags;
	__u64 reserved;
	bool unmapped;
	int msg_flags;		/* of those that send or receive */
	__u64 ud;		/* of the primary; those of the secondaries follow */
};

FIXTURE(fused) {
	struct srv s;
	struct bring b;
	struct group g;
	int file;
	int tag[MANY];
	pid_t user[MANY];
	__u64 fetch;
	int pipe[2];
};

/* What users must not keep open: the server's files and the pipe */
static int not_for_users[4];

/* A file, each 4 KiB of which are another letter */
static int letters(void)
{
	int fd = memfd_create("letters", MFD_CLOEXEC), i;
	char page[LEN];

	for (i = 0; i < 16; i++) {
		memset(page, 'A' + i, LEN);
		if (fd < 0 || write(fd, page, LEN) != LEN)
			give_up("no file", 0);
	}
	return fd;
}

FIXTURE_SETUP(fused)
{
	struct ublksrv_ctrl_cmd features = { .len = 8, .queue_id = -1 };
	struct ublksrv_ctrl_dev_info info;
	__u64 known = 0;
	int i;

	self->s.id = -1;
	if (why_not())
		SKIP(return, "%s", why_not());
	features.addr = (unsigned long)&known;
	ASSERT_EQ(0, ctrl(UBLK_U_CMD_GET_FEATURES, &features));
	if (!(known & UBLK_F_FUSED_CMD))
		SKIP(return, "no fused commands");
	self->file = letters();
	ASSERT_EQ(0, pipe2(self->pipe, O_CLOEXEC));
	info = default_info(UBLK_F_NO_AUTO_PART_SCAN | UBLK_F_BATCH_IO | UBLK_F_FUSED_CMD);
	info.queue_depth = TAGS;
	srv_info(&self->s, &info, NULL);
	srv_attach(&self->s);
	bring_init(&self->b, &self->s, false);
	ASSERT_EQ(0, batch_prep(&self->b, 0, 0, TAGS));
	srv_start(&self->s);
	not_for_users[0] = self->pipe[0];
	not_for_users[1] = self->pipe[1];
	not_for_users[2] = self->s.cdev;
	not_for_users[3] = self->s.ring.ring_fd;
	for (i = 0; i < NR_TAG_BUFS; i++)
		bring_provide(&self->b, i, 1, NULL);
}

FIXTURE_TEARDOWN(fused)
{
	if (self->s.id < 0)
		return;
	srv_close(&self->s);
	EXPECT_EQ(0, delete_dev(self->s.id));
	close(self->file);
	close(self->pipe[0]);
	close(self->pipe[1]);
}

/*
 * A user of the disk: writes @byte to its block @nr, or expects to read it in the
 * first half, and @rest in the second one. Ends with 0 if so, 1 if there was
 * something else, or with 100 and the error.
 */
static pid_t user(int id, int nr, bool writes, int byte, int rest)
{
	pid_t pid = child();
	int fd, ret, i;
	char *buf;

	if (pid)
		return pid;
	for (i = 0; i < (int)ARRAY_SIZE(not_for_users); i++)
		close(not_for_users[i]);
	fd = open(str("/dev/ublkb%d", id), O_RDWR | O_DIRECT);
	buf = aligned_alloc(LEN, LEN);
	if (fd < 0 || !buf)
		_exit(2);
	memset(buf, writes ? byte : '?', LEN);
	ret = writes ? pwrite(fd, buf, LEN, (__u64)nr * LEN) :
		       pread(fd, buf, LEN, (__u64)nr * LEN);
	if (ret < 0)
		_exit(100 + errno);
	for (i = 0; !writes && i < LEN; i++)
		if (buf[i] != (i < LEN / 2 ? byte : rest))
			_exit(1);
	_exit(ret == LEN ? 0 : 3);
}

/* Is it still waiting for its data? */
static bool waits(pid_t pid)
{
	siginfo_t info = {};

	return !waitid(P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT) && !info.si_pid;
}

/* Add an element; its secondaries are to follow */
static void elem(struct group *g, int tag, int nr, int result)
{
	g->elem[g->nr_elem++] = (struct ublk_elem_header) {
		.tag = tag, .buf_index = nr, .result = result,
	};
}

static void sec(struct group *g, int op, int fd, __u64 off, unsigned int at, unsigned int len)
{
	g->sec[g->nr_sec++] = (struct sec) { op, fd, off, at, len };
}

static void clear(struct group *g)
{
	memset(g, 0, sizeof(*g));
	g->elem_bytes = sizeof(g->elem[0]);
	g->cmd_flags = IORING_FUSED_CMD_BUF;
}

static void send_group(struct bring *b, struct group *g)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(b->ring);
	struct ublk_batch_io *cmd;
	int i;

	if (!sqe)
		give_up("too many commands", -ENOSPC);
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_FUSED_CMD;
	sqe->fd = b->s->cdev;
	sqe->cmd_op = UBLK_U_IO_COMMIT_IO_CMDS;
	sqe->uring_cmd_flags = g->cmd_flags;
	sqe->flags = g->sqe_flags;
	sqe->nr_secondary = g->nr_sec;
	sqe->addr = (unsigned long)(g->unmapped ? BAD_ADDR : (void *)g->elem);
	g->ud = b->next;
	sqe->user_data = b->next++;
	cmd = (void *)sqe->cmd;
	cmd->q_id = g->q_id;
	cmd->flags = g->elem_flags;
	cmd->nr_elem = g->nr_announced ?: g->nr_elem;
	cmd->elem_bytes = g->elem_bytes;
	cmd->reserved2 = g->reserved;
	for (i = 0; i < g->nr_sec; i++) {
		const struct sec *s = &g->sec[i];

		sqe = io_uring_get_sqe(b->ring);
		io_uring_prep_rw(s->op, sqe, s->fd, (void *)(unsigned long)s->at, s->len, s->off);
		sqe->msg_flags = g->msg_flags;
		sqe->user_data = b->next++;
	}
	if (g->sqe_flags & IOSQE_IO_LINK) {
		sqe = io_uring_get_sqe(b->ring);
		io_uring_prep_nop(sqe);
		sqe->user_data = b->next++;
	}
	io_uring_submit(b->ring);
}

/* The result of the primary; those of the secondaries are read as well */
static int result(struct bring *b, struct group *g, int *res)
{
	struct said said;
	int i, of_primary;

	of_primary = bring_wait(b, g->ud, INT_MAX, &said);
	/* the primary is the last one, so all others are there */
	for (i = 0; i < g->nr_sec; i++)
		res[i] = bring_wait(b, g->ud + 1 + i, 0, &said);
	return of_primary;
}

/* Have the server told of what a user wants */
static int told(struct bring *b, __u64 *fetch)
{
	int tag;

	if (!*fetch)
		*fetch = bring_fetch(b, 0);
	if (batch_request(b, *fetch, INT_MAX, &tag) != 2)
		give_up("no request", 0);
	return tag;
}

/* Two reads and two writes, that the server was told of */
#define BRING_FOUR()								\
do {										\
	int _i;									\
										\
	clear(&self->g);							\
	for (_i = 0; _i < MANY; _i++) {						\
		self->user[_i] = user(self->s.id, _i, _i >= 2, 'A' + _i,	\
				      'A' + _i);				\
		self->tag[_i] = told(&self->b, &self->fetch);		\
	}									\
} while (0)

/* The usual command for these */
static void four(struct group *g, const int *tag, int file)
{
	elem(g, tag[0], 1, 0);
	sec(g, IORING_OP_READ, file, 0, 0, LEN);
	elem(g, tag[2], 2, 0);
	sec(g, IORING_OP_WRITE, file, 8 * LEN, 0, LEN / 2);
	sec(g, IORING_OP_WRITE, file, 9 * LEN, LEN / 2, LEN / 2);
	elem(g, tag[1], 2, 0);
	sec(g, IORING_OP_READ, file, LEN, LEN / 2, LEN / 2);
	sec(g, IORING_OP_READ, file, LEN, 0, LEN / 2);
	elem(g, tag[3], 0, LEN);
}

static char byte_at(int fd, __u64 off)
{
	char c = 0;

	return pread(fd, &c, 1, off) == 1 ? c : 0;
}

/* Each request with its own secondaries; one without any has a result */
TEST_F(fused, each_with_its_own)
{
	int res[5], i, round;

	for (round = 0; round < 2; round++) {
		BRING_FOUR();
		/* also where io_uring's lock is not held while the driver is asked */
		self->g.sqe_flags = round ? IOSQE_ASYNC : 0;
		four(&self->g, self->tag, self->file);
		send_group(&self->b, &self->g);
		EXPECT_EQ(4, result(&self->b, &self->g, res));
		EXPECT_EQ(LEN, res[0]);
		for (i = 1; i < 5; i++)
			EXPECT_EQ(LEN / 2, res[i]);
		for (i = 0; i < MANY; i++)
			EXPECT_EQ(0, exit_status(self->user[i])) TH_LOG("user %d", i);
		EXPECT_EQ('C', byte_at(self->file, 8 * LEN));
		EXPECT_EQ('I', byte_at(self->file, 8 * LEN + LEN / 2));
		EXPECT_EQ('C', byte_at(self->file, 9 * LEN + LEN / 2 - 1));
	}
}

/* A request does not wait for the secondaries of others */
TEST_F(fused, apart)
{
	char page[LEN] = { };
	int res[2];

	BRING_FOUR();
	elem(&self->g, self->tag[0], 1, 0);
	sec(&self->g, IORING_OP_READ, self->pipe[0], 0, 0, LEN);
	elem(&self->g, self->tag[1], 1, 0);
	sec(&self->g, IORING_OP_READ, self->file, LEN, 0, LEN);
	send_group(&self->b, &self->g);
	EXPECT_EQ(0, exit_status(self->user[1]));
	/* its tag is free for the next one, which may be committed as well */
	EXPECT_TRUE(waits(self->user[0]));
	EXPECT_EQ(BLOCKS, bring_wait(&self->b, self->g.ud, 0, NULL));
	EXPECT_EQ(8, batch_commit(&self->b, 0, self->tag[2], LEN));
	EXPECT_EQ(0, exit_status(self->user[2]));

	/* a pipe that ends in the middle is no good data */
	ASSERT_EQ(LEN / 2, write(self->pipe[1], page, LEN / 2));
	EXPECT_EQ(2, result(&self->b, &self->g, res));
	EXPECT_EQ(LEN / 2, res[0]);
	EXPECT_EQ(100 + EIO, exit_status(self->user[0]));
	EXPECT_EQ(8, batch_commit(&self->b, 0, self->tag[3], LEN));
	EXPECT_EQ(0, exit_status(self->user[3]));
}

/* One that fails does not harm the others */
TEST_F(fused, one_fails)
{
	int res[4], i;

	BRING_FOUR();
	for (i = 0; i < MANY; i++) {
		int op = i < 2 ? IORING_OP_READ : IORING_OP_WRITE;

		elem(&self->g, self->tag[i], 1, 0);
		sec(&self->g, op, i == 1 || i == 2 ? 9999 : self->file, i * LEN, 0, LEN);
	}
	/* a write that is lost in part */
	self->g.sec[3].len = LEN / 2;
	/* but it breaks the link */
	self->g.sqe_flags = IOSQE_IO_LINK;
	send_group(&self->b, &self->g);
	EXPECT_EQ(4, result(&self->b, &self->g, res));
	EXPECT_EQ(-ECANCELED, bring_wait(&self->b, self->b.next - 1, INT_MAX, NULL));
	EXPECT_EQ(LEN, res[0]);
	EXPECT_EQ(-EBADF, res[1]);
	EXPECT_EQ(-EBADF, res[2]);
	EXPECT_EQ(LEN / 2, res[3]);
	EXPECT_EQ(0, exit_status(self->user[0]));
	for (i = 1; i < 4; i++)
		EXPECT_EQ(100 + EIO, exit_status(self->user[i])) TH_LOG("user %d", i);
}

/* What no secondary was given, or what is behind the end of a file, is zeroes */
TEST_F(fused, no_stale_memory)
{
	int res[3], i;

	clear(&self->g);
	self->user[0] = user(self->s.id, 0, false, 'B', 0);
	self->tag[0] = told(&self->b, &self->fetch);
	self->user[1] = user(self->s.id, 1, false, 0, 'C');
	self->tag[1] = told(&self->b, &self->fetch);
	self->user[2] = user(self->s.id, 2, false, 'P', 0);
	self->tag[2] = told(&self->b, &self->fetch);
	elem(&self->g, self->tag[0], 1, 0);
	sec(&self->g, IORING_OP_READ, self->file, LEN, 0, LEN / 2);
	elem(&self->g, self->tag[1], 1, 0);
	sec(&self->g, IORING_OP_READ, self->file, 2 * LEN, LEN / 2, LEN / 2);
	elem(&self->g, self->tag[2], 1, 0);
	sec(&self->g, IORING_OP_READ, self->file, 16 * LEN - LEN / 2, 0, LEN);
	send_group(&self->b, &self->g);
	EXPECT_EQ(3, result(&self->b, &self->g, res));
	for (i = 0; i < 3; i++) {
		EXPECT_EQ(LEN / 2, res[i]);
		EXPECT_EQ(0, exit_status(self->user[i])) TH_LOG("user %d", i);
	}
}

/* As many CQEs as there are to come, at once and without a time-out */
static void wait_for_all(struct bring *b, int nr)
{
	struct said *kept = b->kept + b->nr_kept;
	struct io_uring_cqe *cqe;
	int i;

	io_uring_submit_and_wait(b->ring, nr);
	for (i = 0; i < nr; i++) {
		if (io_uring_peek_cqe(b->ring, &cqe))
			give_up("woken too early", i);
		*kept++ = (struct said) { cqe->user_data, cqe->res, cqe->flags };
		io_uring_cqe_seen(b->ring, cqe);
	}
	b->nr_kept += nr;
}

/* A pair of sockets: what comes out of the second one is what @sent says, and then the end */
static int peer_that_sends(int type, int byte, int sent, int *ours)
{
	char page[LEN];
	int sock[2];

	memset(page, byte, LEN);
	if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, sock) ||
	    (sent && send(sock[0], page, sent, 0) != sent))
		return -errno;
	*ours = sock[1];
	return sock[0];
}

/*
 * Data from and to sockets: a connection that is cut is an error of its own
 * request only. Whoever waits for all CQEs wakes up, with secondaries that are
 * ready at once and with one that has to be waited for.
 */
TEST_F(fused, sockets)
{
	struct bring *own = calloc(1, sizeof(*own));
	/* users do not have these; the last one is not sent anything, but written to */
	static const int sent[MANY] = { LEN, 1000, 1000, 0 };
	int peer[MANY], ours[MANY], res[MANY], i, round;
	char page[LEN];

	bring_init_defer(own, &self->s);
	for (round = 0; round < 2; round++) {
		clear(&self->g);
		for (i = 0; i < MANY; i++) {
			self->user[i] = user(self->s.id, i, i == 3, 'A' + i, 'A' + i);
			self->tag[i] = told(&self->b, &self->fetch);
		}
		for (i = 0; i < MANY; i++) {
			peer[i] = peer_that_sends(i == 2 ? SOCK_DGRAM : SOCK_STREAM, 'A' + i,
						  sent[i], &ours[i]);
			ASSERT_LE(0, peer[i]);
			elem(&self->g, self->tag[i], 1, 0);
			sec(&self->g, i == 3 ? IORING_OP_SEND : IORING_OP_RECV, ours[i],
			    0, 0, LEN);
		}
		/* in the second round the peer of the second one goes while it is waited for */
		if (!round)
			close(peer[1]);
		self->g.msg_flags = MSG_WAITALL;
		send_group(own, &self->g);
		if (round)
			close(peer[1]);
		wait_for_all(own, 1 + MANY);
		EXPECT_EQ(MANY, result(own, &self->g, res));
		EXPECT_EQ(LEN, res[0]);
		EXPECT_EQ(1000, res[1]);
		EXPECT_EQ(1000, res[2]);
		EXPECT_EQ(LEN, res[3]);
		EXPECT_EQ(LEN, recv(peer[3], page, LEN, MSG_WAITALL));
		EXPECT_EQ('D', page[0]);
		EXPECT_EQ('D', page[LEN - 1]);
		/* a cut stream, and a message that is too short, are no end of file */
		EXPECT_EQ(0, exit_status(self->user[0]));
		EXPECT_EQ(100 + EIO, exit_status(self->user[1]));
		EXPECT_EQ(100 + EIO, exit_status(self->user[2]));
		EXPECT_EQ(0, exit_status(self->user[3]));
		for (i = 0; i < MANY; i++) {
			if (i != 1)
				close(peer[i]);
			close(ours[i]);
		}
	}
	bring_exit(own);
	free(own);
}

/* Canceled: it is still the server's, and may be committed again */
TEST_F(fused, canceled)
{
	struct io_uring_sqe *sqe;
	__u64 ud = self->b.next;
	int res[2];

	BRING_FOUR();
	elem(&self->g, self->tag[0], 1, 0);
	sec(&self->g, IORING_OP_READ, self->pipe[0], 0, 0, LEN);
	elem(&self->g, self->tag[1], 1, 0);
	sec(&self->g, IORING_OP_READ, self->file, LEN, 0, LEN);
	send_group(&self->b, &self->g);
	EXPECT_EQ(0, exit_status(self->user[1]));

	/* while its lease is out no other batch gets it */
	ud = self->g.ud;
	clear(&self->g);
	elem(&self->g, self->tag[0], 1, 0);
	sec(&self->g, IORING_OP_READ, self->file, 0, 0, LEN);
	send_group(&self->b, &self->g);
	EXPECT_EQ(-EBUSY, result(&self->b, &self->g, res));
	EXPECT_EQ(-ECANCELED, res[0]);

	sqe = io_uring_get_sqe(self->b.ring);
	io_uring_prep_cancel64(sqe, ud + 1, 0);
	sqe->user_data = self->b.next++;
	io_uring_submit(self->b.ring);
	EXPECT_EQ(1, bring_wait(&self->b, ud, INT_MAX, NULL));
	EXPECT_EQ(-ECANCELED, bring_wait(&self->b, ud + 1, 0, NULL));
	EXPECT_TRUE(waits(self->user[0]));

	send_group(&self->b, &self->g);
	EXPECT_EQ(1, result(&self->b, &self->g, res));
	EXPECT_EQ(0, exit_status(self->user[0]));
	EXPECT_EQ(8, batch_commit(&self->b, 0, self->tag[2], LEN));
	EXPECT_EQ(8, batch_commit(&self->b, 0, self->tag[3], LEN));
	EXPECT_EQ(0, exit_status(self->user[2]));
	EXPECT_EQ(0, exit_status(self->user[3]));
}

/* A request that is committed otherwise meanwhile ends with the lease, as that said */
TEST_F(fused, committed_meanwhile)
{
	int res[1];

	BRING_FOUR();
	elem(&self->g, self->tag[0], 1, 0);
	sec(&self->g, IORING_OP_READ, self->pipe[0], 0, 0, LEN);
	send_group(&self->b, &self->g);
	EXPECT_EQ(8, batch_commit(&self->b, 0, self->tag[0], -ENOSPC));
	EXPECT_TRUE(waits(self->user[0]));
	close(self->pipe[1]);
	self->pipe[1] = -1;
	EXPECT_EQ(0, result(&self->b, &self->g, res));
	EXPECT_EQ(0, res[0]);
	EXPECT_EQ(100 + ENOSPC, exit_status(self->user[0]));

	clear(&self->g);
	four(&self->g, self->tag, self->file);
	/* without the first one */
	memmove(self->g.elem, self->g.elem + 1, 3 * sizeof(self->g.elem[0]));
	memmove(self->g.sec, self->g.sec + 1, 4 * sizeof(self->g.sec[0]));
	self->g.nr_elem--;
	self->g.nr_sec--;
	send_group(&self->b, &self->g);
	EXPECT_EQ(3, result(&self->b, &self->g, (int[4]) {}));
	EXPECT_EQ(0, exit_status(self->user[1]));
	EXPECT_EQ(0, exit_status(self->user[2]));
	EXPECT_EQ(0, exit_status(self->user[3]));
}

/* The ring goes away, or the server, while data is on its way */
TEST_F(fused, death)
{
	struct bring *other = calloc(1, sizeof(*other));

	BRING_FOUR();
	bring_init(other, &self->s, true);
	elem(&self->g, self->tag[0], 1, 0);
	sec(&self->g, IORING_OP_READ, self->pipe[0], 0, 0, LEN);
	elem(&self->g, self->tag[2], 1, 0);
	sec(&self->g, IORING_OP_WRITE, self->file, 0, 0, LEN);
	send_group(other, &self->g);
	EXPECT_EQ(0, exit_status(self->user[2]));
	bring_exit(other);
	free(other);
	/* still the server's */
	EXPECT_TRUE(waits(self->user[0]));
	EXPECT_EQ(8, batch_commit(&self->b, 0, self->tag[3], LEN));
	EXPECT_EQ(0, exit_status(self->user[3]));

	clear(&self->g);
	elem(&self->g, self->tag[0], 1, 0);
	sec(&self->g, IORING_OP_READ, self->pipe[0], 0, 0, LEN);
	send_group(&self->b, &self->g);
	/* what is in the teardown ends it */
	srv_close(&self->s);
	EXPECT_EQ(100 + EIO, exit_status(self->user[0]));
	EXPECT_EQ(100 + EIO, exit_status(self->user[1]));
	EXPECT_EQ(0, delete_dev(self->s.id));
	self->s.id = -1;
}

/* What is wrong is refused as a whole, and the requests are still the server's */
TEST_F_TIMEOUT(fused, refused, 120)
{
	static const struct {
		const char *what;
		int want;
		int q_id, elem_bytes, elem_flags, nr, tag, nr_of_first, result, more_secs;
		__u64 reserved;
		bool no_buffer, unmapped, twice, twice_without, wrong_way, cmd;
	} cmds[] = {
		{ "queue 1", -EINVAL, .q_id = 1 },
		{ "elements of 16 bytes", -EINVAL, .elem_bytes = 16 },
		{ "elements of 0 bytes", -EINVAL, .elem_bytes = -1 },
		{ "flag 1", -EINVAL, .elem_flags = 1 },
		{ "flag 2", -EINVAL, .elem_flags = 2 },
		{ "flag 4", -EINVAL, .elem_flags = 4 },
		{ "flag 0x8000", -EINVAL, .elem_flags = 0x8000 },
		{ "reserved", -EINVAL, .reserved = 1ULL << 63 },
		{ "more elements than tags", -E2BIG, .nr = TAGS + 1 },
		{ "unmapped elements", -EFAULT, .unmapped = true },
		{ "no such tag", -EINVAL, .tag = TAGS },
		{ "tag 65535", -EINVAL, .tag = 65535 },
		{ "a tag twice", -EBUSY, .twice = true },
		{ "a tag with secondaries and without", -EBUSY, .twice_without = true },
		{ "less secondaries than there are", -EINVAL, .more_secs = 1 },
		{ "more secondaries than there are", -EINVAL, .nr_of_first = 2 },
		{ "65535 secondaries", -EINVAL, .nr_of_first = 65535 },
		{ "a result beside secondaries", -EINVAL, .result = 1 },
		{ "no lease is wanted", -EINVAL, .no_buffer = true },
		{ "a WRITE for a READ", -EINVAL, .wrong_way = true },
		{ "a uring command", -EINVAL, .cmd = true },
	};
	struct group *g = &self->g;
	unsigned int i, k;
	int res[6];

	BRING_FOUR();
	for (i = 0; i < ARRAY_SIZE(cmds); i++) {
		clear(g);
		four(g, self->tag, self->file);
		g->q_id = cmds[i].q_id;
		if (cmds[i].elem_bytes)
			g->elem_bytes = cmds[i].elem_bytes < 0 ? 0 : cmds[i].elem_bytes;
		g->elem_flags = cmds[i].elem_flags;
		g->reserved = cmds[i].reserved;
		g->nr_announced = cmds[i].nr;
		g->unmapped = cmds[i].unmapped;
		if (cmds[i].tag)
			g->elem[3].tag = cmds[i].tag;
		if (cmds[i].twice)
			g->elem[2].tag = g->elem[0].tag;
		if (cmds[i].twice_without)
			g->elem[3].tag = g->elem[1].tag;
		if (cmds[i].more_secs)
			sec(g, IORING_OP_READ, self->file, 0, 0, LEN);
		if (cmds[i].nr_of_first)
			g->elem[0].buf_index = cmds[i].nr_of_first;
		if (cmds[i].result)
			g->elem[0].result = cmds[i].result;
		if (cmds[i].no_buffer)
			g->cmd_flags = 0;
		if (cmds[i].wrong_way)
			g->sec[4].op = IORING_OP_WRITE;
		if (cmds[i].cmd)
			g->sec[3].op = IORING_OP_URING_CMD;
		send_group(&self->b, g);
		EXPECT_EQ(cmds[i].want, result(&self->b, g, res)) TH_LOG("%s", cmds[i].what);
		for (k = 0; k < g->nr_sec; k++)
			EXPECT_EQ(-ECANCELED, res[k]) TH_LOG("%s: %d", cmds[i].what, k);
	}
	for (i = 0; i < MANY; i++)
		EXPECT_TRUE(waits(self->user[i]));

	/* more elements than a command may have secondaries, and none at all: see KUnit */
	clear(g);
	four(g, self->tag, self->file);
	send_group(&self->b, g);
	EXPECT_EQ(4, result(&self->b, g, res));
	for (i = 0; i < MANY; i++)
		EXPECT_EQ(0, exit_status(self->user[i]));

	/* the server has none of these any more */
	send_group(&self->b, g);
	EXPECT_EQ(-EBUSY, result(&self->b, g, res));
}

TEST_HARNESS_MAIN
