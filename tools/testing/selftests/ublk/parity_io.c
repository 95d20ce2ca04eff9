// SPDX-License-Identifier: GPL-2.0
/* parity: every I/O command in every state of a slot. */
#include <pthread.h>
#include "parity.h"

/* How a device moves data */
static const struct mode {
	const char *name;
	__u64 flags;
} modes[] = {
	{ "copy", 0 },
	{ "get data", UBLK_F_NEED_GET_DATA },
	{ "user copy", UBLK_F_USER_COPY },
	{ "zero copy", UBLK_F_SUPPORT_ZERO_COPY },
	{ "auto", UBLK_F_AUTO_BUF_REG },
	{ "auto zero copy", UBLK_F_AUTO_BUF_REG | UBLK_F_SUPPORT_ZERO_COPY },
	{ "recovery", UBLK_F_USER_RECOVERY | UBLK_F_QUIESCE | UBLK_F_USER_COPY },
};

enum slot_state { OPEN, FETCHED_ONE, READY, IDLE, HAS_READ, HAS_WRITE, HAS_FLUSH,
		  HAS_DISCARD, COMMITTED, STOPPED, QUIESCED, NR_SLOT_STATES };

static const char *const slot_state_name[] = {
	"open", "one fetched", "ready", "idle", "has READ", "has WRITE", "has FLUSH",
	"has DISCARD", "committed", "stopped", "quiesced",
};

#define UNKNOWN(nr)	_IOWR('u', nr, struct ublksrv_io_cmd)

enum which { OWN, OTHER, DEPTH_TAG, LAST_TAG };
enum addr { GOOD, NO_ADDR, SOME_ADDR, INDEX_3, INDEX_99, HIGH_INDEX };

