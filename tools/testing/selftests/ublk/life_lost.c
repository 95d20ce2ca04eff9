// SPDX-License-Identifier: GPL-2.0
/*
 * life_lost: requests of which a server will never be told, because the task that
 * was to be told is gone, or never looks, while its ring stays open. They must end,
 * or wait for the next server, all the same.
 */
#include <pthread.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include "life.h"
#include "parity_bsrv.h"
#include "kselftest_harness.h"

/* ms; the timer has ticks of a second */
#define REQUEST_TIMEOUT	500

static void set_timeout(int id)
{
	FILE *f = fopen(str("/sys/block/ublkb%d/queue/io_timeout", id), "w");

	if (!f || fprintf(f, "%d", REQUEST_TIMEOUT) < 0 || fclose(f))
		give_up("io_timeout", -errno);
}

/* Task work runs on this ring when its task waits there, and never else */
static void use_defer_ring(struct srv *s)
{
	io_uring_queue_exit(&s->ring);
	if (io_uring_queue_init(64, &s->ring, IORING_SETUP_SINGLE_ISSUER |
					      IORING_SETUP_DEFER_TASKRUN))
		give_up("ring", -errno);
	io_uring_ring_dontfork(&s->ring);
}

/* A process that has what the server has open, until we are gone or say so */
static void leave_heir(int wait_for, int not_for)
{
	pid_t pid = fork();

	if (pid < 0)
		give_up("fork", -errno);
	if (pid)
		return;
	close(not_for);
	hear(wait_for);
	_exit(0);
}

static void *fetch_and_go(void *arg)
{
	struct srv *s = arg;

	use_defer_ring(s);
	srv_fetch(s, 0, s->depth);
	return NULL;
}

FIXTURE(lost) {
	int id;
};

FIXTURE_VARIANT(lost) {
	/* a thread of a server that lives on, else a process that another one inherits */
	bool thread;
	/* the device is stopped, else the request has waited for long */
	bool stop;
};

FIXTURE_VARIANT_ADD(lost, process_stop) {
	.stop = true,
};

FIXTURE_VARIANT_ADD(lost, process_timer) {
};

FIXTURE_VARIANT_ADD(lost, thread_stop) {
	.thread = true,
	.stop = true,
};

FIXTURE_VARIANT_ADD(lost, thread_timer) {
	.thread = true,
};

FIXTURE_SETUP(lost)
{
	self->id = -1;
	if (why_not())
		SKIP(return, "%s", why_not());
}

FIXTURE_TEARDOWN(lost)
{
	if (self->id >= 0)
		EXPECT_EQ(0, delete_dev(self->id));
}

TEST_F_TIMEOUT(lost, task, 120)
{
	int ready[2], heir[2];
	struct blk_io io;
	pid_t pid;

	ASSERT_EQ(0, pipe(ready));
	ASSERT_EQ(0, pipe(heir));
	pid = child();
	if (!pid) {
		pthread_t thread;
		struct srv s;

		srv_open(&s, 0, NULL);
		if (variant->thread) {
			pthread_create(&thread, NULL, fetch_and_go, &s);
			pthread_join(thread, NULL);
		} else {
			fetch_and_go(&s);
			leave_heir(heir[0], heir[1]);
		}
		srv_start(&s);
		if (write(ready[1], &s.id, sizeof(s.id)) != sizeof(s.id))
			give_up("write", -errno);
		for (;;)
			pause();
	}
	close(ready[1]);
	ASSERT_EQ((ssize_t)sizeof(self->id), read(ready[0], &self->id, sizeof(self->id)));
	if (!variant->stop)
		set_timeout(self->id);
	block_start(&io, self->id, B_READ, 8, 4096);
	wait_busy(self->id, 1);
	if (!variant->thread) {
		ASSERT_EQ(0, kill(pid, SIGKILL));
		EXPECT_EQ(-1, exit_status(pid));
	}
	if (variant->stop)
		EXPECT_EQ(0, ctrl_simple(self->id, UBLK_U_CMD_STOP_DEV, NULL, 0, 0));
	EXPECT_EQ(-EIO, block_wait(&io, INT_MAX));
	/* one that comes later waits for nothing */
	if (!variant->stop) {
		block_start(&io, self->id, B_READ, 8, 4096);
		EXPECT_EQ(-EIO, block_wait(&io, INT_MAX));
	}
	if (variant->thread) {
		ASSERT_EQ(0, kill(pid, SIGKILL));
		EXPECT_EQ(-1, exit_status(pid));
	}
	close(heir[1]);
}

