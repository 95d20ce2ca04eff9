// SPDX-License-Identifier: GPL-2.0
/*
 * What only a mock file can be asked for (io_uring/mock_file.c): several leases
 * in one group, a handler that needs the task, a secondary that is a command and
 * moves data.
 */
#include <sys/uio.h>
#include "fixture.h"
#include "sockets.h"

/* What the primary of a group with several leases points to */
static struct io_uring_mock_fused parts[NR_BUFFERS + 1];

/* Another lease: @len_ bytes of buffer @buf_ for the next @nr_ secondaries */
#define PART(i_, buf_, flags_, offset_, len_, nr_) \
	(parts[i_] = (struct io_uring_mock_fused) {			\
		.buffer = (buf_), .flags = (flags_), .offset = (offset_), \
		.len = (len_), .arg = (nr_),				\
	})

/* A group with @nr of them. Its result is @count plus how many of them go well. */
#define INIT_PARTS(nr, count) ({					\
	INIT(OP_LEND_PARTS, 0, count);					\
	self->g.primary->addr = (uintptr_t)parts;			\
	group_cmd(&self->g)->arg = (nr);				\
})

/* An ordinary command: its result */
static int command(struct ring *r, int dev, unsigned int op, unsigned int buffer,
		   unsigned int arg)
{
	struct io_uring_sqe sqe[2] = { {
		.opcode = IORING_OP_URING_CMD,
		.fd = dev,
		.cmd_op = op,
		.user_data = UD_OTHER,
	} };
	struct io_uring_mock_fused *cmd = (void *)sqe->cmd;
	struct log log = { };

	cmd->buffer = buffer;
	cmd->arg = arg;
	push_sqe(r, sqe);
	if (ring_submit(r) < 0)
		return NO_CQE;
	return log_until(&log, r, UD_OTHER);
}

/* What the driver was told of the last part that was lent from a buffer */
#define PART_RESULT(buffer) command(&self->ring, self->dev, OP_PART_RESULT, buffer, 0)

/* The buffer is back, and has @len_ bytes of @seed_ from @from_ on. */
#define EXPECT_BUFFER(index, offset_, seed_, from_, len_) ({		\
	int index_ = (index);						\
									\
	GET_BUFFER(index_);						\
	EXPECT_TRUE(is_pattern(self->buf + (offset_), seed_, from_, len_)) \
		TH_LOG("buffer %d", index_);				\
})

