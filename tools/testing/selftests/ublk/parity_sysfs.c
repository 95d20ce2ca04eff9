// SPDX-License-Identifier: GPL-2.0
/* parity: what can be seen of the block device, after START_DEV with various parameters. */
#include <dirent.h>
#include <sys/ioctl.h>
#include <linux/blkzoned.h>
#include <linux/fs.h>
#include <linux/hdreg.h>
#include "parity.h"

/* What differs from run to run */
static bool varies(const char *name)
{
	static const char *const names[] = { "dev", "diskseq", "inflight", "stat", "uevent" };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(name, names[i]))
			return true;
	return false;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* All plain files of a directory, each is a case; links and directories by name */
static void dump(const char *state, int id, const char *dir)
{
	char path[512], text[256], *names[256];
	struct dirent *entry;
	int i, n = 0, fd;
	DIR *d;

	snprintf(path, sizeof(path), "/sys/block/ublkb%d%s", id, dir);
	d = opendir(path);
	if (!d) {
		put(state, "sysfs", str("%s/", dir), "%s", res_name(-errno));
		return;
	}
	while (n < (int)ARRAY_SIZE(names) && (entry = readdir(d)))
		if (entry->d_name[0] != '.')
			names[n++] = strdup(entry->d_name);
	closedir(d);
	qsort(names, n, sizeof(*names), by_name);
	for (i = 0; i < n; i++) {
		ssize_t len;

		if (varies(names[i]))
			continue;
		snprintf(path, sizeof(path), "/sys/block/ublkb%d%s/%s", id, dir, names[i]);
		fd = open(path, O_RDONLY);
		len = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
		text[len < 0 ? 0 : len] = 0;
		text[strcspn(text, "\n")] = 0;
		put(state, "sysfs", str("%s/%s", dir, names[i]), "%s",
		    len < 0 ? res_name(-errno) : text);
		if (fd >= 0)
			close(fd);
		free(names[i]);
	}
}

static void ioctls(const char *state, int id)
{
	int fd = open(str("/dev/ublkb%d", id), O_RDONLY);
	unsigned long long bytes = 0;
	unsigned long sectors = 0;
	struct hd_geometry geo = {};
	unsigned int n;
	int res;

	put(state, "open", "read only", "%s", res_name(fd < 0 ? -errno : 0));
	if (fd < 0)
		return;
	res = ioctl(fd, BLKGETSIZE64, &bytes);
	put(state, "ioctl", "BLKGETSIZE64", "%d %llu", res, bytes);
	res = ioctl(fd, BLKGETSIZE, &sectors);
	put(state, "ioctl", "BLKGETSIZE", "%d %lu", res, sectors);
#define INT_IOCTL(name) do {							\
	n = 0;									\
	res = ioctl(fd, name, &n);						\
	put(state, "ioctl", #name, "%s %u", res_name(res ? -errno : 0), n);	\
} while (0)
	INT_IOCTL(BLKSSZGET);
	INT_IOCTL(BLKPBSZGET);
	INT_IOCTL(BLKIOMIN);
	INT_IOCTL(BLKIOOPT);
	INT_IOCTL(BLKALIGNOFF);
	INT_IOCTL(BLKROTATIONAL);
	INT_IOCTL(BLKROGET);
	INT_IOCTL(BLKDISCARDZEROES);
	INT_IOCTL(BLKGETZONESZ);
	INT_IOCTL(BLKGETNRZONES);
	INT_IOCTL(BLKSECTGET);
	res = ioctl(fd, HDIO_GETGEO, &geo);
	put(state, "ioctl", "HDIO_GETGEO", "%s", res_name(res ? -errno : 0));
	res = ioctl(fd, _IO('u', 1), &geo);
	put(state, "ioctl", "unknown", "%s", res_name(res ? -errno : 0));
	close(fd);
	fd = open(str("/dev/ublkb%d", id), O_RDWR);
	put(state, "open", "for writing", "%s", res_name(fd < 0 ? -errno : 0));
	if (fd >= 0)
		close(fd);
	fd = open(str("/dev/ublkb%d", id), O_RDWR | O_EXCL);
	put(state, "open", "exclusively", "%s", res_name(fd < 0 ? -errno : 0));
	if (fd >= 0)
		close(fd);
}

struct look {
	const char *name;
	void (*change)(struct ublk_params *p);
	bool all;
};

#define VARIANT(name, ...)							\
	static void name(struct ublk_params *p) { __VA_ARGS__; }

