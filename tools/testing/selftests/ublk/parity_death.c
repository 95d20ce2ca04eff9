// SPDX-License-Identifier: GPL-2.0
/*
 * parity: servers that are killed at any moment, whatever goes on around them.
 * The answers are always the same: everything ends.
 */
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include "parity.h"

#define LIVES		64
/* what must end by itself has ended after so long */
#define END_MS		20000

/* What happens to the device when its server is about to die */
enum around { NOTHING, STOP, DELETE, QUIESCE, NR_AROUND };

static const struct kind {
	const char *name;
	__u64 flags;
	/* how many servers there are, one after the other */
	int servers;
} kinds[] = {
	{ "no recovery", 0, 1 },
	{ "user copy", UBLK_F_USER_COPY, 1 },
	{ "recovery", UBLK_F_USER_RECOVERY | UBLK_F_QUIESCE, 3 },
	{ "reissue", UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE |
		UBLK_F_QUIESCE, 3 },
	{ "fail io", UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_FAIL_IO |
		UBLK_F_QUIESCE, 3 },
	{ "reissue, user copy", UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE |
		UBLK_F_QUIESCE | UBLK_F_USER_COPY, 2 },
};

static const char *const around_name[NR_AROUND] = {
	"nothing", "STOP_DEV", "DEL_DEV", "QUIESCE_DEV",
};

struct life {
	const struct kind *kind;
	enum around around;
	unsigned int seed;
};

/* A child that dies with us and says nothing: much of what it does fails */
static pid_t quiet_child(void)
{
	pid_t pid = fork();

	if (pid < 0)
		give_up("fork", -errno);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (!freopen("/dev/null", "w", stdout))
			_exit(1);
	}
	return pid;
}

/* Serve until killed. One request in three stays with the server. */
static pid_t server(int id, __u64 flags)
{
	struct srv s = {
		.id = id, .flags = flags, .queues = 1, .depth = DEPTH,
		.desc_size = sizeof(struct ublksrv_io_desc),
	};
	pid_t pid = quiet_child();
	int n, tag;

	if (pid)
		return pid;
	srv_attach(&s);
	srv_fetch(&s, 0, DEPTH);
	for (n = 1;; n++) {
		tag = srv_request(&s, 1000);
		if (tag < 0)
			continue;
		if (n % 3)
			srv_commit(&s, tag, srv_desc(&s, tag)->nr_sectors << 9);
		else
			s.owned[tag] = false;
	}
}

/* Read and write whenever there is a disk, until killed */
static pid_t user(int id, enum block_op op)
{
	pid_t pid = quiet_child();
	struct blk_io io;

	if (pid)
		return pid;
	for (;;) {
		if (!has_disk(id)) {
			usleep(300);
			continue;
		}
		block_start(&io, id, op, 8, 4096);
		block_wait(&io, END_MS);
	}
}

/* A control command from a process of its own */
static pid_t command(int id, __u32 op, __u64 data)
{
	pid_t pid = quiet_child();
	int res;

	if (pid)
		return pid;
	res = ctrl_simple(id, op, NULL, 0, data);
	while (res == BLOCKS)
		res = ctrl_pending(1000);
	_exit(0);
}

static void must_end(const char *name, const char *what, pid_t pid)
{
	int i;

	for (i = 0; i < END_MS / 2; i++) {
		if (waitpid(pid, NULL, WNOHANG) == pid)
			return;
		usleep(2000);
	}
	put(name, what, "", "no end");
	_exit(1);
}

static void kill_and_wait(const char *name, const char *what, pid_t pid)
{
	kill(pid, SIGKILL);
	must_end(name, what, pid);
}

/* A control command that must end, whatever its result */
static int must_do(const char *name, const char *what, int id, __u32 op)
{
	int res = ctrl_simple(id, op, NULL, 0, 0);

	if (res == BLOCKS)
		res = ctrl_pending(END_MS);
	if (res == BLOCKS) {
		put(name, what, "", "no end");
		_exit(1);
	}
	return res;
}

static __u32 around_op(enum around around)
{
	switch (around) {
	case STOP:
		return UBLK_U_CMD_STOP_DEV;
	case DELETE:
		return UBLK_U_CMD_DEL_DEV_ASYNC;
	default:
		return UBLK_U_CMD_QUIESCE_DEV;
	}
}

/* Up to some time in which a server gets to work */
static void any_time(unsigned int *seed, unsigned int most_us)
{
	usleep(rand_r(seed) % most_us);
}

static void live_and_die(const struct life *l, const char *name)
{
	struct ublk_params params = default_params();
	/* patience() is longer where all takes longer */
	unsigned int seed = l->seed, us = patience() * 40;
	int id = add(l->kind->flags | UBLK_F_NO_AUTO_PART_SCAN * (l->seed & 1));
	pid_t users[2], srv, bring_up, other = 0;
	int n, i, res = 0;

	if (id < 0)
		give_up("ADD_DEV", id);
	res = set_params(id, &params);
	if (res)
		give_up("SET_PARAMS", res);
	users[0] = user(id, B_READ);
	users[1] = user(id, B_WRITE);

	for (n = 0; n < l->kind->servers; n++) {
		for (i = 0; n && i < patience() / 5; i++) {
			res = must_do(name, "START_USER_RECOVERY", id,
				      UBLK_U_CMD_START_USER_RECOVERY);
			if (res != -EBUSY)
				break;
			usleep(5000);
		}
		/* stopped, deleted, or it never was live and stays busy */
		if (res)
			break;
		srv = server(id, l->kind->flags);
		bring_up = command(id, n ? UBLK_U_CMD_END_USER_RECOVERY :
				   UBLK_U_CMD_START_DEV, srv);
		any_time(&seed, us);
		if (l->around != NOTHING && n == l->kind->servers - 1)
			other = command(id, around_op(l->around), 100);
		any_time(&seed, us / 8);
		kill(srv, SIGKILL);
		kill_and_wait(name, "START_DEV or END_USER_RECOVERY", bring_up);
		must_end(name, "server", srv);
	}
	if (other)
		must_end(name, around_name[l->around], other);
	must_do(name, "STOP_DEV", id, UBLK_U_CMD_STOP_DEV);
	must_do(name, "DEL_DEV", id, UBLK_U_CMD_DEL_DEV);
	for (i = 0; i < 2; i++)
		kill_and_wait(name, "user", users[i]);
	if (!access(str("/dev/ublkc%d", id), F_OK)) {
		put(name, "DEL_DEV", "", "still there");
		_exit(1);
	}
}

static void life(const void *arg)
{
	const struct life *l = arg;
	const char *name = str("%s, %s, %u", l->kind->name, around_name[l->around],
			       l->seed);
	pid_t twin = 0;
	int status = 0;

	/* one in three has a companion that dies beside it */
	if (l->seed % 3 == 0) {
		twin = fork();
		if (twin < 0)
			give_up("fork", -errno);
	}
	live_and_die(l, name);
	if (l->seed % 3 == 0 && !twin)
		_exit(0);
	if (twin && (waitpid(twin, &status, 0) != twin || status))
		put(name, "its companion", "", "failed");
	else
		put(name, "all", "", "ended");
}

void group_death(void)
{
	struct life l;

	for (l.seed = 0; l.seed < LIVES; l.seed++) {
		l.kind = &kinds[l.seed % ARRAY_SIZE(kinds)];
		l.around = l.seed / ARRAY_SIZE(kinds) % NR_AROUND;
		run("death", life, &l);
	}
}
