// SPDX-License-Identifier: GPL-2.0
/* fused_cmd_errors: cases about data. */
#include "fused_errors.h"

void test_read(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	int res;

	primary(s, tag, 1);
	secondary(s, 0, IORING_OP_READ, 0, LEN, 1000);
	EXPECT(s, LEN, LEN);
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the block read ends with %d", res);
	CHECK(!differs(block_buf(s), 0, 1000, LEN), "wrong data");
}

void test_write(struct server *s)
{
	unsigned char *content = malloc(FILE_LEN);
	int tag = block_io_start(s, UBLK_IO_OP_WRITE);
	int res;

	primary(s, tag, 1);
	secondary(s, 0, IORING_OP_WRITE, 0, LEN, 1000);
	EXPECT(s, LEN, LEN);
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the block write ends with %d", res);
	CHECK(pread(s->file, content, FILE_LEN, 0) == FILE_LEN, "cannot read the file");
	CHECK(!differs(content, 0, 0, 1000) &&
	      !differs(content + 1000, 1, 0, LEN) &&
	      !differs(content + 1000 + LEN, 0, 1000 + LEN, FILE_LEN - LEN - 1000),
	      "wrong data");
	free(content);
}

void test_ranges(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	unsigned char *buf = block_buf(s);
	int res;

	/* odd places and lengths, one across a page, one at the very end */
	primary(s, tag, 4);
	secondary(s, 0, IORING_OP_READ, 1, 510, 0);
	secondary(s, 1, IORING_OP_READ, 4000, 5000, 10000);
	secondary(s, 2, IORING_OP_READ, LEN - 7, 7, 3);
	secondary(s, 3, IORING_OP_READ, 20000, 0, 0);
	EXPECT(s, 510 + 5000 + 7, 510, 5000, 7, 0);
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the block read ends with %d", res);
	CHECK(buf[0] == 0xee && !differs(buf + 1, 0, 0, 510) &&
	      all_are(buf + 511, 0xee, 4000 - 511) &&
	      !differs(buf + 4000, 0, 10000, 5000) &&
	      all_are(buf + 9000, 0xee, LEN - 7 - 9000) &&
	      !differs(buf + LEN - 7, 0, 3, 7), "wrong data");
}

void test_short_read(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	unsigned char *buf = block_buf(s);
	int res;

	primary(s, tag, 3);
	secondary(s, 0, IORING_OP_READ, 0, 8192, FILE_LEN - 1000);
	secondary(s, 1, IORING_OP_READ, 16384, 4096, FILE_LEN);
	secondary(s, 2, IORING_OP_READ, 32768, 4096, 0);
	EXPECT(s, 1000 + 4096, 1000, 0, 4096);
	/* out of a worker, too */
	primary(s, tag, 1);
	secondary(s, 0, IORING_OP_READ, 40960, 8192, FILE_LEN - 1000)->flags |= IOSQE_ASYNC;
	EXPECT(s, 1000, 1000);
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the block read ends with %d", res);
	CHECK(!differs(buf, 0, FILE_LEN - 1000, 1000), "wrong data");
	CHECK(all_are(buf + 1000, 0, 8192 - 1000), "the rest of the range is not zero");
	CHECK(all_are(buf + 8192, 0xee, 8192), "zeroes outside the range");
	CHECK(all_are(buf + 16384, 0, 4096), "an empty read leaves no zeroes");
	CHECK(all_are(buf + 20480, 0xee, 32768 - 20480), "zeroes outside the range");
	CHECK(!differs(buf + 32768, 0, 0, 4096), "wrong data");
	CHECK(all_are(buf + 36864, 0xee, 4096), "zeroes outside the range");
	CHECK(!differs(buf + 40960, 0, FILE_LEN - 1000, 1000), "wrong data from a worker");
	CHECK(all_are(buf + 41960, 0, 8192 - 1000), "a worker leaves no zeroes");
	CHECK(all_are(buf + 49152, 0xee, LEN - 49152), "zeroes outside the range");
}

void test_pread_pwrite(struct server *s)
{
	unsigned char *content = malloc(LEN);
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	__u64 off = UBLKSRV_IO_BUF_OFFSET + ((__u64)tag << UBLK_TAG_OFF);
	int res;

	fill(content, 5, 0, LEN);
	CHECK(pwrite(s->cdev, content, 1000, off) == 1000, "pwrite: %m");
	CHECK(pwrite(s->cdev, content + 1000, LEN - 1000, off + 1000) == LEN - 1000,
	      "pwrite: %m");
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the block read ends with %d", res);
	CHECK(!differs(block_buf(s), 5, 0, LEN), "pwrite: wrong data");

	tag = block_io_start(s, UBLK_IO_OP_WRITE);
	off = UBLKSRV_IO_BUF_OFFSET + ((__u64)tag << UBLK_TAG_OFF);
	CHECK(pread(s->cdev, content, LEN, off) == LEN, "pread: %m");
	CHECK(!differs(content, 1, 0, LEN), "pread: wrong data");
	free(content);
}