/* the files: which there are, and what is refused */
TEST(create)
{
	static const struct {
		__u32 flags;
		__u64 size, delay;
		int res;
	} cases[] = {
		{ IORING_MOCK_CREATE_F_FUSED, BUFFER_LEN, 0, 0 },
		{ IORING_MOCK_CREATE_F_FUSED | IORING_MOCK_CREATE_F_SUPPORT_NOWAIT,
		  NR_BUFFERS * BUFFER_LEN, 0, 0 },
		{ IORING_MOCK_CREATE_F_FUSED, 0, 0, -EINVAL },
		{ IORING_MOCK_CREATE_F_FUSED, BUFFER_LEN + 4096, 0, -EINVAL },
		{ IORING_MOCK_CREATE_F_FUSED, (NR_BUFFERS + 1) * BUFFER_LEN, 0, -EINVAL },
		{ IORING_MOCK_CREATE_F_FUSED, BUFFER_LEN, 1, -EINVAL },
		{ IORING_MOCK_CREATE_F_FUSED | IORING_MOCK_CREATE_F_POLL, BUFFER_LEN, 0, -EINVAL },
		/* it lends nothing without */
		{ 0, BUFFER_LEN, 0, 0 },
	};
	int manager = open(MOCK_DEVICE, O_RDWR), file = memfd_create("empty", 0), i;
	struct io_uring_mock_probe probe = { };
	struct io_uring_sqe sqe[2] = { {
		.opcode = IORING_OP_URING_CMD,
		.fd = manager,
		.cmd_op = IORING_MOCK_MGR_CMD_PROBE,
		.addr = (uintptr_t)&probe,
		.len = sizeof(probe),
		.user_data = UD_OTHER,
	} };
	struct mode mode = { };
	struct ring ring;
	struct log log;
	struct group g;
	char buf[16], *nowhere;

	nowhere = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (manager < 0)
		SKIP(return, "no " MOCK_DEVICE);
	ASSERT_EQ(0, mode_ring(&mode, &ring, 8));
	push_sqe(&ring, sqe);
	log.nr = 0;
	ASSERT_EQ(1, ring_submit(&ring));
	ASSERT_EQ(0, log_until(&log, &ring, UD_OTHER));
	EXPECT_LT(IORING_MOCK_FEAT_FUSED, probe.features);

	for (i = 0; i < (int)ARRAY_SIZE(cases); i++) {
		struct io_uring_mock_create create = {
			.flags = cases[i].flags,
			.file_size = cases[i].size,
			.rw_delay_ns = cases[i].delay,
		};

		sqe->cmd_op = IORING_MOCK_MGR_CMD_CREATE;
		sqe->addr = (uintptr_t)&create;
		sqe->len = sizeof(create);
		push_sqe(&ring, sqe);
		log.nr = 0;
		ASSERT_EQ(1, ring_submit(&ring));
		ASSERT_EQ(cases[i].res, log_until(&log, &ring, UD_OTHER)) TH_LOG("case %d", i);
		if (cases[i].res)
			continue;
		group_init(&g, &ring, &mode, create.out_fd, OP_START, 0, 0);
		group_add(&g, IORING_OP_READ, file, (uintptr_t)buf, 16, 0);
		if (!cases[i].flags) {
			ASSERT_EQ(NULL, group_run(&g, -EOPNOTSUPP, 1, (int[]){ -ECANCELED }));
			close(create.out_fd);
			continue;
		}
		ASSERT_EQ(NULL, group_run(&g, 0, 1, (int[]){ 0 }));
		/* all of the buffers, and nothing behind */
		EXPECT_EQ(16, pread(create.out_fd, buf, 16, cases[i].size - 16));
		EXPECT_EQ(-1, pread(create.out_fd, buf, 16, cases[i].size));
		EXPECT_EQ(EINVAL, errno);
		EXPECT_EQ(-1, pread(create.out_fd, nowhere, 16, 0));
		EXPECT_EQ(EFAULT, errno);
		EXPECT_EQ((off_t)cases[i].size, lseek(create.out_fd, 0, SEEK_END));
		close(create.out_fd);
	}
	ring_exit(&ring);
	close(manager);
	close(file);
}

/* each part of the group has a buffer of its own */
TEST_F(fused, parts)
{
	INIT_PARTS(3, 0);
	SET_BUFFER(0, 7);
	SET_BUFFER(5, 7);
	PART(0, 5, 0, 0, 4096, 1);
	PART(1, 0, 0, 5000, BUFFER_LEN - 5000, 2);
	PART(2, 1, LEND_SOURCE, 100, 1, 1);
	SET_BUFFER(1, 3);
	ADD_READ(0, 4096, 10);
	ADD_READ(0, 1000, 100);
	ADD_READ(1000, BUFFER_LEN - 6000, 1100);
	ADD(IORING_OP_WRITE, self->file, 0, 1, FILE_LEN - 1);
	EXPECT_GROUP(3, 4096, 1000, BUFFER_LEN - 6000, 1);
	EXPECT_BUFFER(5, 0, 0, 10, 4096);
	EXPECT_TRUE(is_pattern(self->buf + 4096, 7, 4096, BUFFER_LEN - 4096));
	EXPECT_BUFFER(0, 5000, 0, 100, BUFFER_LEN - 5000);
	EXPECT_TRUE(is_pattern(self->buf, 7, 0, 5000));
	ASSERT_EQ(1, pread(self->file, self->buf, 1, FILE_LEN - 1));
	EXPECT_TRUE(is_pattern(self->buf, 3, 100, 1));
	EXPECT_EQ(4096, PART_RESULT(5));
	EXPECT_EQ(BUFFER_LEN - 5000, PART_RESULT(0));
	EXPECT_EQ(1, PART_RESULT(1));

	/* one part is a group with several leases as well */
	INIT_PARTS(1, 1000);
	PART(0, 2, 0, 0, 512, 1);
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(1001, 512);
	EXPECT_EQ(512, PART_RESULT(2));
	EXPECT_BUFFER(2, 0, 0, 0, 512);
}

