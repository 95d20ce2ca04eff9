// SPDX-License-Identifier: GPL-2.0
/* fused_cmd_errors: cases about the life of a lease, and what ends it. */
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include "fused_errors.h"

void test_other_ring(struct server *s)
{
	struct io_uring_params p = {};
	struct io_uring_cqe *cqe;
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	struct io_uring other;
	int res;

	if (io_uring_queue_init_params(8, &other, &p))
		FATAL("no ring");
	/* two leases of one request, the one on our ring waits for its data */
	s->nr_cqes = 0;
	primary(s, tag, 1);
	secondary_on(&s->ring, 0, IORING_OP_READ, s->pipe[0], 0, 512, 0);
	submit(&s->ring);
	primary_on(s, &other, tag, 1);
	secondary_on(&other, 0, IORING_OP_READ, s->file, 512, LEN - 512, 512)->flags |=
		IOSQE_CQE_SKIP_SUCCESS;
	submit(&other);
	CHECK(!io_uring_wait_cqe(&other, &cqe), "no CQE");
	CHECK(cqe->user_data == UD_PRIMARY && cqe->res == LEN - 512, "primary posts %d",
	      cqe->res);
	io_uring_queue_exit(&other);
	CHECK(write(s->pipe[1], "0", 1) == 1, "cannot write to the pipe");
	res = wait_cqe(s, UD_PRIMARY);
	CHECK(res == 1, "the primary posts %d", res);
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the block read ends with %d", res);
	CHECK(block_buf(s)[0] == '0' && all_are(block_buf(s) + 1, 0, 511) &&
	      !differs(block_buf(s) + 512, 0, 512, LEN - 512), "wrong data");
}

void test_commit_while_leased(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	char data[512];
	int res;

	s->nr_cqes = 0;
	primary(s, tag, 2);
	secondary(s, 0, IORING_OP_READ, 512, LEN - 512, 512)->flags |= IOSQE_CQE_SKIP_SUCCESS;
	secondary_on(&s->ring, 1, IORING_OP_READ, s->pipe[0], 0, 512, 0);
	submit(&s->ring);
	commit(s, tag, LEN);
	CHECK(!wait_block_io(s, 300), "the request was completed under the lease");
	CHECK(!s->cmd_res[tag], "the commit is refused: %d", s->cmd_res[tag]);
	CHECK(!s->nr_cqes, "a CQE too early");
	/* it was given back: no other lease of it */
	REFUSED(s, .tag = tag);

	s->nr_cqes = 0;
	fill(data, 9, 0, sizeof(data));
	CHECK(write(s->pipe[1], data, sizeof(data)) == sizeof(data),
	      "cannot write to the pipe");
	res = wait_cqe(s, UD_PRIMARY);
	CHECK(res == LEN, "the primary posts %d", res);
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the block read ends with %d", res);
	CHECK(!differs(block_buf(s), 9, 0, 512) &&
	      !differs(block_buf(s) + 512, 0, 512, LEN - 512), "wrong data");
}

void test_cancel(struct server *s)
{
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	struct io_uring_sqe *sqe;
	int res;

	s->nr_cqes = 0;
	primary(s, tag, 2);
	secondary_on(&s->ring, 0, IORING_OP_READ, s->pipe[0], 0, 512, 0);
	secondary(s, 1, IORING_OP_READ, 512, 512, 0);
	submit(&s->ring);
	CHECK(!pump_until(s, cqe_posted, UD_PRIMARY, 100), "the group does not wait");

	sqe = io_uring_get_sqe(&s->ring);
	CHECK(sqe, "no SQE");
	io_uring_prep_cancel64(sqe, UD_SECONDARY(0), 0);
	sqe->user_data = UD_OTHER;
	submit(&s->ring);
	res = wait_cqe(s, UD_OTHER);
	CHECK(res == 0 || res == -EALREADY, "ASYNC_CANCEL: %d", res);
	res = wait_cqe(s, UD_PRIMARY);
	CHECK(res == -ECANCELED, "the primary posts %d", res);
	res = cqe_res(s, UD_SECONDARY(0));
	CHECK(res == -ECANCELED, "the secondary posts %d", res);
	res = cqe_res(s, UD_SECONDARY(1));
	CHECK(res == 512, "the other secondary posts %d", res);

	/* the request is as good as before */
	primary(s, tag, 1);
	secondary(s, 0, IORING_OP_READ, 0, LEN, 0);
	EXPECT(s, LEN, LEN);
	res = block_io_finish(s, LEN);
	CHECK(res == LEN && !differs(block_buf(s), 0, 0, LEN), "wrong data (%d)", res);
}

