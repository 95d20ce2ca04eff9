// SPDX-License-Identifier: GPL-2.0
/*
 * SQE groups: every combination of flags of leader and member, with each of the
 * two failing, or not, or being malformed; then two groups linked to each other;
 * then requests of all opcodes that complete once, as leader and as member.
 */
#include <poll.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <sys/un.h>
#include "group.h"
#include "sockets.h"

enum fate { FINE, LEADER_FAILS, MEMBER_FAILS, BOTH_FAIL, MALFORMED, NR_FATES };

#define LINKS	(IOSQE_IO_LINK | IOSQE_IO_HARDLINK)

/* What is posted, NO_CQE for nothing */
struct want {
	int leader, first, second, nop;
};

static bool is_malformed(int leader_res)
{
	return leader_res == -EINVAL || leader_res == -EOPNOTSUPP;
}

/*
 * A group of a leader and two members, of which the first has the flags and the
 * fate, with a NOP behind it.
 */
static struct want model(unsigned int leader, unsigned int member, enum fate fate,
			 bool drain_refused)
{
	bool leader_fails = fate == LEADER_FAILS || fate == BOTH_FAIL;
	struct want w = { .leader = 5, .first = 6, .second = 7, .nop = 0 };
	bool fails = fate != FINE;

	if (drain_refused) {
		w = (struct want){ -EOPNOTSUPP, -ECANCELED, -ECANCELED, 0 };
		fails = true;
	} else if (fate == MALFORMED || member & LINKS || member & IOSQE_IO_DRAIN) {
		/* a NOP takes no buffer */
		w = (struct want){ -EINVAL, -ECANCELED, -ECANCELED, 0 };
		fails = true;
	} else if (leader_fails) {
		w = (struct want){ -EIO, -ECANCELED, -ECANCELED, 0 };
	} else {
		if (fate == MEMBER_FAILS)
			w.first = -ENOENT;
		else if (member & IOSQE_CQE_SKIP_SUCCESS)
			w.first = NO_CQE;
		if (leader & IOSQE_CQE_SKIP_SUCCESS && !fails)
			w.leader = NO_CQE;
	}
	/* malformed ones break hard links, too */
	if (leader & LINKS && fails &&
	    (is_malformed(w.leader) || !(leader & IOSQE_IO_HARDLINK)))
		w.nop = leader & IOSQE_CQE_SKIP_SUCCESS ? NO_CQE : -ECANCELED;
	return w;
}

/* Push group number @nr */
static void push_group(struct group *g, struct ring *r, const struct mode *mode, int nr,
		       unsigned int leader, unsigned int member, enum fate fate)
{
	bool leader_fails = fate == LEADER_FAILS || fate == BOTH_FAIL;
	bool member_fails = fate == MEMBER_FAILS || fate == BOTH_FAIL;
	struct io_uring_sqe *sqe;

	sqe = group_lead(g, r, mode, IORING_OP_NOP, -1, 0, leader_fails ? -EIO : 5, 0);
	sqe->nop_flags = IORING_NOP_INJECT_RESULT;
	sqe->flags |= leader;
	sqe->user_data = UD_PRIMARY + nr;
	sqe = group_add_nop(g, member_fails ? -ENOENT : 6);
	sqe->flags |= member;
	sqe->user_data = nr * 10;
	sqe = group_add_nop(g, 7);
	sqe->user_data = nr * 10 + 1;
	if (fate == MALFORMED)
		sqe->nop_flags = ~0U;
	group_push(g);
}

/* Submit all that was pushed: what is malformed ends a submission. */
static int submit_all(struct ring *r)
{
	unsigned int left;
	int ret = 0;

	ring_publish(r);
	while (ret >= 0 && (left = r->tail - *r->sq_head) > 0)
		ret = ring_enter(r, left);
	return ret;
}