VARIANT(as_is, (void)p)
VARIANT(no_attrs, p->basic.attrs = 0)
VARIANT(read_only, p->basic.attrs = UBLK_ATTR_READ_ONLY)
VARIANT(rotational, p->basic.attrs = UBLK_ATTR_ROTATIONAL)
VARIANT(cache, p->basic.attrs = UBLK_ATTR_VOLATILE_CACHE)
VARIANT(fua_only, p->basic.attrs = UBLK_ATTR_FUA)
VARIANT(all_attrs, p->basic.attrs = ~0U)
VARIANT(block_4k, p->basic.logical_bs_shift = 12)
VARIANT(big_physical, p->basic.physical_bs_shift = 28, p->basic.io_min_shift = 28,
	p->basic.io_opt_shift = 28)
VARIANT(min_shift_0, p->basic.io_min_shift = 0, p->basic.io_opt_shift = 0)
VARIANT(io_opt_64k, p->basic.io_opt_shift = 16, p->basic.io_min_shift = 14)
VARIANT(max_8_sectors, p->basic.max_sectors = 8)
VARIANT(max_odd_sectors, p->basic.max_sectors = 13)
VARIANT(chunk_128, p->basic.chunk_sectors = 128)
VARIANT(chunk_100, p->basic.chunk_sectors = 100)
VARIANT(chunk_1, p->basic.chunk_sectors = 1)
VARIANT(boundary_4095, p->basic.virt_boundary_mask = 4095)
VARIANT(boundary_511, p->basic.virt_boundary_mask = 511)
VARIANT(size_0, p->basic.dev_sectors = 0)
VARIANT(size_odd, p->basic.dev_sectors = 12345)
VARIANT(size_large, p->basic.dev_sectors = 1ULL << 54)
VARIANT(size_huge, p->basic.dev_sectors = ~0ULL)
VARIANT(odd_size_4k, p->basic.logical_bs_shift = 12, p->basic.dev_sectors = 12345)
VARIANT(discard, p->types |= UBLK_PARAM_TYPE_DISCARD, p->discard.discard_granularity = 4096,
	p->discard.max_discard_sectors = 2048, p->discard.max_discard_segments = 1,
	p->discard.max_write_zeroes_sectors = 1024, p->discard.discard_alignment = 512)
VARIANT(no_discard, p->types |= UBLK_PARAM_TYPE_DISCARD, p->discard.discard_granularity = 4096)
VARIANT(discard_77, p->types |= UBLK_PARAM_TYPE_DISCARD, p->discard.discard_granularity = 77,
	p->discard.max_discard_sectors = 2048, p->discard.max_discard_segments = 1)
VARIANT(discard_max, p->types |= UBLK_PARAM_TYPE_DISCARD,
	p->discard.discard_granularity = 1U << 31, p->discard.max_discard_sectors = ~0U,
	p->discard.max_discard_segments = 1, p->discard.max_write_zeroes_sectors = ~0U)
VARIANT(zeroes_only, p->types |= UBLK_PARAM_TYPE_DISCARD, p->discard.discard_granularity = 512,
	p->discard.max_write_zeroes_sectors = 7)
VARIANT(dma_511, p->types |= UBLK_PARAM_TYPE_DMA_ALIGN, p->dma.alignment = 511)
VARIANT(dma_0, p->types |= UBLK_PARAM_TYPE_DMA_ALIGN, p->dma.alignment = 0)
VARIANT(dma_4095, p->types |= UBLK_PARAM_TYPE_DMA_ALIGN, p->dma.alignment = 4095)
VARIANT(segments, p->types |= UBLK_PARAM_TYPE_SEGMENT, p->seg.seg_boundary_mask = 65535,
	p->seg.max_segment_size = 32768, p->seg.max_segments = 4)
VARIANT(segment_1, p->types |= UBLK_PARAM_TYPE_SEGMENT, p->seg.seg_boundary_mask = 4095,
	p->seg.max_segment_size = 4096, p->seg.max_segments = 1)
VARIANT(segments_0, p->types |= UBLK_PARAM_TYPE_SEGMENT, p->seg.seg_boundary_mask = 4095,
	p->seg.max_segment_size = 4096)
VARIANT(segments_and_boundary, p->types |= UBLK_PARAM_TYPE_SEGMENT,
	p->basic.virt_boundary_mask = 4095, p->seg.seg_boundary_mask = 4095,
	p->seg.max_segment_size = 8192, p->seg.max_segments = 9)
VARIANT(everything, p->types |= UBLK_PARAM_TYPE_SEGMENT | UBLK_PARAM_TYPE_DMA_ALIGN |
	UBLK_PARAM_TYPE_DISCARD, p->seg.seg_boundary_mask = ~0ULL >> 1,
	p->seg.max_segment_size = 1 << 20, p->seg.max_segments = 128,
	p->dma.alignment = 127, p->discard.discard_granularity = 1 << 20,
	p->discard.max_discard_sectors = 1 << 20, p->discard.max_discard_segments = 1)