static const struct variant {
	const char *cmd;
	const char *arg;
	__u32 op;
	enum which tag;
	enum addr addr;
	int q_id;
	int result;
	__u64 sqe_addr;
	unsigned int sqe_flags;
} variants[] = {
	{ "FETCH", "", UBLK_U_IO_FETCH_REQ },
	{ "FETCH", "other tag", UBLK_U_IO_FETCH_REQ, OTHER },
	{ "FETCH", "addr 0", UBLK_U_IO_FETCH_REQ, OTHER, NO_ADDR },
	{ "FETCH", "addr", UBLK_U_IO_FETCH_REQ, OTHER, SOME_ADDR },
	{ "FETCH", "queue 1", UBLK_U_IO_FETCH_REQ, OTHER, GOOD, 1 },
	{ "FETCH", "queue 65535", UBLK_U_IO_FETCH_REQ, OTHER, GOOD, 65535 },
	{ "FETCH", "tag = depth", UBLK_U_IO_FETCH_REQ, DEPTH_TAG },
	{ "FETCH", "tag 65535", UBLK_U_IO_FETCH_REQ, LAST_TAG },
	{ "FETCH", "result -5", UBLK_U_IO_FETCH_REQ, OTHER, GOOD, 0, -5 },
	{ "FETCH", "sqe->addr bit 16", UBLK_U_IO_FETCH_REQ, OTHER, GOOD, 0, 0, 1 << 16 },
	{ "FETCH", "sqe->addr bit 17", UBLK_U_IO_FETCH_REQ, OTHER, GOOD, 0, 0, 1 << 17 },
	{ "FETCH", "sqe->addr bit 24", UBLK_U_IO_FETCH_REQ, OTHER, GOOD, 0, 0, 1 << 24 },
	{ "FETCH", "sqe->addr bit 32", UBLK_U_IO_FETCH_REQ, OTHER, GOOD, 0, 0, 1ULL << 32 },
	{ "FETCH", "sqe->addr bit 63", UBLK_U_IO_FETCH_REQ, OTHER, GOOD, 0, 0, 1ULL << 63 },
	{ "FETCH", "sqe->addr bit 17, addr", UBLK_U_IO_FETCH_REQ, OWN, SOME_ADDR, 0, 0,
	  1 << 17 },
	{ "FETCH", "IOSQE_ASYNC", UBLK_U_IO_FETCH_REQ, OTHER, GOOD, 0, 0, 0, IOSQE_ASYNC },
	{ "FETCH", "_IOR", _IOR('u', UBLK_IO_FETCH_REQ, struct ublksrv_io_cmd), OTHER },
	{ "FETCH", "legacy", UBLK_IO_FETCH_REQ, OTHER },
	{ "FETCH", "type v", _IOWR('v', UBLK_IO_FETCH_REQ, struct ublksrv_io_cmd), OTHER },

	{ "COMMIT", "", UBLK_U_IO_COMMIT_AND_FETCH_REQ, OWN, GOOD, 0, 512 },
	{ "COMMIT", "other tag", UBLK_U_IO_COMMIT_AND_FETCH_REQ, OTHER, GOOD, 0, 512 },
	{ "COMMIT", "addr 0", UBLK_U_IO_COMMIT_AND_FETCH_REQ, OWN, NO_ADDR, 0, 512 },
	{ "COMMIT", "addr", UBLK_U_IO_COMMIT_AND_FETCH_REQ, OWN, SOME_ADDR, 0, 512 },
	{ "COMMIT", "queue 1", UBLK_U_IO_COMMIT_AND_FETCH_REQ, OWN, GOOD, 1 },
	{ "COMMIT", "tag = depth", UBLK_U_IO_COMMIT_AND_FETCH_REQ, DEPTH_TAG },
	{ "COMMIT", "tag 65535", UBLK_U_IO_COMMIT_AND_FETCH_REQ, LAST_TAG },
	{ "COMMIT", "sqe->addr bit 17", UBLK_U_IO_COMMIT_AND_FETCH_REQ, OWN, GOOD, 0, 512,
	  1 << 17 },
	{ "COMMIT", "sqe->addr bit 24", UBLK_U_IO_COMMIT_AND_FETCH_REQ, OWN, GOOD, 0, 512,
	  1 << 24 },
	{ "COMMIT", "sqe->addr bit 32", UBLK_U_IO_COMMIT_AND_FETCH_REQ, OWN, GOOD, 0, 512,
	  1ULL << 32 },
	{ "COMMIT", "IOSQE_ASYNC", UBLK_U_IO_COMMIT_AND_FETCH_REQ, OWN, GOOD, 0, 512, 0,
	  IOSQE_ASYNC },
	{ "COMMIT", "legacy", UBLK_IO_COMMIT_AND_FETCH_REQ, OWN, GOOD, 0, 512 },
	{ "COMMIT", "type v", _IOWR('v', UBLK_IO_COMMIT_AND_FETCH_REQ, struct ublksrv_io_cmd) },

	{ "GET_DATA", "", UBLK_U_IO_NEED_GET_DATA },
	{ "GET_DATA", "addr 0", UBLK_U_IO_NEED_GET_DATA, OWN, NO_ADDR },
	{ "GET_DATA", "other tag", UBLK_U_IO_NEED_GET_DATA, OTHER },
	{ "GET_DATA", "queue 1", UBLK_U_IO_NEED_GET_DATA, OWN, GOOD, 1 },
	{ "GET_DATA", "tag = depth", UBLK_U_IO_NEED_GET_DATA, DEPTH_TAG },
	{ "GET_DATA", "legacy", UBLK_IO_NEED_GET_DATA },
	{ "GET_DATA", "bad addr", UBLK_U_IO_NEED_GET_DATA, OWN, SOME_ADDR },

	{ "REGISTER", "", UBLK_U_IO_REGISTER_IO_BUF, OWN, INDEX_3 },
	{ "REGISTER", "other tag", UBLK_U_IO_REGISTER_IO_BUF, OTHER, INDEX_3 },
	{ "REGISTER", "index 99", UBLK_U_IO_REGISTER_IO_BUF, OWN, INDEX_99 },
	{ "REGISTER", "index 3 and 2^32", UBLK_U_IO_REGISTER_IO_BUF, OWN, HIGH_INDEX },
	{ "REGISTER", "queue 1", UBLK_U_IO_REGISTER_IO_BUF, OWN, INDEX_3, 1 },
	{ "REGISTER", "tag = depth", UBLK_U_IO_REGISTER_IO_BUF, DEPTH_TAG, INDEX_3 },
	{ "REGISTER", "IOSQE_ASYNC", UBLK_U_IO_REGISTER_IO_BUF, OWN, INDEX_3, 0, 0, 0,
	  IOSQE_ASYNC },
	{ "REGISTER", "type v", _IOWR('v', 0x23, struct ublksrv_io_cmd), OWN, INDEX_3 },
	{ "UNREGISTER", "", UBLK_U_IO_UNREGISTER_IO_BUF, OWN, INDEX_3 },
	{ "UNREGISTER", "index 99", UBLK_U_IO_UNREGISTER_IO_BUF, OWN, INDEX_99 },
	{ "UNREGISTER", "queue 1, tag 65535", UBLK_U_IO_UNREGISTER_IO_BUF, LAST_TAG, INDEX_3,
	  1 },
	{ "UNREGISTER", "IOSQE_ASYNC", UBLK_U_IO_UNREGISTER_IO_BUF, OWN, INDEX_3, 0, 0, 0,
	  IOSQE_ASYNC },

	{ "command 0x00", "", UNKNOWN(0) },
	{ "command 0x1f", "", UNKNOWN(0x1f) },
	{ "command 0x25", "", UNKNOWN(0x25) },
	{ "command 0x26", "", UNKNOWN(0x26) },
	{ "command 0x27", "", UNKNOWN(0x27) },
	{ "command 0x28", "", UNKNOWN(0x28) },
	{ "command 0x29", "", UNKNOWN(0x29) },
	{ "command 0xff", "", UNKNOWN(0xff) },
	{ "command 0xff", "other tag", UNKNOWN(0xff), OTHER },
	{ "command 0xff", "queue 1", UNKNOWN(0xff), OWN, GOOD, 1 },
	{ "command 0xff", "tag = depth", UNKNOWN(0xff), DEPTH_TAG },
};

