// SPDX-License-Identifier: GPL-2.0
/* batch_fuzz: the ring of a thread of the server, and what it is told by it. */
#include <sys/mman.h>
#include "batch_fuzz_srv.h"

struct hands hands[MAX_THREADS][MAX_QUEUES];

struct hands *hands_of(struct thread *t, int q_id)
{
	return &hands[sh->plan.mode == AUTO_REG ? t->nr : 0][q_id];
}

static void new_buf_ring(struct thread *t)
{
	int err = 0;

	t->br = io_uring_setup_buf_ring(&t->ring, NR_BUFS, GROUP, 0, &err);
	if (!t->br)
		wrong("no buffers: %d", err);
	t->nr_bufs = 0;
	t->free_bids = ~0ULL;
}

/*
 * The ring is in memory of our own: a mapping of it would keep it alive after its
 * file is closed, and what it tells until it is unmapped could not be read.
 */
void open_ring(struct thread *t)
{
	struct io_uring_params p = {
		.flags = IORING_SETUP_CQSIZE | IORING_SETUP_NO_MMAP, .cq_entries = 1024,
	};
	int err;

	if (sh->plan.defer_taskrun)
		p.flags |= IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
	t->ring_mem = mmap(NULL, RING_BYTES, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (t->ring_mem == MAP_FAILED)
		wrong("no memory");
	err = io_uring_queue_init_mem(16, &t->ring, &p, t->ring_mem, RING_BYTES);
	if (err > 0)
		err = 0;
	if (err)
		wrong("no ring: %d", err);
	err = io_uring_register_buffers_sparse(&t->ring, TABLE);
	if (err)
		wrong("no table: %d", err);
	new_buf_ring(t);
	memset(t->fetch, 0, sizeof(t->fetch));
}

void provide(struct thread *t, int bytes, bool bad)
{
	int bid;

	if (!t->free_bids)
		return;
	bid = __builtin_ctzll(t->free_bids);
	t->free_bids &= ~(1ULL << bid);
	t->bufs[t->nr_bufs].bid = bid;
	t->bufs[t->nr_bufs].bytes = bytes;
	t->bufs[t->nr_bufs].bad = bad;
	t->nr_bufs++;
	io_uring_buf_ring_add(t->br, bad ? bad_addr : t->mem + bid * MAX_TOLD, bytes, bid,
			      io_uring_buf_ring_mask(NR_BUFS), 0);
	io_uring_buf_ring_advance(t->br, 1);
}

static void take_tags(struct thread *t, struct fetch *f, const struct io_uring_cqe *cqe)
{
	int bid = cqe->flags >> IORING_CQE_BUFFER_SHIFT, nr = cqe->res / 2, i, j;
	__u16 *got = t->mem + bid * MAX_TOLD;

	if (!(cqe->flags & IORING_CQE_F_BUFFER) || !(cqe->flags & IORING_CQE_F_MORE))
		wrong("tags with flags %x", cqe->flags);
	if (!t->nr_bufs || t->bufs[0].bid != bid || t->bufs[0].bad)
		wrong("tags in buffer %d, whose turn it is not", bid);
	if (cqe->res % 2 || cqe->res > t->bufs[0].bytes || nr > MAX_TOLD)
		wrong("%d bytes of tags in a buffer of %d", cqe->res, t->bufs[0].bytes);
	for (i = 0; i < nr; i++) {
		if (got[i] >= sh->plan.depth)
			wrong("told of tag %d", got[i]);
		for (j = 0; j < i; j++)
			if (got[i] == got[j])
				wrong("told twice of tag %d at once", got[i]);
		if (t->nr_told == ARRAY_SIZE(t->told))
			wrong("told too much");
		t->told[t->nr_told].q_id = f->q_id;
		t->told[t->nr_told++].tag = got[i];
	}
	memset(got, 0xff, MAX_TOLD * sizeof(*got));
	t->free_bids |= 1ULL << bid;
	t->nr_bufs--;
	memmove(t->bufs, t->bufs + 1, t->nr_bufs * sizeof(t->bufs[0]));
	add(sh->told, nr);
}

static void fetch_ended(struct thread *t, struct fetch *f, const struct io_uring_cqe *cqe)
{
	f->active = false;
	if (cqe->flags & IORING_CQE_F_MORE)
		wrong("the end of FETCH has flags %x", cqe->flags);
	switch (cqe->res) {
	case -ENOBUFS:
		add(sh->dry, 1);
		if (f->no_group)
			break;
		/* else the tags may have come when there were none yet */
		if (sh->plan.defer_taskrun && t->nr_bufs && !t->bufs[0].bad &&
		    t->bufs[0].bytes >= 2)
			wrong("FETCH ends, but there is a buffer of %d", t->bufs[0].bytes);
		if (t->ring.ring_fd >= 0 && t->nr_bufs &&
		    (t->bufs[0].bad || t->bufs[0].bytes < 2)) {
			io_uring_free_buf_ring(&t->ring, t->br, NR_BUFS, GROUP);
			new_buf_ring(t);
		}
		break;
	case -ENODEV:
		/* it goes with its ring */
		if (t->ring.ring_fd < 0)
			break;
		if (!get(sh->stopping))
			wrong("FETCH of queue %d is sent away", f->q_id);
		t->sent_away = true;
		break;
	default:
		wrong("FETCH: %s", res_name(cqe->res));
	}
}

void drain(struct thread *t)
{
	struct io_uring_cqe *cqe;
	unsigned int head, nr = 0;
	int i;

	io_uring_for_each_cqe(&t->ring, head, cqe) {
		nr++;
		if (!(cqe->user_data & FETCH_UD)) {
			if (t->done || cqe->user_data != t->ud)
				wrong("a CQE of no command: %s", res_name(cqe->res));
			t->res = cqe->res;
			t->done = true;
			continue;
		}
		for (i = 0; i < NR_FETCHES; i++)
			if (t->fetch[i].active && t->fetch[i].ud == cqe->user_data)
				break;
		if (i == NR_FETCHES)
			wrong("a CQE of a FETCH that has ended: %s", res_name(cqe->res));
		if (cqe->res > 0)
			take_tags(t, &t->fetch[i], cqe);
		else
			fetch_ended(t, &t->fetch[i], cqe);
	}
	io_uring_cq_advance(&t->ring, nr);
}

void enter(struct thread *t, int us)
{
	struct __kernel_timespec ts = { .tv_nsec = us * 1000LL };
	struct io_uring_cqe *cqe;

	io_uring_submit_and_wait_timeout(&t->ring, &cqe, 1, &ts, NULL);
	drain(t);
}

struct io_uring_sqe *new_sqe(struct thread *t, __u32 op)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&t->ring);

	if (!sqe)
		wrong("too many commands");
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = cdev;
	sqe->cmd_op = op;
	return sqe;
}

