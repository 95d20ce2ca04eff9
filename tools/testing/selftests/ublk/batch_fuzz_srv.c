// SPDX-License-Identifier: GPL-2.0
/* batch_fuzz: a server whose threads send any command, right or wrong. */
#include <sys/mman.h>
#include <sys/prctl.h>
#include <signal.h>
#include "batch_fuzz.h"

#define NR_BUFS		64
#define MAX_TOLD	128
#define NR_FETCHES	4
/* above the user_data of all other commands */
#define FETCH_UD	0x100000000ULL
#define GROUP		3
#define NO_GROUP	4
#define TABLE		64
#define PATIENCE	60

struct fetch {
	bool active, no_group;
	__u64 ud;
	int q_id;
};

struct thread {
	pthread_t id;
	int nr;
	unsigned int seed;
	struct io_uring ring;
	struct io_uring_buf_ring *br;
	/* the buffers for tags that are provided, the next one first */
	__u16 *mem;
	struct { int bid, bytes; bool bad; } bufs[NR_BUFS];
	int nr_bufs;
	__u64 free_bids;
	struct fetch fetch[NR_FETCHES];
	/* what we were told, and have not noted yet */
	struct { int q_id, tag; } told[1024];
	int nr_told;
	/* the command that is waited for */
	__u64 next_ud, ud;
	int res;
	bool done, sent_away;
	/* a page for elements, and one that can not be read behind it */
	char *page;
};

/*
 * Requests that nobody works on. A registered buffer is taken out of the table by
 * a commit on the same ring only, so there each thread has its own.
 */
static struct hands {
	pthread_mutex_t lock;
	int tags[8 * MAX_TAGS];
	int nr;
} hands[MAX_THREADS][MAX_QUEUES];

static int cdev;
static const char *descs[MAX_QUEUES];
static pthread_barrier_t all_quiet;
static pthread_mutex_t disk_lock = PTHREAD_MUTEX_INITIALIZER;

static struct hands *hands_of(struct thread *t, int q_id)
{
	return &hands[sh->plan.mode == AUTO_REG ? t->nr : 0][q_id];
}

static const struct ublksrv_io_desc *desc_of(int q_id, int tag)
{
	return (const void *)(descs[q_id] + tag * sizeof(struct ublksrv_io_desc));
}

/* Rings ------------------------------------------------------------------- */

static void new_buf_ring(struct thread *t)
{
	int err = 0;

	t->br = io_uring_setup_buf_ring(&t->ring, NR_BUFS, GROUP, 0, &err);
	if (!t->br)
		wrong("no buffers: %d", err);
	t->nr_bufs = 0;
	t->free_bids = ~0ULL;
}

static void open_ring(struct thread *t)
{
	struct io_uring_params p = { .flags = IORING_SETUP_CQSIZE, .cq_entries = 1024 };
	int err;

	if (sh->plan.defer_taskrun)
		p.flags |= IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
	err = io_uring_queue_init_params(16, &t->ring, &p);
	if (err)
		wrong("no ring: %d", err);
	err = io_uring_register_buffers_sparse(&t->ring, TABLE);
	if (err)
		wrong("no table: %d", err);
	new_buf_ring(t);
	memset(t->fetch, 0, sizeof(t->fetch));
}

static void provide(struct thread *t, int bytes, bool bad)
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
		if (!get(sh->stopping))
			wrong("FETCH of queue %d is sent away", f->q_id);
		t->sent_away = true;
		break;
	default:
		wrong("FETCH: %s", res_name(cqe->res));
	}
}

/* What is in the CQ ring; without a system call */
static void drain(struct thread *t)
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

static void enter(struct thread *t, int us)
{
	struct __kernel_timespec ts = { .tv_nsec = us * 1000LL };
	struct io_uring_cqe *cqe;

	io_uring_submit_and_wait_timeout(&t->ring, &cqe, 1, &ts, NULL);
	drain(t);
}

static struct io_uring_sqe *new_sqe(struct thread *t, __u32 op)
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

/* Send the command, and wait for its result */
static int finish(struct thread *t, struct io_uring_sqe *sqe)
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

static void note_told(struct thread *t)
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

static void close_ring(struct thread *t)
{
	close(t->ring.ring_fd);
	/* the number may be somebody else's */
	t->ring.ring_fd = -1;
	t->ring.enter_ring_fd = -1;
	/* what was told before is still there; nothing is told any more */
	drain(t);
	munmap(t->br, NR_BUFS * sizeof(struct io_uring_buf));
	io_uring_queue_exit(&t->ring);
	add(sh->closed, 1);
}

