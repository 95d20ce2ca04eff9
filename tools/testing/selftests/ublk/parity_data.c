// SPDX-License-Identifier: GPL-2.0
/* parity: how requests are described, and how their data and results move. */
#include <pthread.h>
#include <sys/mman.h>
#include "parity.h"

static struct ublk_params all_ops(void)
{
	struct ublk_params params = default_params();

	params.types |= UBLK_PARAM_TYPE_DISCARD;
	params.discard.discard_granularity = 512;
	params.discard.max_discard_sectors = 65536;
	params.discard.max_discard_segments = 1;
	params.discard.max_write_zeroes_sectors = 65536;
	return params;
}

/* Descriptors -------------------------------------------------------------- */

struct description {
	const char *mode;
	__u64 flags;
	bool plain;
};

static void descriptors(const void *arg)
{
	static const struct {
		enum block_op op;
		__u64 sector;
		unsigned int bytes;
	} ops[] = {
		{ B_READ, 8, 4096 }, { B_READ, 1, 512 }, { B_READ, DEV_SECTORS - 1, 512 },
		{ B_READ, 2048, IO_BYTES }, { B_WRITE, 16, 4096 },
		{ B_WRITE, 4096, IO_BYTES }, { B_FUA, 24, 512 }, { B_FLUSH, 0, 0 },
		{ B_DISCARD, 4096, 65536 }, { B_ZEROES, 64, 4096 },
		{ B_ZEROES_NOUNMAP, 64, 4096 }, { B_SECDISCARD, 64, 4096 },
		{ B_READ, DEV_SECTORS, 512 }, { B_WRITE, DEV_SECTORS, 512 },
	};
	const struct description *d = arg;
	struct ublk_params params = d->plain ? default_params() : all_ops();
	struct srv s;
	unsigned int i;

	srv_live(&s, d->flags, &params);
	for (i = 0; i < ARRAY_SIZE(ops); i++) {
		const char *what = str("%s %llu %u", block_op_name[ops[i].op],
				       (unsigned long long)ops[i].sector, ops[i].bytes);
		struct blk_io io;
		int tag, n = 0, res;

		block_start(&io, s.id, ops[i].op, ops[i].sector, ops[i].bytes);
		/* its requests, until the user has had enough */
		while ((res = block_wait(&io, 20)) == BLOCKS && n < 8) {
			const struct ublksrv_io_desc *desc;
			int result, cqe;

			tag = srv_request(&s, 100);
			if (tag < 0)
				continue;
			desc = srv_desc(&s, tag);
			put(d->mode, what, str("request %d", n++),
			    "op %x sectors %u at %llu addr %s", desc->op_flags,
			    desc->nr_sectors, (unsigned long long)desc->start_sector,
			    !desc->addr ? "0" :
			    desc->addr == (unsigned long)s.buf[tag] ? "buffer" :
			    desc->addr < 16 ? "index" : "other");
			result = desc->nr_sectors << 9;
			if (s.flags & UBLK_F_NEED_GET_DATA && ublksrv_get_op(desc) == 1) {
				struct io get = {
					.op = UBLK_U_IO_NEED_GET_DATA, .tag = tag,
					.addr = (unsigned long)s.buf[tag] + 4096,
				};

				memset(s.buf[tag], 0, 8192);
				cqe = srv_do(&s, &get);
				put(d->mode, what, "data", "%s %02x, %u sectors, addr %d",
				    res_name(cqe), *((__u8 *)s.buf[tag] + 4096),
				    desc->nr_sectors, desc->addr == get.addr);
			} else if (srv_copies(&s) && ublksrv_get_op(desc) == 1) {
				put(d->mode, what, "data", "%02x", *(__u8 *)s.buf[tag]);
			}
			srv_commit(&s, tag, result);
		}
		put(d->mode, what, "end", "%s", res_name(res));
	}
}

/* Results ------------------------------------------------------------------ */

struct mode {
	const char *name;
	__u64 flags;
	enum block_op op;
};

