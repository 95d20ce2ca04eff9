// SPDX-License-Identifier: GPL-2.0
/* parity: the commands of UBLK_F_BATCH_IO, in every state of a device. */
#include "parity_bsrv.h"

static const struct mode {
	const char *name;
	__u64 flags;
} modes[] = {
	{ "copy", 0 },
	{ "user copy", UBLK_F_USER_COPY },
	{ "zero copy", UBLK_F_SUPPORT_ZERO_COPY },
	{ "auto", UBLK_F_AUTO_BUF_REG },
	{ "recovery", UBLK_F_USER_RECOVERY | UBLK_F_QUIESCE },
};

enum batch_state { OPEN, PREPARED_ONE, PREPARED, LIVE, HAS_READ, HAS_WRITE, HAS_FLUSH,
		   COMMITTED, STOPPED, QUIESCED, NR_BATCH_STATES };

static const char *const batch_state_name[] = {
	"open", "one prepared", "prepared", "live", "has READ", "has WRITE", "has FLUSH",
	"committed", "stopped", "quiesced",
};

#define LBA		UBLK_BATCH_F_HAS_ZONE_LBA
#define ADDR		UBLK_BATCH_F_HAS_BUF_ADDR
#define FALLBACK	UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK
#define PREP		UBLK_U_IO_PREP_IO_CMDS
#define COMMIT		UBLK_U_IO_COMMIT_IO_CMDS
#define FETCH		UBLK_U_IO_FETCH_IO_CMDS
#define MULTI		IORING_URING_CMD_MULTISHOT
#define SELECT		IOSQE_BUFFER_SELECT

/* Which elements: tags that name themselves, and some that are wrong */
enum elems { OWN, OTHER, BOTH, TWICE, BAD_TAG, GOOD_BAD, LAST_TAG, NO_ADDR, NONE, UNMAPPED,
	     TOO_MANY };

static const struct variant {
	const char *cmd;
	const char *arg;
	__u32 op;
	enum elems elems;
	int flags;		/* instead of the right ones, if not 0; -1 is none */
	int bytes;		/* likewise */
	int q_id;
	unsigned int sqe_flags;
	unsigned int cmd_flags;
} variants[] = {
	{ "PREP", "", PREP, OWN },
	{ "PREP", "other tag", PREP, OTHER },
	{ "PREP", "both tags", PREP, BOTH },
	{ "PREP", "twice the same tag", PREP, TWICE },
	{ "PREP", "tag = depth", PREP, BAD_TAG },
	{ "PREP", "other tag, then depth", PREP, GOOD_BAD },
	{ "PREP", "tag 65535", PREP, LAST_TAG },
	{ "PREP", "addr 0", PREP, NO_ADDR },
	{ "PREP", "no element", PREP, NONE },
	{ "PREP", "unmapped", PREP, UNMAPPED },
	{ "PREP", "depth + 1 elements", PREP, TOO_MANY },
	{ "PREP", "queue 1", PREP, OTHER, 0, 0, 1 },
	{ "PREP", "queue 65535", PREP, OTHER, 0, 0, 65535 },
	{ "PREP", "flags 0", PREP, OTHER, -1 },
	{ "PREP", "addr", PREP, OTHER, ADDR, 16 },
	{ "PREP", "addr, 8 bytes", PREP, OTHER, ADDR, 8 },
	{ "PREP", "lba", PREP, OTHER, LBA, 16 },
	{ "PREP", "addr and lba", PREP, OTHER, ADDR | LBA, 24 },
	{ "PREP", "fallback", PREP, OTHER, FALLBACK, 8 },
	{ "PREP", "fallback and addr", PREP, OTHER, FALLBACK | ADDR, 16 },
	{ "PREP", "flag 8", PREP, OTHER, 8, 8 },
	{ "PREP", "7 bytes", PREP, OTHER, 0, 7 },
	{ "PREP", "IOSQE_ASYNC", PREP, OTHER, 0, 0, 0, IOSQE_ASYNC },
	{ "PREP", "multishot", PREP, OTHER, 0, 0, 0, SELECT, MULTI },
	{ "PREP", "_IOR", _IOR('u', 0x25, struct ublk_batch_io), OTHER },
	{ "PREP", "legacy", 0x25, OTHER },

	{ "COMMIT", "", COMMIT, OWN },
	{ "COMMIT", "other tag", COMMIT, OTHER },
	{ "COMMIT", "both tags", COMMIT, BOTH },
	{ "COMMIT", "twice the same tag", COMMIT, TWICE },
	{ "COMMIT", "tag = depth", COMMIT, BAD_TAG },
	{ "COMMIT", "tag 65535", COMMIT, LAST_TAG },
	{ "COMMIT", "addr 0", COMMIT, NO_ADDR },
	{ "COMMIT", "no element", COMMIT, NONE },
	{ "COMMIT", "unmapped", COMMIT, UNMAPPED },
	{ "COMMIT", "depth + 1 elements", COMMIT, TOO_MANY },
	{ "COMMIT", "queue 1", COMMIT, OWN, 0, 0, 1 },
	{ "COMMIT", "flags 0", COMMIT, OWN, -1 },
	{ "COMMIT", "addr", COMMIT, OWN, ADDR, 16 },
	{ "COMMIT", "lba", COMMIT, OWN, LBA, 16 },
	{ "COMMIT", "fallback", COMMIT, OWN, FALLBACK, 8 },
	{ "COMMIT", "flag 8", COMMIT, OWN, 8, 8 },
	{ "COMMIT", "17 bytes", COMMIT, OWN, 0, 17 },
	{ "COMMIT", "IOSQE_ASYNC", COMMIT, OWN, 0, 0, 0, IOSQE_ASYNC },
	{ "COMMIT", "legacy", 0x26, OWN },

	{ "FETCH", "", FETCH, NONE, -1, 2, 0, SELECT, MULTI },
	{ "FETCH", "not multishot", FETCH, NONE, -1, 2 },
	{ "FETCH", "multishot, no buffers", FETCH, NONE, -1, 2, 0, 0, MULTI },
	{ "FETCH", "queue 1", FETCH, NONE, -1, 2, 1, SELECT, MULTI },
	{ "FETCH", "queue 65535", FETCH, NONE, -1, 2, 65535, SELECT, MULTI },
	{ "FETCH", "4 bytes", FETCH, NONE, -1, 4, 0, SELECT, MULTI },
	{ "FETCH", "flags", FETCH, NONE, LBA, 2, 0, SELECT, MULTI },
	{ "FETCH", "with elements", FETCH, TOO_MANY, -1, 2, 0, SELECT, MULTI },
	{ "FETCH", "legacy", 0x27, NONE, -1, 2, 0, SELECT, MULTI },
};

