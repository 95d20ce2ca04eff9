// SPDX-License-Identifier: GPL-2.0
/* batch_fuzz: a server whose threads send any command, right or wrong. */
#include <sys/mman.h>
#include "batch_fuzz_srv.h"

int cdev;
const char *descs[MAX_QUEUES];
static pthread_barrier_t all_quiet;

static void provide_some(struct thread *t)
{
	int nr = 1 + below(&t->seed, 4);

	while (nr--) {
		if (!once_in(&t->seed, 8))
			provide(t, 2 * (1 + below(&t->seed, once_in(&t->seed, 2) ? 3 : MAX_TOLD)) +
				below(&t->seed, 2) * (t->free_bids & 1), false);
		else if (once_in(&t->seed, 2) || sh->plan.wild != TAME)
			provide(t, 1, false);
		else
			/* what was told by it may have been committed already, if one guesses */
			provide(t, 2 + 2 * below(&t->seed, 9), true);
	}
}

static bool fetches(struct thread *t, int q_id)
{
	int i;

	for (i = 0; i < NR_FETCHES; i++)
		if (t->fetch[i].active && !t->fetch[i].no_group && t->fetch[i].q_id == q_id)
			return true;
	return false;
}

/* Those that it could still send */
static int fetches_left(struct thread *t)
{
	int i, left = 0;

	for (i = 0; i < NR_FETCHES; i++)
		left += !t->fetch[i].active;
	return left;
}

static bool fetches_any(struct thread *t)
{
	int i;

	for (i = 0; i < NR_FETCHES; i++)
		if (t->fetch[i].active)
			return true;
	return false;
}

static bool has_requests(struct thread *t)
{
	int q;

	for (q = 0; q < sh->plan.queues; q++)
		if (get(hands_of(t, q)->nr))
			return true;
	return false;
}

static void one_step(struct thread *t)
{
	switch (below(&t->seed, 24)) {
	case 0:
		bad_fetch(t);
		break;
	case 1:
		legacy(t);
		break;
	case 2:
		cancel_fetch(t);
		break;
	case 3:
		prepare(t);
		break;
	case 4:
		if (t->nr || !sh->plan.closing)
			provide_some(t);
		break;
	case 5:
		/* if another queue loses its last one, there has to be one for that */
		if (fetches_left(t) > MAX_QUEUES)
			send_fetch(t, below(&t->seed, sh->plan.queues),
				   once_in(&t->seed, 3) && sh->plan.wild == TAME);
		break;
	case 6:
		if (t->nr && sh->plan.closing && get(sh->fetching)) {
			close_ring(t);
			note_told(t);
			open_ring(t);
		}
		break;
	case 7:
		if (sh->plan.wild == SPOIL)
			spoil(t);
		break;
	default:
		if (has_requests(t) || once_in(&t->seed, 8))
			commit(t);
		else
			enter(t, 1000);
	}
}

/* The server is not needed any more: all FETCHes end, and nothing else begins */
static void last_words(struct thread *t)
{
	time_t start = time(NULL);
	int i, q_id = below(&t->seed, sh->plan.queues);

	while (fetches_any(t)) {
		enter(t, 10000);
		if (time(NULL) - start > PATIENCE)
			wrong("FETCH does not end");
	}
	t->sent_away = false;
	send_fetch(t, q_id, false);
	for (i = 0; i < 1000 && fetches_any(t); i++)
		enter(t, 10000);
	if (!t->sent_away)
		wrong("FETCH after the end");
	for (i = 0; i < 3; i++)
		prepare(t);
}

static void *serve(void *arg)
{
	struct thread *t = arg;
	int q;

	open_ring(t);
	for (;;) {
		bool quiet = get(sh->quiet);

		drain(t);
		note_told(t);
		if (quiet || (t->sent_away && !fetches_any(t)))
			break;
		if (!get(sh->all_prepared)) {
			prepare(t);
			continue;
		}
		/* a queue whose last FETCH goes with its ring is closed: this one stays */
		while (sh->plan.closing && !t->nr && t->nr_bufs < NR_BUFS / 2)
			provide(t, 2 * (1 + below(&t->seed, MAX_TOLD)), false);
		for (q = 0; q < sh->plan.queues; q++)
			if ((!t->nr || q % sh->plan.threads == t->nr) && !fetches(t, q))
				send_fetch(t, q, false);
		if (!t->nr)
			set(sh->fetching, 1);
		if (!t->nr_bufs && (!t->nr || once_in(&t->seed, 4)))
			provide_some(t);
		one_step(t);
	}
	if (sh->plan.ending != STOPPED) {
		pthread_barrier_wait(&all_quiet);
		if (!t->nr) {
			model_check();
			set(sh->checked, 1);
		}
		/* STOP_DEV */
		while (!get(sh->stopping))
			usleep(1000);
	}
	last_words(t);
	return NULL;
}

void server(void)
{
	size_t all = 4096 * sizeof(struct ublksrv_io_desc);
	static struct thread threads[MAX_THREADS];
	int i, q;

	while ((cdev = open_cdev(sh->id)) == -EBUSY)
		usleep(1000);
	if (cdev < 0)
		wrong("open: %d", cdev);
	for (q = 0; q < sh->plan.queues; q++) {
		descs[q] = mmap(NULL, (sh->plan.depth * sizeof(struct ublksrv_io_desc) + 4095) &
				~4095UL, PROT_READ, MAP_SHARED, cdev, q * all);
		if (descs[q] == MAP_FAILED)
			wrong("mmap: %d", errno);
		for (i = 0; i < MAX_THREADS; i++)
			pthread_mutex_init(&hands[i][q].lock, NULL);
		for (i = 0; i < sh->plan.depth; i++) {
			struct tag *t = &tags[q][i];

			pthread_mutex_init(&t->lock, NULL);
			if (posix_memalign(&t->buf[0], 4096, 4096) ||
			    posix_memalign(&t->buf[1], 4096, 4096))
				wrong("no memory");
		}
	}
	pthread_barrier_init(&all_quiet, NULL, sh->plan.threads);
	for (i = 0; i < sh->plan.threads; i++) {
		struct thread *t = &threads[i];

		t->nr = i;
		t->seed = sh->plan.seed + i;
		t->done = true;
		t->mem = malloc(NR_BUFS * MAX_TOLD * sizeof(*t->mem));
		t->page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			       -1, 0);
		if (!t->mem || t->page == MAP_FAILED || mprotect(t->page + 4096, 4096, PROT_NONE))
			wrong("no memory");
		if (pthread_create(&t->id, NULL, serve, t))
			wrong("no thread");
	}
	for (i = 0; i < sh->plan.threads; i++)
		pthread_join(threads[i].id, NULL);
	_exit(0);
}
