// SPDX-License-Identifier: GPL-2.0
/*
 * IORING_OP_FUSED_CMD with vectored secondaries: an array of pieces in the
 * server's memory, each a range of the leased buffer, for one stretch of a file.
 * What they leave out of a buffer that is kept is in fused_kept.c.
 */
#include <sys/uio.h>
#include "fixture.h"

/* Offsets into the lease, in place of addresses */
#define PIECE(offset, length)	{ (void *)(uintptr_t)(offset), length }

static __u64 ptr(const void *p)
{
	return (uintptr_t)p;
}

/* In both forms: what takes its buffer from a lease needs no number of one. */
static const int reads[] = { IORING_OP_READV, IORING_OP_READV_FIXED };
static const int writes[] = { IORING_OP_WRITEV, IORING_OP_WRITEV_FIXED };

/* uapi: one file, several pieces, one secondary */
TEST_F(fused, readv)
{
	const struct iovec vec[] = {
		PIECE(20000, 5000), PIECE(1, 4095), PIECE(4096, 1), PIECE(BUFFER_LEN - 10, 10),
	};
	int i;

	for (i = 0; i < 2; i++) {
		SET_BUFFER(0, 9);
		LEND_DEST(BUFFER_LEN);
		ADD(reads[i], self->file, ptr(vec), 4, 777);
		EXPECT_GROUP(9106, 9106);
		GET_BUFFER(0);
		EXPECT_TRUE(is_pattern(self->buf, 9, 0, 1));
		EXPECT_TRUE(is_pattern(self->buf + 1, 0, 5777, 4096));
		EXPECT_TRUE(is_pattern(self->buf + 4097, 9, 4097, 20000 - 4097));
		EXPECT_TRUE(is_pattern(self->buf + 20000, 0, 777, 5000));
		EXPECT_TRUE(is_pattern(self->buf + 25000, 9, 25000, BUFFER_LEN - 25010));
		EXPECT_TRUE(is_pattern(self->buf + BUFFER_LEN - 10, 0, 9873, 10));
	}
}

TEST_F(fused, writev)
{
	const struct iovec vec[] = { PIECE(30000, 10000), PIECE(0, 1), PIECE(4095, 4098) };
	int i;

	for (i = 0; i < 2; i++) {
		SET_BUFFER(0, 3 + i);
		LEND_SRC(BUFFER_LEN);
		ADD(writes[i], self->file, ptr(vec), 3, 500);
		EXPECT_GROUP(14099, 14099);
		ASSERT_EQ(14099, pread(self->file, self->buf, 14099, 500));
		EXPECT_TRUE(is_pattern(self->buf, 3 + i, 30000, 10000));
		EXPECT_TRUE(is_pattern(self->buf + 10000, 3 + i, 0, 1));
		EXPECT_TRUE(is_pattern(self->buf + 10001, 3 + i, 4095, 4098));
	}
}

/* the buffer may start in the middle of a page of the driver's */
TEST_F(fused, part_of_a_buffer)
{
	const struct iovec vec[] = { PIECE(8000, 1000), PIECE(0, 100) };

	SET_BUFFER(0, 2);
	INIT(OP_LEND, 0, 9000);
	group_cmd(&self->g)->offset = 4096 + 7;
	ADD(IORING_OP_READV, self->file, ptr(vec), 2, 0);
	EXPECT_GROUP(1100, 1100);
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf, 2, 0, 4103));
	EXPECT_TRUE(is_pattern(self->buf + 4103, 0, 1000, 100));
	EXPECT_TRUE(is_pattern(self->buf + 4203, 2, 4203, 7900));
	EXPECT_TRUE(is_pattern(self->buf + 12103, 0, 0, 1000));
	EXPECT_TRUE(is_pattern(self->buf + 13103, 2, 13103, BUFFER_LEN - 13103));
}