/* Commands about one tag */
static const struct {
	const char *cmd;
	__u32 op;
} others[] = {
	{ "FETCH_REQ", UBLK_U_IO_FETCH_REQ },
	{ "COMMIT_AND_FETCH_REQ", UBLK_U_IO_COMMIT_AND_FETCH_REQ },
	{ "NEED_GET_DATA", UBLK_U_IO_NEED_GET_DATA },
	{ "REGISTER_IO_BUF", UBLK_U_IO_REGISTER_IO_BUF },
	{ "UNREGISTER_IO_BUF", UBLK_U_IO_UNREGISTER_IO_BUF },
	{ "REGISTER_IO_BUF, legacy", 0x23 },
	{ "UNREGISTER_IO_BUF, legacy", 0x24 },
	{ "command 0x29", _IOWR('u', 0x29, struct ublksrv_io_cmd) },
	{ "command 0xff", _IOWR('u', 0xff, struct ublksrv_io_cmd) },
	{ "type v", _IOWR('v', 0x25, struct ublk_batch_io) },
};

struct place {
	const struct mode *mode;
	enum batch_state state;
};

struct setting {
	struct srv s;
	struct bring b;
	struct blk_io io;
	__u64 fetch;
	int own;
};

static void enter(struct setting *set, const struct place *place)
{
	static const enum block_op op[] = {
		[HAS_READ] = B_READ, [HAS_WRITE] = B_WRITE, [HAS_FLUSH] = B_FLUSH,
		[COMMITTED] = B_READ,
	};
	struct srv *s = &set->s;
	struct bring *b = &set->b;
	int res;

	memset(set, 0, sizeof(*set));
	srv_open(s, place->mode->flags | UBLK_F_BATCH_IO, NULL);
	bring_init(b, s, false);
	if (place->state == OPEN)
		return;
	res = batch_prep(b, 0, 0, place->state == PREPARED_ONE ? 1 : s->depth);
	if (res)
		give_up("PREP", res);
	if (place->state == PREPARED_ONE || place->state == PREPARED)
		return;
	bring_provide(b, 0, 16, NULL);
	bring_provide(b, 1, 16, NULL);
	set->fetch = bring_fetch(b, 0);
	srv_start(s);
	switch (place->state) {
	case HAS_READ:
	case HAS_WRITE:
	case HAS_FLUSH:
	case COMMITTED:
		block_start(&set->io, s->id, op[place->state], 8, 4096);
		res = batch_request(b, set->fetch, 5000, &set->own);
		if (res != 2)
			give_up("the request does not arrive", res);
		if (place->state == COMMITTED)
			batch_commit(b, 0, set->own, 4096);
		break;
	case STOPPED:
	case QUIESCED:
		res = ctrl_simple(s->id, place->state == STOPPED ? UBLK_U_CMD_STOP_DEV :
				  UBLK_U_CMD_QUIESCE_DEV, NULL, 0, 500);
		if (res)
			give_up("stop", res);
		put(str("%s, %s", place->mode->name, batch_state_name[place->state]),
		    "pending FETCH", "", "%s", res_name(bring_wait(b, set->fetch, 500, NULL)));
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

static struct bio command_of(struct setting *set, const struct variant *v, void *buf)
{
	struct srv *s = &set->s;
	int right = batch_bytes(s);
	struct bio io = {
		.op = v->op,
		.q_id = v->q_id,
		.flags = v->flags < 0 ? 0 : v->flags ? v->flags : batch_flags(s),
		.elem_bytes = v->bytes ? v->bytes : right,
		.elems = buf,
		.nr = 1,
		.sqe_flags = v->sqe_flags,
		.cmd_flags = v->cmd_flags,
		.group = set->b.group,
	};
	int own = set->own, other = !own;
	struct elem *first = buf;

	memset(buf, 0, 64 * sizeof(struct elem));
	switch (v->elems) {
	case OWN:
		batch_elems(s, buf, own, own + 1, 4096);
		break;
	case OTHER:
		batch_elems(s, buf, other, other + 1, 4096);
		break;
	case BOTH:
		buf = batch_elems(s, buf, own, own + 1, 4096);
		batch_elems(s, buf, other, other + 1, 4096);
		io.nr = 2;
		break;
	case TWICE:
		buf = batch_elems(s, buf, own, own + 1, 4096);
		batch_elems(s, buf, own, own + 1, 4096);
		io.nr = 2;
		break;
	case BAD_TAG:
		batch_elems(s, buf, own, own + 1, 4096);
		first->tag = s->depth;
		break;
	case GOOD_BAD:
		buf = batch_elems(s, buf, other, other + 1, 4096);
		batch_elems(s, buf, own, own + 1, 4096);
		*(__u16 *)buf = s->depth;
		io.nr = 2;
		break;
	case LAST_TAG:
		batch_elems(s, buf, own, own + 1, 4096);
		first->tag = 65535;
		break;
	case NO_ADDR:
		batch_elems(s, buf, own, own + 1, 4096);
		if (right == 16)
			first->addr = 0;
		break;
	case NONE:
		io.nr = 0;
		break;
	case UNMAPPED:
		io.elems = BAD_ADDR;
		break;
	case TOO_MANY:
		io.nr = s->depth + 1;
		break;
	}
	return io;
}

static void each_variant(const void *arg)
{
	const struct place *place = arg;
	const char *state = str("batch, %s, %s", place->mode->name,
				batch_state_name[place->state]);
	struct setting *set = calloc(1, sizeof(*set));
	char buf[64 * sizeof(struct elem)];
	bool fresh = false;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(variants); i++) {
		const struct variant *v = &variants[i];
		struct bio io;
		int res;

		if (!fresh)
			enter(set, place);
		io = command_of(set, v, buf);
		res = bring_wait(&set->b, bring_send(&set->b, &io),
				 v->op == FETCH || v->op == 0x27 ? 50 : 500, NULL);
		/* a refused command has changed nothing */
		fresh = res < 0 || (!res && !io.nr);
		if (fresh || !set->io.pid)
			put(state, v->cmd, v->arg, "%s", res_name(res));
		else
			put(state, v->cmd, v->arg, "%s, user %s", res_name(res),
			    res_name(block_wait(&set->io, 1000)));
		if (!fresh)
			leave(set);
	}
	if (!fresh)
		enter(set, place);
	for (i = 0; i < ARRAY_SIZE(others); i++) {
		struct io io = { .op = others[i].op };
		int tag;

		for (tag = 0; tag < 3; tag++) {
			io.tag = tag == 2 ? 2 : tag ? !set->own : set->own;
			io.addr = 3;
			put(state, others[i].cmd, tag == 2 ? "tag = depth" : tag ? "other tag" : "",
			    "%s", res_name(srv_do(&set->s, &io)));
		}
		io.q_id = 1;
		put(state, others[i].cmd, "queue 1", "%s", res_name(srv_do(&set->s, &io)));
	}
	leave(set);
}

/* What becomes of a device of that depth, and of flags together with it */
static void add_batch(const void *arg)
{
	static const int depths[] = { 1, 2, 3, 4096 };
	static const struct {
		const char *name;
		__u64 flags;
	} flags[] = {
		{ "alone", 0 },
		{ "NEED_GET_DATA", UBLK_F_NEED_GET_DATA },
		{ "PER_IO_DAEMON", UBLK_F_PER_IO_DAEMON },
		{ "USER_COPY", UBLK_F_USER_COPY },
		{ "AUTO_BUF_REG", UBLK_F_AUTO_BUF_REG },
		{ "ZERO_COPY", UBLK_F_SUPPORT_ZERO_COPY },
		{ "recovery", UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(depths); i++) {
		struct ublksrv_ctrl_dev_info info = default_info(UBLK_F_BATCH_IO);
		int id;

		info.queue_depth = depths[i];
		id = add_info(&info);
		put("absent", "ADD_DEV batch", str("depth %d", depths[i]), "%s",
		    id < 0 ? res_name(id) : "ok");
		if (id >= 0)
			delete_dev(id);
	}
	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		struct ublksrv_ctrl_dev_info info = default_info(UBLK_F_BATCH_IO |
								 flags[i].flags);
		int id = add_info(&info);

		put("absent", "ADD_DEV batch", flags[i].name, "%s, flags %llx",
		    id < 0 ? res_name(id) : "ok", (unsigned long long)info.flags);
		if (id >= 0)
			delete_dev(id);
	}
}

/* Nothing is half done: what a PREP that failed has begun can be done again */
static void prep_again(const void *arg)
{
	struct elem elems[3];
	struct bring *b;
	struct srv s;
	void *end;
	struct bio io = {
		.op = PREP,
		.elems = elems,
	};

	b = calloc(1, sizeof(*b));
	srv_open(&s, UBLK_F_BATCH_IO, NULL);
	bring_init(b, &s, false);
	io.flags = batch_flags(&s);
	io.elem_bytes = batch_bytes(&s);
	io.nr = 2;
	end = batch_elems(&s, elems, 0, 1, 0);
	batch_elems(&s, end, 0, 1, 0);
	put("batch, open", "PREP", "twice the same tag", "%s", res_name(bring_do(b, &io)));
	put("batch, open", "PREP", "after that", "%s", res_name(batch_prep(b, 0, 0, 1)));
	put("batch, open", "PREP", "the same again", "%s", res_name(batch_prep(b, 0, 0, 1)));
	put("batch, open", "PREP", "both", "%s", res_name(batch_prep(b, 0, 0, 2)));
	put("batch, open", "PREP", "the other", "%s", res_name(batch_prep(b, 0, 1, 2)));
	put("batch, open", "PREP", "too late", "%s", res_name(batch_prep(b, 0, 1, 2)));
	srv_close(&s);
}

/* What a FETCH gets in buffers of that many bytes */
static void buffers(const void *arg)
{
	struct blk_io io[2] = {};
	struct setting *set = calloc(1, sizeof(*set));
	struct place place = { &modes[0], PREPARED };
	struct bring *b = &set->b;
	int tag = -1, res;

	enter(set, &place);
	srv_start(&set->s);
	/* there are requests before there is a command, and no buffer */
	block_start(&io[0], set->s.id, B_READ, 8, 4096);
	block_start(&io[1], set->s.id, B_READ, 80, 4096);
	usleep(100000);
	res = bring_wait(b, bring_fetch(b, 0), 500, NULL);
	put("batch, has requests", "FETCH", "no buffer", "%s", res_name(res));
	bring_provide(b, 0, 1, BAD_ADDR);
	res = bring_wait(b, bring_fetch(b, 0), 500, NULL);
	put("batch, has requests", "FETCH", "unmapped buffer", "%s", res_name(res));
	/* it is still the next one */
	bring_no_bufs(b);
	bring_provide(b, 1, 1, NULL);
	bring_provide(b, 2, 1, NULL);
	set->fetch = bring_fetch(b, 0);
	for (;;) {
		res = batch_request(b, set->fetch, 300, &tag);
		put("batch, has requests", "FETCH", "two buffers for one tag each", "%s",
		    res_name(res));
		if (res <= 0 || res == BLOCKS)
			break;
		put("batch, has requests", "COMMIT", "", "%s",
		    res_name(batch_commit(b, 0, tag, 4096)));
	}
	put("batch, has requests", "users", "", "%s %s", res_name(block_wait(&io[0], 2000)),
	    res_name(block_wait(&io[1], 2000)));
	leave(set);
}

void group_batch(void)
{
	unsigned int i;
	int state;

	run("batch add", add_batch, NULL);
	run("batch prep", prep_again, NULL);
	run("batch buffers", buffers, NULL);
	for (i = 0; i < ARRAY_SIZE(modes); i++) {
		for (state = 0; state < NR_BATCH_STATES; state++) {
			struct place place = { &modes[i], state };

			bool quiesces = modes[i].flags & UBLK_F_QUIESCE;

			/* in any mode these are the same */
			if (state == QUIESCED ? !quiesces :
			    i && state != HAS_READ && state != HAS_FLUSH && state != OPEN)
				continue;
			run(str("batch, %s, %s", modes[i].name, batch_state_name[state]),
			    each_variant, &place);
		}
	}
}
