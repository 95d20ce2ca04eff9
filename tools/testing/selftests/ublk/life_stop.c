// SPDX-License-Identifier: GPL-2.0
/*
 * life_stop: a device is stopped while a server attaches.
 *
 * All or nothing: the stop came first and nothing of the new server is touched,
 * or it came later, and the server is stopped with all that it sent.
 */
#include <glob.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include "life.h"
#include "parity_bsrv.h"
#include "kselftest_harness.h"

/* a stop that looks at each slot takes some time */
#define MANY_SLOTS	UBLK_MAX_QUEUE_DEPTH
#define FETCHED		16
#define RACES		30
/* of a device whose stop takes long for other reasons */
#define FEW_SLOTS	4
#define ORPHANS		10

/* A server that fetches only: with UBLK_F_USER_COPY it needs no buffers */
struct server {
	int cdev;
	struct io_uring ring;
	int ended;		/* commands that were canceled or refused */
	int requests;		/* commands that brought a request */
};

static void server_open(struct server *s, int id, unsigned int slots)
{
	*s = (struct server){};
	if (io_uring_queue_init(slots, &s->ring, 0))
		give_up("ring", -errno);
	io_uring_ring_dontfork(&s->ring);
	s->cdev = open_free(id);
}

static void server_fetch(struct server *s, int q_id, int tag)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&s->ring);
	struct ublksrv_io_cmd *cmd;

	if (!sqe)
		give_up("SQE", -ENOSPC);
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = s->cdev;
	sqe->cmd_op = UBLK_U_IO_FETCH_REQ;
	cmd = (void *)sqe->cmd;
	cmd->q_id = q_id;
	cmd->tag = tag;
	io_uring_submit(&s->ring);
}

/* Look at what was posted by now */
static void server_look(struct server *s)
{
	struct io_uring_cqe *cqe;

	io_uring_get_events(&s->ring);
	while (!io_uring_peek_cqe(&s->ring, &cqe)) {
		if (cqe->res == UBLK_IO_RES_OK)
			s->requests++;
		else
			s->ended++;
		io_uring_cqe_seen(&s->ring, cqe);
	}
}

/* With this many slots on each of the two queues */
static void server_fetch_all(struct server *s, int depth)
{
	int i;

	for (i = 0; i < 2 * depth; i++)
		server_fetch(s, i / depth, i % depth);
}

static void server_close(struct server *s)
{
	io_uring_queue_exit(&s->ring);
	close(s->cdev);
}

static int add_device(__u64 flags, unsigned int depth)
{
	struct ublksrv_ctrl_dev_info info =
		default_info(flags | UBLK_F_USER_COPY | UBLK_F_NO_AUTO_PART_SCAN);
	struct ublk_params params = default_params();
	int id, res;

	info.nr_hw_queues = 2;
	info.queue_depth = depth;
	id = add_info(&info);
	if (id < 0)
		give_up("ADD_DEV", id);
	res = set_params(id, &params);
	if (res)
		give_up("SET_PARAMS", res);
	return id;
}

/* A device that lost its server, but not its disk */
static int add_orphan(__u64 flags, int *disk)
{
	int id = add_device(flags, FEW_SLOTS), res;
	struct server s;

	server_open(&s, id, 32);
	server_fetch_all(&s, FEW_SLOTS);
	res = start(id, getpid());
	if (res)
		give_up("START_DEV", res);
	if (disk) {
		*disk = open(str("/dev/ublkb%d", id), O_RDWR | O_CLOEXEC);
		if (*disk < 0)
			give_up("open of the disk", -errno);
	}
	server_close(&s);
	if (!wait_dev_state(id, flags & UBLK_F_USER_RECOVERY_FAIL_IO ?
			    UBLK_S_DEV_FAIL_IO : UBLK_S_DEV_QUIESCED))
		give_up("the device is not recoverable", 0);
	return id;
}

