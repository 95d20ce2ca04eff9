// SPDX-License-Identifier: GPL-2.0
/*
 * metadata_io: disks with integrity metadata (UBLK_F_INTEGRITY), of all
 * checksums. The server, which keeps data and metadata in memory, gets the
 * metadata that the block layer made, or the user sent; the reader gets what
 * the server has, and an error if a bit of it is flipped.
 */
#include <sys/wait.h>
#include <linux/fs.h>
#include "life.h"
#include "kselftest_harness.h"

#define FEATURES	(UBLK_F_USER_COPY | UBLK_F_INTEGRITY)
#define DISK_BYTES	((size_t)DEV_SECTORS << 9)
#define MERGED		16
/* a metadata size that is no power of two has pieces that cross all borders */
#define PIECE		1000

struct disk {
	struct srv s;
	struct ublk_params params;
	unsigned char *data;
	unsigned char *meta;
	/* what requests with data should have */
	bool payload;
	/* the largest request */
	unsigned int largest;
	/* requests that were not as they should be */
	int bad;
};

static unsigned int interval(const struct disk *d)
{
	return 1U << d->params.integrity.interval_exp;
}

static unsigned int block(const struct disk *d)
{
	return 1U << d->params.basic.logical_bs_shift;
}

static unsigned int tuple_size(const struct disk *d)
{
	switch (d->params.integrity.csum_type) {
	case LBMD_PI_CSUM_NONE:
		return 0;
	case LBMD_PI_CSUM_CRC64_NVME:
		return 16;
	default:
		return 8;
	}
}

static bool has_ref_tag(const struct disk *d)
{
	return d->params.integrity.flags & LBMD_PI_CAP_REFTAG;
}

/* Whether the block layer looks at it */
static bool is_checked(const struct disk *d)
{
	return d->params.integrity.csum_type != LBMD_PI_CSUM_NONE;
}

/* The metadata of a byte of the disk */
static size_t meta_of(const struct disk *d, size_t at)
{
	return at / interval(d) * d->params.integrity.metadata_size;
}

/* Checksums, a bit at a time ------------------------------------------------ */

static __u64 crc16(__u64 crc, const unsigned char *p, size_t len)
{
	int i;

	while (len--) {
		crc ^= (__u64)*p++ << 8;
		for (i = 0; i < 8; i++)
			crc = crc & 0x8000 ? (crc << 1 ^ 0x8bb7) & 0xffff : crc << 1;
	}
	return crc;
}

static __u64 crc64(__u64 crc, const unsigned char *p, size_t len)
{
	int i;

	crc = ~crc;
	while (len--) {
		crc ^= *p++;
		for (i = 0; i < 8; i++)
			crc = crc & 1 ? crc >> 1 ^ 0x9a6c9329ac4bc9b5ULL : crc >> 1;
	}
	return ~crc;
}

/* The sum of words in the machine's order, not folded */
static __u64 ip_sum(__u64 sum, const unsigned char *p, size_t len)
{
	__u16 word;

	for (; len >= 2; len -= 2, p += 2) {
		memcpy(&word, p, 2);
		sum += word;
	}
	return sum;
}

static void put_be(unsigned char *p, __u64 value, int bytes)
{
	while (bytes--) {
		p[bytes] = value;
		value >>= 8;
	}
}

/* The tuple of interval @nr, whose data and metadata are given */
static void make_tuple(const struct disk *d, size_t nr, const unsigned char *data,
		       const unsigned char *meta, unsigned char *tuple)
{
	unsigned int pad = d->params.integrity.pi_offset;
	__u64 sum;
	__u16 word;

	memset(tuple, 0, 16);
	switch (d->params.integrity.csum_type) {
	case LBMD_PI_CSUM_IP:
		sum = ip_sum(ip_sum(0, data, interval(d)), meta, pad);
		while (sum >> 16)
			sum = (sum & 0xffff) + (sum >> 16);
		word = ~sum;
		memcpy(tuple, &word, 2);
		put_be(tuple + 4, nr, 4);
		break;
	case LBMD_PI_CSUM_CRC16_T10DIF:
		put_be(tuple, crc16(crc16(0, data, interval(d)), meta, pad), 2);
		put_be(tuple + 4, nr, 4);
		break;
	case LBMD_PI_CSUM_CRC64_NVME:
		put_be(tuple, crc64(crc64(0, data, interval(d)), meta, pad), 8);
		put_be(tuple + 10, nr, 6);
		break;
	}
}