/* Collect what comes before the CQE of a NOP that is submitted now. */
static void collect(struct log *log, struct ring *r)
{
	push_nop(r, UD_SENTINEL, 0);
	if (ring_submit(r) >= 0)
		log_until(log, r, UD_SENTINEL);
}

static struct want posted(const struct log *log, int nr)
{
	return (struct want) {
		.leader	= log_res(log, UD_PRIMARY + nr),
		.first	= log_res(log, nr * 10),
		.second	= log_res(log, nr * 10 + 1),
		.nop	= log_res(log, UD_OTHER),
	};
}

/* Is the CQE of the leader behind those of its members? */
static bool in_order(const struct log *log, int nr)
{
	int at = log_index(log, UD_PRIMARY + nr);

	return at < 0 || (log_index(log, nr * 10) < at && log_index(log, nr * 10 + 1) < at);
}

/* Has group @nr posted what it should? NULL, or a text that says what is wrong */
static const char *wrong(const struct log *log, int nr, struct want w)
{
	struct want is = posted(log, nr);
	static char text[200];

	if (!memcmp(&w, &is, sizeof(w)) && in_order(log, nr))
		return NULL;
	snprintf(text, sizeof(text),
		 "group %d posts %d %d %d, NOP %d; should be %d %d %d, NOP %d%s", nr,
		 is.leader, is.first, is.second, is.nop, w.leader, w.first, w.second, w.nop,
		 in_order(log, nr) ? "" : "; not in order");
	return text;
}

static int nr_cqes(struct want w)
{
	return (w.leader != NO_CQE) + (w.first != NO_CQE) + (w.second != NO_CQE) +
		(w.nop != NO_CQE);
}

/* Flags by number, once without any that skips CQEs, then those that have one */
static bool combination(unsigned int i, unsigned int *leader, unsigned int *member)
{
	static const unsigned int member_flags[] = {
		0, IOSQE_ASYNC, IOSQE_CQE_SKIP_SUCCESS, IOSQE_ASYNC | IOSQE_CQE_SKIP_SUCCESS,
		IOSQE_IO_LINK, IOSQE_IO_HARDLINK, IOSQE_IO_DRAIN,
	};
	static const unsigned int leader_flags[] = {
		IOSQE_IO_LINK, IOSQE_IO_HARDLINK, IOSQE_IO_DRAIN, IOSQE_ASYNC,
		IOSQE_CQE_SKIP_SUCCESS,
	};
	const unsigned int nr_members = ARRAY_SIZE(member_flags);
	const unsigned int nr_leaders = 1 << ARRAY_SIZE(leader_flags);
	unsigned int bit;

	*member = member_flags[i % nr_members];
	*leader = 0;
	for (bit = 0; bit < ARRAY_SIZE(leader_flags); bit++)
		if (i / nr_members % nr_leaders & 1 << bit)
			*leader |= leader_flags[bit];
	return i < 2 * nr_members * nr_leaders;
}

static bool is_second_pass(unsigned int i)
{
	return i >= 7 * 32;
}

TEST_F_TIMEOUT(fused, flags, 120)
{
	unsigned int i, leader, member;
	enum fate fate;
	struct log log;

	for (i = 0; combination(i, &leader, &member); i++) {
		bool skips = (leader | member) & IOSQE_CQE_SKIP_SUCCESS;

		/* once CQEs were skipped, a ring does not drain */
		if (skips != is_second_pass(i))
			continue;
		for (fate = 0; fate < NR_FATES; fate++) {
			struct want want = model(leader, member, fate,
						 skips && leader & IOSQE_IO_DRAIN);

			push_group(&self->g, &self->ring, &variant->mode, 0, leader, member, fate);
			push_nop(&self->ring, UD_OTHER, 0);
			ASSERT_LE(0, submit_all(&self->ring));
			log.nr = 0;
			if (want.nop != NO_CQE)
				log_until(&log, &self->ring, UD_OTHER);
			if (want.leader != NO_CQE)
				log_until(&log, &self->ring, UD_PRIMARY);
			if (want.first != NO_CQE)
				log_until(&log, &self->ring, 0);
			log_until(&log, &self->ring, 1);
			collect(&log, &self->ring);
			ASSERT_EQ(NULL, wrong(&log, 0, want))
				TH_LOG("leader %x member %x fate %d: %s", leader, member, fate,
				       wrong(&log, 0, want));
			ASSERT_EQ(nr_cqes(want) + 1, log.nr);
			/* what is linked comes behind the group */
			ASSERT_TRUE(!(leader & LINKS) || want.nop == NO_CQE ||
				    want.leader == NO_CQE || is_malformed(want.leader) ||
				    log_index(&log, UD_PRIMARY) < log_index(&log, UD_OTHER));
		}
	}
	/* all were tried */
	EXPECT_EQ(2 * 7 * 32, i);
}

