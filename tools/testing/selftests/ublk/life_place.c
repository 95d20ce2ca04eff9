// SPDX-License-Identifier: GPL-2.0
/*
 * life_place: there are never more unprivileged devices than the module's
 * parameter allows, however long the end of one of them takes.
 */
#include <sys/stat.h>
#include <sys/wait.h>
#include "life.h"
#include "kselftest_harness.h"

/* the driver's default, which may not be known to us, is 64 */
#define MAX_PLACES	1024

/* A device of nobody's: its number, or an error */
static int add_own(void)
{
	int id;

	become(NOBODY);
	id = add(UBLK_F_UNPRIVILEGED_DEV);
	become(0);
	return id;
}

FIXTURE(place) {
	int id[MAX_PLACES];
	int taken;
};

/* Take all places but those that others have */
FIXTURE_SETUP(place)
{
	int id = -1;

	self->taken = 0;
	if (why_not())
		SKIP(return, "%s", why_not());
	while (self->taken < MAX_PLACES && (id = add_own()) >= 0)
		self->id[self->taken++] = id;
	ASSERT_EQ(-EACCES, id);
	ASSERT_LT(0, self->taken);
	TH_LOG("%d places", self->taken);
}

FIXTURE_TEARDOWN(place)
{
	while (self->taken--)
		EXPECT_EQ(0, delete_dev(self->id[self->taken]));
}

/* A device whose user waits for its server, so that its end takes as long as we like */
static void make_busy(struct srv *s, struct blk_io *io)
{
	struct ublk_params params = default_params();
	int res;

	chmod(str("/dev/ublkc%d", s->id), 0666);
	become(NOBODY);
	res = ctrl_path(s->id, UBLK_U_CMD_SET_PARAMS, &params, sizeof(params), 0);
	if (res)
		give_up("SET_PARAMS", res);
	srv_attach(s);
	srv_fetch(s, 0, DEPTH);
	res = ctrl_path(s->id, UBLK_U_CMD_START_DEV, NULL, 0, getpid());
	if (res)
		give_up("START_DEV", res);
	become(0);
	block_start(io, s->id, B_READ, 8, 4096);
	while (srv_request(s, 1000) < 0)
		;
}

TEST_F_TIMEOUT(place, of_a_device_that_ends, 120)
{
	struct srv s = {
		.id = self->id[0], .queues = 1, .depth = DEPTH,
		.desc_size = sizeof(struct ublksrv_io_desc),
	};
	const char *disk = str("/dev/ublkb%d", s.id);
	struct blk_io io;
	pid_t deleter;
	int i, id, fd, late;

	make_busy(&s, &io);
	deleter = child();
	if (!deleter) {
		close(s.cdev);
		close(s.ring.ring_fd);
		_exit(-delete_dev(s.id));
	}
	/* the deletion is under way when the disk can not be opened any more */
	while ((fd = open(disk, O_RDONLY | O_CLOEXEC)) >= 0)
		close(fd);
	/* not too often: a server that does not answer for 30 s is killed */
	for (i = 0, id = -EACCES; i < 10 && id == -EACCES; i++)
		id = add_own();
	EXPECT_EQ(-EACCES, id);
	if (id >= 0)
		EXPECT_EQ(0, delete_dev(id));
	late = waitpid(deleter, NULL, WNOHANG);
	EXPECT_EQ(0, late) {
		TH_LOG("the device did not wait for its server");
	}
	srv_close(&s);
	if (!late)
		EXPECT_EQ(0, exit_status(deleter));
	EXPECT_EQ(-EIO, block_wait(&io, INT_MAX));
	/* now the place is free */
	self->id[0] = add_own();
	ASSERT_LE(0, self->id[0]);
	EXPECT_EQ(-EACCES, add_own());
}

/*
 * A device that was deleted has its place until its last user is gone: else somebody
 * who keeps the files of such devices open could have any number of them.
 */
TEST_F_TIMEOUT(place, of_a_device_in_use, 120)
{
	int fds[4], nr = self->taken < 4 ? self->taken : 4;
	struct ublksrv_ctrl_dev_info info;
	pid_t deleters[4];
	int i, j, id;

	for (i = 0; i < nr; i++) {
		fds[i] = open_cdev(self->id[i]);
		ASSERT_LE(0, fds[i]);
		deleters[i] = child();
		if (!deleters[i]) {
			for (j = 0; j <= i; j++)
				close(fds[j]);
			_exit(-delete_dev(self->id[i]));
		}
		/* out of sight, though not gone */
		while (get_info(self->id[i], &info) != -ENODEV)
			usleep(1000);
		id = add_own();
		EXPECT_EQ(-EACCES, id);
		if (id >= 0)
			EXPECT_EQ(0, delete_dev(id));
	}
	for (i = 0; i < nr; i++) {
		close(fds[i]);
		EXPECT_EQ(0, exit_status(deleters[i]));
		self->id[i] = add_own();
		ASSERT_LE(0, self->id[i]);
		EXPECT_EQ(-EACCES, add_own());
	}
}

TEST_HARNESS_MAIN