struct place {
	const struct mode *mode;
	enum slot_state state;
	bool other_task;
};

struct setting {
	struct srv s;
	struct blk_io io;
	int own;
};

static void enter(struct setting *set, const struct place *place)
{
	static const enum block_op op[] = {
		[HAS_READ] = B_READ, [HAS_WRITE] = B_WRITE, [HAS_FLUSH] = B_FLUSH,
		[HAS_DISCARD] = B_DISCARD, [COMMITTED] = B_READ,
	};
	struct ublk_params params = default_params();
	struct srv *s = &set->s;
	int res;

	params.types |= UBLK_PARAM_TYPE_DISCARD;
	params.discard.discard_granularity = 4096;
	params.discard.max_discard_sectors = 2048;
	params.discard.max_discard_segments = 1;
	params.discard.max_write_zeroes_sectors = 2048;
	set->own = 0;
	set->io.pid = 0;
	srv_open(s, place->mode->flags, &params);
	if (place->state == OPEN)
		return;
	srv_fetch(s, 0, place->state == FETCHED_ONE ? 1 : DEPTH);
	if (place->state == FETCHED_ONE || place->state == READY)
		return;
	srv_start(s);
	switch (place->state) {
	case HAS_READ:
	case HAS_WRITE:
	case HAS_FLUSH:
	case HAS_DISCARD:
	case COMMITTED:
		block_start(&set->io, s->id, op[place->state], 8, 4096);
		set->own = srv_request(s, 5000);
		if (set->own < 0)
			give_up("the request does not arrive", block_wait(&set->io, 0));
		if (place->state == COMMITTED)
			srv_commit(s, set->own, 4096);
		break;
	case STOPPED:
	case QUIESCED:
		res = ctrl_simple(s->id, place->state == STOPPED ? UBLK_U_CMD_STOP_DEV :
				  UBLK_U_CMD_QUIESCE_DEV, NULL, 0, 500);
		if (res)
			give_up("stop", res);
		srv_wait(s, s->waiting[0], 200);
		if (s->waiting[1])
			srv_wait(s, s->waiting[1], 200);
		break;
	default:
		break;
	}
}

