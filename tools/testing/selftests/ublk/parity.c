// SPDX-License-Identifier: GPL-2.0
/*
 * What a ublk driver answers, in several thousand cases, one line each:
 *
 *	state | command | argument -> result
 *
 * The output has no process ids, addresses or times in it, so that it is the
 * same for two drivers that behave the same.
 *
 *	parity [-w MS] [group ...]
 */
#include <signal.h>
#include <stdarg.h>
#include <time.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include "parity.h"

#define SCENARIO_SECONDS	60
#define MAX_IDS			512

/* what outlives a scenario */
struct shared {
	int nr_cases;
	int nr_ids;
	int ids[MAX_IDS];
};

static struct shared *shared;
static const char *scenario;
static int patience_ms = 1000;

static const struct {
	const char *name;
	void (*fn)(void);
} groups[] = {
	{ "add", group_add },
	{ "ctrl", group_ctrl },
	{ "ctrl_args", group_ctrl_args },
	{ "params", group_params },
	{ "io", group_io },
	{ "batch", group_batch },
	{ "data", group_data },
	{ "file", group_file },
	{ "sysfs", group_sysfs },
	{ "integrity", group_integrity },
	{ "shmem", group_shmem },
	{ "zoned", group_zoned },
	{ "recovery", group_recovery },
	{ "death", group_death },
	{ "unpriv", group_unpriv },
};

int patience(void)
{
	return patience_ms;
}

void put(const char *state, const char *cmd, const char *arg, const char *fmt, ...)
{
	char line[4096];
	va_list args;
	int n;

	n = snprintf(line, sizeof(line), "%s | %s | %s -> ", state, cmd, arg);
	va_start(args, fmt);
	n += vsnprintf(line + n, sizeof(line) - n, fmt, args);
	va_end(args);
	if (n > (int)sizeof(line) - 2)
		n = sizeof(line) - 2;
	line[n++] = '\n';
	/* in one piece, other processes print as well */
	if (write(STDOUT_FILENO, line, n) != n)
		_exit(2);
	__atomic_add_fetch(&shared->nr_cases, 1, __ATOMIC_RELAXED);
}

void give_up(const char *what, int res)
{
	put(scenario, "set-up", what, "%s", res_name(res));
	_exit(1);
}

void remember(int id)
{
	int i = __atomic_fetch_add(&shared->nr_ids, 1, __ATOMIC_RELAXED);

	if (i < MAX_IDS)
		shared->ids[i] = id;
}

/* The status of a child, or -1 if it had to be killed */
static int wait_child(pid_t pid, int seconds)
{
	int status, i;

	for (i = 0; i < seconds * 200; i++) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return status;
		usleep(5000);
	}
	kill(pid, SIGKILL);
	for (i = 0; i < 1000; i++) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			break;
		usleep(5000);
	}
	return -1;
}

static pid_t fork_child(void)
{
	pid_t pid = fork();

	if (pid < 0) {
		perror("fork");
		exit(2);
	}
	if (!pid)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

/* Delete what a scenario has left; its processes are gone or about to go */
static void clean_up(void)
{
	pid_t pid;
	int i, n = shared->nr_ids < MAX_IDS ? shared->nr_ids : MAX_IDS;

	if (!n)
		return;
	pid = fork_child();
	if (!pid) {
		for (i = 0; i < n; i++) {
			int res = delete_dev(shared->ids[i]);

			if (res == BLOCKS)
				res = ctrl_pending(20000);
			if (res && res != -ENODEV)
				fprintf(stderr, "%s: cannot delete a device: %s\n",
					scenario, res_name(res));
		}
		_exit(0);
	}
	if (wait_child(pid, 60))
		fprintf(stderr, "%s: cannot clean up\n", scenario);
	shared->nr_ids = 0;
}

void run(const char *name, scenario_fn fn, const void *arg)
{
	int status;
	pid_t pid;

	scenario = name;
	pid = fork_child();
	if (!pid) {
		/* all that a scenario starts can be killed at once */
		setpgid(0, 0);
		fn(arg);
		_exit(0);
	}
	setpgid(pid, pid);
	status = wait_child(pid, SCENARIO_SECONDS);
	if (status == -1)
		put(name, "scenario", "", "no end");
	else if (WIFSIGNALED(status))
		put(name, "scenario", "", "signal %d", WTERMSIG(status));
	kill(-pid, SIGKILL);
	clean_up();
}

int main(int argc, char **argv)
{
	unsigned int i;
	int c, j;

	while ((c = getopt(argc, argv, "w:")) != -1) {
		if (c != 'w')
			return 2;
		patience_ms = atoi(optarg);
	}
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return 2;
	/* grandchildren whose parent was killed are ours */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	ctrl_open();

	for (i = 0; i < ARRAY_SIZE(groups); i++) {
		bool wanted = optind == argc;
		struct timespec from, to;
		int before = shared->nr_cases;

		for (j = optind; j < argc; j++)
			wanted |= !strcmp(argv[j], groups[i].name);
		if (!wanted)
			continue;
		clock_gettime(CLOCK_MONOTONIC, &from);
		groups[i].fn();
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		clock_gettime(CLOCK_MONOTONIC, &to);
		fprintf(stderr, "%s: %d cases, %ld s\n", groups[i].name,
			shared->nr_cases - before, (long)(to.tv_sec - from.tv_sec));
	}
	return 0;
}