/* The server ---------------------------------------------------------------- */

static __u64 place(int tag, size_t off, bool meta)
{
	return (UBLKSRV_IO_BUF_OFFSET + ((__u64)tag << UBLK_TAG_OFF) + off) |
		(meta ? UBLKSRV_IO_INTEGRITY_FLAG : 0);
}

/* Move data or metadata of a request in pieces: how many bytes, or an error */
static ssize_t move(struct disk *d, int tag, bool is_write, bool meta, unsigned char *buf,
		    size_t len)
{
	size_t done = 0, piece;
	ssize_t res;

	while (done < len) {
		piece = len - done < PIECE || !meta ? len - done : PIECE;
		res = is_write ? pread(d->s.cdev, buf + done, piece, place(tag, done, meta)) :
			pwrite(d->s.cdev, buf + done, piece, place(tag, done, meta));
		if (res < 0)
			return -errno;
		done += res;
		if (!res || (size_t)res < piece)
			break;
	}
	return done;
}

static void handle(struct disk *d, int tag)
{
	const struct ublksrv_io_desc *desc = srv_desc(&d->s, tag);
	__u8 op = ublksrv_get_op(desc);
	size_t at = desc->start_sector << 9, len = desc->nr_sectors << 9;
	bool is_write = op == UBLK_IO_OP_WRITE;
	bool flag = desc->op_flags & UBLK_IO_F_INTEGRITY;
	size_t meta_len = meta_of(d, len);
	ssize_t res, want = d->payload ? meta_len : 0;

	if (op != UBLK_IO_OP_READ && !is_write) {
		d->bad += flag;
		srv_commit(&d->s, tag, 0);
		return;
	}
	if (flag != d->payload) {
		printf("# op %u has %s metadata\n", op, flag ? "some" : "no");
		d->bad++;
	}
	res = move(d, tag, is_write, false, d->data + at, len);
	if (res != (ssize_t)len) {
		printf("# data: %zd of %zu\n", res, len);
		d->bad++;
	}
	res = move(d, tag, is_write, true, d->meta + meta_of(d, at), meta_len);
	if (res != want) {
		printf("# metadata: %zd, not %zd\n", res, want);
		d->bad++;
	}
	/* nothing behind the end, and nothing the other way */
	if (pread(d->s.cdev, &op, 1, place(tag, meta_len + 1, true)) >= 0 || errno != EINVAL)
		d->bad++;
	if ((is_write ? pwrite(d->s.cdev, &op, 1, place(tag, 0, true)) :
	     pread(d->s.cdev, &op, 1, place(tag, 0, true))) >= 0 || errno != EACCES)
		d->bad++;
	if (len > d->largest)
		d->largest = len;
	srv_commit(&d->s, tag, len);
}

typedef int (*client_fn)(const struct disk *d, int fd);