/* Send one command; it exits with what the command returned */
static pid_t command(int id, __u32 op)
{
	pid_t pid = child();

	if (pid)
		return pid;
	_exit(-ctrl_simple(id, op, NULL, 0, 0));
}

FIXTURE(stop) {
	int id;
};

FIXTURE_VARIANT(stop) {
	__u32 op;
	__u64 flags;
};

FIXTURE_VARIANT_ADD(stop, hold) {
	.op = UBLK_U_CMD_STOP_DEV,
	.flags = UBLK_F_USER_RECOVERY,
};

FIXTURE_VARIANT_ADD(stop, reissue) {
	.op = UBLK_U_CMD_STOP_DEV,
	.flags = UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE,
};

FIXTURE_VARIANT_ADD(stop, fail_io) {
	.op = UBLK_U_CMD_STOP_DEV,
	.flags = UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_FAIL_IO,
};

FIXTURE_VARIANT_ADD(stop, try_stop) {
	.op = UBLK_U_CMD_TRY_STOP_DEV,
	.flags = UBLK_F_USER_RECOVERY,
};

FIXTURE_SETUP(stop)
{
	self->id = -1;
	if (why_not())
		SKIP(return, "%s", why_not());
}

FIXTURE_TEARDOWN(stop)
{
	if (self->id >= 0)
		EXPECT_EQ(0, delete_dev(self->id));
}

/* Send the command again and again until a server is there */
static pid_t stop_until(int id, __u32 op, const int *attached)
{
	pid_t pid = child();

	if (pid)
		return pid;
	do {
		ctrl_simple(id, op, NULL, 0, 0);
	} while (!__atomic_load_n(attached, __ATOMIC_ACQUIRE));
	_exit(0);
}

/*
 * There is no disk, and the last stop began before the server came, or after.
 * One that goes through the slots from the first to the last meets the server,
 * which goes from the last to the first.
 */
