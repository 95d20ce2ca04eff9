// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>
#include "bad_disk.h"

#define CONFIGFS	"/sys/kernel/config"
#define DIR		CONFIGFS "/nullb/nullb_fused"

static int set_attr(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY), len = strlen(value);

	if (fd < 0)
		return -1;
	len = write(fd, value, len) == len ? 0 : -1;
	close(fd);
	return len;
}

int open_bad_disk(int flags)
{
	int fd;

	if (access(CONFIGFS "/nullb", F_OK))
		mount("none", CONFIGFS, "configfs", 0, NULL);
	if (access(CONFIGFS "/nullb", F_OK))
		return -ENODEV;
	/* of a test that has failed */
	remove_bad_disk();
	if (mkdir(DIR, 0755))
		return -errno;
	if (set_attr(DIR "/size", "1") || set_attr(DIR "/badblocks", "+16-23") ||
	    set_attr(DIR "/power", "1"))
		return -EIO;
	fd = open("/dev/nullb_fused", flags);
	return fd < 0 ? -errno : fd;
}

int remove_bad_disk(void)
{
	set_attr(DIR "/power", "0");
	return rmdir(DIR);
}