/* as many as there can be */
TEST_F(fused, parts_many)
{
	int i, want[64];

	INIT_PARTS(NR_BUFFERS, 0);
	for (i = 0; i < 64; i++) {
		if (i % 4 == 0)
			PART(i / 4, NR_BUFFERS - 1 - i / 4, 0, 0, 4096, 4);
		ADD_READ(i % 4 * 1024, 1024, 1024 * i);
		want[i] = 1024;
	}
	ASSERT_EQ(NULL, group_run(&self->g, NR_BUFFERS, 64, want));
	for (i = 0; i < NR_BUFFERS; i++)
		EXPECT_BUFFER(NR_BUFFERS - 1 - i, 0, 0, 4096 * i, 4096);
}

/* a part ends with its own secondaries, whatever the others do */
TEST_F(fused, part_ends_alone)
{
	long end = now_ms() + TIMEOUT_MS;
	struct log log = { };
	int fd[2];

	ASSERT_EQ(0, pipe(fd));
	INIT_PARTS(3, 0);
	PART(0, 0, 0, 0, 512, 1);
	PART(1, 1, 0, 0, 512, 2);
	PART(2, 2, 0, 0, 512, 1);
	ADD_READ(0, 512, 0);
	ADD_READ(0, 256, 0);
	ADD(IORING_OP_READ, fd[0], 256, 256, -1);
	ADD_READ(0, 512, 512);
	group_push(&self->g);
	ASSERT_LT(0, ring_submit(&self->ring));
	ASSERT_EQ(512, log_until(&log, &self->ring, 0));
	ASSERT_EQ(256, log_until(&log, &self->ring, 1));
	ASSERT_EQ(512, log_until(&log, &self->ring, 3));
	/* the CQEs come before they are freed, which may take task work */
	while (pread(self->dev, self->buf, 512, 0) != 512 ||
	       pread(self->dev, self->buf, 512, 2 * BUFFER_LEN) != 512) {
		ASSERT_EQ(EBUSY, errno);
		ASSERT_LT(now_ms(), end);
		log_rest(&log, &self->ring, 1);
	}
	EXPECT_TRUE(is_pattern(self->buf, 0, 512, 512));
	EXPECT_EQ(-1, pread(self->dev, self->buf, 512, BUFFER_LEN));
	EXPECT_EQ(EBUSY, errno);
	EXPECT_EQ(NO_CQE, log_res(&log, UD_PRIMARY));
	fill(self->buf, 1, 0, 256);
	ASSERT_EQ(256, write(fd[1], self->buf, 256));
	EXPECT_CQES(&log, 3, 512, 256, 256, 512);
	EXPECT_BUFFER(1, 256, 1, 0, 256);
	close2(fd);
}

/* the driver takes a part for good data, and is told if it is not */
TEST_F(fused, part_results)
{
	struct log log = { };
	int fd[2];

	ASSERT_EQ(0, pipe(fd));
	ASSERT_EQ(10, write(fd[1], "0123456789", 10));
	close(fd[1]);
	SET_BUFFER(0, 7);
	SET_BUFFER(1, 7);
	INIT_PARTS(4, 10);
	/* gaps, and what is behind the end of a file, are zeroed */
	PART(0, 0, 0, 0, 4096, 2);
	ADD_READ(100, 100, 0);
	ADD_READ(1000, 1000, FILE_LEN - 500);
	/* an error, and a peer that goes away; of several errors the first */
	PART(1, 1, 0, 0, 4096, 2);
	ADD(IORING_OP_READ, fd[0], 0, 512, -1);
	ADD_READ(4000, 512, 0);
	PART(2, 2, 0, 0, 4096, 2);
	ADD_READ(4000, 512, 0);
	ADD(IORING_OP_READ, fd[0], 0, 512, -1);
	PART(3, 3, LEND_SOURCE, 0, 4096, 1);
	ADD(IORING_OP_WRITE, self->file, 0, 512, 0);
	self->g.primary->flags = IOSQE_IO_LINK;
	group_push(&self->g);
	push_nop(&self->ring, UD_OTHER, 0);
	ASSERT_LT(0, ring_submit(&self->ring));
	EXPECT_EQ(12, log_until(&log, &self->ring, UD_PRIMARY));
	/* a part that fails breaks a link */
	EXPECT_EQ(-ECANCELED, log_until(&log, &self->ring, UD_OTHER));
	EXPECT_EQ(100, log_res(&log, 0));
	EXPECT_EQ(500, log_res(&log, 1));
	EXPECT_EQ(-EFAULT, log_res(&log, 3));
	EXPECT_EQ(-EFAULT, log_res(&log, 4));
	EXPECT_EQ(512, log_res(&log, 6));
	EXPECT_EQ(600, PART_RESULT(0));
	EXPECT_EQ(-EIO, PART_RESULT(1));
	EXPECT_EQ(-EFAULT, PART_RESULT(2));
	EXPECT_EQ(512, PART_RESULT(3));
	GET_BUFFER(0);
	EXPECT_TRUE(all_are(self->buf, 0, 100));
	EXPECT_TRUE(is_pattern(self->buf + 100, 0, 0, 100));
	EXPECT_TRUE(all_are(self->buf + 200, 0, 800));
	EXPECT_TRUE(is_pattern(self->buf + 1000, 0, FILE_LEN - 500, 500));
	EXPECT_TRUE(all_are(self->buf + 1500, 0, 2596));
	EXPECT_TRUE(is_pattern(self->buf + 4096, 7, 4096, BUFFER_LEN - 4096));
	close(fd[0]);
}