/* What a user of the disk gets: an errno, or 0 */
static int use(struct disk *d, client_fn fn)
{
	pid_t pid = child();
	int status, tag, fd;

	if (!pid) {
		close_range(3, ~0U, 0);
		fd = open(str("/dev/ublkb%d", d->s.id), O_RDWR | O_DIRECT);
		_exit(fd < 0 ? errno : -fn(d, fd));
	}
	while (waitpid(pid, &status, WNOHANG) != pid) {
		tag = srv_request(&d->s, 20);
		if (tag >= 0)
			handle(d, tag);
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Users of the disk --------------------------------------------------------- */

static unsigned char pattern(size_t at)
{
	return at * 2654435761U >> 13 ^ at >> 9;
}

static void fill(unsigned char *buf, size_t at, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++)
		buf[i] = pattern(at + i);
}

static unsigned char *room(size_t len)
{
	void *p;

	if (posix_memalign(&p, 4096, len))
		give_up("memory", -ENOMEM);
	return p;
}

/* Ranges of the disk, in blocks */
static const struct {
	unsigned int at, nr;
} ranges[] = {
	{ 0, 1 }, { 3, 7 }, { 21, 64 }, { 100, 256 }, { DISK_BYTES / 4096 - 3, 3 },
};

static int write_ranges(const struct disk *d, int fd)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(ranges); i++) {
		size_t at = (size_t)ranges[i].at * block(d), len = (size_t)ranges[i].nr * block(d);
		unsigned char *buf = room(len);

		fill(buf, at, len);
		if (pwrite(fd, buf, len, at) != (ssize_t)len)
			return -errno;
	}
	return fsync(fd) ? -errno : 0;
}

static int read_ranges(const struct disk *d, int fd)
{
	unsigned int i;
	size_t j;

	for (i = 0; i < ARRAY_SIZE(ranges); i++) {
		size_t at = (size_t)ranges[i].at * block(d), len = (size_t)ranges[i].nr * block(d);
		unsigned char *buf = room(len);

		memset(buf, 0xee, len);
		if (pread(fd, buf, len, at) != (ssize_t)len)
			return -errno;
		for (j = 0; j < len; j++)
			if (buf[j] != pattern(at + j))
				return -EUCLEAN;
	}
	return 0;
}

/* MERGED blocks that are submitted together, so that they become one request */
static int batch(const struct disk *d, int fd, bool is_write, bool meta)
{
	size_t msize = meta_of(d, block(d)), i;
	unsigned char *buf = room(MERGED * block(d));
	/* not at the start of a page, and over the end of one */
	unsigned char *mbuf = room(MERGED * msize + 8192) + 4096 - 8;
	struct io_uring_attr_pi pi[MERGED] = {};
	struct io_uring_cqe *cqe;
	struct io_uring ring;
	int res = io_uring_queue_init(MERGED, &ring, 0);

	if (res)
		return res;
	if (is_write) {
		fill(buf, 0, MERGED * block(d));
		fill(mbuf, 77, MERGED * msize);
	}
	for (i = 0; i < MERGED; i++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
		unsigned char *p = buf + i * block(d);

		if (is_write)
			io_uring_prep_write(sqe, fd, p, block(d), i * block(d));
		else
			io_uring_prep_read(sqe, fd, p, block(d), i * block(d));
		if (!meta)
			continue;
		pi[i].addr = (unsigned long)(mbuf + i * msize);
		pi[i].len = msize;
		/* no reference tag of the pattern is that */
		pi[i].seed = 0xfedcba98;
		sqe->attr_ptr = (unsigned long)&pi[i];
		sqe->attr_type_mask = IORING_RW_ATTR_FLAG_PI;
	}
	io_uring_submit(&ring);
	for (i = 0; i < MERGED; i++) {
		res = io_uring_wait_cqe(&ring, &cqe);
		if (res)
			return res;
		if (cqe->res != (int)block(d))
			return cqe->res < 0 ? cqe->res : -EIO;
		io_uring_cqe_seen(&ring, cqe);
	}
	for (i = 0; i < MERGED * block(d); i++)
		if (buf[i] != pattern(i))
			return -EUCLEAN;
	for (i = 0; meta && i < MERGED * msize; i++)
		if (mbuf[i] != pattern(77 + i))
			return -ENOTUNIQ;
	return 0;
}

static int write_merged(const struct disk *d, int fd)
{
	return batch(d, fd, true, false);
}

static int read_merged(const struct disk *d, int fd)
{
	return batch(d, fd, false, false);
}

static int write_with_metadata(const struct disk *d, int fd)
{
	return batch(d, fd, true, true);
}

