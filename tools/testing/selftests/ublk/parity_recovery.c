// SPDX-License-Identifier: GPL-2.0
/* parity: what becomes of requests when the server goes, and when another one comes. */
#include "parity.h"

static const struct policy {
	const char *name;
	__u64 flags;
} policies[] = {
	{ "no recovery", 0 },
	{ "recovery", UBLK_F_USER_RECOVERY },
	{ "reissue", UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE },
	{ "fail io", UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_FAIL_IO },
	{ "recovery, get data", UBLK_F_USER_RECOVERY | UBLK_F_NEED_GET_DATA },
	{ "reissue, get data", UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE |
		UBLK_F_NEED_GET_DATA },
	{ "reissue, user copy", UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE |
		UBLK_F_USER_COPY },
	{ "reissue, auto", UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE |
		UBLK_F_AUTO_BUF_REG },
	{ "fail io, zero copy", UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_FAIL_IO |
		UBLK_F_SUPPORT_ZERO_COPY },
};

enum end { CLOSE, QUIESCE, STOP, DELETE };

static const char *const end_name[] = { "close", "quiesce", "stop", "delete" };

struct arg {
	const struct policy *policy;
	enum block_op op;
	enum end end;
};

static int by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Serve what arrives for a while, in any order; which requests that were */
static const char *serve(struct srv *s)
{
	const char *all = "", *got[4];
	int tag, i, n = 0;

	while (n < (int)ARRAY_SIZE(got) && (tag = srv_request(s, 150)) >= 0) {
		const struct ublksrv_io_desc *desc = srv_desc(s, tag);

		got[n++] = str(" op %u at %llu", ublksrv_get_op(desc),
			       (unsigned long long)desc->start_sector);
		if (s->flags & UBLK_F_NEED_GET_DATA && ublksrv_get_op(desc) == 1) {
			struct io get = {
				.op = UBLK_U_IO_NEED_GET_DATA, .tag = tag,
				.addr = (unsigned long)s->buf[tag],
			};

			srv_do(s, &get);
		}
		srv_commit(s, tag, desc->nr_sectors << 9);
	}
	qsort(got, n, sizeof(*got), by_text);
	for (i = 0; i < n; i++)
		all = str("%s%s", all, got[i]);
	return n ? all : " nothing";
}

static void server_goes(const void *arg)
{
	const struct arg *a = arg;
	const char *state = str("%s, %s pending", a->policy->name, block_op_name[a->op]);
	const char *end = end_name[a->end];
	struct blk_io pending, later, last;
	int tag, res, id;
	struct srv s;
	__u64 idle;

	srv_live(&s, a->policy->flags | UBLK_F_QUIESCE * !!a->policy->flags, NULL);
	id = s.id;
	block_start(&pending, id, a->op, 8, a->op == B_FLUSH ? 0 : 4096);
	tag = srv_request(&s, 5000);
	if (tag < 0)
		give_up("no request", block_wait(&pending, 0));
	idle = s.waiting[!tag];
	switch (a->end) {
	case CLOSE:
		break;
	case QUIESCE:
		res = ctrl_simple(id, UBLK_U_CMD_QUIESCE_DEV, NULL, 0, 500);
		put(state, end, "", "%s", res_name(res));
		put(state, end, "idle command", "%s", res_name(srv_wait(&s, idle, 200)));
		block_start(&last, id, B_READ, 64, 4096);
		s.owned[tag] = false;
		put(state, end, "new READ", "%s",
		    srv_request(&s, 200) >= 0 ? "arrives" : res_name(block_wait(&last, 0)));
		/* the request that it still has, with a command for more */
		srv_commit(&s, tag, 4096);
		put(state, end, "pending committed", "%s", res_name(block_wait(&pending, 500)));
		put(state, end, "its command", "%s",
		    s.waiting[tag] ? res_name(srv_wait(&s, s.waiting[tag], 200)) : "gone");
		put(state, end, "new READ, later", "%s", res_name(block_wait(&last, 0)));
		break;
	case STOP:
	case DELETE:
		/* waits for the request, which the server does not serve */
		res = ctrl_simple(id, a->end == STOP ? UBLK_U_CMD_STOP_DEV :
				  UBLK_U_CMD_DEL_DEV_ASYNC, NULL, 0, 0);
		put(state, end, "", "%s", res_name(res));
		put(state, end, "pending", "%s", res_name(block_wait(&pending, 0)));
		put(state, end, "idle command", "%s", res_name(srv_wait(&s, idle, 200)));
		break;
	}
	srv_close(&s);
	if (a->end == STOP || a->end == DELETE) {
		put(state, end, "server gone", "%s", res_name(ctrl_pending(5000)));
		put(state, end, "server gone, pending", "%s",
		    res_name(block_wait(&pending, 3000)));
		return;
	}
	wait_dev_state(id, !a->policy->flags ? UBLK_S_DEV_DEAD :
		       a->policy->flags & UBLK_F_USER_RECOVERY_FAIL_IO ?
		       UBLK_S_DEV_FAIL_IO : UBLK_S_DEV_QUIESCED);
	usleep(100000);
	put(state, end, "state", "%s%s", dev_state(id), has_disk(id) ? ", disk" : "");
	if (a->end == CLOSE)
		put(state, end, "pending", "%s", res_name(block_wait(&pending, 300)));
	else
		put(state, end, "new READ, server gone", "%s",
		    res_name(block_wait(&last, 300)));
	block_start(&later, id, B_READ, 128, 4096);
	put(state, end, "READ without a server", "%s", res_name(block_wait(&later, 300)));

	res = ctrl_simple(id, UBLK_U_CMD_START_USER_RECOVERY, NULL, 0, 0);
	put(state, end, "START_USER_RECOVERY", "%s", res_name(res));
	if (res) {
		block_kill(&later);
		return;
	}
	srv_attach(&s);
	put(state, end, "START_USER_RECOVERY, server there", "%s",
	    res_name(ctrl_simple(id, UBLK_U_CMD_START_USER_RECOVERY, NULL, 0, 0)));
	srv_fetch(&s, 0, DEPTH);
	put(state, end, "START_USER_RECOVERY, fetched", "%s",
	    res_name(ctrl_simple(id, UBLK_U_CMD_START_USER_RECOVERY, NULL, 0, 0)));
	if (later.pid)
		put(state, end, "READ, fetched", "%s", res_name(block_wait(&later, 100)));
	put(state, end, "END_USER_RECOVERY, wrong pid", "%s",
	    res_name(ctrl_simple(id, UBLK_U_CMD_END_USER_RECOVERY, NULL, 0, 1)));
	put(state, end, "END_USER_RECOVERY", "%s",
	    res_name(ctrl_simple(id, UBLK_U_CMD_END_USER_RECOVERY, NULL, 0, getpid())));
	put(state, end, "END_USER_RECOVERY again", "%s",
	    res_name(ctrl_simple(id, UBLK_U_CMD_END_USER_RECOVERY, NULL, 0, getpid())));
	if (a->end == CLOSE && pending.pid) {
		put(state, end, "new server gets", "%s", serve(&s));
		put(state, end, "pending, new server", "%s",
		    res_name(block_wait(&pending, 1000)));
	} else if (later.pid) {
		/* in which order they come depends */
		put(state, end, "new server gets something", "%d",
		    !!strcmp(serve(&s), " nothing"));
	}
	if (later.pid)
		put(state, end, "READ, new server", "%s", res_name(block_wait(&later, 1000)));
	block_start(&last, id, B_READ, 256, 4096);
	put(state, end, "another READ", "%s", serve(&s));
	put(state, end, "another READ, end", "%s", res_name(block_wait(&last, 1000)));
	put(state, end, "state at the end", "%s", dev_state(id));
	block_kill(&last);
	block_kill(&pending);
}

