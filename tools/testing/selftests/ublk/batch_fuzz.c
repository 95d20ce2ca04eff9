// SPDX-License-Identifier: GPL-2.0
/*
 * batch_fuzz: random commands of UBLK_F_BATCH_IO from several threads, right and
 * wrong, with a model that says what each may answer, and a client that knows
 * what its data have to be.
 *
 *   batch_fuzz [-t seconds] [-s seed] [-r round]
 *
 * A round is a device with one server or, if that is killed, two. What kind of
 * device that is, and what each thread tries, depends on the seed and the number
 * of the round alone; who is faster does not. -r: this round, again and again.
 */
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include "batch_fuzz.h"

#define ROUND_SECONDS	90

struct shared *sh;
unsigned long base_seed, round_nr;
static pid_t main_pid;

int patience(void)
{
	return INT_MAX;
}

void remember(int id)
{
}

void give_up(const char *what, int res)
{
	wrong("%s: %s", what, res_name(res));
}

static void say_where(void)
{
	const struct plan *p = &sh->plan;

	printf("# seed %lu round %lu: mode %d wild %d end %d depth %d queues %d threads %d%s%s\n",
	       base_seed, round_nr, p->mode, p->wild, p->ending, p->depth, p->queues, p->threads,
	       p->defer_taskrun ? " defer" : "", p->closing ? " closing" : "");
}

void wrong(const char *fmt, ...)
{
	char what[200];
	va_list args;

	va_start(args, fmt);
	vsnprintf(what, sizeof(what), fmt, args);
	va_end(args);
	printf("# %s\n", what);
	say_where();
	if (getpid() == main_pid)
		printf("not ok 1 batch_fuzz\n");
	fflush(stdout);
	_exit(1);
}

int below(unsigned int *seed, int n)
{
	/* the low bits of rand_r() repeat */
	return (rand_r(seed) >> 7) % n;
}

bool once_in(unsigned int *seed, int n)
{
	return !below(seed, n);
}

static pid_t start_process(void (*run)(void))
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0)
		wrong("fork: %d", errno);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		signal(SIGALRM, SIG_DFL);
		run();
		_exit(0);
	}
	return pid;
}

static void must_end(pid_t pid, const char *who)
{
	int status;

	if (waitpid(pid, &status, 0) != pid || status)
		wrong("the %s failed: %x", who, status);
}

/* A child that fails has said why; that it is gone does not take the round's time */
static void must_not_fail(pid_t pid, const char *who)
{
	siginfo_t info = {};

	if (!waitid(P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT) && info.si_pid &&
	    (info.si_code != CLD_EXITED || info.si_status))
		wrong("the %s failed: %d", who, info.si_status);
}

static void wait_for(int *what, pid_t pid, const char *who)
{
	while (!get(*what)) {
		int status;

		if (waitpid(pid, &status, WNOHANG) == pid)
			wrong("the %s ended: %x", who, status);
		usleep(1000);
	}
}

/* The round has not ended in time: what its device is doing */
static void stuck(int sig)
{
	char text[8192];
	ssize_t len;
	int fd;

	printf("# too late: %d wild, %d failed; the client got %d, %d, and %d with data\n",
	       sh->wild, sh->fail, sh->got_wild, sh->got_fail, sh->got_data);
	fd = open(str("/sys/kernel/debug/ublk_rs/%d", sh->id), O_RDONLY);
	len = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (len > 0) {
		text[len] = 0;
		printf("%s", text);
	}
	say_where();
	printf("not ok 1 batch_fuzz\n");
	fflush(stdout);
	_exit(1);
}

static struct plan make_plan(void)
{
	static const int depths[] = { 1, 2, 3, 8, 16, 31, 64 };
	unsigned int seed = base_seed * 2654435761u ^ round_nr * 40503u;
	struct plan p = {};
	int i;

	for (i = 0; i < 5; i++)
		rand_r(&seed);
	p.seed = rand_r(&seed);
	p.mode = below(&seed, NR_MODES);
	p.wild = below(&seed, NR_WILD);
	/* who commits on another ring has to unregister the buffer, which nobody does */
	if (p.mode == AUTO_REG)
		p.wild = TAME;
	p.ending = below(&seed, NR_ENDINGS);
	p.depth = depths[below(&seed, ARRAY_SIZE(depths))];
	p.queues = 1 + below(&seed, MAX_QUEUES);
	p.threads = 1 + below(&seed, MAX_THREADS);
	p.requests = 100 + below(&seed, 400);
	p.defer_taskrun = once_in(&seed, 2);
	p.closing = once_in(&seed, 2);
	return p;
}

static void add_device(void)
{
	static const __u64 modes[NR_MODES] = {
		0, UBLK_F_USER_COPY, UBLK_F_USER_COPY | UBLK_F_AUTO_BUF_REG,
	};
	struct ublksrv_ctrl_dev_info info = default_info(UBLK_F_BATCH_IO);
	struct ublk_params params = default_params();
	int res;

	info.flags |= UBLK_F_NO_AUTO_PART_SCAN | modes[sh->plan.mode];
	if (sh->plan.ending >= RECOVERED)
		info.flags |= UBLK_F_USER_RECOVERY;
	if (sh->plan.ending == REISSUED)
		info.flags |= UBLK_F_USER_RECOVERY_REISSUE;
	info.queue_depth = sh->plan.depth;
	info.nr_hw_queues = sh->plan.queues;
	sh->id = add_info(&info);
	if (sh->id < 0)
		wrong("ADD_DEV: %s", res_name(sh->id));
	sh->plan.queues = info.nr_hw_queues;
	params.basic.attrs = 0;
	params.basic.max_sectors = PLACE_SECTORS;
	params.basic.dev_sectors = NR_SECTORS;
	res = set_params(sh->id, &params);
	if (res)
		wrong("SET_PARAMS: %s", res_name(res));
}