/* What two groups post of which the second is linked to the first */
static void model_two(unsigned int first, const enum fate fate[2], struct want want[2])
{
	static const struct want canceled = { -ECANCELED, -ECANCELED, -ECANCELED, NO_CQE };
	int i;

	for (i = 0; i < 2; i++) {
		want[i] = model(0, 0, fate[i], false);
		want[i].nop = NO_CQE;
	}
	/* one that is malformed fails all of the link */
	for (i = 0; i < 2; i++)
		if (fate[!i] == MALFORMED && fate[i] != MALFORMED)
			want[i] = canceled;
	if (fate[0] != FINE && fate[0] != MALFORMED && fate[1] != MALFORMED &&
	    !(first & IOSQE_IO_HARDLINK))
		want[1] = canceled;
}

/* Two groups, linked, with every combination of fates, ASYNC, DRAIN and hardness */
TEST_F_TIMEOUT(fused, two, 120)
{
	unsigned int i, bits, g;
	struct log log;

	for (i = 0; i < 32 * NR_FATES * NR_FATES; i++) {
		const enum fate fate[] = { i % NR_FATES, i / NR_FATES % NR_FATES };
		unsigned int first, second;
		struct want want[2];

		bits = i / (NR_FATES * NR_FATES);
		first = (bits & 1 ? IOSQE_IO_HARDLINK : IOSQE_IO_LINK) |
			(bits & 2 ? IOSQE_ASYNC : 0) | (bits & 4 ? IOSQE_IO_DRAIN : 0);
		second = (bits & 8 ? IOSQE_ASYNC : 0) | (bits & 16 ? IOSQE_IO_DRAIN : 0);
		model_two(first, fate, want);
		push_group(&self->g, &self->ring, &variant->mode, 0, first, 0, fate[0]);
		push_group(&self->g, &self->ring, &variant->mode, 1, second, 0, fate[1]);
		ASSERT_LE(0, submit_all(&self->ring));
		log.nr = 0;
		log_until(&log, &self->ring, UD_PRIMARY);
		log_until(&log, &self->ring, UD_PRIMARY + 1);
		collect(&log, &self->ring);
		for (g = 0; g < 2; g++) {
			const char *text = wrong(&log, g, want[g]);

			ASSERT_EQ(NULL, text)
				TH_LOG("%x %x, fates %d %d: %s", first, second, fate[0], fate[1],
				       text);
		}
		ASSERT_EQ(7, log.nr);
		/* members of the second are not issued before the first has ended */
		ASSERT_TRUE(fate[0] == MALFORMED || fate[1] == MALFORMED ||
			    log_index(&log, UD_PRIMARY) < log_index(&log, 10));
	}
}

/* Opcodes ----------------------------------------------------------------- */

/* The files of the requests below, which are made anew for each of them */
enum {
	FILE_FD = 200,		/* has 4 bytes */
	FROM_FD, FROM_IN_FD,	/* a pipe with 4 bytes */
	TO_OUT_FD, TO_FD,	/* one without */
	SOCK_FD, PEER_FD,	/* 4 bytes came from the peer */
	TCP_FD, TCP_PEER_FD,
	SERVER_FD,		/* listens, and one waits to be accepted */
	WAITING_FD, CLIENT_FD,	/* that one, and one that is not connected */
	EPOLL_FD, SPARE_FD,
	LAST_FD,
	RING_FD = LAST_FD,	/* this one lives as long as the test */
};