/* A group of two parts that is refused: what was lent first is back, with an error. */
#define EXPECT_REFUSED(res) ({						\
	EXPECT_GROUP(res, -ECANCELED, -ECANCELED);			\
	EXPECT_EQ(-ECANCELED, PART_RESULT(0));				\
	GET_BUFFER(0);							\
	GET_BUFFER(1);							\
	/* to tell the next one from this */				\
	INIT_PARTS(1, 0);						\
	PART(0, 0, 0, 0, 1, 1);						\
	ADD_READ(0, 1, 0);						\
	EXPECT_GROUP(1, 1);						\
})

#define TWO_PARTS(nr0, flags1, nr1) ({					\
	INIT_PARTS(2, 0);						\
	PART(0, 0, 0, 0, 4096, nr0);					\
	PART(1, 1, flags1, 0, 4096, nr1);				\
	ADD_READ(0, 512, 0);						\
	ADD_READ(0, 512, 0);						\
})

TEST_F(fused, parts_refused)
{
	/* the numbers do not add up */
	TWO_PARTS(1, 0, 2);
	EXPECT_REFUSED(-EINVAL);
	TWO_PARTS(1, 0, 0);
	EXPECT_REFUSED(-EINVAL);
	TWO_PARTS(1, 0, 256 + 1);
	EXPECT_REFUSED(-EINVAL);
	TWO_PARTS(1, 0, 1);
	group_cmd(&self->g)->arg = 1;
	EXPECT_REFUSED(-EINVAL);
	/* the other direction */
	TWO_PARTS(1, LEND_SOURCE, 1);
	EXPECT_REFUSED(-EINVAL);
	/* the buffer is in use, by this group itself */
	TWO_PARTS(1, 0, 1);
	parts[1].buffer = 0;
	EXPECT_REFUSED(-EBUSY);
	/* nothing to lend */
	TWO_PARTS(1, 0, 1);
	parts[1].len = 0;
	EXPECT_REFUSED(-EINVAL);
	/* one whose result is no number of bytes */
	INIT_PARTS(2, 0);
	PART(0, 0, 0, 0, 4096, 1);
	PART(1, 1, 0, 0, 4096, 1);
	ADD_READ(0, 512, 0);
	group_add_cmd(&self->g, self->dev, 7);
	EXPECT_REFUSED(-EINVAL);

	/* nothing was lent: no part */
	TWO_PARTS(1, 0, 1);
	group_cmd(&self->g)->arg = 0;
	EXPECT_GROUP(-EINVAL, -ECANCELED, -ECANCELED);
	TWO_PARTS(0, 0, 2);
	EXPECT_GROUP(-EINVAL, -ECANCELED, -ECANCELED);
	/* no table */
	TWO_PARTS(1, 0, 1);
	self->g.primary->addr = 0;
	EXPECT_GROUP(-EFAULT, -ECANCELED, -ECANCELED);
	/* who needs no buffer */
	TWO_PARTS(1, 0, 1);
	self->g.primary->uring_cmd_flags = 0;
	EXPECT_GROUP(-EINVAL, -ECANCELED, -ECANCELED);
	/* an SQE group, in which others may stand between */
	INIT_PARTS(1, 0);
	PART(0, 0, 0, 0, 4096, 1);
	group_lead_cmd(&self->g, &self->ring, &variant->mode, self->dev, OP_LEND_PARTS, 0, 0);
	self->g.primary->addr = (uintptr_t)parts;
	group_cmd(&self->g)->arg = 1;
	ADD_READ(0, 512, 0)->flags |= IOSQE_IO_DRAIN;
	EXPECT_GROUP(-EINVAL, -ECANCELED);
	GET_BUFFER(0);
}