/* beside others in one group, as many pieces as there may be */
TEST_F(fused, many_pieces)
{
	struct iovec vec[1024];
	int i;

	/* every second 32 bytes, from the end to the start */
	for (i = 0; i < 1024; i++)
		vec[i] = (struct iovec)PIECE((1023 - i) * 64, 32);
	SET_BUFFER(0, 7);
	LEND_DEST(BUFFER_LEN);
	ADD_READ(32, 32, 0);
	ADD(IORING_OP_READV, self->file, ptr(vec), 1024, 0);
	ADD(IORING_OP_READV, self->file, ptr(vec + 5), 1, 100);
	/* the same piece again and again is read over itself */
	EXPECT_GROUP(32 + 32768 + 32, 32, 32768, 32);
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf + 32, 0, 0, 32));
	for (i = 0; i < 1024; i++) {
		if (i != 5)
			ASSERT_TRUE(is_pattern(self->buf + (1023 - i) * 64, 0, i * 32, 32))
				TH_LOG("piece %d", i);
		if (i != 1023)
			ASSERT_TRUE(is_pattern(self->buf + (1023 - i) * 64 + 32, 7,
					       (1023 - i) * 64 + 32, 32)) TH_LOG("gap %d", i);
	}
}

/* uapi: a range outside the buffer gives that secondary -EFAULT */
TEST_F(fused, piece_outside)
{
	static const struct iovec bad[] = {
		PIECE(8192, 1), PIECE(8191, 2), PIECE(0, 8193), PIECE(-1UL, 2),
		PIECE(-512UL, 1024), PIECE(1UL << 62, 1),
		/* as of registered buffers: one without a byte */
		PIECE(4096, 0),
	};
	struct iovec vec[3] = { PIECE(0, 512), { }, PIECE(512, 512) };
	int i, k;

	for (k = 0; k < (int)ARRAY_SIZE(bad); k++) {
		vec[1] = bad[k];
		for (i = 0; i < 2; i++) {
			SET_BUFFER(0, 7);
			LEND_DEST(8192);
			ADD(reads[i], self->file, ptr(vec), 3, 0);
			ADD_READ(4096, 512, 0);
			EXPECT_GROUP(-EFAULT, -EFAULT, 512);
			/* none of its other pieces either */
			GET_BUFFER(0);
			EXPECT_TRUE(is_pattern(self->buf, 7, 0, 4096));
			LEND_SRC(8192);
			ADD(writes[i], self->file, ptr(vec), 3, FILE_LEN);
			EXPECT_GROUP(-EFAULT, -EFAULT);
			EXPECT_EQ(0, pread(self->file, self->buf, 1, FILE_LEN));
		}
	}
	/* none at all moves nothing */
	LEND_DEST(8192);
	ADD(IORING_OP_READV, self->file, ptr(vec), 0, 0);
	EXPECT_GROUP(0, 0);
}

/* pieces may overlap, but those of a read are no more than the buffer in all */
TEST_F(fused, more_than_all)
{
	const struct iovec vec[] = { PIECE(0, 4096), PIECE(0, 4096), PIECE(4095, 1) };
	int i;

	for (i = 0; i < 2; i++) {
		LEND_DEST(8192);
		ADD(reads[i], self->file, ptr(vec), 3, FILE_LEN);
		EXPECT_GROUP(-EINVAL, -EINVAL);
		SET_BUFFER(0, 5);
		LEND_DEST(8193);
		ADD(reads[i], self->file, ptr(vec), 3, FILE_LEN);
		EXPECT_GROUP(0, 0);
		GET_BUFFER(0);
		EXPECT_TRUE(all_are(self->buf, 0, 4096));
		EXPECT_TRUE(is_pattern(self->buf + 4096, 5, 4096, BUFFER_LEN - 4096));
		/* what only reads the buffer may do it twice */
		LEND_SRC(8192);
		ADD(writes[i], self->file, ptr(vec), 3, 0);
		EXPECT_GROUP(8193, 8193);
	}
}

