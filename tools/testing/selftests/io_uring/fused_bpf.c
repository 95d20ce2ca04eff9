// SPDX-License-Identifier: GPL-2.0
/*
 * Rings whose wait loop is a BPF program (io_uring/loop.c): it waits for just
 * the CQEs that a group posts, without a time-out, and has to wake up for each
 * kind of secondary. A task that is not woken is killed by the harness.
 */
#include <bpf/libbpf.h>
#include "fixture.h"
#include "fused_bpf.h"
#include "ways.h"

#define PROGRAM		"fused_loop.bpf.o"

/* A ring with its loop */
struct looped {
	struct ring ring;
	struct bpf_object *obj;
	struct bpf_link *link;
	struct loop *loop;
};

static void looped_exit(struct looped *l)
{
	bpf_link__destroy(l->link);
	bpf_object__close(l->obj);
	ring_exit(&l->ring);
}

/* NULL, or what does not work */
static const char *looped_init(struct looped *l, const struct mode *mode)
{
	struct bpf_map *ops, *data;
	__u32 *ring_fd;
	size_t len;

	if (mode_ring(mode, &l->ring, RING_ENTRIES))
		return "no ring";
	l->obj = bpf_object__open_file(PROGRAM, NULL);
	if (!l->obj)
		return "cannot open " PROGRAM;
	ops = bpf_object__find_map_by_name(l->obj, "loop_ops");
	data = bpf_object__find_map_by_name(l->obj, ".data.loop");
	if (!ops || !data)
		return "no such maps";
	/* behind the only function */
	ring_fd = bpf_map__initial_value(ops, &len) + sizeof(void *);
	*ring_fd = l->ring.fd;
	if (bpf_object__load(l->obj))
		return "cannot load the program";
	l->loop = bpf_map__initial_value(data, &len);
	l->loop->cq_tail_off = l->ring.p.cq_off.tail;
	l->link = bpf_map__attach_struct_ops(ops);
	if (!l->link)
		return "cannot give the ring its loop";
	return NULL;
}

/* Have the loop submit what was pushed, and sleep until there are @nr_cqes */
static int looped_wait(struct looped *l, struct pending *p, unsigned int nr_cqes)
{
	unsigned int nr = l->ring.tail - *l->ring.sq_tail;
	int ret;

	l->loop->submitted = -1;
	l->loop->steps = 0;
	l->loop->wait_idx = *l->ring.cq_tail + nr_cqes;
	l->loop->submit = nr;
	ret = way_wait(p, &l->ring, nr_cqes);
	if (!ret && l->loop->submitted != (int)nr)
		ret = -EIO;
	return ret;
}

/* Why there is no such loop here */
static const char *why_not(const struct mode *mode)
{
	if (mode->ring_flags & IORING_SETUP_SQPOLL)
		return "such rings have no loop";
	if (access("/sys/kernel/btf/vmlinux", R_OK))
		return "no BTF, see CONFIG_IO_URING_BPF_OPS";
	return NULL;
}

/* A group of the kind @p */
static void push_way(struct group *g, struct looped *l, const struct mode *mode,
		     int dev, struct pending *p, unsigned int primary_flags, bool skip)
{
	group_init(g, &l->ring, mode, dev, OP_LEND, p->way->writes ? 0 : LEND_SOURCE,
		   BUFFER_LEN);
	g->primary->flags = primary_flags;
	way_add(p, g, dev, skip);
	group_push(g);
}

/* Nothing but what is waited for, and the primary's CQE the last */
TEST_F(fused, loop)
{
	struct pending p = { .nr = WAY_MOST };
	struct mode mode = variant->mode;
	struct looped l = { };
	struct cqe cqe = { };
	const char *wrong;
	int skip, nr, i;

	if (why_not(&mode))
		SKIP(return, "%s", why_not(&mode));
	mode.ring_flags |= DEFER;
	wrong = looped_init(&l, &mode);
	ASSERT_EQ(NULL, wrong) TH_LOG("%s: %s", wrong, strerror(errno));
	signal(SIGPIPE, SIG_IGN);
	for (skip = 0; skip < 2; skip++) {
		while (way_next(&p, self->buf)) {
			if (skip && p.way->no_skip)
				continue;
			nr = p.nr * (skip ? 0 : p.way->nr_cqes) + 1;
			push_way(&self->g, &l, &mode, self->dev, &p, 0, skip);
			ASSERT_EQ(0, looped_wait(&l, &p, nr)) TH_LOG("%s", p.way->name);
			for (i = 0; i < nr; i++) {
				ASSERT_TRUE(ring_wait(&l.ring, &cqe, 0))
					TH_LOG("%s x %d, skip %d: %d of %d CQEs",
					       p.way->name, p.nr, skip, i, nr);
				EXPECT_TRUE(way_is_fine(p.way, cqe.res))
					TH_LOG("%s: CQE %d is %d", p.way->name, i, cqe.res);
			}
			EXPECT_EQ(UD_PRIMARY, cqe.user_data) TH_LOG("%s", p.way->name);
			ASSERT_EQ(0, ring_nr_cqes(&l.ring)) TH_LOG("%s", p.way->name);
		}
	}
	looped_exit(&l);
}

/* The same for a group that is drained, and for what is drained behind it */
TEST_F(fused, loop_drain)
{
	struct pending p = { .nr = WAY_MOST };
	struct mode mode = variant->mode;
	struct looped l = { };
	struct io_uring_sqe gate[2] = { {
		.opcode = IORING_OP_READ,
		.addr = (uintptr_t)self->buf,
		.len = 1,
		.off = -1,
		.user_data = UD_OTHER,
	} };
	struct cqe cqe = { };
	const char *wrong;
	int nr, i;

	if (why_not(&mode))
		SKIP(return, "%s", why_not(&mode));
	mode.ring_flags |= DEFER;
	wrong = looped_init(&l, &mode);
	ASSERT_EQ(NULL, wrong) TH_LOG("%s: %s", wrong, strerror(errno));
	signal(SIGPIPE, SIG_IGN);
	ASSERT_EQ(0, gate_open(&p));
	gate->fd = p.gate[0];
	while (way_next(&p, self->buf)) {
		nr = p.nr * p.way->nr_cqes + 1;
		push_sqe(&l.ring, gate);
		push_way(&self->g, &l, &mode, self->dev, &p, IOSQE_IO_DRAIN, false);
		push_nop(&l.ring, UD_OTHER + 1, IOSQE_IO_DRAIN);
		ASSERT_EQ(0, looped_wait(&l, &p, nr + 2)) TH_LOG("%s", p.way->name);
		for (i = 0; i < nr + 2; i++) {
			ASSERT_TRUE(ring_wait(&l.ring, &cqe, 0))
				TH_LOG("%s: %d of %d CQEs", p.way->name, i, nr + 2);
			if (i == 0)
				EXPECT_EQ(UD_OTHER, cqe.user_data);
			if (i == nr)
				EXPECT_EQ(UD_PRIMARY, cqe.user_data);
		}
		EXPECT_EQ(UD_OTHER + 1, cqe.user_data) TH_LOG("%s", p.way->name);
		ASSERT_EQ(0, ring_nr_cqes(&l.ring)) TH_LOG("%s", p.way->name);
	}
	gate_close(&p);
	looped_exit(&l);
}

TEST_HARNESS_MAIN
