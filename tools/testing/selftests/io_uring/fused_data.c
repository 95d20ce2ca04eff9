// SPDX-License-Identifier: GPL-2.0
/*
 * IORING_OP_FUSED_CMD: what moves through a leased buffer, and what the CQEs
 * say about it. Sockets are in fused_sock.c.
 */
#include "fixture.h"

/* Which bytes a secondary moves ------------------------------------------- */

/* uapi: READ and READ_FIXED write the buffer, at an offset */
TEST_F(fused, read)
{
	static const int ops[] = { IORING_OP_READ, IORING_OP_READ_FIXED };
	int i;

	for (i = 0; i < 2; i++) {
		SET_BUFFER(0, 9);
		LEND_DEST(BUFFER_LEN);
		ADD(ops[i], self->file, 1000, 30000, 12345);
		EXPECT_GROUP(30000, 30000);
		GET_BUFFER(0);
		EXPECT_TRUE(is_pattern(self->buf, 9, 0, 1000));
		EXPECT_TRUE(is_pattern(self->buf + 1000, 0, 12345, 30000));
		EXPECT_TRUE(is_pattern(self->buf + 31000, 9, 31000, BUFFER_LEN - 31000));
	}
}

/* uapi: WRITE and WRITE_FIXED read it */
TEST_F(fused, write)
{
	static const int ops[] = { IORING_OP_WRITE, IORING_OP_WRITE_FIXED };
	int i;

	for (i = 0; i < 2; i++) {
		SET_BUFFER(0, 3 + i);
		LEND_SRC(BUFFER_LEN);
		ADD(ops[i], self->file, 5000, 20001, 777);
		EXPECT_GROUP(20001, 20001);
		ASSERT_EQ(20001, pread(self->file, self->buf, 20001, 777));
		EXPECT_TRUE(is_pattern(self->buf, 3 + i, 5000, 20001));
	}
}

/* the buffer may start in the middle of a page of the driver's */
TEST_F(fused, part_of_a_buffer)
{
	SET_BUFFER(0, 2);
	INIT(OP_LEND, 0, 9000);
	group_cmd(&self->g)->offset = 4096 + 7;
	ADD_READ(0, 1000, 0);
	ADD_READ(8000, 1000, 1000);
	EXPECT_GROUP(2000, 1000, 1000);
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf, 2, 0, 4103));
	EXPECT_TRUE(is_pattern(self->buf + 4103, 0, 0, 1000));
	EXPECT_TRUE(is_pattern(self->buf + 5103, 2, 5103, 7000));
	EXPECT_TRUE(is_pattern(self->buf + 12103, 0, 1000, 1000));
	EXPECT_TRUE(is_pattern(self->buf + 13103, 2, 13103, BUFFER_LEN - 13103));
}

/* uapi: any sub-range, overlapping ones too */
TEST_F(fused, ranges)
{
	LEND_DEST(BUFFER_LEN);
	ADD_READ(0, 1, 0);
	ADD_READ(1, 4095, 1);
	ADD_READ(4096, 8192, 4096);
	ADD_READ(BUFFER_LEN - 1, 1, BUFFER_LEN - 1);
	ADD_READ(4000, 200, 4000);
	ADD_READ(0, 0, 0);
	ADD_READ(BUFFER_LEN, 0, 0);
	EXPECT_GROUP(1 + 4095 + 8192 + 1 + 200, 1, 4095, 8192, 1, 200, 0, 0);
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf, 0, 0, 12288));
	EXPECT_TRUE(all_are(self->buf + 12288, 0, BUFFER_LEN - 12289));
	EXPECT_TRUE(is_pattern(self->buf + BUFFER_LEN - 1, 0, BUFFER_LEN - 1, 1));
}

/* uapi: a range outside the buffer gives that secondary -EFAULT */
TEST_F(fused, range_outside)
{
	int sock[2];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
	LEND_DEST(8192);
	ADD_READ(0, 512, 0);
	ADD_READ(8192, 1, 0);
	ADD_READ(8191, 2, 0);
	ADD_READ(0, 8193, 0);
	ADD_READ(-1ULL, 2, 0);
	ADD_READ(1ULL << 63, 1, 0);
	ADD_READ(0, -1, 0);
	ADD(IORING_OP_RECV, sock[0], 8000, 193, 0);
	ADD_READ(7680, 512, 0);
	EXPECT_GROUP(-EFAULT, 512, -EFAULT, -EFAULT, -EFAULT, -EFAULT, -EFAULT, -EFAULT,
		     -EFAULT, 512);
	LEND_SRC(8192);
	ADD(IORING_OP_SEND, sock[0], 8192, 1, 0);
	ADD(IORING_OP_WRITE, self->file, 4097, 4096, 0);
	EXPECT_GROUP(-EFAULT, -EFAULT, -EFAULT);
	LEND_SRC(8192);
	ADD(IORING_OP_SEND, sock[0], -512ULL, 1024, 0);
	EXPECT_GROUP(-EFAULT, -EFAULT);
	close(sock[0]);
	close(sock[1]);
}