static int read_with_metadata(const struct disk *d, int fd)
{
	return batch(d, fd, false, true);
}

/* Tests --------------------------------------------------------------------- */

FIXTURE(metadata) {
	struct disk d;
};

FIXTURE_VARIANT(metadata) {
	__u8 csum, size, offset, interval, block;
	__u32 flags;
	__u16 segments;
};

/*
 * Sizes with a tuple in the middle are powers of two: the block layer loses its
 * place behind a tuple that lies on two pages and does not end the metadata.
 */
FIXTURE_VARIANT_ADD(metadata, none) {
	LBMD_PI_CSUM_NONE, 8, 0, 9, 9
};

FIXTURE_VARIANT_ADD(metadata, none_odd) {
	LBMD_PI_CSUM_NONE, 255, 13, 9, 12
};

FIXTURE_VARIANT_ADD(metadata, ip_type1) {
	LBMD_PI_CSUM_IP, 8, 0, 9, 9, LBMD_PI_CAP_REFTAG
};

FIXTURE_VARIANT_ADD(metadata, ip_type3) {
	LBMD_PI_CSUM_IP, 64, 56, 9, 9, LBMD_PI_CAP_INTEGRITY
};

FIXTURE_VARIANT_ADD(metadata, crc_type1) {
	LBMD_PI_CSUM_CRC16_T10DIF, 8, 0, 12, 12, LBMD_PI_CAP_REFTAG
};

FIXTURE_VARIANT_ADD(metadata, crc_type1_amid) {
	LBMD_PI_CSUM_CRC16_T10DIF, 32, 12, 9, 12, LBMD_PI_CAP_REFTAG, 1
};

FIXTURE_VARIANT_ADD(metadata, crc_type3) {
	LBMD_PI_CSUM_CRC16_T10DIF, 64, 56, 9, 9
};

FIXTURE_VARIANT_ADD(metadata, crc64_type1) {
	LBMD_PI_CSUM_CRC64_NVME, 16, 0, 9, 9, LBMD_PI_CAP_REFTAG
};

FIXTURE_VARIANT_ADD(metadata, crc64_type1_amid) {
	LBMD_PI_CSUM_CRC64_NVME, 64, 40, 12, 12, LBMD_PI_CAP_REFTAG
};

FIXTURE_VARIANT_ADD(metadata, crc64_type3) {
	LBMD_PI_CSUM_CRC64_NVME, 64, 48, 10, 12
};

FIXTURE_SETUP(metadata)
{
	struct ublk_params *p = &self->d.params;
	__u64 features = 0;

	memset(&self->d, 0, sizeof(self->d));
	self->d.s.id = -1;
	if (why_not())
		SKIP(return, "%s", why_not());
	ctrl_simple(-1, UBLK_U_CMD_GET_FEATURES, &features, sizeof(features), 0);
	if (!(features & UBLK_F_INTEGRITY))
		SKIP(return, "no integrity metadata");
	*p = default_params();
	p->types |= UBLK_PARAM_TYPE_INTEGRITY;
	p->basic.logical_bs_shift = variant->block;
	p->integrity.csum_type = variant->csum;
	p->integrity.metadata_size = variant->size;
	p->integrity.pi_offset = variant->offset;
	p->integrity.interval_exp = variant->interval;
	p->integrity.flags = variant->flags;
	p->integrity.max_integrity_segments = variant->segments;
	self->d.payload = true;
	self->d.data = room(DISK_BYTES);
	self->d.meta = room(meta_of(&self->d, DISK_BYTES));
	memset(self->d.data, 0x11, DISK_BYTES);
	/* where nothing was written, nothing is checked */
	memset(self->d.meta, 0xff, meta_of(&self->d, DISK_BYTES));
	srv_live(&self->d.s, FEATURES, p);
}

FIXTURE_TEARDOWN(metadata)
{
	if (self->d.s.id < 0)
		return;
	EXPECT_EQ(0, self->d.bad);
	srv_close(&self->d.s);
	EXPECT_EQ(0, delete_dev(self->d.s.id));
}