static void leave(struct setting *set)
{
	srv_close(&set->s);
	block_kill(&set->io);
}

static struct io command_of(struct setting *set, const struct variant *v)
{
	struct srv *s = &set->s;
	struct io io = {
		.op = v->op,
		.q_id = v->q_id,
		.result = v->result,
		.sqe_addr = v->sqe_addr,
		.sqe_flags = v->sqe_flags,
	};

	switch (v->tag) {
	case OWN:
		io.tag = set->own;
		break;
	case OTHER:
		io.tag = !set->own;
		break;
	case DEPTH_TAG:
		io.tag = s->depth;
		break;
	case LAST_TAG:
		io.tag = 65535;
		break;
	}
	switch (v->addr) {
	case GOOD:
		io.addr = srv_addr(s, io.tag < s->depth ? io.tag : 0);
		break;
	case NO_ADDR:
		break;
	case SOME_ADDR:
		io.addr = 4096;
		break;
	case INDEX_3:
		io.addr = 3;
		break;
	case INDEX_99:
		io.addr = 99;
		break;
	case HIGH_INDEX:
		io.addr = (1ULL << 32) + 3;
		break;
	}
	return io;
}

/* The same command from another thread, on a ring of its own */
struct other_task {
	struct srv *s;
	struct io io;
	int res;
};

static void *other_task_fn(void *arg)
{
	struct __kernel_timespec ts = { .tv_nsec = 50 * 1000000LL };
	struct other_task *t = arg;
	struct io_uring_cqe *cqe;
	struct io_uring ring;

	if (io_uring_queue_init(4, &ring, 0))
		return NULL;
	io_uring_register_buffers_sparse(&ring, 16);
	srv_send_on(t->s, &ring, &t->io);
	if (!io_uring_wait_cqe_timeout(&ring, &cqe, &ts))
		t->res = cqe->res;
	io_uring_queue_exit(&ring);
	return NULL;
}

static int from_other_task(struct srv *s, const struct io *io)
{
	struct other_task t = { .s = s, .io = *io, .res = BLOCKS };
	pthread_t thread;

	if (pthread_create(&thread, NULL, other_task_fn, &t))
		give_up("thread", -EAGAIN);
	pthread_join(thread, NULL);
	return t.res;
}

static void one_place(const void *arg)
{
	const struct place *place = arg;
	const char *state = str("%s, %s%s", place->mode->name, slot_state_name[place->state],
				place->other_task ? ", other task" : "");
	static struct setting set;
	bool fresh = false;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(variants); i++) {
		struct io io;
		int res;

		if (!fresh)
			enter(&set, place);
		io = command_of(&set, &variants[i]);
		if (place->other_task)
			res = from_other_task(&set.s, &io);
		else
			res = srv_do(&set.s, &io);
		put(state, variants[i].cmd, variants[i].arg, "%s", res_name(res));
		/* a refused command has changed nothing */
		fresh = res < 0;
		if (!fresh)
			leave(&set);
	}
}

void group_io(void)
{
	unsigned int i;
	int st;

	for (i = 0; i < ARRAY_SIZE(modes); i++) {
		for (st = 0; st < NR_SLOT_STATES; st++) {
			struct place place = { &modes[i], st };
			bool quiesces = modes[i].flags & UBLK_F_QUIESCE;

			/* in any mode these are the same */
			if (st == QUIESCED ? !quiesces : i > 2 && (st == OPEN || st == READY))
				continue;
			run(str("%s, %s", modes[i].name, slot_state_name[st]), one_place,
			    &place);
			if (st != IDLE && st != HAS_READ && st != HAS_WRITE)
				continue;
			place.other_task = true;
			run(str("%s, %s, other task", modes[i].name, slot_state_name[st]),
			    one_place, &place);
		}
	}
}
