// SPDX-License-Identifier: GPL-2.0
/*
 * The random numbers of a round of fused_fuzz, which are the same each time
 */
#include "fused_fuzz.h"

unsigned int rnd(struct fuzz *f, unsigned int below)
{
	/* splitmix64 */
	unsigned long long z = f->rng += 0x9e3779b97f4a7c15ULL;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return below ? (z ^ z >> 31) % below : 0;
}

bool one_in(struct fuzz *f, unsigned int n)
{
	return !rnd(f, n);
}

__u32 around(struct fuzz *f, __u32 limit)
{
	switch (rnd(f, 6)) {
	case 0:
		return rnd(f, 5);
	case 1:
		return limit - rnd(f, 5);
	case 2:
		return 4096 * rnd(f, limit / 4096 + 1) + rnd(f, 3) - 1;
	default:
		return rnd(f, limit + 1);
	}
}