/* the task goes away, or its ring, with parts in flight: the driver has its buffers back */
TEST_F(fused, parts_canceled)
{
	long end = now_ms() + TIMEOUT_MS;
	struct log log = { };
	int fd[2], i;

	ASSERT_EQ(0, pipe(fd));
	for (i = 0; i < 2; i++) {
		INIT_PARTS(2, 0);
		PART(0, 0, 0, 0, 512, 1);
		PART(1, 1, 0, 0, 512, 1);
		ADD(IORING_OP_READ, fd[0], 0, 512, -1);
		ADD(IORING_OP_READ, fd[0], 0, 512, -1);
		group_push(&self->g);
		ASSERT_LT(0, ring_submit(&self->ring));
		if (i)
			break;
		/* one of the two: a part is canceled, the other goes on */
		EXPECT_LE(0, cancel_one(&log, &self->ring, 0));
		EXPECT_TRUE(canceled(log_until(&log, &self->ring, 0)));
		ASSERT_EQ(512, write(fd[1], self->buf, 512));
		EXPECT_EQ(512, log_until(&log, &self->ring, 1));
		EXPECT_EQ(1, log_until(&log, &self->ring, UD_PRIMARY));
		EXPECT_TRUE(canceled(PART_RESULT(0)));
		EXPECT_EQ(512, PART_RESULT(1));
		log.nr = 0;
	}
	log_rest(&log, &self->ring, 20);
	ring_exit(&self->ring);
	for (i = 0; i < 2; i++) {
		while (pread(self->dev, self->buf, 512, i * BUFFER_LEN) != 512) {
			ASSERT_EQ(EBUSY, errno);
			ASSERT_LT(now_ms(), end);
			usleep(1000);
		}
	}
	close2(fd);
	ASSERT_EQ(0, mode_ring(&variant->mode, &self->ring, 8));
}

/* a part that is sent without a copy ends with the notification */
TEST_F(fused, part_send_zc)
{
	struct log log = { };
	int sock[2];

	ASSERT_EQ(0, tcp_pair(sock));
	SET_BUFFER(0, 1);
	INIT_PARTS(2, 0);
	PART(0, 0, LEND_SOURCE, 0, 4096, 1);
	PART(1, 1, 0, 0, 512, 1);
	ADD(IORING_OP_SEND_ZC, sock[0], 0, 4096, 0)->addr3 = UD_OTHER;
	ADD_READ(0, 512, 0);
	group_push(&self->g);
	ASSERT_LT(0, ring_submit(&self->ring));
	EXPECT_EQ(2, log_until(&log, &self->ring, UD_PRIMARY));
	EXPECT_EQ(4096, log_res(&log, 0));
	EXPECT_GT(log_index(&log, UD_PRIMARY), log_index(&log, UD_OTHER));
	EXPECT_LE(0, log_index(&log, UD_OTHER));
	EXPECT_EQ(4096, PART_RESULT(0));
	ASSERT_EQ(4096, recv_all(sock[1], self->buf, 4096));
	EXPECT_TRUE(is_pattern(self->buf, 1, 0, 4096));
	close2(sock);
}

