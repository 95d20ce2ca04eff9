// SPDX-License-Identifier: GPL-2.0
/* parity: SET_PARAMS and GET_PARAMS. */
#include <sys/mman.h>
#include "parity.h"

/* Everything but the device numbers, which depend on what else is there */
static const char *params_str(const struct ublk_params *p)
{
	const unsigned char *zoned = (const void *)&p->zoned;
	const unsigned char *integrity = (const void *)&p->integrity;
	const char *basic, *discard, *seg;
	unsigned int i, sum = 0;

	for (i = 0; i < sizeof(p->zoned); i++)
		sum = sum * 31 + zoned[i];
	for (i = 0; i < sizeof(p->integrity); i++)
		sum = sum * 31 + integrity[i];
	basic = str("basic %x %u %u %u %u %u %u %llx %llx", p->basic.attrs,
		    p->basic.logical_bs_shift, p->basic.physical_bs_shift,
		    p->basic.io_opt_shift, p->basic.io_min_shift, p->basic.max_sectors,
		    p->basic.chunk_sectors, (unsigned long long)p->basic.dev_sectors,
		    (unsigned long long)p->basic.virt_boundary_mask);
	discard = str("discard %u %u %u %u %u %u", p->discard.discard_alignment,
		      p->discard.discard_granularity, p->discard.max_discard_sectors,
		      p->discard.max_write_zeroes_sectors,
		      p->discard.max_discard_segments, p->discard.reserved0);
	seg = str("seg %llx %u %u %02x%02x", (unsigned long long)p->seg.seg_boundary_mask,
		  p->seg.max_segment_size, p->seg.max_segments, p->seg.pad[0],
		  p->seg.pad[1]);
	return str("len %u types %x %s %s dma %x %02x%02x%02x%02x %s rest %x disk %u",
		   p->len, p->types, basic, discard, p->dma.alignment, p->dma.pad[0],
		   p->dma.pad[1], p->dma.pad[2], p->dma.pad[3], seg, sum,
		   p->devt.disk_major);
}

static const char *read_params(int id)
{
	struct ublk_params p;
	int res;

	memset(&p, 0, sizeof(p));
	p.len = sizeof(p);
	res = ctrl_simple(id, UBLK_U_CMD_GET_PARAMS, &p, sizeof(p), 0);
	return res ? res_name(res) : params_str(&p);
}

/* One change of good parameters each, on a device that has none yet */
static void change_case(int id, const char *what, const struct ublk_params *p)
{
	int res = set_params(id, p);

	put("added", "SET_PARAMS", what, "%s; %s", res_name(res), read_params(id));
}

#define CHANGE(id, ...) do {				\
	struct ublk_params p = default_params();	\
							\
	__VA_ARGS__;					\
	change_case(id, #__VA_ARGS__, &p);		\
} while (0)

static void basic(const void *arg)
{
	static const int shifts[] = { 0, 8, 9, 12, 13, 28, 29, 255 };
	static const unsigned int sectors[] = {
		0, 1, 7, 8, 9, 2047, 2048, 2049, 65536, UINT_MAX,
	};
	struct ublksrv_ctrl_dev_info info;
	int id = add(0);
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(shifts); i++) {
		struct ublk_params p = default_params();

		p.basic.logical_bs_shift = shifts[i];
		change_case(id, str("logical_bs_shift %d", shifts[i]), &p);
		p.basic.physical_bs_shift = shifts[i];
		change_case(id, str("logical_bs_shift and physical_bs_shift %d", shifts[i]),
			    &p);
		p = default_params();
		p.basic.physical_bs_shift = shifts[i];
		change_case(id, str("physical_bs_shift %d", shifts[i]), &p);
		p = default_params();
		p.basic.io_min_shift = shifts[i];
		change_case(id, str("io_min_shift %d", shifts[i]), &p);
		p = default_params();
		p.basic.io_opt_shift = shifts[i];
		change_case(id, str("io_opt_shift %d", shifts[i]), &p);
	}
	for (i = 0; i < ARRAY_SIZE(sectors); i++) {
		struct ublk_params p = default_params();

		p.basic.max_sectors = sectors[i];
		change_case(id, str("max_sectors %u", sectors[i]), &p);
		p = default_params();
		p.basic.chunk_sectors = sectors[i];
		change_case(id, str("chunk_sectors %u", sectors[i]), &p);
	}
	CHANGE(id, p.basic.attrs = 0);
	CHANGE(id, p.basic.attrs = ~0U);
	CHANGE(id, p.basic.dev_sectors = 0);
	CHANGE(id, p.basic.dev_sectors = ~0ULL);
	CHANGE(id, p.basic.virt_boundary_mask = 4095);
	CHANGE(id, p.basic.virt_boundary_mask = 77);
	CHANGE(id, p.basic.virt_boundary_mask = ~0ULL);

	/* a device whose requests are small */
	info = default_info(0);
	info.max_io_buf_bytes = 4096;
	id = add_info(&info);
	CHANGE(id, p.basic.max_sectors = 8, p.basic.attrs = 1);
	CHANGE(id, p.basic.max_sectors = 9, p.basic.attrs = 1);
	info = default_info(0);
	info.max_io_buf_bytes = 512;
	id = add_info(&info);
	CHANGE(id, p.basic.max_sectors = 1, p.basic.attrs = 3);
	CHANGE(id, p.basic.max_sectors = 8, p.basic.attrs = 3);
}