static void results(const void *arg)
{
	static const int result[] = {
		4096, 8192, 8193, 512, 100, 1, 0, 1 << 30, INT_MAX, -EPERM, -EIO, -EAGAIN,
		-ENOSPC, -ENOMEM, -EOPNOTSUPP, -ENOLINK, -EREMOTEIO, -ETIMEDOUT, -EILSEQ,
		-EINVAL, -ENODATA, -EBUSY, -EBADE, -ENODEV, -EOVERFLOW, -512, -529, -4095,
		-4096, -100000, INT_MIN + 1, INT_MIN,
	};
	const struct mode *mode = arg;
	struct ublk_params params = all_ops();
	struct srv s;
	unsigned int i;

	srv_live(&s, mode->flags, &params);
	for (i = 0; i < ARRAY_SIZE(result); i++) {
		const char *more = "";
		struct blk_io io;
		int tag, res, n;

		block_start(&io, s.id, mode->op, 8, mode->op == B_FLUSH ? 0 : 8192);
		tag = srv_request(&s, 5000);
		if (tag < 0)
			give_up("no request", block_wait(&io, 0));
		srv_commit(&s, tag, result[i]);
		/* what is not done is asked for again */
		for (n = 0; n < 4; n++) {
			const struct ublksrv_io_desc *desc;

			res = block_wait(&io, 60);
			if (res != BLOCKS)
				break;
			tag = srv_request(&s, 100);
			if (tag < 0)
				continue;
			desc = srv_desc(&s, tag);
			more = str("%s, again %u at %llu", more, desc->nr_sectors,
				   (unsigned long long)desc->start_sector);
			srv_commit(&s, tag, -EIO);
		}
		put(mode->name, block_op_name[mode->op], str("result %d", result[i]), "%s%s",
		    res_name(res), more);
		if (res == BLOCKS) {
			/* the rest would not mean anything */
			block_kill(&io);
			return;
		}
	}
}

/* Buffers that are not there ----------------------------------------------- */

static void bad_buffers(const void *arg)
{
	struct blk_io io = {};
	struct srv s;
	struct io commit = { .op = UBLK_U_IO_COMMIT_AND_FETCH_REQ, .result = 8192 };
	char *edge;
	int tag, i;

	edge = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (edge == MAP_FAILED)
		give_up("mmap", -errno);
	munmap(edge + 4096, 4096);
	srv_live(&s, 0, NULL);
	for (i = 0; i < 5; i++) {
		static const char *const name[] = {
			"bad", "kernel's", "half of it", "less than a sector",
			"all but the last byte",
		};
		const unsigned long addr[] = {
			(unsigned long)BAD_ADDR, ~0UL - 65535, (unsigned long)edge,
			(unsigned long)edge + 4096 - 100, (unsigned long)edge + 4096 - 8191,
		};

		block_start(&io, s.id, B_READ, 8, 8192);
		tag = srv_request(&s, 5000);
		if (tag < 0)
			give_up("no request", block_wait(&io, 0));
		commit.tag = tag;
		commit.addr = addr[i];
		put("copy", "READ", str("address %s", name[i]), "COMMIT %s",
		    res_name(srv_do(&s, &commit)));
		tag = srv_request(&s, 300);
		if (tag >= 0) {
			const struct ublksrv_io_desc *desc = srv_desc(&s, tag);

			put("copy", "READ", str("again, address %s", name[i]), "%u at %llu",
			    desc->nr_sectors, (unsigned long long)desc->start_sector);
			srv_commit(&s, tag, desc->nr_sectors << 9);
		}
		put("copy", "READ", str("end, address %s", name[i]), "%s",
		    res_name(block_wait(&io, 1000)));
	}

	/* now each tag waits with half a buffer */
	srv_close(&s);
	srv_open(&s, UBLK_F_NEED_GET_DATA, NULL);
	srv_fetch(&s, 0, DEPTH);
	srv_start(&s);
	block_start(&io, s.id, B_WRITE, 8, 8192);
	tag = srv_request(&s, 5000);
	if (tag < 0)
		give_up("no request", block_wait(&io, 0));
	for (i = 0; i < 4; i++) {
		static const char *const name[] = { "0", "bad", "bad again", "half" };
		struct io get = { .op = UBLK_U_IO_NEED_GET_DATA, .tag = tag };
		int res;

		get.addr = i == 3 ? (unsigned long)edge : i ? 8 : 0;
		res = srv_do(&s, &get);
		put("get data", "GET_DATA", str("address %s", name[i]), "%s, %u sectors",
		    res_name(res), srv_desc(&s, tag)->nr_sectors);
		if (res == BLOCKS) {
			tag = srv_request(&s, 1000);
			put("get data", "GET_DATA", str("after address %s", name[i]), "%s",
			    tag < 0 ? "nothing" : "asked again");
			if (tag < 0)
				break;
		}
	}
	if (tag >= 0) {
		srv_commit(&s, tag, 4096);
		put("get data", "WRITE", "end", "%s", res_name(block_wait(&io, 1000)));
	}
	block_kill(&io);
}

/* The table of registered buffers ------------------------------------------ */

static int reg(struct srv *s, bool unregister, int tag, unsigned int index)
{
	struct io io = {
		.op = unregister ? UBLK_U_IO_UNREGISTER_IO_BUF : UBLK_U_IO_REGISTER_IO_BUF,
		.tag = tag,
		.addr = index,
	};
	int res = srv_wait(s, srv_send(s, &io), 50);

	return res;
}

