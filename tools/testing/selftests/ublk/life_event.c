// SPDX-License-Identifier: GPL-2.0
/*
 * life_event: what others are told of a device is true when they hear it.
 *
 * Who hears of a new device (udev, for one) may ask for it at once; who hears
 * of its disk, or is told that it is live, finds the disk and its server. One
 * who listens in the first rank on the CPU of the one who adds the device gets
 * there before that one has gone on.
 */
#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <linux/netlink.h>
#include "life.h"
#include "kselftest_harness.h"

#define ROUNDS	6

/* Run here, and have io_uring work for us here, too */
static void stay_on(int cpu)
{
	struct io_uring ring;
	cpu_set_t set;
	int res;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		give_up("sched_setaffinity", -errno);
	/* the workers belong to the task, any ring will do */
	res = io_uring_queue_init(1, &ring, 0);
	if (!res)
		res = io_uring_register_iowq_aff(&ring, sizeof(set), &set);
	if (res)
		give_up("workers' affinity", res);
	io_uring_queue_exit(&ring);
}

static void set_rank(int policy, int priority)
{
	struct sched_param param = { .sched_priority = priority };

	if (sched_setscheduler(0, policy, &param))
		give_up("sched_setscheduler", -errno);
}

/* A child in the last rank */
static pid_t slow_child(int cpu)
{
	pid_t pid = child();

	if (!pid) {
		set_rank(SCHED_OTHER, 0);
		stay_on(cpu);
	}
	return pid;
}

FIXTURE(event) {
	int sock;
	int cpu;
	struct srv s;
};

FIXTURE_SETUP(event)
{
	struct sockaddr_nl addr = { .nl_family = AF_NETLINK, .nl_groups = 1 };

	self->s.id = -1;
	if (why_not())
		SKIP(return, "%s", why_not());
	self->sock = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT);
	ASSERT_LE(0, self->sock);
	ASSERT_EQ(0, bind(self->sock, (struct sockaddr *)&addr, sizeof(addr)));
	self->cpu = sched_getcpu();
	stay_on(self->cpu);
	set_rank(SCHED_FIFO, 1);
}

FIXTURE_TEARDOWN(event)
{
	if (self->s.id >= 0)
		EXPECT_EQ(0, delete_dev(self->s.id));
}

/* The value of a variable in an event, which is a list of strings */
static const char *value(const char *event, ssize_t len, const char *name)
{
	const char *p;

	for (p = event; p < event + len; p += strlen(p) + 1)
		if (!strncmp(p, name, strlen(name)) && p[strlen(name)] == '=')
			return p + strlen(name) + 1;
	return "";
}

/* Wait for the event of a new device whose name begins so; its number */
static int hear_of(int sock, const char *prefix, int *major, int *minor)
{
	char event[4096];
	ssize_t len;
	int id;

	for (;;) {
		len = recv(sock, event, sizeof(event) - 1, 0);
		/* events that we were too slow for are lost */
		if (len < 0 && errno == ENOBUFS)
			give_up("lost events", -errno);
		if (len < 0)
			give_up("recv", -errno);
		event[len] = 0;
		if (strcmp(value(event, len, "ACTION"), "add") ||
		    sscanf(value(event, len, "DEVNAME"), str("%s%%d", prefix), &id) != 1)
			continue;
		*major = atoi(value(event, len, "MAJOR"));
		*minor = atoi(value(event, len, "MINOR"));
		return id;
	}
}

TEST_F_TIMEOUT(event, character_device, 120)
{
	struct ublksrv_ctrl_dev_info info;
	int round, major, minor, id, wrong = 0;
	pid_t adder;

	for (round = 0; round < ROUNDS; round++) {
		adder = slow_child(self->cpu);
		if (!adder)
			_exit(add(0) < 0);
		id = hear_of(self->sock, "ublkc", &major, &minor);
		wrong += !!get_info(id, &info);
		ASSERT_EQ(0, exit_status(adder));
		ASSERT_EQ(0, delete_dev(id));
	}
	/* announced, but not there */
	EXPECT_EQ(0, wrong);
}