TEST_F_TIMEOUT(stop, without_disk, 120)
{
	int *attached = mmap(NULL, sizeof(int), PROT_READ | PROT_WRITE,
				      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int round, i, ended, stopped = 0, torn = 0;
	struct server s;

	ASSERT_NE(MAP_FAILED, attached);
	self->id = add_device(variant->flags, MANY_SLOTS);
	for (round = 0; round < RACES; round++) {
		pid_t stopper;

		__atomic_store_n(attached, 0, __ATOMIC_RELEASE);
		stopper = stop_until(self->id, variant->op, attached);
		server_open(&s, self->id, 2 * FETCHED);
		__atomic_store_n(attached, 1, __ATOMIC_RELEASE);
		for (i = 1; i <= FETCHED; i++)
			server_fetch(&s, 1, MANY_SLOTS - i);
		ASSERT_EQ(0, exit_status(stopper));
		server_look(&s);
		ended = s.ended;
		/* whether the server is stopped is told by one more command */
		server_fetch(&s, 0, 0);
		server_look(&s);
		if (s.ended > ended)
			stopped++;
		if (ended != (s.ended > ended ? FETCHED : 0))
			torn++;
		server_close(&s);
	}
	munmap(attached, sizeof(int));
	TH_LOG("%d of %d servers were stopped", stopped, RACES);
	EXPECT_EQ(0, torn);
}

/* The disk of the last server is deleted while the next one comes. */
TEST_F_TIMEOUT(stop, orphan, 120)
{
	int round, res, stopped = 0, torn = 0;
	struct server s;
	pid_t stopper;

	for (round = 0; round < ORPHANS; round++) {
		self->id = add_orphan(variant->flags, NULL);
		stopper = command(self->id, variant->op);
		/* from before the stop to behind it */
		usleep(round * 10000 + rand() % 10000);
		server_open(&s, self->id, 32);
		server_fetch_all(&s, FEW_SLOTS);
		res = -exit_status(stopper);
		server_look(&s);
		if (res == -EBUSY && variant->op == UBLK_U_CMD_TRY_STOP_DEV) {
			/* somebody had it open, so nothing happened */
			EXPECT_EQ(0, s.ended);
			EXPECT_EQ(0, ctrl_simple(self->id, UBLK_U_CMD_END_USER_RECOVERY,
						 NULL, 0, getpid()));
		} else {
			ASSERT_EQ(0, res);
			/* somebody may still have the old disk open */
			do {
				res = start(self->id, getpid());
			} while (res == -EEXIST && !usleep(1000));
			server_look(&s);
			stopped += !!res;
			EXPECT_EQ(res, s.ended ? -EBUSY : 0);
			torn += s.ended && s.ended != 2 * FEW_SLOTS;
			torn += !!s.ended != !!res;
		}
		server_close(&s);
		ASSERT_EQ(0, delete_dev(self->id));
		self->id = -1;
	}
	TH_LOG("%d of %d servers were stopped", stopped, ORPHANS);
	EXPECT_EQ(0, torn);
}

/*
 * The disk is deleted for want of a server, so what is in its page cache is
 * lost. It is not for the server that comes meanwhile, which knows nothing of it.
 */
TEST_F_TIMEOUT(stop, write_back, 120)
{
	char path[64], page[4096];
	int disk, fd, status;
	struct server s;
	pid_t stopper;
	off_t off;

	if (variant->op == UBLK_U_CMD_TRY_STOP_DEV)
		SKIP(return, "nobody may have the disk open");
	self->id = add_orphan(variant->flags, &disk);
	snprintf(path, sizeof(path), "/dev/ublkb%d", self->id);
	memset(page, 0xa5, sizeof(page));
	/* as many requests as possible */
	for (off = 0; off < DEV_SECTORS << 9; off += 2 * sizeof(page))
		ASSERT_EQ((ssize_t)sizeof(page), pwrite(disk, page, sizeof(page), off));

	stopper = command(self->id, UBLK_U_CMD_STOP_DEV);
	/* it can not be opened any more: it is about to be written back */
	while ((fd = open(path, O_RDONLY | O_CLOEXEC)) >= 0)
		close(fd);
	server_open(&s, self->id, 32);
	server_fetch_all(&s, FEW_SLOTS);
	while (!waitpid(stopper, &status, WNOHANG) && !s.requests) {
		server_look(&s);
		usleep(1000);
	}
	EXPECT_EQ(0, s.requests);
	server_close(&s);
	close(disk);
}

/*
 * The next server has fetched all, and has not said that it is there: it serves
 * the write that waited for it, and that which the last server had.
 */
TEST_F_TIMEOUT(stop, before_end_of_recovery, 120)
{
	struct srv s, next = { .queues = 1, .depth = DEPTH, .flags = variant->flags,
			       .desc_size = sizeof(struct ublksrv_io_desc) };
	bool reissues = variant->flags & UBLK_F_USER_RECOVERY_REISSUE;
	struct blk_io had, waits;
	pid_t stopper;

	if (variant->op == UBLK_U_CMD_TRY_STOP_DEV)
		SKIP(return, "nobody may have the disk open");
	if (variant->flags & UBLK_F_USER_RECOVERY_FAIL_IO)
		SKIP(return, "nothing waits for the next server");
	srv_live(&s, variant->flags, NULL);
	self->id = s.id;
	next.id = s.id;
	if (reissues) {
		block_start(&had, s.id, B_WRITE, 8, 4096);
		while (srv_request(&s, 1000) < 0)
			;
	}
	srv_close(&s);
	while (ctrl_simple(next.id, UBLK_U_CMD_START_USER_RECOVERY, NULL, 0, 0))
		usleep(1000);
	block_start(&waits, next.id, B_WRITE, 80, 4096);
	wait_busy(next.id, 1 + reissues);
	attach(&next);
	srv_fetch(&next, 0, DEPTH);
	stopper = command(next.id, variant->op);
	EXPECT_EQ(0, serve(&next, stopper));
	if (reissues)
		EXPECT_EQ(1, block_wait(&had, INT_MAX));
	EXPECT_EQ(1, block_wait(&waits, INT_MAX));
	srv_close(&next);
}

/* Wait until requests are held, as far as debugfs tells; else some time */
static void wait_held(int id)
{
	char line[200] = "";
	FILE *f;

	while (!strstr(line, " gate Held")) {
		usleep(1000);
		f = fopen(str("/sys/kernel/debug/ublk_rs/%d", id), "r");
		if (!f) {
			usleep(500000);
			return;
		}
		if (!fgets(line, sizeof(line), f))
			line[0] = '\0';
		fclose(f);
	}
}

/* QUIESCE_DEV waits for a server that has no slot left. Who stops the device need not. */
TEST(while_quiesced)
{
	struct ublksrv_ctrl_dev_info info =
		default_info(UBLK_F_USER_RECOVERY | UBLK_F_QUIESCE | UBLK_F_NO_AUTO_PART_SCAN);
	pid_t quiescer, stopper;
	struct blk_io io;
	struct srv s;
	int tag;

	if (why_not())
		SKIP(return, "%s", why_not());
	info.queue_depth = 1;
	srv_info(&s, &info, NULL);
	srv_attach(&s);
	srv_fetch(&s, 0, 1);
	srv_start(&s);
	block_start(&io, s.id, B_READ, 0, 4096);
	while ((tag = srv_request(&s, 1000)) < 0)
		;
	quiescer = command(s.id, UBLK_U_CMD_QUIESCE_DEV);
	wait_held(s.id);
	stopper = command(s.id, UBLK_U_CMD_STOP_DEV);
	EXPECT_EQ(EBUSY, exit_status(quiescer));
	/* the stop does wait for the server */
	EXPECT_EQ(BLOCKS, block_wait(&io, 0));
	srv_commit(&s, tag, 4096);
	EXPECT_EQ(1, block_wait(&io, INT_MAX));
	EXPECT_EQ(0, exit_status(stopper));
	srv_close(&s);
	EXPECT_EQ(0, delete_dev(s.id));
}

/* A server that works on batches can be told by its next command, so nobody waits for one */
TEST(quiesced_without_fetch)
{
	struct bring b;
	struct srv s;

	if (why_not())
		SKIP(return, "%s", why_not());
	batch_live(&b, &s, UBLK_F_USER_RECOVERY | UBLK_F_QUIESCE);
	/* of the time only 32 bits count: none, but nobody waits */
	EXPECT_EQ(0, ctrl_simple(s.id, UBLK_U_CMD_QUIESCE_DEV, NULL, 0, 1ULL << 32));
	EXPECT_EQ(-ENODEV, bring_wait(&b, bring_fetch(&b, 0), INT_MAX, NULL));
	srv_close(&s);
	EXPECT_EQ(0, delete_dev(s.id));
}

/*
 * What cleans up after servers has a thread of its own: memory may be short then,
 * and there may be none for another. Seen by its name, as who runs out of memory
 * in just that moment is hard to arrange.
 */
TEST(rescuer)
{
	char name[64];
	bool found = false;
	glob_t procs;
	size_t i;

	/* the other driver has no queue of its own */
	if (access("/sys/module/ublk_rs", F_OK))
		SKIP(return, "not the driver in Rust");
	ASSERT_EQ(0, glob("/proc/[0-9]*/comm", 0, NULL, &procs));
	for (i = 0; i < procs.gl_pathc; i++) {
		FILE *comm = fopen(procs.gl_pathv[i], "r");

		/* some are gone by now */
		if (!comm)
			continue;
		found |= fscanf(comm, "%63s", name) == 1 && !strcmp(name, "kworker/R-ublk_rs");
		fclose(comm);
	}
	globfree(&procs);
	EXPECT_TRUE(found);
}

TEST_HARNESS_MAIN