/* Commands ---------------------------------------------------------------- */

static void send_fetch(struct thread *t, int q_id, bool no_group)
{
	struct io_uring_sqe *sqe;
	struct ublk_batch_io *cmd;
	int i;

	for (i = 0; i < NR_FETCHES && t->fetch[i].active; i++)
		;
	if (i == NR_FETCHES)
		return;
	sqe = new_sqe(t, UBLK_U_IO_FETCH_IO_CMDS);
	cmd = (void *)sqe->cmd;
	cmd->q_id = q_id;
	cmd->elem_bytes = 2;
	sqe->flags = IOSQE_BUFFER_SELECT;
	sqe->uring_cmd_flags = IORING_URING_CMD_MULTISHOT;
	sqe->buf_group = no_group ? NO_GROUP : GROUP;
	sqe->user_data = FETCH_UD | ++t->next_ud;
	t->fetch[i] = (struct fetch) {
		.active = true, .no_group = no_group, .ud = sqe->user_data, .q_id = q_id,
	};
	enter(t, 0);
}

static void bad_fetch(struct thread *t)
{
	struct io_uring_sqe *sqe = new_sqe(t, UBLK_U_IO_FETCH_IO_CMDS);
	struct ublk_batch_io *cmd = (void *)sqe->cmd;
	int res;

	cmd->q_id = below(&t->seed, sh->plan.queues);
	cmd->elem_bytes = 2;
	sqe->flags = IOSQE_BUFFER_SELECT;
	sqe->uring_cmd_flags = IORING_URING_CMD_MULTISHOT;
	sqe->buf_group = GROUP;
	switch (below(&t->seed, 4)) {
	case 0:
		cmd->q_id = sh->plan.queues + below(&t->seed, 3);
		break;
	case 1:
		cmd->elem_bytes = below(&t->seed, 256);
		cmd->elem_bytes += cmd->elem_bytes == 2;
		break;
	case 2:
		cmd->flags = 1 << below(&t->seed, 16);
		break;
	case 3:
		sqe->flags = 0;
		sqe->uring_cmd_flags = 0;
		break;
	}
	res = finish(t, sqe);
	if (res != -EINVAL)
		wrong("a wrong FETCH: %s", res_name(res));
}

/* A command of a server without batches */
static void legacy(struct thread *t)
{
	struct io_uring_sqe *sqe = new_sqe(t, once_in(&t->seed, 2) ?
					   UBLK_U_IO_FETCH_REQ : UBLK_U_IO_COMMIT_AND_FETCH_REQ);
	struct ublksrv_io_cmd *cmd = (void *)sqe->cmd;
	int res, want;

	cmd->q_id = below(&t->seed, sh->plan.queues + 1);
	cmd->tag = below(&t->seed, sh->plan.depth + 1);
	want = cmd->q_id < sh->plan.queues && cmd->tag < sh->plan.depth ? -EOPNOTSUPP : -EINVAL;
	res = finish(t, sqe);
	if (res != want)
		wrong("a command for one tag: %s", res_name(res));
}

/* io_uring does not know how to cancel such a command, and it stays */
static void cancel_fetch(struct thread *t)
{
	struct fetch *f = &t->fetch[below(&t->seed, NR_FETCHES)];
	struct io_uring_sqe *sqe;
	int res;

	if (!f->active)
		return;
	sqe = new_sqe(t, 0);
	io_uring_prep_cancel64(sqe, f->ud, 0);
	res = finish(t, sqe);
	if (res != -ENOENT && res != -EALREADY)
		wrong("ASYNC_CANCEL: %s", res_name(res));
}

/* Elements that the model has judged */
static int send_list(struct thread *t, struct list *l)
{
	struct io_uring_sqe *sqe = new_sqe(t, l->op);
	struct ublk_batch_io *cmd = (void *)sqe->cmd;
	int total = l->says * l->bytes, i;
	char *at = t->page;

	if (l->readable < total)
		at += 4096 - l->readable;
	for (i = 0; i < l->nr; i++) {
		int left = t->page + 4096 - (at + i * l->bytes);
		int bytes = l->bytes < (int)sizeof(l->elem[i]) ? l->bytes : (int)sizeof(l->elem[i]);

		if (left > 0)
			memcpy(at + i * l->bytes, &l->elem[i], left < bytes ? left : bytes);
	}
	sqe->addr = (unsigned long)at;
	cmd->q_id = l->q_id;
	cmd->flags = l->flags;
	cmd->nr_elem = l->says;
	cmd->elem_bytes = l->bytes;
	return finish(t, sqe);
}