/* Whether the metadata of some bytes of the disk is what the block layer makes */
static bool is_made(const struct disk *d, size_t at, size_t len)
{
	const struct ublk_param_integrity *p = &d->params.integrity;
	unsigned int tuple = p->pi_offset, end = tuple + tuple_size(d), i;
	unsigned int ref = p->csum_type == LBMD_PI_CSUM_CRC64_NVME ? 10 : 4;
	size_t nr = at / interval(d), last = (at + len) / interval(d);
	unsigned char want[16];

	for (; nr < last; nr++) {
		const unsigned char *meta = d->meta + nr * p->metadata_size;

		make_tuple(d, nr, d->data + nr * interval(d), meta, want);
		for (i = 0; i < p->metadata_size; i++) {
			unsigned char byte = 0;

			if (i >= tuple && i < end)
				byte = want[i - tuple];
			/* type 3 has no reference tag; what is there means nothing */
			if (!has_ref_tag(d) && i >= tuple + ref && i < end)
				continue;
			if (meta[i] == byte)
				continue;
			printf("# interval %zu, byte %u of metadata: %02x, not %02x\n",
			       nr, i, meta[i], byte);
			return false;
		}
	}
	return true;
}

/* Nobody but the block layer knows of the metadata */
TEST_F_TIMEOUT(metadata, made_and_checked, 120)
{
	struct disk *d = &self->d;
	unsigned int i;
	size_t j;

	EXPECT_EQ(EUCLEAN, use(d, read_ranges));
	ASSERT_EQ(0, use(d, write_ranges));
	for (i = 0; i < ARRAY_SIZE(ranges); i++) {
		size_t at = (size_t)ranges[i].at * block(d), len = (size_t)ranges[i].nr * block(d);

		for (j = 0; j < len && d->data[at + j] == pattern(at + j); j++)
			;
		EXPECT_EQ(len, j);
		EXPECT_TRUE(is_made(d, at, len));
	}
	EXPECT_EQ(0, use(d, read_ranges));
}

/* One bit is flipped: what a reader gets */
static int read_flipped(struct disk *d, unsigned char *byte)
{
	int res;

	*byte ^= 0x10;
	res = use(d, read_ranges);
	*byte ^= 0x10;
	return res;
}

TEST_F_TIMEOUT(metadata, a_flipped_bit_is_found, 120)
{
	struct disk *d = &self->d;
	const struct ublk_param_integrity *p = &d->params.integrity;
	bool checked = is_checked(d);
	unsigned int tuple = p->pi_offset, size = tuple_size(d);
	size_t at = 5 * block(d);
	unsigned char *meta = d->meta + meta_of(d, at);

	ASSERT_EQ(0, use(d, write_ranges));
	EXPECT_EQ(checked ? EILSEQ : EUCLEAN, read_flipped(d, d->data + at));
	EXPECT_EQ(checked ? EILSEQ : EUCLEAN, read_flipped(d, d->data + at + interval(d) - 1));
	if (tuple) {
		EXPECT_EQ(checked ? EILSEQ : 0, read_flipped(d, meta));
		EXPECT_EQ(checked ? EILSEQ : 0, read_flipped(d, meta + tuple - 1));
	}
	if (tuple + size < p->metadata_size) {
		EXPECT_EQ(0, read_flipped(d, meta + tuple + size));
		EXPECT_EQ(0, read_flipped(d, meta + p->metadata_size - 1));
	}
	if (checked) {
		unsigned char old[16];

		EXPECT_EQ(EILSEQ, read_flipped(d, meta + tuple));
		EXPECT_EQ(has_ref_tag(d) ? EILSEQ : 0, read_flipped(d, meta + tuple + size - 1));
		/* somebody else's tag, and that of what is not to be checked */
		EXPECT_EQ(0, read_flipped(d, meta + tuple + (size == 8 ? 2 : 8)));
		memcpy(old, meta + tuple, size);
		memset(meta + tuple, 0xff, size);
		EXPECT_EQ(EUCLEAN, read_flipped(d, d->data + at));
		memcpy(meta + tuple, old, size);
	}
	EXPECT_EQ(0, use(d, read_ranges));
}