void test_close_ring(struct server *s)
{
	struct io_uring_params p = { .flags = ring_flags };
	int tag = block_io_start(s, UBLK_IO_OP_READ);
	struct io_uring other;
	int res;

	if (io_uring_queue_init_params(8, &other, &p))
		FATAL("no ring");
	primary_on(s, &other, tag, 2);
	secondary_on(&other, 0, IORING_OP_READ, s->pipe[0], 0, 512, 0);
	secondary_on(&other, 1, IORING_OP_READ, s->pipe[0], 512, 512, 0)->flags |= IOSQE_ASYNC;
	submit(&other);
	commit(s, tag, LEN);
	CHECK(!wait_block_io(s, 200), "the request was completed under the lease");
	io_uring_queue_exit(&other);
	CHECK(wait_block_io(s, TIMEOUT_MS), "the lease does not end");
	res = block_io_finish(s, LEN);
	CHECK(res == LEN, "the block read ends with %d", res);
}

/* A server of its own with a group that waits for ever; runs in a child. */
static void server_to_kill(int to_parent, __u64 flags)
{
	static struct server s;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	server_start(&s, UBLK_F_FUSED_CMD | flags);
	if (write(to_parent, &s.id, sizeof(s.id)) != sizeof(s.id))
		FATAL("no parent");
	s.want_op = UBLK_IO_OP_READ;
	if (!pump_until(&s, request_arrived, 0, TIMEOUT_MS))
		FATAL("the request does not arrive");
	if (flags)
		fused_commit(&s, s.got, 2);
	else
		primary(&s, s.got, 2);
	secondary(&s, 0, IORING_OP_READ, 512, 512, 512);
	secondary_on(&s.ring, 1, IORING_OP_READ, s.pipe[0], 0, 512, 0);
	submit(&s.ring);
	if (write(to_parent, &s.id, sizeof(s.id)) != sizeof(s.id))
		FATAL("no parent");
	for (;;)
		pump(&s, 1000);
}

/*
 * Kill a server of a device with @flags; with any, its group commits.
 *
 * A server that is killed while a group waits takes the request with it, and
 * its device can be deleted. The reader must not share the server's files: they
 * are closed when the last one who has them is gone.
 */
static void kill_server(struct server *s, __u64 flags)
{
	/* its thread may outlive a check that fails */
	static struct block_io io;
	int to_parent[2], status, id, i, res;
	pid_t pid;

	io = (struct block_io){ .op = UBLK_IO_OP_READ };
	CHECK(!pipe(to_parent), "no pipe");
	fflush(stdout);
	pid = fork();
	if (!pid)
		server_to_kill(to_parent[1], flags);
	close(to_parent[1]);
	CHECK(pid > 0 && read(to_parent[0], &id, sizeof(id)) == sizeof(id),
	      "the server does not start");
	snprintf(io.path, sizeof(io.path), "/dev/ublkb%d", id);
	io.buf = s->io.buf;
	if (pthread_create(&io.thread, NULL, block_io_fn, &io))
		FATAL("no thread");
	res = read(to_parent[0], &id, sizeof(id));
	close(to_parent[0]);
	usleep(100000);
	kill(pid, SIGKILL);
	for (i = 0; i < TIMEOUT_MS / 50 && waitpid(pid, &status, WNOHANG) != pid; i++)
		usleep(50000);
	CHECK(i < TIMEOUT_MS / 50, "the server does not die");
	CHECK(res == sizeof(id), "the server fails");
	if (flags) {
		/* what broke off is not the end of the request: the next server gets it */
		usleep(500000);
		CHECK(!io.done, "the block read ends with %d", io.res);
		res = ctrl(id, UBLK_U_CMD_STOP_DEV, NULL, 0, 0);
		CHECK(!res, "STOP_DEV: %d", res);
	}
	pthread_join(io.thread, NULL);
	CHECK(io.res == -EIO, "the block read ends with %d", io.res);
	res = ctrl(id, UBLK_U_CMD_DEL_DEV, NULL, 0, 0);
	CHECK(!res, "DEL_DEV: %d", res);
}

void test_kill(struct server *s)
{
	kill_server(s, 0);
}

void test_kill_reissue(struct server *s)
{
	kill_server(s, UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE);
}
