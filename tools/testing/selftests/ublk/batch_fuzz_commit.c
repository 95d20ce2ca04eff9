// SPDX-License-Identifier: GPL-2.0
/* batch_fuzz: the server works on requests, and commits them, right or wrong. */
#include "batch_fuzz_srv.h"

static pthread_mutex_t disk_lock = PTHREAD_MUTEX_INITIALIZER;

static const struct ublksrv_io_desc *desc_of(int q_id, int tag)
{
	return (const void *)(descs[q_id] + tag * sizeof(struct ublksrv_io_desc));
}

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

void commit(struct thread *t)
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

void spoil(struct thread *t)
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