/* A request of several bios, each of which has metadata of its own */
TEST_F_TIMEOUT(metadata, of_several_bios, 120)
{
	struct disk *d = &self->d;
	bool alone = variant->segments == 1;

	ASSERT_EQ(0, use(d, write_merged));
	EXPECT_EQ(alone ? block(d) : MERGED * block(d), d->largest);
	EXPECT_TRUE(is_made(d, 0, MERGED * block(d)));
	d->largest = 0;
	EXPECT_EQ(0, use(d, read_merged));
	EXPECT_EQ(alone ? block(d) : MERGED * block(d), d->largest);
	if (is_checked(d)) {
		d->data[(MERGED - 1) * block(d)] ^= 1;
		EXPECT_EQ(EILSEQ, use(d, read_merged));
	}
}

/* The user's own metadata goes through as it is */
TEST_F_TIMEOUT(metadata, of_the_user, 120)
{
	struct disk *d = &self->d;
	size_t len = meta_of(d, MERGED * block(d)), i;

	ASSERT_EQ(0, use(d, write_with_metadata));
	for (i = 0; i < len && d->meta[i] == pattern(77 + i); i++)
		;
	EXPECT_EQ(len, i);
	EXPECT_EQ(0, use(d, read_with_metadata));
	/* even if it makes no sense, but not to the block layer */
	d->data[0] ^= 1;
	EXPECT_EQ(EUCLEAN, use(d, read_with_metadata));
	d->data[0] ^= 1;
	EXPECT_EQ(is_checked(d) ? EILSEQ : 0, use(d, read_merged));
	d->meta[len - 1] ^= 1;
	EXPECT_EQ(ENOTUNIQ, use(d, read_with_metadata));
}

/* Nobody makes or checks it: the request has none, unless there is room for more than the tuple */
TEST_F_TIMEOUT(metadata, that_is_not_there, 120)
{
	struct disk *d = &self->d;
	const char *const names[] = { "read_verify", "write_generate" };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(names); i++) {
		int fd = open(str("/sys/block/ublkb%d/integrity/%s", d->s.id, names[i]), O_WRONLY);

		ASSERT_LE(0, fd);
		ASSERT_EQ(1, write(fd, "0", 1));
		close(fd);
	}
	d->payload = variant->size > tuple_size(d);
	ASSERT_EQ(0, use(d, write_ranges));
	EXPECT_EQ(0, use(d, read_ranges));
}

/* A disk without metadata: nothing that could be copied */
TEST(no_metadata)
{
	static const __u64 features[] = { FEATURES, UBLK_F_USER_COPY };
	struct blk_io io;
	unsigned int i;
	char c = 0;
	int tag;

	if (why_not())
		SKIP(return, "%s", why_not());
	for (i = 0; i < ARRAY_SIZE(features); i++) {
		struct srv s;

		srv_live(&s, features[i], NULL);
		block_start(&io, s.id, B_WRITE, 8, 4096);
		while ((tag = srv_request(&s, 1000)) < 0)
			;
		EXPECT_EQ(0, srv_desc(&s, tag)->op_flags & UBLK_IO_F_INTEGRITY);
		EXPECT_EQ(-1, pread(s.cdev, &c, 1, place(tag, 0, true)));
		EXPECT_EQ(EINVAL, errno);
		EXPECT_EQ(-1, pread(s.cdev, &c, 1, place(tag, 1, true)));
		EXPECT_EQ(EINVAL, errno);
		EXPECT_EQ(1, pread(s.cdev, &c, 1, place(tag, 0, false)));
		srv_commit(&s, tag, 4096);
		EXPECT_EQ(1, block_wait(&io, INT_MAX));
		srv_close(&s);
		EXPECT_EQ(0, delete_dev(s.id));
	}
}

TEST_HARNESS_MAIN