/*
 * A server that is not trusted is killed if it does not answer in time, and so is a
 * process of it that does not tell it of a request.
 */
FIXTURE(killed) {
	int id;
};

FIXTURE_VARIANT(killed) {
	__u64 flags;
	/* the process that prepared the slots, and started the device, goes first */
	bool goes;
};

FIXTURE_VARIANT_ADD(killed, server) {
};

FIXTURE_VARIANT_ADD(killed, server_of_batches) {
	.flags = UBLK_F_BATCH_IO,
};

FIXTURE_VARIANT_ADD(killed, teller_of_batches) {
	.flags = UBLK_F_BATCH_IO,
	.goes = true,
};

FIXTURE_SETUP(killed)
{
	self->id = -1;
	if (why_not())
		SKIP(return, "%s", why_not());
}

FIXTURE_TEARDOWN(killed)
{
	if (self->id >= 0)
		EXPECT_EQ(0, delete_dev(self->id));
}

static void start_own(struct srv *s)
{
	int res = ctrl_path(s->id, UBLK_U_CMD_START_DEV, NULL, 0, getpid());

	if (res)
		give_up("START_DEV", res);
}

/* Fetches and never looks; a process of its own, whose number is told */
static pid_t mute_teller(struct srv *s)
{
	int fetched[2];
	pid_t pid;

	if (pipe(fetched))
		give_up("pipe", -errno);
	pid = fork();
	if (pid < 0)
		give_up("fork", -errno);
	if (!pid) {
		struct bring b;

		bring_init_defer(&b, s);
		bring_provide(&b, 0, 1, NULL);
		bring_fetch(&b, 0);
		tell(fetched[1]);
		for (;;)
			pause();
	}
	close(fetched[1]);
	hear(fetched[0]);
	close(fetched[0]);
	return pid;
}

TEST_F_TIMEOUT(killed, by_timer, 120)
{
	struct ublk_params params = default_params();
	int ready[2], status;
	struct {
		int id;
		pid_t teller;
	} said;
	struct blk_io io;
	pid_t pid;

	become(NOBODY);
	said.id = add(UBLK_F_UNPRIVILEGED_DEV | variant->flags);
	become(0);
	ASSERT_LE(0, said.id);
	self->id = said.id;
	chmod(str("/dev/ublkc%d", said.id), 0666);
	ASSERT_EQ(0, pipe(ready));
	pid = child();
	if (!pid) {
		struct srv s = {
			.id = said.id, .queues = 1, .depth = DEPTH,
			.flags = UBLK_F_UNPRIVILEGED_DEV | variant->flags,
			.desc_size = sizeof(struct ublksrv_io_desc),
		};
		struct bring b;
		int res;

		become(NOBODY);
		res = ctrl_path(s.id, UBLK_U_CMD_SET_PARAMS, &params, sizeof(params), 0);
		if (res)
			give_up("SET_PARAMS", res);
		srv_attach(&s);
		said.teller = 0;
		if (variant->flags & UBLK_F_BATCH_IO) {
			bring_init(&b, &s, false);
			res = batch_prep(&b, 0, 0, s.depth);
			if (res)
				give_up("PREP", res);
			said.teller = mute_teller(&s);
		} else {
			srv_fetch(&s, 0, s.depth);
		}
		start_own(&s);
		if (write(ready[1], &said, sizeof(said)) != sizeof(said))
			give_up("write", -errno);
		while (!variant->goes)
			pause();
		_exit(0);
	}
	close(ready[1]);
	ASSERT_EQ((ssize_t)sizeof(said), read(ready[0], &said, sizeof(said)));
	if (variant->goes)
		ASSERT_EQ(0, exit_status(pid));
	set_timeout(said.id);
	block_start(&io, said.id, B_READ, 8, 4096);
	EXPECT_EQ(-EIO, block_wait(&io, INT_MAX));
	if (!variant->goes)
		EXPECT_EQ(-1, exit_status(pid));
	/* it is not our child: wait until it has ended */
	while (said.teller && !kill(said.teller, 0))
		usleep(1000);
	status = delete_dev(said.id);
	EXPECT_EQ(0, status);
	self->id = -1;
}

/*
 * Of a server of batches, only the process that is to tell it of requests dies, and
 * it takes long: somebody traces it.
 */
FIXTURE(dying_teller) {
	struct srv s;
	struct bring b;
	__u64 fetch;
	pid_t pid;
};

