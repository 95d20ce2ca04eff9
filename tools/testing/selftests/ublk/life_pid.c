// SPDX-License-Identifier: GPL-2.0
/*
 * life_pid: who may say by which number that a server is there.
 *
 * START_DEV and END_USER_RECOVERY take the server's process id as the caller
 * knows it, and GET_DEV_INFO tells it likewise. Whoever can not see the server,
 * being in another pid name space, knows no number for it: not 0 either.
 */
#include <sched.h>
#include <sys/wait.h>
#include "life.h"
#include "kselftest_harness.h"

static const char *const cmd_name[] = { "START_DEV", "END_USER_RECOVERY" };
static const __u32 cmd_op[] = { UBLK_U_CMD_START_DEV, UBLK_U_CMD_END_USER_RECOVERY };

static int send_pid(int id, __u32 op, int pid)
{
	return ctrl_simple(id, op, NULL, 0, pid);
}

static int pid_told(int id)
{
	struct ublksrv_ctrl_dev_info info = {};
	int res = get_info(id, &info);

	return res ? res : info.ublksrv_pid;
}

/* How many of these numbers are taken for that of the server */
static int numbers_taken(int id, const int *pids, int nr)
{
	int i, c, taken = 0;

	for (c = 0; c < 2; c++) {
		for (i = 0; i < nr; i++) {
			int res = send_pid(id, cmd_op[c], pids[i]);

			if (res == -EINVAL)
				continue;
			printf("# %s by %d of who sees no server by it: %s\n", cmd_name[c],
			       pids[i], res_name(res));
			taken++;
		}
	}
	return taken;
}

/*
 * A child that is number 1 in a name space of its own; its status goes through.
 * Its number here is written to @fd.
 */
static pid_t child_in_namespace(int fd)
{
	pid_t pid = child(), inner;

	if (pid)
		return pid;
	if (unshare(CLONE_NEWPID))
		give_up("unshare", -errno);
	inner = child();
	if (!inner)
		return 0;
	if (fd >= 0 && write(fd, &inner, sizeof(inner)) != sizeof(inner))
		give_up("write", -errno);
	_exit(exit_status(inner));
}

/* What somebody sees, and may say, of a device whose server he can not see */
static int stranger(int id, pid_t server)
{
	pid_t pid = child_in_namespace(-1);
	int status, told;

	if (!pid) {
		const int pids[] = { 0, -1, 1, 2, server, INT_MIN, INT_MAX };

		status = numbers_taken(id, pids, ARRAY_SIZE(pids));
		told = pid_told(id);
		if (told != -1)
			printf("# GET_DEV_INFO tells pid %d to who does not see it\n", told);
		fflush(stdout);
		_exit(status + (told != -1));
	}
	return exit_status(pid);
}

FIXTURE(pid) {
	struct srv s;
};

FIXTURE_SETUP(pid)
{
	self->s.id = -1;
	if (why_not())
		SKIP(return, "%s", why_not());
	if (access("/proc/self/ns/pid", F_OK))
		SKIP(return, "no pid name spaces");
	srv_open(&self->s, UBLK_F_USER_RECOVERY, NULL);
}

FIXTURE_TEARDOWN(pid)
{
	if (self->s.id >= 0)
		EXPECT_EQ(0, delete_dev(self->s.id));
}

/* The server goes, and its disk waits for the next one */
static void leave(struct srv *s)
{
	srv_close(s);
	if (!wait_dev_state(s->id, UBLK_S_DEV_QUIESCED))
		give_up("not quiesced", 0);
}

static int recover(struct srv *s)
{
	int res;

	/* until the last server is done with */
	do {
		res = send_pid(s->id, UBLK_U_CMD_START_USER_RECOVERY, 0);
	} while (res == -EBUSY && !usleep(1000));
	return res;
}