/* Is anything that is known of a live device wrong? */
static bool wrongly_known(int id, int server, int major, int minor)
{
	struct ublksrv_ctrl_dev_info info = {};
	struct ublk_params params = { .len = sizeof(params) };
	int res = get_info(id, &info);

	if (!res)
		res = ctrl_simple(id, UBLK_U_CMD_GET_PARAMS, &params, sizeof(params), 0);
	if (!res && info.state == UBLK_S_DEV_LIVE && info.ublksrv_pid == server &&
	    (int)params.devt.disk_major == major && (int)params.devt.disk_minor == minor)
		return false;
	printf("# %s: state %d, server %d, disk %d:%d; should be state %d, server %d, disk %d:%d\n",
	       res_name(res), info.state, info.ublksrv_pid, params.devt.disk_major,
	       params.devt.disk_minor, UBLK_S_DEV_LIVE, server, major, minor);
	return true;
}

TEST_F_TIMEOUT(event, disk, 120)
{
	struct srv *s = &self->s;
	int round, major, minor, id, wrong = 0;
	pid_t starter;

	for (round = 0; round < ROUNDS; round++) {
		srv_open(s, 0, NULL);
		srv_fetch(s, 0, DEPTH);
		starter = slow_child(self->cpu);
		if (!starter)
			_exit(-start(s->id, getppid()));
		id = hear_of(self->sock, "ublkb", &major, &minor);
		ASSERT_EQ(s->id, id);
		wrong += wrongly_known(id, getpid(), major, minor);
		ASSERT_EQ(0, exit_status(starter));
		EXPECT_FALSE(wrongly_known(id, getpid(), major, minor));
		srv_close(s);
		ASSERT_EQ(0, delete_dev(id));
		s->id = -1;
	}
	EXPECT_EQ(0, wrong);
}

/* Look at the device all the time while it is started: how often all was not there */
static int watch(int id, int server, const int *stop)
{
	struct ublksrv_ctrl_dev_info info;
	struct ublk_params params;
	int wrong = 0;

	while (!__atomic_load_n(stop, __ATOMIC_ACQUIRE)) {
		if (get_info(id, &info) || info.state != UBLK_S_DEV_LIVE)
			continue;
		params = (struct ublk_params){ .len = sizeof(params) };
		if (info.ublksrv_pid != server ||
		    ctrl_simple(id, UBLK_U_CMD_GET_PARAMS, &params, sizeof(params), 0) ||
		    !params.devt.disk_major)
			wrong++;
	}
	return wrong;
}

TEST_F_TIMEOUT(event, live, 120)
{
	int *stop = mmap(NULL, sizeof(int), PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct srv *s = &self->s;
	pid_t watcher, starter;
	int round, other, wrong = 0, res;

	ASSERT_NE(MAP_FAILED, stop);
	other = (self->cpu + 1) % sysconf(_SC_NPROCESSORS_ONLN);
	for (round = 0; round < ROUNDS; round++) {
		__atomic_store_n(stop, 0, __ATOMIC_RELEASE);
		srv_open(s, 0, NULL);
		srv_fetch(s, 0, DEPTH);
		watcher = slow_child(other);
		if (!watcher) {
			res = watch(s->id, getppid(), stop);
			_exit(res < 100 ? res : 100);
		}
		starter = slow_child(self->cpu);
		if (!starter)
			_exit(-start(s->id, getppid()));
		EXPECT_EQ(0, exit_status(starter));
		__atomic_store_n(stop, 1, __ATOMIC_RELEASE);
		wrong += exit_status(watcher);
		srv_close(s);
		ASSERT_EQ(0, delete_dev(s->id));
		s->id = -1;
	}
	EXPECT_EQ(0, wrong);
}

TEST_HARNESS_MAIN