static struct elem *add_elem(struct thread *t, struct list *l, int tag, int result)
{
	struct tag *of = &tags[l->q_id][tag % sh->plan.depth];
	struct elem *e = &l->elem[l->nr++];

	memset(e, 0, sizeof(*e));
	e->tag = tag;
	e->result = result;
	if (sh->plan.mode == COPY)
		e->addr = (unsigned long)of->buf[below(&t->seed, 2)];
	if (sh->plan.mode == AUTO_REG)
		e->index = below(&t->seed, TABLE + 4);
	return e;
}

static struct list new_list(struct thread *t, __u32 op)
{
	return (struct list) {
		.op = op,
		.q_id = below(&t->seed, sh->plan.queues),
		.flags = list_flags(),
		.bytes = list_bytes(),
		.readable = INT_MAX,
	};
}

/* Before it is locked: it says how many elements there are, and may be wrong as a whole */
static void close_list(struct thread *t, struct list *l)
{
	l->says = l->nr;
	if (!once_in(&t->seed, 6))
		return;
	switch (below(&t->seed, 5)) {
	case 0:
		l->says = sh->plan.depth + 1 + below(&t->seed, 9);
		break;
	case 1:
		l->flags ^= 1 << below(&t->seed, 16);
		/* which is right as well */
		l->flags |= list_flags() & UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK;
		break;
	case 2:
		l->bytes = below(&t->seed, 25);
		break;
	case 3:
	case 4:
		l->readable = l->says ? below(&t->seed, l->says * l->bytes) : INT_MAX;
		break;
	}
}

static void add_wrong(struct thread *t, struct list *l)
{
	struct elem *e;

	if (l->nr >= sh->plan.depth)
		return;
	e = add_elem(t, l, below(&t->seed, sh->plan.depth), WILD_RESULT);
	if (sh->plan.mode == COPY && once_in(&t->seed, 2))
		e->addr = 0;
	else
		e->tag = once_in(&t->seed, 2) ? sh->plan.depth : 65535 - below(&t->seed, 9);
}

static void prepare(struct thread *t)
{
	struct list l = new_list(t, UBLK_U_IO_PREP_IO_CMDS);
	int nr = 1 + below(&t->seed, once_in(&t->seed, 2) ? sh->plan.depth : 3), i, tag;

	for (i = 0; i < nr && l.nr < sh->plan.depth; i++) {
		tag = below(&t->seed, sh->plan.depth);
		/* mostly one that is missing */
		while (tags[l.q_id][tag].prepared && !get(sh->all_prepared) &&
		       !once_in(&t->seed, 10))
			tag = below(&t->seed, sh->plan.depth);
		if (once_in(&t->seed, 10))
			add_wrong(t, &l);
		else
			add_elem(t, &l, tag, 0);
	}
	close_list(t, &l);
	pthread_mutex_lock(&prep_lock);
	list_lock(&l);
	prep_judge(&l, send_list(t, &l));
	list_unlock(&l);
	pthread_mutex_unlock(&prep_lock);
}

/* Move the data of a request; the result for it */
static int serve_one(struct thread *t, int q_id, int tag, struct elem *e)
{
	const struct ublksrv_io_desc desc = *desc_of(q_id, tag);
	int bytes = desc.nr_sectors << 9, i, j, res = bytes;
	bool write = (desc.op_flags & 0xff) == UBLK_IO_OP_WRITE;
	__u64 pos = UBLKSRV_IO_BUF_OFFSET + ((__u64)q_id << UBLK_QID_OFF) +
		((__u64)tag << UBLK_TAG_OFF);
	__u64 own[PLACE_SECTORS * 64], *data = own;

	if (desc.start_sector + desc.nr_sectors > NR_SECTORS || desc.nr_sectors > PLACE_SECTORS)
		wrong("a request of %u sectors at %llu", desc.nr_sectors,
		      (unsigned long long)desc.start_sector);
	if (sh->plan.mode == COPY) {
		if (sh->plan.wild != SPOIL && desc.addr != tags[q_id][tag].addr)
			wrong("tag %d of queue %d has another buffer", tag, q_id);
		data = (void *)(unsigned long)(write ? desc.addr : e->addr);
	}
	if (once_in(&t->seed, 30))
		return FAIL_RESULT;
	if (write && sh->plan.mode != COPY) {
		i = pread(cdev, data, bytes, pos);
		if (i != bytes && sh->plan.wild != SPOIL)
			wrong("pread of tag %d of queue %d: %d %d", tag, q_id, i, errno);
	}
	pthread_mutex_lock(&disk_lock);
	for (i = 0; i < (int)desc.nr_sectors; i++) {
		__u32 *version = &sh->version[desc.start_sector + i];

		if (write && sh->plan.wild != SPOIL)
			for (j = 0; j < 64; j++)
				if (data[i * 64 + j] != word(desc.start_sector + i, data[i * 64]))
					wrong("tag %d of queue %d writes %llx at %llu", tag, q_id,
					      (unsigned long long)data[i * 64 + j],
					      (unsigned long long)desc.start_sector + i);
		if (write)
			*version = data[i * 64];
		else
			for (j = 0; j < 64; j++)
				data[i * 64 + j] = word(desc.start_sector + i, *version);
	}
	pthread_mutex_unlock(&disk_lock);
	if (write)
		return res;
	if (sh->plan.mode != COPY) {
		i = pwrite(cdev, data, bytes, pos);
		if (i != bytes && sh->plan.wild != SPOIL)
			wrong("pwrite of tag %d of queue %d: %d %d", tag, q_id, i, errno);
	} else if (desc.nr_sectors > 1 && once_in(&t->seed, 10)) {
		/* the rest is asked for again */
		res = 512 * (1 + below(&t->seed, desc.nr_sectors - 1));
	}
	return res;
}

