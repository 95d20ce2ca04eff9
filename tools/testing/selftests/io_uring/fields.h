/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a secondary may say in each field of its SQE: a group with anything else is
 * refused. What is not listed could let pages be used after the lease, or count
 * bytes that were not moved.
 */
#ifndef SELFTESTS_IO_URING_FIELDS_H
#define SELFTESTS_IO_URING_FIELDS_H

#include <stddef.h>
#include <linux/types.h>

/* A field of some opcodes, and the bits that may be set in it */
struct field {
	const char *name;
	size_t offset, size;
	__u64 allowed;
	/* one or the other has to be there */
	__u64 with;
	__u8 ops[9];
};

/* The last one has no name. */
extern const struct field fields[];

#endif