/* What they have in memory, likewise */
static struct memory {
	char page[4096];	/* MADVISE wants a whole one */
	struct iovec vec;
	struct msghdr msg;
	struct sockaddr_un server;
	struct epoll_event event;
	char path[32];
	char statx[512];
	unsigned int futex;
	int pipe[2];
} *mem;

static int move_fd(int fd, int to)
{
	return fd >= 0 && dup2(fd, to) == to ? close(fd) : -1;
}

static int move_fds(const int fd[2], int to)
{
	return move_fd(fd[0], to) || move_fd(fd[1], to + 1) ? -1 : 0;
}

static int open_server(void)
{
	socklen_t len = sizeof(mem->server);
	int fd, type = SOCK_STREAM;

	/* one without a name is given one */
	mem->server.sun_family = AF_UNIX;
	fd = socket(AF_UNIX, type, 0);
	if (bind(fd, (void *)&mem->server, sizeof(sa_family_t)) || listen(fd, 8) ||
	    getsockname(fd, (void *)&mem->server, &len) || move_fd(fd, SERVER_FD))
		return -1;
	if (move_fd(socket(AF_UNIX, type, 0), WAITING_FD) ||
	    move_fd(socket(AF_UNIX, type, 0), CLIENT_FD))
		return -1;
	return connect(WAITING_FD, (void *)&mem->server, len);
}

/* Whatever a request may need; 0 or -1 */
static int open_all(void)
{
	int fd[2];

	memset(mem, 0, sizeof(*mem));
	mem->vec = (struct iovec){ mem->page, 4 };
	mem->msg.msg_iov = &mem->vec;
	mem->msg.msg_iovlen = 1;
	strcpy(mem->path, "/tmp/group_sweep.XXXXXX");
	if (move_fd(mkstemp(mem->path), SPARE_FD) ||
	    move_fd(memfd_create("four", 0), FILE_FD) || write(FILE_FD, "four", 4) != 4 ||
	    move_fd(epoll_create1(0), EPOLL_FD))
		return -1;
	if (pipe(fd) || move_fds(fd, FROM_FD) || write(FROM_IN_FD, "four", 4) != 4 ||
	    pipe(fd) || move_fds(fd, TO_OUT_FD))
		return -1;
	if (sockets(UNIX_STREAM, fd) || move_fds(fd, SOCK_FD) ||
	    write(PEER_FD, "four", 4) != 4 || tcp_pair(fd) || move_fds(fd, TCP_FD))
		return -1;
	return open_server();
}

/* Is its result the number of a file, which may be any? */
static bool makes_fd(const struct io_uring_sqe *sqe)
{
	return sqe->opcode == IORING_OP_OPENAT || sqe->opcode == IORING_OP_ACCEPT ||
		sqe->opcode == IORING_OP_SOCKET;
}

/* The request is done: close all, and what it has made */
static void close_all(const struct io_uring_sqe *sqe, int res)
{
	int fd;

	for (fd = FILE_FD; fd < LAST_FD; fd++)
		close(fd);
	unlink(mem->path);
	if (sqe->opcode == IORING_OP_PIPE)
		close2(mem->pipe);
	if (makes_fd(sqe))
		close(res);
}

static __u64 ptr(const void *p)
{
	return (uintptr_t)p;
}