/* The server is here, others are in name spaces below, and do not see it. */
TEST_F_TIMEOUT(pid, seen_by_its_own, 120)
{
	const int wrong[] = { 0, -1, 1, getppid(), INT_MIN, INT_MAX };
	struct srv *s = &self->s;

	srv_fetch(s, 0, DEPTH);
	EXPECT_EQ(0, stranger(s->id, getpid()));
	EXPECT_EQ(0, numbers_taken(s->id, wrong, ARRAY_SIZE(wrong)));
	ASSERT_EQ(0, send_pid(s->id, UBLK_U_CMD_START_DEV, getpid()));
	EXPECT_EQ(getpid(), pid_told(s->id));

	leave(s);
	EXPECT_EQ(-1, pid_told(s->id));
	ASSERT_EQ(0, recover(s));
	attach(s);
	srv_fetch(s, 0, DEPTH);
	/* without END_USER_RECOVERY it is not the server yet */
	EXPECT_EQ(-1, pid_told(s->id));
	EXPECT_EQ(0, stranger(s->id, getpid()));
	EXPECT_EQ(0, numbers_taken(s->id, wrong, ARRAY_SIZE(wrong)));
	ASSERT_EQ(0, send_pid(s->id, UBLK_U_CMD_END_USER_RECOVERY, getpid()));
	EXPECT_EQ(getpid(), pid_told(s->id));
	srv_close(s);
}

enum { NUMBER, READY, END, NR_PIPES };

/* A server in a name space below; its number here is told first. Ends when told so. */
static pid_t server_below(struct srv *s, __u32 op, int pipes[NR_PIPES][2])
{
	pid_t pid = child_in_namespace(pipes[NUMBER][1]);
	int res = 0;

	if (pid)
		return pid;
	srv_attach(s);
	srv_fetch(s, 0, DEPTH);
	if (op)
		res = send_pid(s->id, op, getpid());
	if (res)
		give_up("the server's own number", res);
	tell(pipes[READY][1]);
	hear(pipes[END][0]);
	if (pid_told(s->id) != getpid())
		give_up("GET_DEV_INFO in the name space", pid_told(s->id));
	_exit(0);
}

/* We see the server by another number than it sees itself. */
static void below(struct __test_metadata *_metadata, struct srv *s, __u32 op, bool by_itself)
{
	int pipes[NR_PIPES][2], inner = 0, i;
	pid_t pid;

	for (i = 0; i < NR_PIPES; i++)
		ASSERT_EQ(0, pipe(pipes[i]));
	pid = server_below(s, by_itself ? op : 0, pipes);
	ASSERT_EQ((ssize_t)sizeof(inner), read(pipes[NUMBER][0], &inner, sizeof(inner)));
	close(pipes[READY][1]);
	hear(pipes[READY][0]);
	if (!by_itself) {
		const int wrong[] = { 0, -1, 1, pid, getpid() };

		EXPECT_EQ(0, numbers_taken(s->id, wrong, ARRAY_SIZE(wrong)));
		EXPECT_EQ(0, stranger(s->id, inner));
		ASSERT_EQ(0, send_pid(s->id, op, inner));
	}
	EXPECT_EQ(inner, pid_told(s->id));
	EXPECT_EQ(0, stranger(s->id, inner));
	tell(pipes[END][1]);
	EXPECT_EQ(0, exit_status(pid));
}

TEST_F_TIMEOUT(pid, seen_from_above, 120)
{
	struct srv *s = &self->s;
	int i;

	srv_close(s);
	wait_closed(s->id);
	below(_metadata, s, UBLK_U_CMD_START_DEV, false);
	for (i = 0; i < 2; i++) {
		ASSERT_TRUE(wait_dev_state(s->id, UBLK_S_DEV_QUIESCED));
		EXPECT_EQ(-1, pid_told(s->id));
		ASSERT_EQ(0, recover(s));
		below(_metadata, s, UBLK_U_CMD_END_USER_RECOVERY, i);
	}
}

TEST_HARNESS_MAIN
