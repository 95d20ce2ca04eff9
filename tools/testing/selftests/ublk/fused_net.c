// SPDX-License-Identifier: GPL-2.0
/*
 * fused_net: a disk behind a TCP connection. The data of each request goes
 * straight between its pages and the socket, by a group that commits the request
 * as well: see test_fused_13.sh, which puts file systems on it. Or, to compare, by
 * SEND_ZC of a buffer that the driver has registered, with what is read copied.
 *
 * usage: fused_net send|send_zc|registered MiB
 *
 * Prints the name of the disk, then serves one request after the other until
 * SIGTERM. The other end of the connection is a thread with the memory.
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include "life.h"

/* user_data of a request's data; I/O commands have the tag + 1 */
#define UD_DATA	1000

enum mode { SEND, SEND_ZC, REGISTERED };

/* What goes over the wire before the data */
struct head {
	__u32 op, len;
	__u64 off;
};

static struct srv s;
static unsigned char *memory;
static int sock[2];
static int ended;

static void on_term(int sig)
{
	__atomic_store_n(&ended, 1, __ATOMIC_RELAXED);
}

/* All of it, or the connection is over */
static void whole(int fd, void *p, size_t len, bool out)
{
	ssize_t n;

	for (; len; p = (char *)p + n, len -= n) {
		n = out ? send(fd, p, len, MSG_NOSIGNAL) : recv(fd, p, len, 0);
		if (n <= 0)
			_exit(0);
	}
}

static void *remote(void *arg)
{
	struct head h;

	for (;;) {
		whole(sock[1], &h, sizeof(h), false);
		whole(sock[1], memory + h.off, h.len, h.op == UBLK_IO_OP_READ);
	}
	return NULL;
}

static int connect_both(void)
{
	struct sockaddr_in addr = { .sin_family = AF_INET };
	socklen_t len = sizeof(addr);
	int one = 1, fd;

	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	sock[0] = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(fd, (void *)&addr, sizeof(addr)) || listen(fd, 1) ||
	    getsockname(fd, (void *)&addr, &len) || connect(sock[0], (void *)&addr, len))
		return -errno;
	sock[1] = accept(fd, NULL, NULL);
	close(fd);
	setsockopt(sock[0], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return sock[1] < 0 ? -errno : 0;
}

static struct io_uring_sqe *commit(int tag, int result)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&s.ring);
	struct ublksrv_io_cmd *cmd = (void *)sqe->cmd;

	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = s.cdev;
	sqe->cmd_op = UBLK_U_IO_COMMIT_AND_FETCH_REQ;
	sqe->user_data = tag + 1;
	if (s.flags & UBLK_F_AUTO_BUF_REG)
		sqe->addr = tag + 1;
	cmd->tag = tag;
	cmd->result = result;
	return sqe;
}

/* The same with a registered buffer: it is committed when the network has sent it */
static unsigned int begin_registered(int tag, const struct head *h)
{
	__u64 pos = UBLKSRV_IO_BUF_OFFSET + ((__u64)tag << UBLK_TAG_OFF);
	struct io_uring_sqe *sqe;
	char *data;

	if (h->op == UBLK_IO_OP_READ) {
		data = malloc(h->len);
		if (!data)
			_exit(1);
		whole(sock[0], data, h->len, false);
		commit(tag, pwrite(s.cdev, data, h->len, pos));
		free(data);
		return 0;
	}
	sqe = io_uring_get_sqe(&s.ring);
	io_uring_prep_send_zc_fixed(sqe, sock[0], NULL, h->len, MSG_WAITALL, 0, tag + 1);
	sqe->user_data = UD_DATA + 1 + tag;
	return h->len;
}