static const struct look looks[] = {
#define ROW(name, ...)	{ #name, name, ##__VA_ARGS__ }
	ROW(as_is, true), ROW(no_attrs), ROW(read_only), ROW(rotational), ROW(cache),
	ROW(fua_only), ROW(all_attrs), ROW(block_4k), ROW(big_physical), ROW(min_shift_0),
	ROW(io_opt_64k), ROW(max_8_sectors), ROW(max_odd_sectors), ROW(chunk_128),
	ROW(chunk_100), ROW(chunk_1), ROW(boundary_4095), ROW(boundary_511), ROW(size_0),
	ROW(size_odd), ROW(size_large), ROW(size_huge), ROW(odd_size_4k), ROW(discard),
	ROW(no_discard), ROW(discard_77), ROW(discard_max), ROW(zeroes_only), ROW(dma_511),
	ROW(dma_0), ROW(dma_4095), ROW(segments), ROW(segment_1), ROW(segments_0),
	ROW(segments_and_boundary), ROW(everything),
};

/* One parameter set: START_DEV's result, and the limits */
static void one_look(const void *arg)
{
	const struct look *look = arg;
	struct ublk_params params = default_params();
	struct ublksrv_ctrl_dev_info info = default_info(UBLK_F_NO_AUTO_PART_SCAN);
	struct srv s;
	int res;

	look->change(&params);
	info.nr_hw_queues = 2;
	srv_info(&s, &info, &params);
	srv_attach(&s);
	srv_fetch(&s, 0, 2 * DEPTH);
	res = start(s.id, getpid());
	put(look->name, "START_DEV", "", "%s; then %s", res_name(res), dev_state(s.id));
	if (res) {
		/* it can be set right and tried again */
		params = default_params();
		put(look->name, "SET_PARAMS", "after START_DEV failed", "%s",
		    res_name(set_params(s.id, &params)));
		put(look->name, "START_DEV", "once more", "%s",
		    res_name(start(s.id, getpid())));
		return;
	}
	dump(look->name, s.id, "/queue");
	if (look->all) {
		dump(look->name, s.id, "");
		dump(look->name, s.id, "/mq");
		dump(look->name, s.id, "/mq/0");
		dump(look->name, s.id, "/mq/1");
		dump(look->name, s.id, "/integrity");
	} else {
		static const char *const few[] = {
			"size", "ro", "alignment_offset", "discard_alignment",
		};
		unsigned int i;

		for (i = 0; i < ARRAY_SIZE(few); i++) {
			char text[64] = "";
			int fd = open(str("/sys/block/ublkb%d/%s", s.id, few[i]), O_RDONLY);

			if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
				strcpy(text, "?");
			text[strcspn(text, "\n")] = 0;
			put(look->name, "sysfs", str("/%s", few[i]), "%s", text);
			close(fd);
		}
	}
	ioctls(look->name, s.id);
}

/* The nodes of a device that comes and goes, and their uevents */
static void nodes(const void *arg)
{
	struct srv s;
	const char *const paths[] = {
		"/dev/ublkc%d", "/dev/ublkb%d", "/sys/block/ublkb%d",
		"/sys/class/ublk-char/ublkc%d", "/sys/class/block/ublkb%d",
		"/sys/class/misc/ublk-control/ublk-char/ublkc%d",
		"/sys/class/ublk-char/ublkc%d/device", "/sys/class/ublk-char/ublkc%d/dev",
		"/sys/class/ublk-char/ublkc%d/power", "/sys/class/ublk-char/ublkc%d/subsystem",
		"/sys/devices/virtual/misc/ublk-control/ublk-char/ublkc%d",
		"/sys/devices/virtual/block/ublkb%d", "/sys/block/ublkb%d/device",
		"/sys/block/ublkb%d/bdi", "/sys/kernel/debug/block/ublkb%d",
	};
	static const char *const when[] = { "open", "live", "stopped", "deleted" };
	unsigned int i, w;

	srv_open(&s, 0, NULL);
	for (w = 0; w < ARRAY_SIZE(when); w++) {
		if (w == 1) {
			srv_fetch(&s, 0, DEPTH);
			srv_start(&s);
		} else if (w == 2) {
			ctrl_simple(s.id, UBLK_U_CMD_STOP_DEV, NULL, 0, 0);
		} else if (w == 3) {
			srv_close(&s);
			ctrl_simple(s.id, UBLK_U_CMD_DEL_DEV, NULL, 0, 0);
		}
		for (i = 0; i < ARRAY_SIZE(paths); i++) {
			char path[256];

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
			snprintf(path, sizeof(path), paths[i], s.id);
#pragma GCC diagnostic pop
			put(when[w], "node", paths[i], "%d", !access(path, F_OK));
		}
	}
}

void group_sysfs(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(looks); i++)
		run(looks[i].name, one_look, &looks[i]);
	run("nodes", nodes, NULL);
}