FIXTURE_VARIANT(dying_teller) {
	/* the device is stopped, else the request has waited for long */
	bool stop;
	/* another process can tell: its command is the youngest one */
	bool other;
	/* or one of the other's is younger */
	bool between;
};

FIXTURE_VARIANT_ADD(dying_teller, stop) {
	.stop = true,
};

FIXTURE_VARIANT_ADD(dying_teller, timer) {
};

FIXTURE_VARIANT_ADD(dying_teller, other_lives) {
	.other = true,
};

FIXTURE_VARIANT_ADD(dying_teller, other_between) {
	.other = true,
	.between = true,
};

static __u64 fetch_too(struct bring *b)
{
	bring_provide(b, 0, 1, NULL);
	return bring_fetch(b, 0);
}

/*
 * Fetches, and stops in the middle of its exit, before its commands are canceled. With
 * @between, fetches once more after that has done so.
 */
static pid_t fetch_and_die(struct srv *s, struct bring *between, __u64 *fetch)
{
	int fetched[2], may_die[2], status;
	pid_t pid;

	if (pipe(fetched) || pipe(may_die))
		give_up("pipe", -errno);
	pid = fork();
	if (pid < 0)
		give_up("fork", -errno);
	if (!pid) {
		struct bring b;

		bring_init(&b, s, true);
		bring_provide(&b, 0, 1, NULL);
		bring_fetch(&b, 0);
		tell(fetched[1]);
		hear(may_die[0]);
		if (between) {
			bring_fetch(&b, 0);
			tell(fetched[1]);
			hear(may_die[0]);
		}
		_exit(0);
	}
	hear(fetched[0]);
	if (between) {
		*fetch = fetch_too(between);
		tell(may_die[1]);
		hear(fetched[0]);
	}
	if (ptrace(PTRACE_SEIZE, pid, NULL, PTRACE_O_TRACEEXIT))
		give_up("PTRACE_SEIZE", -errno);
	tell(may_die[1]);
	if (waitpid(pid, &status, 0) != pid ||
	    status >> 8 != (SIGTRAP | PTRACE_EVENT_EXIT << 8))
		give_up("its exit", status);
	close(fetched[0]);
	close(fetched[1]);
	close(may_die[0]);
	close(may_die[1]);
	return pid;
}

FIXTURE_SETUP(dying_teller)
{
	self->s.id = -1;
	if (why_not())
		SKIP(return, "%s", why_not());
	srv_open(&self->s, UBLK_F_BATCH_IO, NULL);
	bring_init(&self->b, &self->s, false);
	ASSERT_EQ(0, batch_prep(&self->b, 0, 0, DEPTH));
	srv_start(&self->s);
	self->pid = fetch_and_die(&self->s, variant->between ? &self->b : NULL, &self->fetch);
	if (variant->other && !variant->between)
		self->fetch = fetch_too(&self->b);
}

FIXTURE_TEARDOWN(dying_teller)
{
	if (self->s.id < 0)
		return;
	EXPECT_EQ(0, ptrace(PTRACE_CONT, self->pid, NULL, 0));
	EXPECT_EQ(0, exit_status(self->pid));
	srv_close(&self->s);
	EXPECT_EQ(0, delete_dev(self->s.id));
}

TEST_F_TIMEOUT(dying_teller, takes_long, 120)
{
	struct srv *s = &self->s;
	struct blk_io io;
	int tag;

	if (!variant->other && !variant->stop)
		set_timeout(s->id);
	block_start(&io, s->id, B_READ, 8, 4096);
	if (variant->other) {
		ASSERT_EQ(2, batch_request(&self->b, self->fetch, INT_MAX, &tag));
		EXPECT_EQ(16, batch_commit(&self->b, 0, tag, 4096));
		EXPECT_EQ(1, block_wait(&io, INT_MAX));
		return;
	}
	if (variant->stop) {
		wait_busy(s->id, 1);
		EXPECT_EQ(0, ctrl_simple(s->id, UBLK_U_CMD_STOP_DEV, NULL, 0, 0));
	}
	EXPECT_EQ(-EIO, block_wait(&io, INT_MAX));
}

/*
 * A server that takes long to die, as it waits for another disk, has not seen the
 * request: the next one gets it.
 */
FIXTURE(held) {
	int id;
	struct srv other;
};

FIXTURE_VARIANT(held) {
	__u64 flags;
};

