// SPDX-License-Identifier: GPL-2.0
/*
 * Random groups of IORING_OP_FUSED_CMD and IOSQE_SQE_GROUP from several threads,
 * with a model that predicts each CQE and the contents of each buffer.
 *
 *   fused_fuzz [-t seconds] [-s seed] [-j threads]
 *   fused_fuzz -s seed -r thread:round	one round again, told in detail
 *
 * A round is a ring, some groups with other requests between them, what they
 * wait for, and their CQEs. It depends on nothing but the seed, the number of
 * its thread and its own number. Some threads are processes, to be killed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include "fused_fuzz.h"

unsigned long base_seed;
bool verbose;
unsigned long rounds_done, groups_done, groups_refused, cqes_done;
static bool stop;

void tell(struct fuzz *f, const char *fmt, ...)
{
	va_list args;

	if (!verbose)
		return;
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
}

void wrong(struct fuzz *f, const char *fmt, ...)
{
	va_list args;

	printf("# seed %lu thread %u round %lu mode %x/%d/%x/%d: ", base_seed, f->thread,
	       f->round, f->mode.ring_flags, f->mode.inline_form, f->mode.secondary_flags,
	       f->mode.blocking);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\n# again: fused_fuzz -s %lu -r %u:%lu\nnot ok 1 fused_fuzz\n", base_seed,
	       f->thread, f->round);
	fflush(stdout);
	_exit(1);
}

static void fuzz_init(struct fuzz *f)
{
	f->dev = open_device();
	f->in = memfd_create("in", 0);
	f->out = memfd_create("out", 0);
	f->buf = malloc(BUFFER_LEN);
	f->expected = malloc(BUFFER_LEN);
	f->cover = malloc(BUFFER_LEN);
	f->user = malloc(BUFFER_LEN);
	f->group = calloc(MAX_GROUPS, sizeof(*f->group));
	if (f->dev < 0 || f->in < 0 || f->out < 0 || !f->buf || !f->expected || !f->cover ||
	    !f->user || !f->group)
		wrong(f, "cannot start: %s", strerror(errno));
	fill(f->buf, 0, 0, BUFFER_LEN);
	if (write(f->in, f->buf, BUFFER_LEN) != BUFFER_LEN)
		wrong(f, "no file");
	fill(f->buf, 0, BUFFER_LEN, BUFFER_LEN);
	if (write(f->in, f->buf, BUFFER_LEN) != BUFFER_LEN || ftruncate(f->out, FILE_LEN))
		wrong(f, "no file");
}

static void *fuzz_thread(void *arg)
{
	struct fuzz f = { .thread = (uintptr_t)arg };

	fuzz_init(&f);
	for (f.round = 0; !__atomic_load_n(&stop, __ATOMIC_RELAXED); f.round++)
		one_round(&f);
	return NULL;
}

/* A process that is killed in the middle, again and again */
static void killed_thread(unsigned int thread, long end)
{
	unsigned int seed = base_seed + thread;
	unsigned long start = 0;
	int status;
	pid_t pid;

	while (now_ms() < end) {
		pid = fork();
		if (!pid) {
			struct fuzz f = { .thread = thread };

			fuzz_init(&f);
			for (f.round = start;; f.round++)
				one_round(&f);
		}
		/* no memory; -1 would be everybody */
		if (pid < 0) {
			usleep(10000);
			continue;
		}
		usleep(50000 + rand_r(&seed) % 500000);
		kill(pid, SIGKILL);
		if (waitpid(pid, &status, 0) != pid || !WIFSIGNALED(status))
			_exit(1);
		start += 1000;
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	unsigned int threads = 3, i;
	unsigned long seconds = 20;
	pthread_t thread[64];
	int opt, status, bad = 0;
	struct fuzz f = { };
	pid_t killed;
	long end;

	base_seed = time(NULL);
	while ((opt = getopt(argc, argv, "t:s:j:r:")) != -1) {
		switch (opt) {
		case 't':
			seconds = strtoul(optarg, NULL, 0);
			break;
		case 's':
			base_seed = strtoul(optarg, NULL, 0);
			break;
		case 'j':
			threads = strtoul(optarg, NULL, 0);
			break;
		case 'r':
			verbose = true;
			if (sscanf(optarg, "%u:%lu", &f.thread, &f.round) != 2)
				return 2;
			break;
		default:
			return 2;
		}
	}
	if (threads > 64)
		threads = 64;
	printf("TAP version 13\n1..1\n# seed %lu, %u threads, %lu s\n", base_seed, threads,
	       seconds);
	if (access(device_name(), F_OK)) {
		printf("ok 1 # SKIP no %s\n", device_name());
		return 4;
	}
	signal(SIGPIPE, SIG_IGN);
	if (verbose) {
		fuzz_init(&f);
		one_round(&f);
		printf("ok 1 fused_fuzz\n");
		return 0;
	}
	fflush(stdout);
	end = now_ms() + seconds * 1000;
	killed = fork();
	if (!killed)
		killed_thread(threads, end);
	for (i = 0; i < threads; i++)
		pthread_create(&thread[i], NULL, fuzz_thread, (void *)(uintptr_t)i);
	while (now_ms() < end)
		usleep(100000);
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
	if (waitpid(killed, &status, 0) != killed || status)
		bad = 1;
	printf("# %lu rounds, %lu groups, %lu of them refused, %lu CQEs\n", rounds_done,
	       groups_done, groups_refused, cqes_done);
	printf("%sok 1 fused_fuzz\n", bad ? "not " : "");
	return bad;
}