static void others(const void *arg)
{
	int id = add(*(const __u64 *)arg);

	/* discard */
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_DISCARD);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_DISCARD, p.discard.discard_granularity = 4096);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_DISCARD, p.discard.discard_granularity = 512,
	       p.discard.max_discard_sectors = 8);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_DISCARD, p.discard.discard_granularity = 512,
	       p.discard.max_discard_sectors = 8, p.discard.max_discard_segments = 1);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_DISCARD, p.discard.discard_granularity = 512,
	       p.discard.max_discard_sectors = 8, p.discard.max_discard_segments = 2);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_DISCARD, p.discard.discard_granularity = 512,
	       p.discard.max_discard_segments = 9);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_DISCARD, p.discard.max_write_zeroes_sectors = 8);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_DISCARD, p.discard.discard_granularity = 77,
	       p.discard.reserved0 = 5, p.discard.discard_alignment = ~0U);
	CHANGE(id, p.discard.max_discard_sectors = 8);

	/* device numbers */
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_DEVT);
	CHANGE(id, p.devt.disk_major = 5);

	/* zoned */
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_ZONED);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_ZONED, p.zoned.max_zone_append_sectors = 8);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_ZONED, p.zoned.max_zone_append_sectors = 8,
	       p.basic.chunk_sectors = 4096);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_ZONED | UBLK_PARAM_TYPE_DEVT);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_ZONED | UBLK_PARAM_TYPE_DISCARD);

	/* DMA alignment */
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_DMA_ALIGN);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_DMA_ALIGN, p.dma.alignment = 1);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_DMA_ALIGN, p.dma.alignment = 2);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_DMA_ALIGN, p.dma.alignment = 511);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_DMA_ALIGN, p.dma.alignment = 4095);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_DMA_ALIGN, p.dma.alignment = 4096);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_DMA_ALIGN, p.dma.alignment = ~0U);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_DMA_ALIGN, p.dma.pad[2] = 1);

	/* segments */
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_SEGMENT);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_SEGMENT, p.seg.seg_boundary_mask = 4095,
	       p.seg.max_segment_size = 4096, p.seg.max_segments = 1);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_SEGMENT, p.seg.seg_boundary_mask = 4095,
	       p.seg.max_segment_size = 4096);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_SEGMENT, p.seg.seg_boundary_mask = 4095,
	       p.seg.max_segment_size = 4095, p.seg.max_segments = 1);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_SEGMENT, p.seg.seg_boundary_mask = 2047,
	       p.seg.max_segment_size = 4096, p.seg.max_segments = 1);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_SEGMENT, p.seg.seg_boundary_mask = 4096,
	       p.seg.max_segment_size = 4096, p.seg.max_segments = 1);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_SEGMENT, p.seg.seg_boundary_mask = ~0ULL,
	       p.seg.max_segment_size = 4096, p.seg.max_segments = 1);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_SEGMENT, p.seg.seg_boundary_mask = ~0ULL >> 1,
	       p.seg.max_segment_size = ~0U, p.seg.max_segments = 65535, p.seg.pad[1] = 1);

	/* integrity */
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_INTEGRITY);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_INTEGRITY, p.integrity.metadata_size = 8,
	       p.integrity.interval_exp = 9);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_INTEGRITY, p.integrity.csum_type = 99);
	CHANGE(id, p.types |= UBLK_PARAM_TYPE_INTEGRITY, p.integrity.flags = ~0U);
	CHANGE(id, p.integrity.flags = ~0U);

	/* types */
	CHANGE(id, p.types = 0);
	CHANGE(id, p.types = UBLK_PARAM_TYPE_DISCARD, p.discard.discard_granularity = 512);
	CHANGE(id, p.types |= 1 << 7);
	CHANGE(id, p.types |= 0xffffff80);
	CHANGE(id, p.types = 0xffffff80);
	CHANGE(id, p.types = ~0U);
}