/* How many bytes of a pipe can be moved with the buffer, in each direction */
static const char *use(struct srv *s, unsigned int index, unsigned int off, unsigned int len)
{
	int dir, res[2], fd = memfd_create("parity", 0);

	if (fd < 0 || ftruncate(fd, 1 << 20))
		give_up("memfd", -errno);
	for (dir = 0; dir < 2; dir++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&s->ring);
		__u64 ud = s->next++;

		if (dir)
			io_uring_prep_write_fixed(sqe, fd, (void *)(unsigned long)off, len, 0,
						  index);
		else
			io_uring_prep_read_fixed(sqe, fd, (void *)(unsigned long)off, len, 0,
						 index);
		sqe->user_data = ud;
		io_uring_submit(&s->ring);
		res[dir] = srv_wait(s, ud, 1000);
	}
	close(fd);
	return str("read %s write %s", res_name(res[0]), res_name(res[1]));
}

static void register_steps(const void *arg)
{
	const struct mode *mode = arg;
	const char *name = str("%s %s", mode->name, block_op_name[mode->op]);
	struct blk_io io, second;
	struct srv s;
	int tag, other;

	srv_live(&s, mode->flags, NULL);
	block_start(&io, s.id, mode->op, 8, 8192);
	tag = srv_request(&s, 5000);
	if (tag < 0)
		give_up("no request", block_wait(&io, 0));
	put(name, "flags", "", "%x", srv_desc(&s, tag)->op_flags);
	put(name, "use", "index of the tag", "%s", use(&s, tag + 1, 0, 8192));
	put(name, "use", "index of the tag, too long", "%s", use(&s, tag + 1, 0, 8193));
	put(name, "REGISTER", "5", "%s", res_name(reg(&s, false, tag, 5)));
	put(name, "REGISTER", "5 again", "%s", res_name(reg(&s, false, tag, 5)));
	put(name, "REGISTER", "6", "%s", res_name(reg(&s, false, tag, 6)));
	put(name, "REGISTER", "16, beyond the table", "%s", res_name(reg(&s, false, tag, 16)));
	put(name, "use", "5", "%s", use(&s, 5, 0, 8192));
	put(name, "use", "5 at 4096", "%s", use(&s, 5, 4096, 4096));
	put(name, "use", "5 at 4096, too long", "%s", use(&s, 5, 4096, 8192));
	put(name, "use", "7, nothing there", "%s", use(&s, 7, 0, 4096));
	put(name, "UNREGISTER", "7, nothing there", "%s", res_name(reg(&s, true, tag, 7)));
	put(name, "UNREGISTER", "16, beyond the table", "%s", res_name(reg(&s, true, tag, 16)));
	put(name, "UNREGISTER", "6", "%s", res_name(reg(&s, true, tag, 6)));
	put(name, "UNREGISTER", "6 again", "%s", res_name(reg(&s, true, tag, 6)));

	/* the request lasts as long as its buffer */
	srv_commit(&s, tag, 8192);
	put(name, "end", "committed, 5 registered", "%s", res_name(block_wait(&io, 200)));
	put(name, "REGISTER", "8, committed", "%s", res_name(reg(&s, false, tag, 8)));
	put(name, "UNREGISTER", "5, committed", "%s", res_name(reg(&s, true, tag, 5)));
	put(name, "end", "all unregistered", "%s", res_name(block_wait(&io, 1000)));

	/* the same index for two requests */
	block_start(&io, s.id, mode->op, 16, 4096);
	tag = srv_request(&s, 5000);
	s.owned[tag] = false;
	block_start(&second, s.id, mode->op, 32, 4096);
	other = srv_request(&s, 5000);
	put(name, "two requests", "", "%d", tag >= 0 && other >= 0 && tag != other);
	put(name, "REGISTER", "9, first request", "%s", res_name(reg(&s, false, tag, 9)));
	put(name, "REGISTER", "9, second request", "%s", res_name(reg(&s, false, other, 9)));
	srv_commit(&s, tag, 4096);
	srv_commit(&s, other, 4096);
	put(name, "end", "second request", "%s", res_name(block_wait(&second, 500)));
	put(name, "end", "first request, 9 registered", "%s", res_name(block_wait(&io, 100)));
	/*
	 * Closing the ring instead would hang with the C driver: it cancels no
	 * command of a tag whose request is not over, and io_uring keeps the
	 * buffers until all commands are over.
	 */
	put(name, "UNREGISTER", "9", "%s", res_name(reg(&s, true, tag, 9)));
	put(name, "end", "first request, 9 unregistered", "%s", res_name(block_wait(&io, 1000)));
}