/* a malformed secondary: nothing is issued */
TEST_F(fused, bad_array)
{
	struct iovec vec[] = { PIECE(0, 512), PIECE(0, -1UL) };
	char *page;

	page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, page);
	ASSERT_EQ(0, munmap(page + 4096, 4096));
	memcpy(page + 4096 - 8 - sizeof(vec), vec, sizeof(vec));
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	/* not readable, in part or at all */
	ADD(IORING_OP_READV, self->file, ptr(page + 4096 - 8), 1, 0);
	EXPECT_GROUP(-EFAULT, -ECANCELED, -ECANCELED);
	LEND_SRC(4096);
	ADD(IORING_OP_WRITEV_FIXED, self->file, 8, 1, 0);
	EXPECT_GROUP(-EFAULT, -ECANCELED);
	/* too many, more than a number of bytes has room for */
	LEND_DEST(4096);
	ADD(IORING_OP_READV, self->file, ptr(page), 1025, 0);
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	LEND_DEST(4096);
	ADD(IORING_OP_READV, self->file, ptr(vec), 2, 0);
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	munmap(page, 4096);
}

/* uapi: the array is read once, when it is submitted */
TEST_F(fused, array_is_read_once)
{
	struct iovec vec[] = { PIECE(4096, 512), PIECE(0, 512) };
	struct io_uring_sqe before[2] = { {
		.opcode = IORING_OP_READ,
		.addr = ptr(self->buf),
		.len = 1,
		.off = -1,
		.flags = IOSQE_IO_LINK,
		.user_data = UD_OTHER,
	} };
	struct log log = { };
	int fd[2];

	ASSERT_EQ(0, pipe(fd));
	before->fd = fd[0];
	SET_BUFFER(0, 7);
	/* the group waits for the pipe */
	push_sqe(&self->ring, before);
	LEND_DEST(BUFFER_LEN);
	ADD(IORING_OP_READV, self->file, ptr(vec), 2, 0);
	group_push(&self->g);
	ASSERT_LT(0, ring_submit(&self->ring));
	memset(vec, 0xff, sizeof(vec));
	ASSERT_EQ(1, write(fd[1], "x", 1));
	EXPECT_EQ(1, log_until(&log, &self->ring, UD_OTHER));
	log.nr = 0;
	EXPECT_CQES(&log, 1024, 1024);
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf, 0, 512, 512));
	EXPECT_TRUE(is_pattern(self->buf + 4096, 0, 0, 512));
	close(fd[0]);
	close(fd[1]);
}