/* a handler that a worker calls may ask for the task */
TEST_F(fused, deferred)
{
	int async;

	for (async = 0; async < 2; async++) {
		LEND_DEST(4096);
		group_cmd(&self->g)->flags = LEND_DEFER;
		self->g.primary->flags = async ? IOSQE_ASYNC : 0;
		ADD_READ(0, 512, 0);
		EXPECT_GROUP(512, 512);
		EXPECT_BUFFER(0, 0, 0, 0, 512);

		INIT(OP_KEEP, 0, 4096);
		group_cmd(&self->g)->flags = LEND_DEFER | LEND_SOURCE;
		self->g.primary->flags = async ? IOSQE_ASYNC : 0;
		ADD_READ(0, 512, 0);
		EXPECT_GROUP(-EINVAL, -ECANCELED);
		GET_BUFFER(0);
	}
	INIT(OP_REFUSE, 0, 0);
	group_cmd(&self->g)->flags = LEND_DEFER | LEND_BLOCKING;
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(-EINVAL, -ECANCELED);
}

/* a kept primary may be completed by another ring, which has a lock of its own */
TEST_F(fused, kept_other_ring)
{
	long end = now_ms() + TIMEOUT_MS;
	struct log log = { };
	struct ring other;
	int res;

	ASSERT_EQ(0, mode_ring(&variant->mode, &other, 8));
	INIT(OP_KEEP, 0, 4096);
	ADD_READ(0, 512, 0);
	group_push(&self->g);
	ASSERT_LT(0, ring_submit(&self->ring));
	ASSERT_EQ(512, log_until(&log, &self->ring, 0));
	/* it is kept when the secondary is freed, which may take task work */
	while ((res = command(&other, self->dev, OP_RELEASE, 0, 77)) == -ENOENT) {
		ASSERT_LT(now_ms(), end);
		log_rest(&log, &self->ring, 1);
	}
	EXPECT_EQ(512, res);
	EXPECT_EQ(-ENOENT, command(&other, self->dev, OP_RELEASE, 0, 78));
	EXPECT_EQ(77, log_until(&log, &self->ring, UD_PRIMARY));
	ring_exit(&other);
}

/* A secondary that is a command, and copies pieces of the buffer to @to_, or from there */
#define ADD_COPY(vec_, nr_, to_, flags_) ({				\
	struct io_uring_sqe *sqe_;					\
									\
	sqe_ = ADD(IORING_OP_URING_CMD, self->dev, (uintptr_t)(vec_), nr_, 0); \
	sqe_->cmd_op = IORING_MOCK_CMD_COPY_REGBUF;			\
	sqe_->uring_cmd_flags = IORING_URING_CMD_FIXED;			\
	sqe_->addr3 = (uintptr_t)(to_);					\
	sqe_->file_index = (flags_);					\
})

TEST_F(fused, copy_commands)
{
	const struct iovec vec[] = { { (void *)5000, 4000 }, { NULL, 100 } };
	const struct iovec outside = { (void *)BUFFER_LEN, 1 };

	SET_BUFFER(0, 7);
	memset(self->buf, 0, BUFFER_LEN);
	LEND_SRC(BUFFER_LEN);
	ADD_COPY(vec, 2, self->buf, IORING_MOCK_COPY_FROM);
	EXPECT_GROUP(4100, 4100);
	EXPECT_TRUE(is_pattern(self->buf, 7, 5000, 4000));
	EXPECT_TRUE(is_pattern(self->buf + 4000, 7, 0, 100));

	fill(self->buf, 1, 0, 4100);
	LEND_DEST(BUFFER_LEN);
	ADD_COPY(vec, 2, self->buf, 0);
	ADD_READ(10000, 512, 0);
	EXPECT_GROUP(4612, 4100, 512);
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf + 5000, 1, 0, 4000));
	EXPECT_TRUE(is_pattern(self->buf, 1, 4000, 100));
	EXPECT_TRUE(is_pattern(self->buf + 9000, 7, 9000, 1000));
	EXPECT_TRUE(is_pattern(self->buf + 10000, 0, 0, 512));

	/* a piece outside, and the other direction, which only the command knows */
	LEND_DEST(BUFFER_LEN);
	ADD_COPY(&outside, 1, self->buf, 0);
	ADD_COPY(vec, 2, self->buf, IORING_MOCK_COPY_FROM);
	EXPECT_GROUP(-EFAULT, -EFAULT, -EFAULT);
}

int main(int argc, char **argv)
{
	if (!is_mock()) {
		ksft_print_header();
		ksft_exit_skip("%s is no mock file\n", device_name());
	}
	return test_harness_run(argc, argv);
}