/* The device is started, stopped and started again by one process */
static void again(const void *arg)
{
	const struct policy *policy = arg;
	const char *state = policy->name;
	struct blk_io io;
	struct srv s;
	int round, disk;

	srv_open(&s, policy->flags, NULL);
	for (round = 0; round < 3; round++) {
		const char *what = str("round %d", round);

		srv_fetch(&s, 0, DEPTH);
		put(state, "START_DEV", what, "%s", res_name(start(s.id, getpid())));
		block_start(&io, s.id, B_READ, 8, 4096);
		put(state, "READ", what, "%s", serve(&s));
		put(state, "READ, end", what, "%s", res_name(block_wait(&io, 1000)));
		put(state, "STOP_DEV", what, "%s",
		    res_name(ctrl_simple(s.id, UBLK_U_CMD_STOP_DEV, NULL, 0, 0)));
		srv_close(&s);
		wait_closed(s.id);
		srv_attach(&s);
	}
	/* somebody still has the disk open */
	srv_fetch(&s, 0, DEPTH);
	srv_start(&s);
	disk = open(str("/dev/ublkb%d", s.id), O_RDONLY);
	put(state, "STOP_DEV", "disk open", "%s",
	    res_name(ctrl_simple(s.id, UBLK_U_CMD_STOP_DEV, NULL, 0, 0)));
	srv_close(&s);
	wait_closed(s.id);
	srv_attach(&s);
	srv_fetch(&s, 0, DEPTH);
	put(state, "START_DEV", "the last disk still open", "%s",
	    res_name(start(s.id, getpid())));
	close(disk);
	usleep(100000);
	put(state, "START_DEV", "the last disk closed", "%s", res_name(start(s.id, getpid())));
}

void group_recovery(void)
{
	static const enum block_op ops[] = { B_READ, B_WRITE, B_FLUSH };
	unsigned int i, o;
	int end;

	for (i = 0; i < ARRAY_SIZE(policies); i++) {
		for (o = 0; o < ARRAY_SIZE(ops); o++) {
			for (end = CLOSE; end <= DELETE; end++) {
				struct arg a = { &policies[i], ops[o], end };

				if (end == QUIESCE && !policies[i].flags)
					continue;
				if (end != CLOSE && o > 1)
					continue;
				/* the server's way to the data does not matter */
				if (end > QUIESCE && (o || i > 3))
					continue;
				run(str("%s, %s, %s", policies[i].name,
					block_op_name[ops[o]], end_name[end]),
				    server_goes, &a);
			}
		}
		if (i < 4)
			run(str("again, %s", policies[i].name), again, &policies[i]);
	}
}