/* uapi: what a short read did not fill of its ranges is zeroed */
TEST_F(fused, short_read)
{
	const struct iovec vec[] = { PIECE(30000, 4000), PIECE(100, 5000), PIECE(9000, 10) };
	struct log log = { };
	int fd[2];

	/* in the middle of a piece, between two, before the first */
	SET_BUFFER(0, 5);
	LEND_DEST(BUFFER_LEN);
	ADD(IORING_OP_READV, self->file, ptr(vec), 3, FILE_LEN - 7000);
	EXPECT_GROUP(7000, 7000);
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf, 5, 0, 100));
	EXPECT_TRUE(is_pattern(self->buf + 100, 0, FILE_LEN - 3000, 3000));
	EXPECT_TRUE(all_are(self->buf + 3100, 0, 2000));
	EXPECT_TRUE(is_pattern(self->buf + 5100, 5, 5100, 3900));
	EXPECT_TRUE(all_are(self->buf + 9000, 0, 10));
	EXPECT_TRUE(is_pattern(self->buf + 9010, 5, 9010, 30000 - 9010));
	EXPECT_TRUE(is_pattern(self->buf + 30000, 0, FILE_LEN - 7000, 4000));
	EXPECT_TRUE(is_pattern(self->buf + 34000, 5, 34000, BUFFER_LEN - 34000));

	SET_BUFFER(0, 5);
	LEND_DEST(BUFFER_LEN);
	ADD(IORING_OP_READV_FIXED, self->file, ptr(vec), 3, FILE_LEN - 4000);
	ADD(IORING_OP_READV, self->file, ptr(vec + 2), 1, FILE_LEN);
	EXPECT_GROUP(4000, 4000, 0);
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf + 30000, 0, FILE_LEN - 4000, 4000));
	EXPECT_TRUE(all_are(self->buf + 100, 0, 5000));
	EXPECT_TRUE(all_are(self->buf + 9000, 0, 10));

	/* from what has to be polled for, and says it though it skips */
	ASSERT_EQ(0, pipe(fd));
	SET_BUFFER(0, 5);
	LEND_DEST(BUFFER_LEN);
	ADD(IORING_OP_READV, fd[0], ptr(vec), 3, -1)->flags |= IOSQE_CQE_SKIP_SUCCESS;
	group_push(&self->g);
	ASSERT_LT(0, ring_submit(&self->ring));
	fill(self->buf, 1, 0, 4100);
	ASSERT_EQ(4100, write(fd[1], self->buf, 4100));
	EXPECT_CQES(&log, 4100, 4100);
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf + 30000, 1, 0, 4000));
	EXPECT_TRUE(is_pattern(self->buf + 100, 1, 4000, 100));
	EXPECT_TRUE(all_are(self->buf + 200, 0, 4900));
	EXPECT_TRUE(all_are(self->buf + 9000, 0, 10));
	EXPECT_TRUE(is_pattern(self->buf + 5100, 5, 5100, 3900));
	close(fd[0]);
	close(fd[1]);
}