/* Start what the request asks for. Returns how many bytes it moves, 0 for none. */
static unsigned int begin(int tag, enum mode mode)
{
	const struct ublksrv_io_desc *d = srv_desc(&s, tag);
	struct head h = {
		.op = ublksrv_get_op(d),
		.len = d->nr_sectors << 9,
		.off = d->start_sector << 9,
	};
	struct io_uring_sqe *sqe;

	if (h.op != UBLK_IO_OP_READ && h.op != UBLK_IO_OP_WRITE) {
		commit(tag, h.op == UBLK_IO_OP_FLUSH ? 0 : -EOPNOTSUPP);
		return 0;
	}
	whole(sock[0], &h, sizeof(h), true);
	if (mode == REGISTERED)
		return begin_registered(tag, &h);
	sqe = commit(tag, 0);
	sqe->opcode = IORING_OP_FUSED_CMD;
	sqe->uring_cmd_flags = IORING_FUSED_CMD_BUF;
	sqe->nr_secondary = 1;
	sqe = io_uring_get_sqe(&s.ring);
	if (h.op == UBLK_IO_OP_READ)
		io_uring_prep_recv(sqe, sock[0], NULL, h.len, MSG_WAITALL);
	else if (mode == SEND_ZC)
		io_uring_prep_send_zc(sqe, sock[0], NULL, h.len, MSG_WAITALL, 0);
	else
		io_uring_prep_send(sqe, sock[0], NULL, h.len, MSG_WAITALL);
	sqe->user_data = UD_DATA;
	return h.len;
}

/* Serve until told to end. Returns 0 if all data was moved. */
static int serve_all(enum mode mode)
{
	int waiting[MAX_DEPTH], nr = 0, moved = 0, wrong = 0;
	struct __kernel_timespec ts = { .tv_nsec = 200000000 };
	struct io_uring_cqe *cqe;
	unsigned int want = 0;

	while (!__atomic_load_n(&ended, __ATOMIC_RELAXED) || want) {
		if (io_uring_submit_and_wait_timeout(&s.ring, &cqe, 1, &ts, NULL) < 0 ||
		    io_uring_peek_cqe(&s.ring, &cqe))
			continue;
		if (cqe->user_data < UD_DATA) {
			if (cqe->res == UBLK_IO_RES_OK)
				waiting[nr++] = cqe->user_data - 1;
		} else if (!(cqe->flags & IORING_CQE_F_NOTIF)) {
			moved++;
			wrong += cqe->res != (int)want;
			/* nothing was sent, so the network tells no more */
			if (mode == REGISTERED && !(cqe->flags & IORING_CQE_F_MORE))
				commit(cqe->user_data - UD_DATA - 1, -EIO);
			if (mode != REGISTERED || !(cqe->flags & IORING_CQE_F_MORE))
				want = 0;
		} else if (mode == REGISTERED) {
			commit(cqe->user_data - UD_DATA - 1, want);
			want = 0;
		}
		io_uring_cqe_seen(&s.ring, cqe);
		while (!want && nr)
			want = begin(waiting[--nr], mode);
	}
	if (wrong || !moved)
		ksft_print_msg("%d of %d transfers went wrong\n", wrong, moved);
	return wrong || !moved;
}

int main(int argc, char **argv)
{
	struct ublksrv_ctrl_dev_info info = default_info(UBLK_F_NO_AUTO_PART_SCAN);
	enum mode mode = SEND;
	struct ublk_params params = default_params();
	size_t mib = argc > 2 ? atol(argv[2]) : 0;
	pthread_t thread;
	int res;

	if (!mib || why_not())
		return KSFT_SKIP;
	if (!strcmp(argv[1], "send_zc"))
		mode = SEND_ZC;
	else if (!strcmp(argv[1], "registered"))
		mode = REGISTERED;
	info.flags |= mode == REGISTERED ? UBLK_F_AUTO_BUF_REG | UBLK_F_USER_COPY :
					   UBLK_F_FUSED_CMD;
	signal(SIGTERM, on_term);
	/* the memory of the file system's write-back may depend on us */
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	memory = calloc(mib, 1 << 20);
	if (!memory || connect_both() || pthread_create(&thread, NULL, remote, NULL))
		return 1;
	/* an index in the ring's table of 16 for each */
	info.queue_depth = MAX_DEPTH - 1;
	params.basic.dev_sectors = mib << 11;
	srv_info(&s, &info, &params);
	srv_attach(&s);
	srv_fetch(&s, 0, s.depth);
	srv_start(&s);
	printf("/dev/ublkb%d\n", s.id);
	fflush(stdout);
	res = serve_all(mode);
	srv_close(&s);
	delete_dev(s.id);
	return res;
}
