// SPDX-License-Identifier: GPL-2.0
/* fused_cmd_errors: cases of what ublk refuses. */
#include "fused_errors.h"

void test_direction_of_write(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_WRITE);
	int res;

	primary(s, tag, 2);
	secondary(s, 0, IORING_OP_WRITE, 0, 4096, 0);
	secondary(s, 1, IORING_OP_READ, 4096, 4096, 0);
	EXPECT(s, -EINVAL, -ECANCELED, -ECANCELED);
	CHECK(file_untouched(s), "a secondary ran");
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the block write ends with %d", res);
	CHECK(!differs(block_buf(s), 1, 0, LEN), "the writer's buffer was changed");
}

void test_direction_of_read(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ);

	primary(s, tag, 2);
	secondary(s, 0, IORING_OP_READ, 0, 4096, 0);
	secondary(s, 1, IORING_OP_WRITE, 4096, 4096, 0);
	EXPECT(s, -EINVAL, -ECANCELED, -ECANCELED);
	CHECK(file_untouched(s), "the file was written");
	CHECK(all_are(block_buf(s), 0xee, LEN), "a secondary ran");
}

void test_ublk_command(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ);

	REFUSED(s, .tag = tag, .q_id = 1);
	REFUSED(s, .tag = tag, .q_id = 0xffff);
	REFUSED(s, .tag = DEPTH);
	REFUSED(s, .tag = 0xffff);
	REFUSED(s, .tag = tag, .result = 1);
	REFUSED(s, .tag = tag, .result = -1);
	REFUSED(s, .tag = tag, .addr = 1);
	CHECK(all_are(block_buf(s), 0xee, LEN), "a secondary ran");
}

void test_ublk_not_owned(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	int res;

	REFUSED(s, .tag = (tag + 1) % DEPTH);
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the block read ends with %d", res);
	/* committed: it is not ours any more */
	REFUSED(s, .tag = tag);
}

void test_ublk_no_data(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_FLUSH);
	int res;

	REFUSED(s, .tag = tag);
	res = block_io_finish(s, 0);
	CHECK(res == 0, "the flush ends with %d", res);
}

void test_ublk_wrong_op(struct server *s)
{
	/* with another direction, another size, or neither */
	static const __u32 others[] = {
		_IOR('u', 0x28, struct ublksrv_io_cmd), _IOW('u', 0x28, struct ublksrv_io_cmd),
		_IOWR('u', 0x28, struct ublksrv_ctrl_cmd), _IOWR('u', 0x28, __u64),
		_IO('u', 0x28),
	};
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	unsigned int i;
	int res;

	/* an I/O command that is no fused one, as a primary */
	s->nr_cqes = 0;
	primary(s, tag, 1)->cmd_op = UBLK_U_IO_FETCH_REQ;
	secondary(s, 0, IORING_OP_READ, 0, 512, 0);
	submit(&s->ring);
	res = wait_cqe(s, UD_PRIMARY);
	CHECK(res == -EINVAL, "FETCH_REQ as a primary: %d", res);
	CHECK(cqe_res(s, UD_SECONDARY(0)) == -ECANCELED, "its secondary is not canceled");
	CHECK(!block_io_done(s, 0), "the request was completed");

	/* what looks like FUSED_SUBMIT_IO */
	for (i = 0; i < ARRAY_SIZE(others); i++) {
		primary(s, tag, 1)->cmd_op = others[i];
		secondary(s, 0, IORING_OP_READ, 0, 512, 0);
		EXPECT(s, -EINVAL, -ECANCELED);
	}
	/* its number alone: it has no legacy opcode, whether others have one or not */
	s->nr_cqes = 0;
	primary(s, tag, 1)->cmd_op = 0x28;
	secondary(s, 0, IORING_OP_READ, 0, 512, 0);
	submit(&s->ring);
	res = wait_cqe(s, UD_PRIMARY);
	CHECK(res == -EINVAL || res == -EOPNOTSUPP, "0x28 as a primary: %d", res);
	CHECK(cqe_res(s, UD_SECONDARY(0)) == -ECANCELED, "its secondary is not canceled");
	CHECK(!block_io_done(s, 0), "the request was completed");
	CHECK(all_are(block_buf(s), 0xee, LEN), "a secondary ran");

	/* and the other way round */
	s->nr_cqes = 0;
	io_cmd_sqe(s, &s->ring, UBLK_U_IO_FUSED_SUBMIT_IO, 0, tag)->user_data = UD_PRIMARY;
	submit(&s->ring);
	res = wait_cqe(s, UD_PRIMARY);
	CHECK(res == -EINVAL || res == -EOPNOTSUPP,
	      "FUSED_SUBMIT_IO as a plain command: %d", res);
}

/* @s is of no use here: this takes a device without the feature */
void test_ublk_no_feature(struct server *s)
{
	static struct server plain;
	int tag, res, second;

	server_start(&plain, UBLK_F_USER_COPY);
	tag = block_io_start(&plain, UBLK_IO_OP_READ);
	primary(&plain, tag, 1);
	secondary(&plain, 0, IORING_OP_READ, 0, 512, 0);
	submit(&plain.ring);
	res = wait_cqe(&plain, UD_PRIMARY);
	second = cqe_res(&plain, UD_SECONDARY(0));
	block_io_finish(&plain, LEN);
	server_stop(&plain);
	CHECK(res == -EINVAL, "the primary posts %d", res);
	CHECK(second == -ECANCELED, "the secondary posts %d", second);
}

void test_ublk_add_dev(struct server *s)
{
	int id;

	id = add_dev(UBLK_F_FUSED_CMD | UBLK_F_NEED_GET_DATA);
	if (id >= 0)
		ctrl(id, UBLK_U_CMD_DEL_DEV, NULL, 0, 0);
	CHECK(id == -EINVAL, "with NEED_GET_DATA: %d", id);
}

void test_ublk_fetch_addr(struct server *s)
{
	struct server other = { .want_op = -1, .got = -1 };
	struct io_uring_params p = { .flags = ring_flags };
	struct __kernel_timespec ts = { .tv_sec = 5 };
	struct io_uring_cqe *cqe = NULL;
	struct io_uring_sqe *sqe;
	int res;

	other.id = add_dev(UBLK_F_FUSED_CMD);
	CHECK(other.id >= 0, "ADD_DEV: %d", other.id);
	other.cdev = open_cdev(other.id);
	if (io_uring_queue_init_params(8, &other.ring, &p))
		FATAL("no ring");
	sqe = io_cmd_sqe(&other, &other.ring, UBLK_U_IO_FETCH_REQ, 0, 0);
	((struct ublksrv_io_cmd *)sqe->cmd)->addr = (unsigned long)s->io.buf;
	io_uring_submit_and_wait_timeout(&other.ring, &cqe, 1, &ts, NULL);
	res = cqe ? cqe->res : 1;
	io_uring_queue_exit(&other.ring);
	close(other.cdev);
	ctrl(other.id, UBLK_U_CMD_DEL_DEV, NULL, 0, 0);
	CHECK(res == -EINVAL, "FETCH_REQ with an address: %d", res);
}