/* uapi: up to 64 secondaries */
TEST_F(fused, max_secondaries)
{
	int i, want[IORING_FUSED_MAX_SECONDARY];

	LEND_DEST(BUFFER_LEN);
	for (i = 0; i < IORING_FUSED_MAX_SECONDARY; i++) {
		ADD_READ(i * 1024, 1024, i * 1024);
		want[i] = 1024;
	}
	ASSERT_EQ(NULL, group_run(&self->g, BUFFER_LEN, i, want));
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf, 0, 0, BUFFER_LEN));
}

/* uapi: without IORING_FUSED_CMD_BUF secondaries are what they always are */
TEST_F(fused, no_buffer)
{
	INIT(OP_START, 0, 0);
	ADD(IORING_OP_READ, self->file, (uintptr_t)self->buf, 4000, 100);
	EXPECT_GROUP(4000, 4000);
	EXPECT_TRUE(is_pattern(self->buf, 0, 100, 4000));
	INIT(OP_START, 0, 0);
	ADD(IORING_OP_READ, self->file, (uintptr_t)self->buf, 4000, 200);
	ADD(IORING_OP_READ, self->file, 16, 4000, 200);
	ADD(IORING_OP_WRITE, self->file, (uintptr_t)self->buf, 10, FILE_LEN);
	EXPECT_GROUP(-EFAULT, 4000, -EFAULT, 10);
	/* fixed ones, of the ring's own table */
	{
		struct iovec vec = { self->buf, FILE_LEN };

		INIT(OP_START, 0, 0);
		ADD(IORING_OP_READ_FIXED, self->file, (uintptr_t)self->buf, 512, 0);
		EXPECT_GROUP(-EFAULT, -EFAULT);
		ASSERT_EQ(0, ring_register(&self->ring, IORING_REGISTER_BUFFERS, &vec, 1));
		INIT(OP_START, 0, 0);
		ADD(IORING_OP_READ_FIXED, self->file, (uintptr_t)self->buf, 512, 0);
		EXPECT_GROUP(512, 512);
	}
}

/* What the CQEs say ------------------------------------------------------- */

/* uapi: the sum saturates at INT_MAX */
TEST_F(fused, sum_saturates)
{
	const int most = 0x7ffff000;
	int null = open("/dev/null", O_WRONLY);

	INIT(OP_START, 0, 0);
	ADD(IORING_OP_WRITE, null, 4096, most, 0);
	EXPECT_GROUP(most, most);
	INIT(OP_START, 0, 0);
	ADD(IORING_OP_WRITE, null, 4096, most, 0);
	ADD(IORING_OP_WRITE, null, 4096, 4095, 0);
	EXPECT_GROUP(INT_MAX, most, 4095);
	INIT(OP_START, 0, 0);
	ADD(IORING_OP_WRITE, null, 4096, most, 0);
	ADD(IORING_OP_WRITE, null, 4096, most, 0);
	ADD(IORING_OP_WRITE, null, 4096, most, 0);
	EXPECT_GROUP(INT_MAX, most, most, most);
	close(null);
}

/* uapi: the first error in SQE order, whatever came first in time */
TEST_F(fused, first_error)
{
	struct log log = { };
	int sock[2];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	ADD(IORING_OP_READ, -1, 0, 512, 0);
	ADD_READ(4096, 512, 0);
	EXPECT_GROUP(-EBADF, 512, -EBADF, -EFAULT);
	/* the first one fails last */
	LEND_DEST(4096);
	ADD(IORING_OP_RECV, sock[0], 0, 512, 0);
	ADD(IORING_OP_READ, -1, 0, 512, 0);
	group_push(&self->g);
	ASSERT_EQ(3, ring_submit(&self->ring));
	ASSERT_EQ(-EBADF, log_until(&log, &self->ring, 1));
	log_rest(&log, &self->ring, 20);
	ASSERT_EQ(1, log.nr);
	ASSERT_EQ(0, cancel_one(&log, &self->ring, 0));
	ASSERT_NE(NO_CQE, log_until(&log, &self->ring, UD_PRIMARY));
	/* a worker is interrupted instead */
	EXPECT_TRUE(canceled(log_res(&log, 0)));
	EXPECT_EQ(log_res(&log, 0), log_res(&log, UD_PRIMARY));
	close(sock[0]);
	close(sock[1]);
}