static void count_trying(const struct list *l, int sign)
{
	int i;

	for (i = 0; i < l->nr; i++) {
		if (l->elem[i].result == WILD_RESULT)
			add(sh->wild_trying, sign);
		if (l->elem[i].result == FAIL_RESULT)
			add(sh->fail_trying, sign);
	}
}

static void give_up_request(struct thread *t, int q_id, int tag)
{
	struct hands *h = hands_of(t, q_id);

	pthread_mutex_lock(&h->lock);
	h->tags[h->nr++] = tag;
	pthread_mutex_unlock(&h->lock);
}

static void commit(struct thread *t)
{
	struct list l = new_list(t, UBLK_U_IO_COMMIT_IO_CMDS);
	struct hands *h = hands_of(t, l.q_id);
	int want = 1 + below(&t->seed, sh->plan.depth), i, done;
	int mine[MAX_TAGS + 2];

	while (l.nr < want) {
		struct elem *e;
		int tag = -1;

		if (once_in(&t->seed, 15)) {
			mine[l.nr] = -1;
			add_wrong(t, &l);
			continue;
		}
		if (sh->plan.wild == WILD && once_in(&t->seed, 10)) {
			mine[l.nr] = -1;
			add_elem(t, &l, below(&t->seed, sh->plan.depth), WILD_RESULT);
			continue;
		}
		pthread_mutex_lock(&h->lock);
		if (h->nr) {
			i = below(&t->seed, h->nr);
			tag = h->tags[i];
			h->tags[i] = h->tags[--h->nr];
		}
		pthread_mutex_unlock(&h->lock);
		if (tag < 0)
			break;
		mine[l.nr] = tag;
		e = add_elem(t, &l, tag, 0);
		e->result = serve_one(t, l.q_id, tag, e);
		if (sh->plan.mode == COPY && once_in(&t->seed, 30))
			e->addr = 0;
	}
	close_list(t, &l);
	list_lock(&l);
	for (i = 0; i < l.nr; i++) {
		/* what others have in their hands is theirs */
		if (mine[i] < 0 && l.elem[i].tag < sh->plan.depth && sh->plan.wild == WILD &&
		    tags[l.q_id][l.elem[i].tag].seen) {
			int j;

			for (j = 0; j < i && mine[j] != l.elem[i].tag; j++)
				;
			if (j == i)
				l.elem[i].tag = sh->plan.depth;
		}
	}
	count_trying(&l, 1);
	done = commit_judge(&l, send_list(t, &l));
	add(sh->accepted, done);
	add(sh->refused, l.nr - done);
	for (i = done; i < l.nr; i++) {
		if (mine[i] < 0)
			continue;
		/* somebody else was faster, perhaps */
		if (sh->plan.wild == SPOIL && i == done)
			continue;
		give_up_request(t, l.q_id, mine[i]);
	}
	count_trying(&l, -1);
	list_unlock(&l);
}

/* Commits without asking anybody */
static void spoil(struct thread *t)
{
	struct list l = new_list(t, UBLK_U_IO_COMMIT_IO_CMDS);
	int want = 1 + below(&t->seed, 3);

	while (l.nr < want && l.nr < sh->plan.depth)
		add_elem(t, &l, below(&t->seed, sh->plan.depth), WILD_RESULT);
	l.says = l.nr;
	count_trying(&l, 1);
	add(sh->accepted, commit_judge(&l, send_list(t, &l)));
	count_trying(&l, -1);
}

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
