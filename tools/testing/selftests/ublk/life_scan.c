// SPDX-License-Identifier: GPL-2.0
/*
 * life_scan: the disk of a server that nobody trusts is not looked through for
 * partitions, also if that was to be done to the disk that was there before.
 */
#include <sys/stat.h>
#include "life.h"
#include "kselftest_harness.h"

#define ROUNDS	6

/* Whatever is read begins with a partition table */
static void fill_tables(struct srv *s)
{
	int tag;

	for (tag = 0; tag < s->depth; tag++) {
		unsigned char *table = s->buf[tag], *entry = table + 446;

		memset(table, 0, IO_BYTES);
		entry[4] = 0x83;
		entry[9] = 8;		/* begins at sector 2048 */
		entry[13] = 8;		/* has as many sectors */
		table[510] = 0x55;
		table[511] = 0xaa;
	}
}

static void start_disk(struct srv *s)
{
	int res;

	/* somebody may still have the last disk open */
	do {
		res = start(s->id, getpid());
	} while (res == -EEXIST && !usleep(1000));
	if (res)
		give_up("START_DEV", res);
}

static bool has_partition(int id)
{
	return !access(str("/sys/block/ublkb%d/ublkb%dp1", id, id), F_OK);
}

static pid_t command(struct srv *s, __u32 op)
{
	pid_t pid = child();

	if (pid)
		return pid;
	close(s->cdev);
	_exit(-ctrl_simple(s->id, op, NULL, 0, 0));
}

FIXTURE(scan) {
	struct srv s;
};

FIXTURE_SETUP(scan)
{
	struct ublksrv_ctrl_dev_info info = default_info(0);

	self->s.id = -1;
	if (why_not())
		SKIP(return, "%s", why_not());
	srv_info(&self->s, &info, NULL);
	ASSERT_EQ(0, chmod(str("/dev/ublkc%d", self->s.id), 0666));
}

FIXTURE_TEARDOWN(scan)
{
	if (self->s.id >= 0)
		EXPECT_EQ(0, delete_dev(self->s.id));
}

/* Else the other one proves nothing. */
TEST_F_TIMEOUT(scan, trusted, 120)
{
	struct srv *s = &self->s;

	attach(s);
	fill_tables(s);
	srv_fetch(s, 0, DEPTH);
	start_disk(s);
	while (!has_partition(s->id)) {
		int tag = srv_request(s, 20);

		if (tag >= 0)
			srv_commit(s, tag, srv_desc(s, tag)->nr_sectors << 9);
	}
	srv_close(s);
}

TEST_F_TIMEOUT(scan, distrusted, 120)
{
	struct srv *s = &self->s;
	struct blk_io io;
	int round;

	for (round = 0; round < ROUNDS; round++) {
		attach(s);
		fill_tables(s);
		srv_fetch(s, 0, DEPTH);
		start_disk(s);
		ASSERT_EQ(0, serve(s, command(s, UBLK_U_CMD_STOP_DEV)));
		srv_close(s);

		become(NOBODY);
		attach(s);
		fill_tables(s);
		srv_fetch(s, 0, DEPTH);
		become(0);
		start_disk(s);
		block_start(&io, s->id, B_READ, 8, 4096);
		/* 255 is for all of the bytes */
		EXPECT_EQ(255, serve(s, io.pid));
		EXPECT_FALSE(has_partition(s->id));
		ASSERT_EQ(0, serve(s, command(s, UBLK_U_CMD_STOP_DEV)));
		EXPECT_FALSE(has_partition(s->id));
		srv_close(s);
	}
}

TEST_HARNESS_MAIN