/* What @p.len and the command's length say */
static void lengths(const void *arg)
{
	static const struct {
		unsigned int cmd, params;
	} len[] = {
		{ 0, 136 }, { 1, 1 }, { 7, 7 }, { 8, 8 }, { 9, 8 }, { 9, 9 }, { 9, 10 },
		{ 12, 0 }, { 12, 1 }, { 12, 4 }, { 12, 8 }, { 12, 12 }, { 40, 40 },
		{ 48, 40 }, { 40, 48 }, { 60, 60 }, { 60, 61 }, { 100, 41 },
		{ sizeof(struct ublk_params), sizeof(struct ublk_params) - 1 },
		{ sizeof(struct ublk_params), sizeof(struct ublk_params) + 1 },
		{ 4096, sizeof(struct ublk_params) + 1 }, { 4096, 4096 }, { 4096, 4097 },
		{ 65535, 65535 }, { 65535, ~0U },
	};
	static unsigned char room[65536];
	struct ublk_params p, *in = (void *)room;
	unsigned int i, j, n;
	int id, res;

	for (i = 0; i < ARRAY_SIZE(len); i++) {
		const char *what = str("len %u of %u", len[i].params, len[i].cmd);

		/* over nothing, and over parameters that are set */
		id = add(0);
		p = default_params();
		memset(room, 0, sizeof(room));
		*in = p;
		in->len = len[i].params;
		res = ctrl_simple(id, UBLK_U_CMD_SET_PARAMS, room, len[i].cmd, 0);
		put("added", "SET_PARAMS", what, "%s; %s", res_name(res), read_params(id));
		p.types |= UBLK_PARAM_TYPE_DMA_ALIGN;
		p.dma.alignment = 511;
		set_params(id, &p);
		in->basic.attrs = UBLK_ATTR_ROTATIONAL;
		res = ctrl_simple(id, UBLK_U_CMD_SET_PARAMS, room, len[i].cmd, 0);
		put("params set", "SET_PARAMS", what, "%s; %s", res_name(res),
		    read_params(id));

		memset(room, 0xee, sizeof(room));
		in->len = len[i].params;
		res = ctrl_simple(id, UBLK_U_CMD_GET_PARAMS, room, len[i].cmd, 0);
		for (j = 4, n = 0; j < sizeof(room); j++)
			if (room[j] != 0xee)
				n = j + 1;
		put("params set", "GET_PARAMS", what, "%s len %u, %u bytes", res_name(res),
		    in->len, n);
		ctrl_simple(id, UBLK_U_CMD_DEL_DEV, NULL, 0, 0);
	}
}

static void addresses(const void *arg)
{
	struct ublk_params p = default_params(), *end;
	int id = add(0), res;
	char *pages;

	pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (pages == MAP_FAILED)
		give_up("mmap", -errno);
	munmap(pages + 4096, 4096);

	res = ctrl_simple(id, UBLK_U_CMD_SET_PARAMS, NULL, sizeof(p), 0);
	put("added", "SET_PARAMS", "addr 0", "%s", res_name(res));
	res = ctrl_simple(id, UBLK_U_CMD_SET_PARAMS, BAD_ADDR, sizeof(p), 0);
	put("added", "SET_PARAMS", "bad addr", "%s", res_name(res));
	res = ctrl_simple(id, UBLK_U_CMD_GET_PARAMS, NULL, sizeof(p), 0);
	put("added", "GET_PARAMS", "addr 0", "%s", res_name(res));
	res = ctrl_simple(id, UBLK_U_CMD_GET_PARAMS, BAD_ADDR, sizeof(p), 0);
	put("added", "GET_PARAMS", "bad addr", "%s", res_name(res));

	/* only the head is there */
	set_params(id, &p);
	end = (void *)(pages + 4096 - 8);
	end->len = sizeof(p);
	end->types = UBLK_PARAM_TYPE_BASIC;
	res = ctrl_simple(id, UBLK_U_CMD_SET_PARAMS, end, sizeof(p), 0);
	put("params set", "SET_PARAMS", "part of it unmapped", "%s; %s", res_name(res),
	    read_params(id));
	set_params(id, &p);
	end = (void *)(pages + 4096 - 48);
	memcpy(end, &p, 48);
	res = ctrl_simple(id, UBLK_U_CMD_SET_PARAMS, end, sizeof(p), 0);
	put("params set", "SET_PARAMS", "some of it unmapped", "%s; %s", res_name(res),
	    read_params(id));
	set_params(id, &p);
	res = ctrl_simple(id, UBLK_U_CMD_GET_PARAMS, end, sizeof(p), 0);
	put("params set", "GET_PARAMS", "some of it unmapped", "%s", res_name(res));
	mprotect(pages, 4096, PROT_READ);
	res = ctrl_simple(id, UBLK_U_CMD_GET_PARAMS, pages, sizeof(p), 0);
	put("params set", "GET_PARAMS", "read-only, len 0", "%s", res_name(res));
	res = ctrl_simple(id, UBLK_U_CMD_GET_PARAMS, end, 48, 0);
	put("params set", "GET_PARAMS", "read-only, len too big", "%s", res_name(res));
}

