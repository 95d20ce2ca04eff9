// SPDX-License-Identifier: GPL-2.0
/*
 * life_exit: a server stops or deletes its own device and is killed meanwhile.
 *
 * The command runs in a worker thread of the server, and waits for a request
 * that the server has. The server does not end before its worker, and its files
 * are not closed before it ends. Nobody can commit the request any more, so it
 * must fail for all of this to end.
 */
#include <signal.h>
#include "life.h"
#include "kselftest_harness.h"

FIXTURE(exit) {
	int id;
};

FIXTURE_VARIANT(exit) {
	__u32 op;
	__u64 flags;
};

FIXTURE_VARIANT_ADD(exit, stop) {
	.op = UBLK_U_CMD_STOP_DEV,
};

FIXTURE_VARIANT_ADD(exit, del) {
	.op = UBLK_U_CMD_DEL_DEV,
};

FIXTURE_VARIANT_ADD(exit, stop_recoverable) {
	.op = UBLK_U_CMD_STOP_DEV,
	.flags = UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE,
};

FIXTURE_SETUP(exit)
{
	self->id = -1;
	if (why_not())
		SKIP(return, "%s", why_not());
}

FIXTURE_TEARDOWN(exit)
{
	if (self->id >= 0)
		EXPECT_EQ(0, delete_dev(self->id));
}

/* Has a request and does not serve it; tells its device, and when it has it */
static pid_t server(__u32 op, __u64 flags, int to_parent)
{
	pid_t pid = child();
	struct srv s;

	if (pid)
		return pid;
	srv_live(&s, flags, NULL);
	if (write(to_parent, &s.id, sizeof(s.id)) != sizeof(s.id))
		give_up("write", -errno);
	while (srv_request(&s, 1000) < 0)
		;
	tell(to_parent);
	ctrl_simple(s.id, op, NULL, 0, 0);
	give_up("the device was stopped under its user", 0);
	return 0;
}

TEST_F_TIMEOUT(exit, own_device, 120)
{
	const char *disk;
	struct blk_io io;
	int pipes[2], fd;
	pid_t pid;

	ASSERT_EQ(0, pipe(pipes));
	pid = server(variant->op, variant->flags, pipes[1]);
	close(pipes[1]);
	ASSERT_EQ((ssize_t)sizeof(self->id), read(pipes[0], &self->id, sizeof(self->id)));
	disk = str("/dev/ublkb%d", self->id);
	block_start(&io, self->id, B_READ, 8, 4096);
	hear(pipes[0]);
	/* it is being deleted when it can not be opened any more */
	while ((fd = open(disk, O_RDONLY | O_CLOEXEC)) >= 0)
		close(fd);
	ASSERT_EQ(0, kill(pid, SIGKILL));
	EXPECT_EQ(-1, exit_status(pid));
	EXPECT_EQ(-EIO, block_wait(&io, INT_MAX));
	if (variant->op == UBLK_U_CMD_DEL_DEV) {
		/* who deletes it is gone, so it may be there or not */
		delete_dev(self->id);
		self->id = -1;
	}
}

TEST_HARNESS_MAIN