/* uapi: CQE_SKIP_SUCCESS on secondaries: one CQE, unless one fails */
TEST_F(fused, skip_success)
{
	LEND_DEST(4096);
	ADD_READ(0, 512, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
	EXPECT_GROUP(512, NO_CQE);
	LEND_DEST(4096);
	ADD_READ(0, 512, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
	ADD_READ(512, 512, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
	EXPECT_GROUP(1024, NO_CQE, NO_CQE);
	LEND_DEST(4096);
	ADD_READ(0, 512, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
	ADD_READ(4096, 512, 0)->flags |= IOSQE_CQE_SKIP_SUCCESS;
	EXPECT_GROUP(-EFAULT, NO_CQE, -EFAULT);
}

/* the primary may be quiet as well */
TEST_F(fused, skip_primary)
{
	struct log log = { };

	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	self->g.primary->flags = IOSQE_CQE_SKIP_SUCCESS;
	group_push(&self->g);
	ASSERT_LT(0, ring_submit(&self->ring));
	ASSERT_EQ(512, log_until(&log, &self->ring, 0));
	/* it is over when the buffer is back */
	while (pread(self->dev, self->buf, 512, 0) != 512) {
		ASSERT_EQ(EBUSY, errno);
		log_rest(&log, &self->ring, 1);
	}
	log_rest(&log, &self->ring, 20);
	EXPECT_EQ(1, log.nr);
}

/* Short reads ------------------------------------------------------------- */

/* uapi: what a short read did not fill of its range is zeroed */
TEST_F(fused, short_read)
{
	SET_BUFFER(0, 5);
	LEND_DEST(BUFFER_LEN);
	ADD_READ(100, 20000, FILE_LEN - 7000);
	ADD_READ(30000, 500, FILE_LEN);
	EXPECT_GROUP(7000, 7000, 0);
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf, 5, 0, 100));
	EXPECT_TRUE(is_pattern(self->buf + 100, 0, FILE_LEN - 7000, 7000));
	EXPECT_TRUE(all_are(self->buf + 7100, 0, 13000));
	EXPECT_TRUE(is_pattern(self->buf + 20100, 5, 20100, 9900));
	EXPECT_TRUE(all_are(self->buf + 30000, 0, 500));
	EXPECT_TRUE(is_pattern(self->buf + 30500, 5, 30500, BUFFER_LEN - 30500));
}

/* but not memory of the server's, without a lease */
TEST_F(fused, short_read_no_buffer)
{
	struct iovec vec = { self->buf, BUFFER_LEN };

	ASSERT_EQ(0, ring_register(&self->ring, IORING_REGISTER_BUFFERS, &vec, 1));
	memset(self->buf, 0xee, BUFFER_LEN);
	INIT(OP_START, 0, 0);
	ADD(IORING_OP_READ, self->file, (uintptr_t)self->buf, 1000, FILE_LEN - 10);
	ADD(IORING_OP_READ_FIXED, self->file, (uintptr_t)self->buf + 2000, 1000, FILE_LEN - 10);
	EXPECT_GROUP(20, 10, 10);
	EXPECT_TRUE(all_are(self->buf + 10, 0xee, 1990));
	EXPECT_TRUE(all_are(self->buf + 2010, 0xee, 1990));
}

/* URING_CMD --------------------------------------------------------------- */

/* uapi: URING_CMD with FIXED. Its result is what the command says */
TEST_F(fused, uring_cmd)
{
	LEND_DEST(4096);
	group_add_cmd(&self->g, self->dev, 123);
	EXPECT_GROUP(123, 123);
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	group_add_cmd(&self->g, self->dev, -EIO);
	EXPECT_GROUP(-EIO, 512, -EIO);
	/* in a group without a buffer, too */
	INIT(OP_START, 0, 0);
	group_add_cmd(&self->g, self->dev, 0);
	EXPECT_GROUP(0, 0);
}

/* an inline secondary, and the primary before it, have 64 bytes each */
TEST_F(fused, sqe_size)
{
	bool wide = SQE128_RING;
	int i, res;

	/* the only secondary, which may be inline, then two */
	for (i = 1; i <= 2; i++) {
		res = wide && !(INLINE_FORM && i == 1);
		INIT(OP_START, 0, 0);
		while (self->g.nr < i)
			group_add_cmd(&self->g, self->dev, 0)->cmd_op = OP_IS_128;
		if (i == 1)
			EXPECT_GROUP(res, res);
		else
			EXPECT_GROUP(2 * res, res, res);
		INIT(OP_IS_128, 0, 0);
		while (self->g.nr < i)
			ADD(IORING_OP_READ, self->file, (uintptr_t)self->buf, 512, 0);
		if (res)
			EXPECT_GROUP(-EPERM, -ECANCELED, i == 2 ? -ECANCELED : NO_CQE);
		else
			EXPECT_GROUP(512 * i, 512, i == 2 ? 512 : NO_CQE);
	}
}

/* Files ------------------------------------------------------------------- */

/* uapi: fixed files, of the primary and of the secondaries */
TEST_F(fused, fixed_files)
{
	int fds[2] = { self->file, self->dev };

	ASSERT_EQ(0, ring_register(&self->ring, IORING_REGISTER_FILES, fds, 2));
	LEND_DEST(4096);
	self->g.primary->fd = 1;
	self->g.primary->flags = IOSQE_FIXED_FILE;
	ADD(IORING_OP_READ, 0, 0, 512, 100)->flags |= IOSQE_FIXED_FILE;
	ADD_READ(512, 512, 0);
	EXPECT_GROUP(1024, 512, 512);
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf, 0, 100, 512));
	LEND_DEST(4096);
	ADD(IORING_OP_READ, 7, 0, 512, 0)->flags |= IOSQE_FIXED_FILE;
	EXPECT_GROUP(-EBADF, -EBADF);
}