/* A failed SET_PARAMS, one after GET_PARAMS, one with another device state */
static void sequences(const void *arg)
{
	struct ublk_params p = default_params(), bad = p;
	struct srv s;
	char *end;
	int id = add(0), res;

	put("added", "GET_PARAMS", "none set", "%s", read_params(id));
	set_params(id, &p);
	put("params set", "GET_PARAMS", "", "%s", read_params(id));
	bad.basic.logical_bs_shift = 0;
	res = set_params(id, &bad);
	put("params set", "SET_PARAMS", "bad ones", "%s; %s", res_name(res), read_params(id));
	put("bad params set", "START_DEV", "", "%s", res_name(start(id, getpid())));

	/* what GET_PARAMS gave, given back */
	set_params(id, &p);
	res = ctrl_simple(id, UBLK_U_CMD_GET_PARAMS, &p, sizeof(p), 0);
	put("params set", "SET_PARAMS", "as read", "%s %s", res_name(res),
	    res_name(set_params(id, &p)));
	p.types &= ~UBLK_PARAM_TYPE_DEVT;
	put("params set", "SET_PARAMS", "as read, without DEVT", "%s; %s",
	    res_name(set_params(id, &p)), read_params(id));

	p = default_params();
	srv_open(&s, 0, NULL);
	p.basic.attrs = 0;
	put("open", "SET_PARAMS", "", "%s; %s", res_name(set_params(s.id, &p)),
	    read_params(s.id));
	srv_fetch(&s, 0, DEPTH);
	p.basic.attrs = UBLK_ATTR_ROTATIONAL;
	put("ready", "SET_PARAMS", "", "%s; %s", res_name(set_params(s.id, &p)),
	    read_params(s.id));
	srv_start(&s);
	put("live", "GET_PARAMS", "", "%s", read_params(s.id));
	p.basic.attrs = 0;
	put("live", "SET_PARAMS", "", "%s; %s", res_name(set_params(s.id, &p)),
	    read_params(s.id));
	bad.types = UBLK_PARAM_TYPE_DISCARD;
	put("live", "SET_PARAMS", "bad ones", "%s; %s", res_name(set_params(s.id, &bad)),
	    read_params(s.id));
	res = ctrl_simple(s.id, UBLK_U_CMD_SET_PARAMS, BAD_ADDR, sizeof(p), 0);
	put("live", "SET_PARAMS", "bad addr", "%s", res_name(res));
	res = ctrl_simple(s.id, UBLK_U_CMD_SET_PARAMS, &p, 4, 0);
	put("live", "SET_PARAMS", "length 4", "%s", res_name(res));
	end = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (end == MAP_FAILED)
		give_up("mmap", -errno);
	munmap(end + 4096, 4096);
	end = memcpy(end + 4096 - 48, &p, 48);
	res = ctrl_simple(s.id, UBLK_U_CMD_SET_PARAMS, end, sizeof(p), 0);
	put("live", "SET_PARAMS", "some of it unmapped", "%s", res_name(res));
	ctrl_simple(s.id, UBLK_U_CMD_STOP_DEV, NULL, 0, 0);
	put("stopped", "GET_PARAMS", "", "%s", read_params(s.id));
	put("stopped", "SET_PARAMS", "", "%s; %s", res_name(set_params(s.id, &p)),
	    read_params(s.id));
}

void group_params(void)
{
	static const __u64 none;

	run("basic params", basic, NULL);
	run("other params", others, &none);
	run("param lengths", lengths, NULL);
	run("param addresses", addresses, NULL);
	run("param sequences", sequences, NULL);
}