/* a full one does not */
TEST_F(fused, skip)
{
	const struct iovec vec[] = { PIECE(0, 512), PIECE(1024, 512) };
	int i;

	for (i = 0; i < 2; i++) {
		LEND_DEST(4096);
		ADD(reads[i], self->file, ptr(vec), 2, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
		EXPECT_GROUP(1024, NO_CQE);
		LEND_SRC(4096);
		ADD(writes[i], self->file, ptr(vec), 2, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
		EXPECT_GROUP(1024, NO_CQE);
	}
}

/* past the page cache, pieces are as aligned as memory of the server's must be */
TEST_F(fused, direct)
{
	/* null_blk asks for even ones */
	const struct iovec bad[] = { PIECE(0, 101), PIECE(4096, 411) };
	const struct iovec good[] = { PIECE(4096, 512), PIECE(0, 512) };
	int i, disk = open("/dev/nullb0", O_RDWR | O_DIRECT);

	if (disk < 0)
		SKIP(return, "no null_blk");
	for (i = 0; i < 2; i++) {
		LEND_DEST(8192);
		ADD(reads[i], disk, ptr(bad), 2, 0);
		ADD(IORING_OP_READ, disk, 101, 512, 0);
		ADD(reads[i], disk, ptr(good), 2, 0);
		EXPECT_GROUP(-EINVAL, -EINVAL, -EINVAL, 1024);
		LEND_SRC(8192);
		ADD(writes[i], disk, ptr(bad), 2, 0);
		ADD(IORING_OP_WRITE, disk, 101, 512, 0);
		ADD(writes[i], disk, ptr(good), 2, 0);
		EXPECT_GROUP(-EINVAL, -EINVAL, -EINVAL, 1024);
	}
	LEND_DEST(8192);
	ADD(IORING_OP_READ, disk, 0, 0, 0);
	EXPECT_GROUP(0, 0);
	close(disk);
}

/* in a regular file to 512 bytes: what its device asks for, its superblock need not say */
TEST_F(fused, direct_file)
{
	/* good for most devices */
	const struct iovec bad[] = { PIECE(0, 508), PIECE(4096, 516) };
	const struct iovec good[] = { PIECE(4096, 512), PIECE(0, 512) };
	char path[32];
	int i, file;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", self->file);
	file = open(path, O_RDWR | O_DIRECT);
	if (file < 0)
		SKIP(return, "no O_DIRECT in memory");
	for (i = 0; i < 2; i++) {
		SET_BUFFER(0, 9);
		LEND_DEST(8192);
		ADD(reads[i], file, ptr(bad), 2, 0);
		ADD(IORING_OP_READ, file, 256, 512, 0);
		ADD(IORING_OP_READ, file, 0, 508, 0);
		ADD(reads[i], file, ptr(good), 2, 512);
		EXPECT_GROUP(-EINVAL, -EINVAL, -EINVAL, -EINVAL, 1024);
		GET_BUFFER(0);
		EXPECT_TRUE(is_pattern(self->buf, 0, 1024, 512));
		EXPECT_TRUE(is_pattern(self->buf + 512, 9, 512, 4096 - 512));
		EXPECT_TRUE(is_pattern(self->buf + 4096, 0, 512, 512));
		/* the rest is as it is without O_DIRECT */
		LEND_DEST(8192);
		ADD(IORING_OP_READ, self->file, 256, 508, 0);
		EXPECT_GROUP(508, 508);
	}
	for (i = 0; i < 2; i++) {
		LEND_SRC(8192);
		ADD(writes[i], file, ptr(bad), 2, 0);
		ADD(IORING_OP_WRITE, file, 256, 512, 0);
		ADD(IORING_OP_WRITE, file, 0, 508, 0);
		ADD(writes[i], file, ptr(good), 2, 4096);
		EXPECT_GROUP(-EINVAL, -EINVAL, -EINVAL, -EINVAL, 1024);
		ASSERT_EQ(1024, pread(self->file, self->buf, 1024, 0));
		EXPECT_TRUE(is_pattern(self->buf, 0, 0, 1024));
	}
	close(file);
}

/* without a lease, the pieces are memory of the server's */
TEST_F(fused, no_buffer)
{
	struct iovec vec[] = { { self->buf + 2000, 100 }, { self->buf, 100 } };

	memset(self->buf, 0xee, BUFFER_LEN);
	INIT(OP_START, 0, 0);
	ADD(IORING_OP_READV, self->file, ptr(vec), 2, FILE_LEN - 150);
	EXPECT_GROUP(150, 150);
	EXPECT_TRUE(is_pattern(self->buf + 2000, 0, FILE_LEN - 150, 100));
	EXPECT_TRUE(is_pattern(self->buf, 0, FILE_LEN - 50, 50));
	EXPECT_TRUE(all_are(self->buf + 50, 0xee, 1950));
}

/* canceled while it waits, or gone with its ring: the buffer is back */
TEST_F(fused, canceled)
{
	const struct iovec vec[] = { PIECE(0, 512), PIECE(1024, 512) };
	struct log log = { };
	int fd[2];

	ASSERT_EQ(0, pipe(fd));
	LEND_DEST(4096);
	ADD(IORING_OP_READV, fd[0], ptr(vec), 2, -1);
	group_push(&self->g);
	ASSERT_LT(0, ring_submit(&self->ring));
	EXPECT_TRUE(canceled(cancel_all(&log, &self->ring, UD_PRIMARY)));
	EXPECT_TRUE(canceled(log_res(&log, 0)));
	LEND_DEST(4096);
	ADD(IORING_OP_READV, self->file, ptr(vec), 2, 0);
	EXPECT_GROUP(1024, 1024);
	LEND_DEST(4096);
	ADD(IORING_OP_READV, fd[0], ptr(vec), 2, -1);
	group_push(&self->g);
	ASSERT_LT(0, ring_submit(&self->ring));
	close(fd[0]);
	close(fd[1]);
}

TEST_HARNESS_MAIN
