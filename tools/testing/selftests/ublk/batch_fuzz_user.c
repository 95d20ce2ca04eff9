// SPDX-License-Identifier: GPL-2.0
/* batch_fuzz: a client with many requests at once, which knows what it has written. */
#include "batch_fuzz.h"

static struct place {
	unsigned int sector;
	__u64 *buf;
	bool write;
	int sectors;
	__u32 next;
	/* what a sector may have: a write that failed may have been done */
	__u32 old[PLACE_SECTORS], new[PLACE_SECTORS];
} places[NR_PLACES];

__u64 word(unsigned int sector, __u32 version)
{
	return (__u64)sector << 32 | version;
}

static void start_one(struct io_uring *ring, int fd, struct place *p, unsigned int *seed)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	int i, j;

	p->sectors = 1 + below(seed, PLACE_SECTORS);
	p->write = once_in(seed, 2);
	p->next++;
	for (i = 0; i < p->sectors; i++) {
		for (j = 0; j < 64; j++)
			p->buf[i * 64 + j] = p->write ? word(p->sector + i, p->next) : ~0ULL;
		if (p->write)
			p->new[i] = p->next;
	}
	if (p->write)
		io_uring_prep_write(sqe, fd, p->buf, p->sectors << 9, p->sector << 9);
	else
		io_uring_prep_read(sqe, fd, p->buf, p->sectors << 9, p->sector << 9);
	io_uring_sqe_set_data(sqe, p);
}

static void check_data(struct place *p)
{
	int i, j;

	for (i = 0; i < p->sectors; i++) {
		__u64 first = p->buf[i * 64];

		if (first < word(p->sector + i, p->old[i]) ||
		    first > word(p->sector + i, p->new[i]))
			wrong("sector %u has %llx, not version %u to %u", p->sector + i,
			      (unsigned long long)first, p->old[i], p->new[i]);
		for (j = 1; j < 64; j++)
			if (p->buf[i * 64 + j] != first)
				wrong("sector %u has two versions", p->sector + i);
	}
}

/* Whether the client goes on */
static bool end_one(struct place *p, int res)
{
	int i;

	if (res == p->sectors << 9) {
		add(sh->got_data, 1);
		for (i = 0; i < p->sectors && p->write; i++)
			p->old[i] = p->new[i];
		if (!p->write && sh->plan.wild != SPOIL)
			check_data(p);
		return true;
	}
	switch (res) {
	case WILD_RESULT:
		add(sh->got_wild, 1);
		return true;
	case FAIL_RESULT:
		add(sh->got_fail, 1);
		return true;
	case -EIO:
		if (get(sh->stopping))
			return false;
		/* that of a server that was killed */
		if (get(sh->killing) && sh->plan.ending != REISSUED)
			return sh->plan.ending == RECOVERED;
		wrong("a %s of %d sectors at %u failed", p->write ? "write" : "read", p->sectors,
		      p->sector);
	default:
		if (get(sh->stopping) || (get(sh->killing) && sh->plan.ending == KILLED))
			return false;
		wrong("a %s of %d sectors at %u: %s", p->write ? "write" : "read", p->sectors,
		      p->sector, res_name(res));
	}
}

void client(void)
{
	unsigned int seed = sh->plan.seed + 99;
	int fd, i, flying = 0, left = sh->plan.requests;
	struct io_uring_cqe *cqe;
	struct io_uring ring;

	fd = open(str("/dev/ublkb%d", sh->id), O_RDWR | O_DIRECT | O_CLOEXEC);
	if (fd < 0 || io_uring_queue_init(64, &ring, 0))
		wrong("no disk: %d", errno);
	set(sh->got_disk, 1);
	for (i = 0; i < NR_PLACES; i++) {
		places[i].sector = i * STRIDE;
		if (posix_memalign((void **)&places[i].buf, 4096, 4096))
			wrong("no memory");
		start_one(&ring, fd, &places[i], &seed);
		flying++;
		left--;
	}
	while (flying) {
		io_uring_submit_and_wait(&ring, 1);
		while (!io_uring_peek_cqe(&ring, &cqe)) {
			struct place *p = io_uring_cqe_get_data(cqe);

			if (!end_one(p, cqe->res))
				left = 0;
			io_uring_cqe_seen(&ring, cqe);
			flying--;
			/* there are never so few requests that none meet */
			if (left > 0) {
				start_one(&ring, fd, p, &seed);
				flying++;
				left--;
			}
		}
	}
	io_uring_queue_exit(&ring);
	close(fd);
}