/* what is known of a registered file is with its index: this one never waits */
TEST_F(fused, fixed_file_nowait)
{
	struct io_uring_sqe rd[2] = { { .opcode = IORING_OP_READ, .flags = IOSQE_FIXED_FILE,
					.rw_flags = RWF_NOWAIT, .len = 100,
					.user_data = UD_OTHER } };
	struct log log = { };
	int fd = open("/dev/zero", O_RDONLY);

	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ring_register(&self->ring, IORING_REGISTER_FILES, &fd, 1));
	rd->addr = (uintptr_t)self->buf;
	push_sqe(&self->ring, rd);
	ASSERT_LT(0, ring_submit(&self->ring));
	/* else -EAGAIN, and without RWF_NOWAIT it would be read by a worker */
	EXPECT_EQ(100, log_until(&log, &self->ring, UD_OTHER));
	close(fd);
}

/* files that answer -EAGAIN: the secondary is polled for */
TEST_F(fused, pipe)
{
	struct log log = { };
	int fd[2];

	ASSERT_EQ(0, pipe(fd));
	SET_BUFFER(0, 7);
	LEND_DEST(BUFFER_LEN);
	ADD(IORING_OP_READ, fd[0], 10, 4000, -1);
	ADD_READ(5000, 512, 0);
	group_push(&self->g);
	ASSERT_LT(0, ring_submit(&self->ring));
	ASSERT_EQ(512, log_until(&log, &self->ring, 1));
	/* meanwhile the driver does not have it */
	EXPECT_EQ(-1, pread(self->dev, self->buf, 512, 0));
	EXPECT_EQ(EBUSY, errno);
	fill(self->buf, 1, 0, 100);
	ASSERT_EQ(100, write(fd[1], self->buf, 100));
	EXPECT_CQES(&log, 612, 100, 512);
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf + 10, 1, 0, 100));
	EXPECT_TRUE(all_are(self->buf + 110, 0, 3900));
	EXPECT_TRUE(is_pattern(self->buf + 4010, 7, 4010, 990));
	close(fd[0]);
	close(fd[1]);
}

/* many groups at once, each with a buffer of its own, or one that is taken */
TEST_F(fused, many_groups)
{
	struct log log = { };
	int i;

	for (i = 0; i < NR_BUFFERS + 4; i++) {
		LEND_DEST(BUFFER_LEN);
		group_cmd(&self->g)->buffer = i % NR_BUFFERS;
		self->g.primary->user_data = UD_PRIMARY + i;
		ADD_READ(0, 1000, i)->flags |= IOSQE_CQE_SKIP_SUCCESS;
		group_push(&self->g);
	}
	/* a refused group does not end the submission: it is not malformed */
	ASSERT_LT(0, ring_submit(&self->ring));
	for (i = 0; i < NR_BUFFERS + 4; i++) {
		int res = log_until(&log, &self->ring, UD_PRIMARY + i);

		if (i < NR_BUFFERS || res != -EBUSY)
			EXPECT_EQ(1000, res);
	}
	for (i = 4; i < NR_BUFFERS; i++) {
		GET_BUFFER(i);
		EXPECT_TRUE(is_pattern(self->buf, 0, i, 1000));
	}
}

TEST_HARNESS_MAIN