int finish(struct thread *t, struct io_uring_sqe *sqe)
{
	time_t start = time(NULL);

	t->ud = ++t->next_ud & (FETCH_UD - 1);
	t->done = false;
	sqe->user_data = t->ud;
	/* it may come by way of a worker */
	if (once_in(&t->seed, 8))
		sqe->flags |= IOSQE_ASYNC;
	do {
		enter(t, 10000);
		if (time(NULL) - start > PATIENCE)
			wrong("a command does not end");
	} while (!t->done);
	return t->res;
}

void note_told(struct thread *t)
{
	int i;

	for (i = 0; i < t->nr_told; i++) {
		struct hands *h = hands_of(t, t->told[i].q_id);

		if (!tag_told(t->told[i].q_id, t->told[i].tag))
			continue;
		pthread_mutex_lock(&h->lock);
		if (h->nr == ARRAY_SIZE(h->tags))
			wrong("too many requests");
		h->tags[h->nr++] = t->told[i].tag;
		pthread_mutex_unlock(&h->lock);
	}
	t->nr_told = 0;
}

void close_ring(struct thread *t)
{
	close(t->ring.ring_fd);
	/* the number may be somebody else's */
	t->ring.ring_fd = -1;
	t->ring.enter_ring_fd = -1;
	/* what was told before is still there; nothing is told any more */
	drain(t);
	munmap(t->br, NR_BUFS * sizeof(struct io_uring_buf));
	io_uring_queue_exit(&t->ring);
	/* the next ring has other memory: FETCHes end in this one yet */
	munmap(t->ring_mem, RING_BYTES);
	add(sh->closed, 1);
}
