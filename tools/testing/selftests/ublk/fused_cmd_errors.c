// SPDX-License-Identifier: GPL-2.0
/*
 * Rules of IORING_OP_FUSED_CMD and UBLK_U_IO_FUSED_SUBMIT_IO, one test each.
 *
 * The program is server and user of a ublk device at once: the main thread
 * owns the ring and the fetched requests, a helper thread reads or writes the
 * block device. With "defer" as argument the ring is set up with SINGLE_ISSUER
 * and DEFER_TASKRUN.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include "fused_errors.h"

unsigned int ring_flags;
int ctrl_fd;

/* where a case that failed ends */
static jmp_buf case_failed;

void check(bool cond, const char *fmt, ...)
{
	va_list args;

	if (cond)
		return;
	printf("# ");
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\n");
	longjmp(case_failed, 1);
}

void fatal(const char *fmt, ...)
{
	char msg[256];
	va_list args;

	va_start(args, fmt);
	vsnprintf(msg, sizeof(msg), fmt, args);
	va_end(args);
	/* the results are counted in this file's copy of kselftest.h */
	ksft_exit_fail_msg("%s", msg);
}

static const struct {
	const char *name;
	void (*fn)(struct server *s);
} tests[] = {
	{ "read", test_read },
	{ "write", test_write },
	{ "direction: READ from a block write", test_direction_of_write },
	{ "direction: WRITE to a block read", test_direction_of_read },
	{ "ublk: bad command", test_ublk_command },
	{ "ublk: tag not owned", test_ublk_not_owned },
	{ "ublk: request without data", test_ublk_no_data },
	{ "ublk: command of the wrong kind", test_ublk_wrong_op },
	{ "ublk: device without UBLK_F_FUSED_CMD", test_ublk_no_feature },
	{ "ublk: flags refused at ADD_DEV", test_ublk_add_dev },
	{ "ublk: FETCH_REQ with an address", test_ublk_fetch_addr },
	{ "ublk: pread and pwrite", test_pread_pwrite },
	{ "ranges", test_ranges },
	{ "short read leaves zeroes", test_short_read },
	{ "two leases, two rings", test_other_ring },
	{ "commit while leased", test_commit_while_leased },
	{ "commit that moves the data", test_fused_commit },
	{ "commit from a worker", test_fused_commit_async },
	{ "commit that fails to move the data", test_fused_commit_fails },
	{ "commit that may not move the data", test_fused_commit_refused },
	{ "commit whose secondary is canceled", test_fused_commit_canceled },
	{ "commit while another one moves the data", test_fused_commit_twice },
	{ "SQE group: a leader that lends a block read", test_leader_read },
	{ "SQE group: a leader that lends a block write", test_leader_write },
	{ "SQE group: leaders that are refused", test_leader_refused },
	{ "cancel a secondary", test_cancel },
	{ "ring closed with a group pending", test_close_ring },
	{ "server killed with a group pending", test_kill },
	{ "server killed with a commit pending, reissue", test_kill_reissue },
};

static bool run(struct server *s, void (*fn)(struct server *s))
{
	if (setjmp(case_failed))
		return false;
	fn(s);
	return true;
}

static void hung(int sig)
{
	static const char msg[] = "Bail out! the program hangs\n";

	if (write(STDOUT_FILENO, msg, sizeof(msg) - 1) < 0)
		_exit(2);
	_exit(KSFT_FAIL);
}

static void need_features(void)
{
	struct io_uring_params p = { .flags = ring_flags };
	struct io_uring ring;
	__u64 features = 0;
	int res;

	if (getuid())
		ksft_exit_skip("please run this as root\n");
	res = io_uring_queue_init_params(4, &ring, &p);
	if (res)
		ksft_exit_skip("no io_uring (%s)\n", strerror(-res));
	io_uring_queue_exit(&ring);
	if (!(p.features & IORING_FEAT_FUSED_CMD))
		ksft_exit_skip("no IORING_FEAT_FUSED_CMD\n");
	ctrl_fd = open("/dev/ublk-control", O_RDWR);
	if (ctrl_fd < 0)
		ksft_exit_skip("no /dev/ublk-control\n");
	res = ctrl(-1, UBLK_U_CMD_GET_FEATURES, &features, sizeof(features), 0);
	if (res || !(features & UBLK_F_FUSED_CMD))
		ksft_exit_skip("no UBLK_F_FUSED_CMD\n");
}

/* fused_cmd_errors [default|defer] [part of a test's name] */
int main(int argc, char **argv)
{
	const char *pick = argc > 2 ? argv[2] : "";
	static struct server s;
	unsigned int i;
	bool ok;

	if (argc > 1 && !strcmp(argv[1], "defer"))
		ring_flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
	setvbuf(stdout, NULL, _IOLBF, 0);
	ksft_print_header();
	need_features();
	ksft_set_plan(ARRAY_SIZE(tests));
	signal(SIGALRM, hung);
	signal(SIGPIPE, SIG_IGN);

	alarm(60);
	server_start(&s, UBLK_F_FUSED_CMD);
	for (i = 0; i < ARRAY_SIZE(tests); i++) {
		if (!strstr(tests[i].name, pick)) {
			ksft_test_result_skip("%s\n", tests[i].name);
			continue;
		}
		alarm(60);
		ok = run(&s, tests[i].fn);
		/* whatever it left */
		block_io_finish(&s, LEN);
		file_reset(&s);
		ksft_test_result(ok, "%s\n", tests[i].name);
	}
	server_stop(&s);
	close(ctrl_fd);
	ksft_finished();
}