static void between(const char *what, int got, int least, int most)
{
	if (got < least || got > most)
		wrong("%s: %d, not %d to %d", what, got, least, most);
}

/* A server that was killed did not see the results of its last commands */
static void compare_counts(void)
{
	between("requests that others committed", sh->got_wild, sh->wild,
		sh->wild + sh->wild_trying);
	between("requests that failed", sh->got_fail, sh->fail, sh->fail + sh->fail_trying);
}

/* It can still be waited for */
static bool has_ended(pid_t pid)
{
	siginfo_t info = {};

	return waitid(P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT) || info.si_pid;
}

static pid_t recover(pid_t srv, unsigned int *seed)
{
	int res;

	while (ctrl_simple(sh->id, UBLK_U_CMD_START_USER_RECOVERY, NULL, 0, 0))
		usleep(1000);
	sh->all_prepared = 0;
	sh->fetching = 0;
	sh->plan.seed = rand_r(seed);
	srv = start_process(server);
	wait_for(&sh->all_prepared, srv, "second server");
	res = ctrl_simple(sh->id, UBLK_U_CMD_END_USER_RECOVERY, NULL, 0, srv);
	if (res)
		wrong("END_USER_RECOVERY: %s", res_name(res));
	return srv;
}

static void one_round(void)
{
	unsigned int seed;
	pid_t srv, user;
	int res;

	memset(sh, 0, offsetof(struct shared, accepted));
	sh->plan = make_plan();
	seed = sh->plan.seed;
	alarm(ROUND_SECONDS);
	add_device();
	srv = start_process(server);
	wait_for(&sh->all_prepared, srv, "server");
	res = start(sh->id, srv);
	if (res)
		wrong("START_DEV: %s", res_name(res));
	user = start_process(client);
	if (sh->plan.ending != QUIET) {
		int at = below(&seed, sh->plan.requests);

		while (!(get(sh->got_disk) && get(sh->got_data) >= at) && !has_ended(user)) {
			must_not_fail(srv, "server");
			usleep(1000);
		}
	}
	if (sh->plan.ending >= KILLED) {
		set(sh->killing, 1);
		kill(srv, SIGKILL);
		waitpid(srv, &res, 0);
		if (!WIFSIGNALED(res))
			wrong("the server failed");
	}
	if (sh->plan.ending >= RECOVERED)
		srv = recover(srv, &seed);
	if (sh->plan.ending == STOPPED) {
		set(sh->stopping, 1);
		ctrl_simple(sh->id, UBLK_U_CMD_STOP_DEV, NULL, 0, 0);
	}
	while (!has_ended(user)) {
		/* its requests may wait for another server */
		if (sh->plan.ending != KILLED)
			must_not_fail(srv, "server");
		usleep(1000);
	}
	must_end(user, "client");
	if (sh->plan.ending != STOPPED && sh->plan.ending != KILLED) {
		set(sh->quiet, 1);
		wait_for(&sh->checked, srv, "server");
		compare_counts();
		set(sh->stopping, 1);
		ctrl_simple(sh->id, UBLK_U_CMD_STOP_DEV, NULL, 0, 0);
	}
	if (sh->plan.ending != KILLED)
		must_end(srv, "server");
	res = delete_dev(sh->id);
	if (res)
		wrong("DEL_DEV: %s", res_name(res));
	alarm(0);
}

int main(int argc, char **argv)
{
	unsigned long seconds = 20, rounds = 0;
	bool again = false;
	time_t end;
	int opt;

	main_pid = getpid();
	base_seed = time(NULL);
	while ((opt = getopt(argc, argv, "t:s:r:")) != -1) {
		switch (opt) {
		case 't':
			seconds = strtoul(optarg, NULL, 0);
			break;
		case 's':
			base_seed = strtoul(optarg, NULL, 0);
			break;
		case 'r':
			round_nr = strtoul(optarg, NULL, 0);
			again = true;
			break;
		default:
			return 2;
		}
	}
	printf("TAP version 13\n1..1\n# seed %lu, %lu s\n", base_seed, seconds);
	if (access("/dev/ublk-control", F_OK)) {
		printf("ok 1 # SKIP no driver\n");
		return KSFT_SKIP;
	}
	ctrl_open();
	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (sh == MAP_FAILED)
		return 2;
	signal(SIGALRM, stuck);
	end = time(NULL) + seconds;
	while (time(NULL) < end) {
		one_round();
		rounds++;
		if (!again)
			round_nr++;
	}
	printf("# %lu rounds; tags: %lu told, %lu committed, %lu refused\n", rounds, sh->told,
	       sh->accepted, sh->refused);
	printf("# %lu rings closed, %lu FETCHes without buffers\n", sh->closed, sh->dry);
	printf("ok 1 batch_fuzz\n");
	return 0;
}