/* Request @i of those that complete once, and well; false if there are no more */
static bool one_shot(unsigned int i, struct io_uring_sqe *sqe)
{
	const struct io_uring_sqe all[] = {
		{ .opcode = IORING_OP_READ, .fd = FILE_FD, .addr = ptr(mem->page), .len = 4 },
		{ .opcode = IORING_OP_WRITE, .fd = FILE_FD, .addr = ptr(mem->page), .len = 4 },
		{ .opcode = IORING_OP_READV, .fd = FILE_FD, .addr = ptr(&mem->vec), .len = 1 },
		{ .opcode = IORING_OP_WRITEV, .fd = FILE_FD, .addr = ptr(&mem->vec), .len = 1 },
		{ .opcode = IORING_OP_FSYNC, .fd = FILE_FD },
		{ .opcode = IORING_OP_SYNC_FILE_RANGE, .fd = FILE_FD },
		{ .opcode = IORING_OP_FALLOCATE, .fd = FILE_FD, .addr = 4096 },
		{ .opcode = IORING_OP_FTRUNCATE, .fd = FILE_FD, .off = 2 },
		{ .opcode = IORING_OP_FADVISE, .fd = FILE_FD },
		{ .opcode = IORING_OP_MADVISE, .fd = -1, .addr = ptr(mem->page), .len = 4096 },
		{ .opcode = IORING_OP_POLL_ADD, .fd = FROM_FD, .poll32_events = POLLIN },
		{ .opcode = IORING_OP_SPLICE, .fd = TO_FD, .splice_fd_in = FROM_FD, .len = 4,
		  .off = -1, .splice_off_in = -1 },
		{ .opcode = IORING_OP_TEE, .fd = TO_FD, .splice_fd_in = FROM_FD, .len = 4 },
		{ .opcode = IORING_OP_EPOLL_CTL, .fd = EPOLL_FD, .len = EPOLL_CTL_ADD,
		  .off = FROM_FD, .addr = ptr(&mem->event) },
		{ .opcode = IORING_OP_RECV, .fd = SOCK_FD, .addr = ptr(mem->page), .len = 4 },
		{ .opcode = IORING_OP_SEND, .fd = SOCK_FD, .addr = ptr(mem->page), .len = 4 },
		{ .opcode = IORING_OP_RECVMSG, .fd = SOCK_FD, .addr = ptr(&mem->msg) },
		{ .opcode = IORING_OP_SENDMSG, .fd = SOCK_FD, .addr = ptr(&mem->msg) },
		{ .opcode = IORING_OP_SEND_ZC, .fd = TCP_FD, .addr = ptr(mem->page), .len = 4,
		  .addr3 = UD_OTHER },
		{ .opcode = IORING_OP_SENDMSG_ZC, .fd = TCP_FD, .addr = ptr(&mem->msg),
		  .addr3 = UD_OTHER },
		{ .opcode = IORING_OP_SHUTDOWN, .fd = SOCK_FD, .len = SHUT_RDWR },
		{ .opcode = IORING_OP_SOCKET, .fd = AF_UNIX, .off = SOCK_STREAM },
		{ .opcode = IORING_OP_BIND, .fd = CLIENT_FD, .addr = ptr(&mem->server),
		  .addr2 = sizeof(sa_family_t) },
		{ .opcode = IORING_OP_LISTEN, .fd = SERVER_FD, .len = 1 },
		{ .opcode = IORING_OP_ACCEPT, .fd = SERVER_FD },
		/* the name has a zero and five digits */
		{ .opcode = IORING_OP_CONNECT, .fd = CLIENT_FD, .addr = ptr(&mem->server),
		  .addr2 = sizeof(sa_family_t) + 6 },
		{ .opcode = IORING_OP_URING_CMD, .fd = SOCK_FD, .optval = ptr(mem->page),
		  .cmd_op = SOCKET_URING_OP_GETSOCKOPT, .level = SOL_SOCKET,
		  .optname = SO_TYPE, .optlen = sizeof(int) },
		{ .opcode = IORING_OP_OPENAT, .fd = AT_FDCWD, .addr = ptr("/dev/null") },
		{ .opcode = IORING_OP_CLOSE, .fd = SPARE_FD },
		{ .opcode = IORING_OP_PIPE, .addr = ptr(mem->pipe) },
		{ .opcode = IORING_OP_STATX, .fd = AT_FDCWD, .addr = ptr(mem->path),
		  .addr2 = ptr(mem->statx), .len = STATX_BASIC_STATS },
		{ .opcode = IORING_OP_UNLINKAT, .fd = AT_FDCWD, .addr = ptr(mem->path) },
		{ .opcode = IORING_OP_MSG_RING, .fd = RING_FD },
		/* FUTEX2_SIZE_U32 and FUTEX2_PRIVATE */
		{ .opcode = IORING_OP_FUTEX_WAKE, .fd = 2 | 128, .addr = ptr(&mem->futex),
		  .addr2 = 1, .addr3 = ~0U },
	};

	if (i >= ARRAY_SIZE(all))
		return false;
	*sqe = all[i];
	return true;
}

