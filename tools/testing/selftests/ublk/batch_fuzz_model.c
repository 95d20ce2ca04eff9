// SPDX-License-Identifier: GPL-2.0
/*
 * batch_fuzz: what the commands of a server may answer.
 *
 * A tag is locked by who has a command about it under way, so that what is known
 * of it is exact, but for one thing: it may be that the driver has told us of a
 * request, and we have not looked yet. A commit of such a tag may be accepted or
 * not. With SPOIL, others commit what they like without a lock; what is left is
 * that in the end we were told as often as we have committed.
 */
#include "batch_fuzz.h"

/* Bytes of elements that the driver reads at once */
#define CHUNK	480

enum { ACCEPT = 1, BUSY = 2, INVAL = 4 };

struct tag tags[MAX_QUEUES][MAX_TAGS];
pthread_mutex_t prep_lock = PTHREAD_MUTEX_INITIALIZER;
static int nr_prepared;

int list_flags(void)
{
	switch (sh->plan.mode) {
	case COPY:
		return UBLK_BATCH_F_HAS_BUF_ADDR;
	case AUTO_REG:
		return UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK;
	default:
		return 0;
	}
}

int list_bytes(void)
{
	return sh->plan.mode == COPY ? 16 : 8;
}

static bool is_tag(const struct elem *e)
{
	return e->tag < sh->plan.depth;
}

void list_lock(struct list *l)
{
	int i;

	for (i = 0; i < l->nr && l->q_id < sh->plan.queues; i++)
		if (is_tag(&l->elem[i]))
			l->locked |= 1ULL << l->elem[i].tag;
	/* in the order of the tags, so that nobody waits in a circle */
	for (i = 0; i < MAX_TAGS; i++)
		if (l->locked >> i & 1)
			pthread_mutex_lock(&tags[l->q_id][i].lock);
}

void list_unlock(struct list *l)
{
	int i;

	for (i = 0; i < MAX_TAGS; i++)
		if (l->locked >> i & 1)
			pthread_mutex_unlock(&tags[l->q_id][i].lock);
	l->locked = 0;
}

/* What is wrong with a command before its elements are looked at */
static int head_error(const struct list *l)
{
	if (l->q_id >= sh->plan.queues)
		return -EINVAL;
	if (l->says > sh->plan.depth)
		return -E2BIG;
	if (l->bytes != list_bytes())
		return -EINVAL;
	/* without a fall back is right as well */
	if ((l->flags | UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK) !=
	    (list_flags() | UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK))
		return -EINVAL;
	if (l->flags & UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK && sh->plan.mode != AUTO_REG)
		return -EINVAL;
	return 0;
}

static bool no_buffer(const struct elem *e)
{
	return sh->plan.mode == COPY && !e->addr;
}

static int prep_expected(const struct list *l)
{
	int left = sh->plan.queues * sh->plan.depth - nr_prepared;
	int err = head_error(l), i, j;

	if (err)
		return err;
	if (l->readable < l->says * l->bytes)
		return -EFAULT;
	for (i = 0; i < l->says; i++) {
		const struct elem *e = &l->elem[i];

		if (!is_tag(e) || no_buffer(e))
			return -EINVAL;
		if (i == left)
			return -EBUSY;
		if (tags[l->q_id][e->tag].prepared)
			return -EINVAL;
		for (j = 0; j < i; j++)
			if (l->elem[j].tag == e->tag)
				return -EINVAL;
	}
	return 0;
}

static void set_next(struct tag *t, const struct elem *e)
{
	t->addr = e->addr;
	t->index = e->index;
}

int prep_judge(struct list *l, int res)
{
	int want = prep_expected(l), i;

	/* nobody is prepared for a server that is sent away */
	if (want == -EBUSY && res == -ENODEV && get(sh->stopping))
		want = res;
	if (res != want)
		wrong("PREP of %d of queue %d, first tag %d: %s, not %s", l->says, l->q_id,
		      l->elem[0].tag, res_name(res), res_name(want));
	if (res || !l->says)
		return 0;
	for (i = 0; i < l->says; i++) {
		tags[l->q_id][l->elem[i].tag].prepared = true;
		set_next(&tags[l->q_id][l->elem[i].tag], &l->elem[i]);
	}
	nr_prepared += l->says;
	if (nr_prepared == sh->plan.queues * sh->plan.depth)
		set(sh->all_prepared, 1);
	return l->says;
}