FIXTURE_VARIANT_ADD(held, by_device) {
};

FIXTURE_VARIANT_ADD(held, by_device_of_batches) {
	.flags = UBLK_F_BATCH_IO,
};

FIXTURE_SETUP(held)
{
	self->id = -1;
	self->other.id = -1;
	if (why_not())
		SKIP(return, "%s", why_not());
}

FIXTURE_TEARDOWN(held)
{
	if (self->id >= 0)
		EXPECT_EQ(0, delete_dev(self->id));
	if (self->other.id >= 0)
		EXPECT_EQ(0, delete_dev(self->other.id));
}

static void *read_disk(void *arg)
{
	int fd = open(str("/dev/ublkb%d", *(int *)arg), O_RDONLY | O_DIRECT);
	void *buf;

	if (fd < 0 || posix_memalign(&buf, 4096, 4096))
		give_up("disk", -errno);
	if (pread(fd, buf, 4096, 0) != 4096)
		give_up("read", -errno);
	return NULL;
}

TEST_F_TIMEOUT(held, while_server_dies, 120)
{
	struct ublksrv_ctrl_dev_info info;
	struct srv *other = &self->other, s;
	struct blk_io io;
	struct bring b;
	int ready[2], tag;
	__u64 fetch = 0;
	pid_t pid;

	srv_live(other, 0, NULL);
	ASSERT_EQ(0, pipe(ready));
	pid = child();
	if (!pid) {
		pthread_t thread;

		close(other->cdev);
		close(other->ring.ring_fd);
		srv_open(&s, UBLK_F_USER_RECOVERY | variant->flags, NULL);
		if (variant->flags & UBLK_F_BATCH_IO) {
			bring_init_defer(&b, &s);
			if (batch_prep(&b, 0, 0, s.depth))
				give_up("PREP", -EINVAL);
			bring_provide(&b, 0, 1, NULL);
			bring_fetch(&b, 0);
		} else {
			use_defer_ring(&s);
			srv_fetch(&s, 0, s.depth);
		}
		srv_start(&s);
		pthread_create(&thread, NULL, read_disk, &other->id);
		if (write(ready[1], &s.id, sizeof(s.id)) != sizeof(s.id))
			give_up("write", -errno);
		for (;;)
			pause();
	}
	close(ready[1]);
	ASSERT_EQ((ssize_t)sizeof(self->id), read(ready[0], &self->id, sizeof(self->id)));
	while ((tag = srv_request(other, 1000)) < 0)
		;
	set_timeout(self->id);
	block_start(&io, self->id, B_READ, 8, 4096);
	wait_busy(self->id, 1);
	ASSERT_EQ(0, kill(pid, SIGKILL));
	/* the timer has its time, and must not fail it */
	EXPECT_EQ(BLOCKS, block_wait(&io, 4000));
	srv_commit(other, tag, 4096);
	EXPECT_EQ(-1, exit_status(pid));
	ASSERT_TRUE(wait_dev_state(self->id, UBLK_S_DEV_QUIESCED));
	ASSERT_EQ(0, get_info(self->id, &info));
	s = (struct srv) {
		.id = self->id, .queues = info.nr_hw_queues, .depth = info.queue_depth,
		.flags = info.flags, .desc_size = sizeof(struct ublksrv_io_desc),
	};
	ASSERT_EQ(0, ctrl_simple(s.id, UBLK_U_CMD_START_USER_RECOVERY, NULL, 0, 0));
	attach(&s);
	if (variant->flags & UBLK_F_BATCH_IO) {
		bring_init(&b, &s, false);
		ASSERT_EQ(0, batch_prep(&b, 0, 0, s.depth));
		bring_provide(&b, 0, 1, NULL);
		fetch = bring_fetch(&b, 0);
	} else {
		srv_fetch(&s, 0, s.depth);
	}
	ASSERT_EQ(0, ctrl_simple(s.id, UBLK_U_CMD_END_USER_RECOVERY, NULL, 0, getpid()));
	if (variant->flags & UBLK_F_BATCH_IO) {
		batch_request(&b, fetch, INT_MAX, &tag);
		EXPECT_LT(0, batch_commit(&b, 0, tag, 4096));
	} else {
		while ((tag = srv_request(&s, 1000)) < 0)
			;
		srv_commit(&s, tag, 4096);
	}
	EXPECT_EQ(1, block_wait(&io, INT_MAX));
	srv_close(&s);
	srv_close(other);
}

TEST_HARNESS_MAIN