/* Wait for the second CQE of a SEND_ZC, and leave it out of @log. */
static bool forget_notif(struct log *log, struct ring *r)
{
	int i;

	log_until(log, r, UD_OTHER);
	i = log_index(log, UD_OTHER);
	if (i < 0 || log->cqe[i].flags != IORING_CQE_F_NOTIF)
		return false;
	memmove(&log->cqe[i], &log->cqe[i + 1], (log->nr - i - 1) * sizeof(log->cqe[0]));
	log->nr--;
	return true;
}

/* uapi: the leader may be of any opcode, and so may a member */
TEST_F_TIMEOUT(fused, any_opcode, 120)
{
	static const int nops[] = { 1, 2 };
	enum { ALONE, LEADS, IS_MEMBER, NR_ROLES } role;
	struct io_uring_sqe sqe[2] = { };
	struct io_uring_params p = { };
	int alone = 0, res;
	struct ring other;
	unsigned int i;

	mem = mmap(NULL, sizeof(*mem), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		   -1, 0);
	ASSERT_NE(MAP_FAILED, mem);
	ASSERT_EQ(0, ring_init(&other, 8, &p));
	ASSERT_EQ(RING_FD, dup2(other.fd, RING_FD));
	for (i = 0; one_shot(i, sqe); i++) {
		for (role = ALONE; role < NR_ROLES; role++) {
			const char *wrong = NULL;
			struct log log = { };

			ASSERT_EQ(0, open_all());
			LEAD_NOP(5);
			if (role == LEADS) {
				sqe->flags = IOSQE_SQE_GROUP;
				sqe->user_data = UD_PRIMARY;
				*self->g.primary = *sqe;
				ADD_NOP(1);
				ADD_NOP(2);
				PUSH_GROUP();
			} else if (role == IS_MEMBER) {
				sqe->flags = variant->mode.secondary_flags;
				sqe->user_data = 0;
				*ADD_NOP(0) = *sqe;
				PUSH_GROUP();
			} else {
				push_sqe(&self->ring, sqe);
			}
			SUBMIT();
			res = log_until(&log, &self->ring, sqe->user_data);
			ASSERT_LE(0, res) TH_LOG("opcode %d, role %d", sqe->opcode, role);
			if (role == ALONE)
				alone = res;
			if (!makes_fd(sqe))
				ASSERT_EQ(alone, res) TH_LOG("opcode %d", sqe->opcode);
			/* it comes before or behind the end of the group */
			if (sqe->addr3 == UD_OTHER)
				ASSERT_TRUE(forget_notif(&log, &self->ring));
			if (role == LEADS)
				wrong = group_check(&self->g, &log, res, 2, nops);
			else if (role == IS_MEMBER)
				wrong = group_check(&self->g, &log, 5, 1, &res);
			ASSERT_EQ(NULL, wrong)
				TH_LOG("opcode %d, role %d: %s", sqe->opcode, role, wrong);
			close_all(sqe, res);
		}
	}
	close(RING_FD);
	ring_exit(&other);
	munmap(mem, sizeof(*mem));
}

TEST_HARNESS_MAIN