/* What may become of the element, if those before it were accepted */
static int allowed(const struct list *l, int at)
{
	const struct elem *e = &l->elem[at];
	bool seen;
	int i, may;

	if (!is_tag(e))
		return INVAL;
	seen = l->locked && tags[l->q_id][e->tag].seen;
	for (i = 0; i < at; i++)
		if (l->elem[i].tag == e->tag)
			seen = false;
	may = no_buffer(e) ? INVAL : ACCEPT;
	return seen && sh->plan.wild != SPOIL ? may : may | BUSY;
}

static void accepted(const struct list *l, int at)
{
	const struct elem *e = &l->elem[at];
	struct tag *t = &tags[l->q_id][e->tag];

	add(t->accepted, 1);
	if (e->result == WILD_RESULT)
		add(sh->wild, 1);
	if (e->result == FAIL_RESULT)
		add(sh->fail, 1);
	if (!l->locked)
		return;
	if (t->seen)
		t->seen = false;
	else
		t->debt++;
	set_next(t, e);
}

int commit_judge(struct list *l, int res)
{
	int err = head_error(l), done = res / (l->bytes ? l->bytes : 1), at, whole = l->says;

	if (err || !l->says) {
		if (res != err)
			wrong("COMMIT of %d of queue %d: %s, not %s", l->says, l->q_id,
			      res_name(res), res_name(err));
		return 0;
	}
	if (l->readable < l->says * l->bytes)
		whole = l->readable / CHUNK * CHUNK / l->bytes;
	if (!whole) {
		if (res != -EFAULT)
			wrong("COMMIT of what can not be read: %s", res_name(res));
		return 0;
	}
	if (res < 0) {
		int may = allowed(l, 0);

		if (!(res == -EBUSY && may & BUSY) && !(res == -EINVAL && may & INVAL))
			wrong("COMMIT of tag %d of queue %d: %s, may be %d", l->elem[0].tag,
			      l->q_id, res_name(res), may);
		return 0;
	}
	if (!res || res % l->bytes || done > whole)
		wrong("COMMIT of %d of queue %d returns %d bytes", l->says, l->q_id, res);
	/* each is judged by what those before it have left */
	for (at = 0; at < done; at++)
		if (!(allowed(l, at) & ACCEPT))
			wrong("COMMIT accepts tag %d of queue %d", l->elem[at].tag, l->q_id);
	if (done < whole && allowed(l, done) == ACCEPT)
		wrong("COMMIT stops at tag %d of queue %d", l->elem[done].tag, l->q_id);
	for (at = 0; at < done; at++)
		accepted(l, at);
	return done;
}

bool tag_told(int q_id, int tag)
{
	struct tag *t = &tags[q_id][tag];
	bool ours = true;

	pthread_mutex_lock(&t->lock);
	t->told++;
	if (!t->prepared)
		wrong("told of tag %d of queue %d, which is not prepared", tag, q_id);
	if (sh->plan.wild == SPOIL) {
		t->seen = true;
	} else if (t->debt) {
		/* it was committed before we knew */
		t->debt--;
		ours = false;
	} else {
		if (t->seen)
			wrong("told of tag %d of queue %d again", tag, q_id);
		t->seen = true;
	}
	pthread_mutex_unlock(&t->lock);
	return ours;
}

void model_check(void)
{
	int q, i;

	for (q = 0; q < sh->plan.queues; q++)
		for (i = 0; i < sh->plan.depth; i++)
			if (tags[q][i].told != tags[q][i].accepted)
				wrong("tag %d of queue %d: told %u times, committed %u times", i, q,
				      tags[q][i].told, tags[q][i].accepted);
}