/* Automatic registration where it can not work */
static void auto_fails(const void *arg)
{
	static const struct {
		const char *name;
		__u64 addr;
	} how[] = {
		{ "index 99", 99 }, { "index 99, fallback", 1 << 16 | 99 },
		{ "index in use", 12 }, { "index in use, fallback", 1 << 16 | 12 },
		{ "fallback not needed", 1 << 16 | 3 }, { "index 65535", 65535 },
		{ "index 65535, fallback", 1 << 16 | 65535 },
	};
	const struct mode *mode = arg;
	struct blk_io io, none;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(how); i++) {
		const char *name = str("%s %s", mode->name, how[i].name);
		struct iovec iov = { .iov_len = 4096 };
		struct srv s;
		int tag, t;

		srv_open(&s, mode->flags, NULL);
		iov.iov_base = s.buf[0];
		if (io_uring_register_buffers_update_tag(&s.ring, 12, &iov, NULL, 1) < 0)
			give_up("buffer", -EINVAL);
		for (t = 0; t < DEPTH; t++) {
			struct io fetch = {
				.op = UBLK_U_IO_FETCH_REQ, .tag = t, .sqe_addr = how[i].addr,
			};

			srv_do(&s, &fetch);
		}
		srv_start(&s);
		block_start(&io, s.id, B_READ, 8, 4096);
		tag = srv_request(&s, 1000);
		if (tag < 0) {
			put(name, "READ", "not told to the server", "%s",
			    res_name(block_wait(&io, 1000)));
		} else {
			put(name, "READ", "flags", "%x, use %s",
			    srv_desc(&s, tag)->op_flags, use(&s, how[i].addr & 0xffff, 0, 512));
			/* one without data, that has the same index */
			s.owned[tag] = false;
			block_start(&none, s.id, B_FLUSH, 0, 0);
			t = srv_request(&s, 1000);
			srv_commit(&s, t, 0);
			put(name, "FLUSH", "meanwhile", "%s, use %s",
			    res_name(block_wait(&none, 1000)),
			    use(&s, how[i].addr & 0xffff, 0, 512));
			put(name, "REGISTER", "5", "%s", res_name(reg(&s, false, tag, 5)));
			put(name, "UNREGISTER", "5", "%s", res_name(reg(&s, true, tag, 5)));
			srv_commit(&s, tag, 4096);
			put(name, "end", "", "%s", res_name(block_wait(&io, 1000)));
			put(name, "use", "afterwards", "%s",
			    use(&s, how[i].addr & 0xffff, 0, 512));
		}
		block_start(&io, s.id, B_FLUSH, 0, 0);
		tag = srv_request(&s, 1000);
		put(name, "FLUSH", "flags", "%x", tag < 0 ? 0 : srv_desc(&s, tag)->op_flags);
		srv_close(&s);
		put(name, "FLUSH", "server gone", "%s", res_name(block_wait(&io, 3000)));
	}
}

void group_data(void)
{
	static const struct description description[] = {
		{ "copy", 0 }, { "get data", UBLK_F_NEED_GET_DATA },
		{ "user copy", UBLK_F_USER_COPY }, { "zero copy", UBLK_F_SUPPORT_ZERO_COPY },
		{ "auto", UBLK_F_AUTO_BUF_REG }, { "copy, plain", 0, true },
	};
	static const struct mode result[] = {
		{ "copy", 0, B_READ }, { "copy", 0, B_WRITE }, { "copy", 0, B_FLUSH },
		{ "copy", 0, B_DISCARD }, { "copy", 0, B_ZEROES },
		{ "user copy", UBLK_F_USER_COPY, B_READ },
		{ "user copy", UBLK_F_USER_COPY, B_WRITE },
		{ "zero copy", UBLK_F_SUPPORT_ZERO_COPY, B_READ },
		{ "auto", UBLK_F_AUTO_BUF_REG, B_READ },
		{ "get data", UBLK_F_NEED_GET_DATA, B_READ },
	};
	static const struct mode registers[] = {
		{ "zero copy", UBLK_F_SUPPORT_ZERO_COPY, B_READ },
		{ "zero copy", UBLK_F_SUPPORT_ZERO_COPY, B_WRITE },
		{ "auto zero copy", UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG, B_READ },
		{ "auto zero copy", UBLK_F_SUPPORT_ZERO_COPY | UBLK_F_AUTO_BUF_REG, B_WRITE },
		{ "auto", UBLK_F_AUTO_BUF_REG, B_READ },
		{ "user copy", UBLK_F_USER_COPY, B_READ },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(description); i++)
		run(str("descriptors %s", description[i].mode), descriptors, &description[i]);
	for (i = 0; i < ARRAY_SIZE(result); i++)
		run(str("results %s %s", result[i].name, block_op_name[result[i].op]), results,
		    &result[i]);
	run("bad buffers", bad_buffers, NULL);
	for (i = 0; i < ARRAY_SIZE(registers); i++)
		run(str("registers %s %s", registers[i].name, block_op_name[registers[i].op]),
		    register_steps, &registers[i]);
	run("auto fails", auto_fails, &registers[4]);
	run("auto fails zero copy", auto_fails, &registers[2]);
}
