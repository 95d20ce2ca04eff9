// SPDX-License-Identifier: GPL-2.0
/* batch_fuzz: commands of the server, right or wrong, but for commits. */
#include "batch_fuzz_srv.h"

void send_fetch(struct thread *t, int q_id, bool no_group)
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

void bad_fetch(struct thread *t)
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

void legacy(struct thread *t)
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
void cancel_fetch(struct thread *t)
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
int send_list(struct thread *t, struct list *l)
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

struct elem *add_elem(struct thread *t, struct list *l, int tag, int result)
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

struct list new_list(struct thread *t, __u32 op)
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
void close_list(struct thread *t, struct list *l)
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

void add_wrong(struct thread *t, struct list *l)
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

void prepare(struct thread *t)
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
