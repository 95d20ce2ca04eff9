// SPDX-License-Identifier: GPL-2.0
/* The server of life_zoned and life_zoned_end, and the NVMe target on its disk. */
#include <limits.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include "zoned_srv.h"

static struct ublk_params zoned_params(void)
{
	struct ublk_params p = default_params();

	p.types |= UBLK_PARAM_TYPE_ZONED;
	p.basic.chunk_sectors = ZONE;
	p.basic.dev_sectors = SECTORS;
	p.zoned.max_zone_append_sectors = ZONE;
	return p;
}

void fill_zones(struct zoned *z, __u64 sectors, unsigned int nr_conv)
{
	unsigned int i;

	z->nr_zones = (sectors + ZONE - 1) / ZONE;
	free(z->zones);
	z->zones = calloc(z->nr_zones, sizeof(*z->zones));
	if (!z->zones)
		give_up("memory", -ENOMEM);
	for (i = 0; i < z->nr_zones; i++) {
		struct blk_zone *zone = &z->zones[i];

		zone->start = i * ZONE;
		zone->len = sectors - zone->start < ZONE ? sectors - zone->start : ZONE;
		zone->capacity = zone->len;
		zone->wp = zone->start;
		zone->type = BLK_ZONE_TYPE_SEQWRITE_REQ;
		zone->cond = BLK_ZONE_COND_EMPTY;
		if (i < nr_conv) {
			zone->type = BLK_ZONE_TYPE_CONVENTIONAL;
			zone->cond = BLK_ZONE_COND_NOT_WP;
		}
	}
}

static bool batches(struct zoned *z)
{
	return z->s.flags & UBLK_F_BATCH_IO;
}

void zoned_open(struct zoned *z, __u64 flags, bool equal)
{
	struct ublk_params p = zoned_params();
	int i, res;

	memset(z, 0, sizeof(*z));
	if (equal)
		p.basic.dev_sectors = NR_EQUAL * ZONE;
	fill_zones(z, p.basic.dev_sectors, equal ? 0 : NR_CONV);
	z->data = calloc(SECTORS, 1024);
	if (!z->data)
		give_up("memory", -ENOMEM);
	srv_open(&z->s, UBLK_F_ZONED | UBLK_F_USER_COPY | UBLK_F_UPDATE_SIZE | flags, &p);
	if (!batches(z)) {
		srv_fetch(&z->s, 0, z->s.depth);
		return;
	}
	bring_init(&z->b, &z->s, false);
	res = batch_prep(&z->b, 0, 0, z->s.depth);
	if (res)
		give_up("PREP", res);
	for (i = 0; i < NR_TAG_BUFS; i++)
		bring_provide(&z->b, i, 1, NULL);
	z->fetch = bring_fetch(&z->b, 0);
}

/* As srv_request() */
static int next_request(struct zoned *z, int ms)
{
	int tag, res;

	if (!batches(z))
		return srv_request(&z->s, ms);
	res = batch_request(&z->b, z->fetch, ms, &tag);
	if (res == BLOCKS)
		return -1;
	if (res != 2)
		give_up("FETCH", res);
	bring_provide(&z->b, z->told++ % NR_TAG_BUFS, 1, NULL);
	return tag;
}

/* As srv_commit(); @at is where an append was written */
static void commit(struct zoned *z, int tag, int result, const __u64 *at)
{
	/* without the address of a buffer, the sector follows the header */
	struct elem elem = { .tag = tag, .result = result, .addr = at ? *at : 0 };
	struct bio io = {
		.op = UBLK_U_IO_COMMIT_IO_CMDS,
		.flags = at ? UBLK_BATCH_F_HAS_ZONE_LBA : 0,
		.nr = 1,
		.elem_bytes = at ? 16 : 8,
		.elems = &elem,
	};
	int res = bring_do(&z->b, &io);

	if (res != io.elem_bytes)
		give_up("COMMIT", res);
}

static void end_request(struct zoned *z, int tag, int result)
{
	if (batches(z))
		commit(z, tag, result, NULL);
	else
		srv_commit(&z->s, tag, result);
}

void zoned_free(struct zoned *z)
{
	free(z->zones);
	free(z->data);
}

static off_t pos_of(int tag)
{
	return UBLKSRV_IO_BUF_OFFSET + ((__u64)tag << UBLK_TAG_OFF);
}

/* Let the question be about the zones from @first on: spoil the third one */
static void spoil(struct zoned *z, struct blk_zone *zones, unsigned int nr)
{
	struct blk_zone *bad = &zones[2];
	unsigned int i;

	if (nr < 4)
		return;
	switch (z->answer) {
	case BAD_START:
		/* far behind the end of whatever the kernel keeps about zones */
		bad->start = ZONE << 40;
		break;
	case BAD_LEN:
		bad->len++;
		break;
	case BAD_CAPACITY:
		bad->capacity = bad->len + 1;
		break;
	case BAD_WP:
		/* 32 bits of it look right */
		bad->cond = BLK_ZONE_COND_CLOSED;
		bad->wp = bad->start + 1 + (1ULL << 32);
		break;
	case BAD_TYPE:
		bad->type = 0x77;
		break;
	case BAD_COND:
		bad->cond = 5;
		break;
	case ALL_CONV:
		for (i = 0; i < nr; i++) {
			zones[i].type = BLK_ZONE_TYPE_CONVENTIONAL;
			zones[i].cond = BLK_ZONE_COND_NOT_WP;
		}
		break;
	default:
		break;
	}
}

int zoned_buffer(struct zoned *z, __u32 op, int tag)
{
	struct io io = { .op = op, .tag = tag, .addr = tag + 1 };

	return srv_wait(&z->s, srv_send(&z->s, &io), INT_MAX);
}

/* Read an answer from a file into the registered buffer of a request, as far as that goes */
static ssize_t fill_registered(struct zoned *z, int tag, const void *answer, size_t len)
{
	struct io_uring_sqe *sqe;
	__u64 ud = z->s.next++;
	int fd = memfd_create("answer", MFD_CLOEXEC), res;

	if (fd < 0 || write(fd, answer, len) != (ssize_t)len)
		give_up("memfd", -errno);
	if (!(z->s.flags & UBLK_F_AUTO_BUF_REG)) {
		res = zoned_buffer(z, UBLK_U_IO_REGISTER_IO_BUF, tag);
		if (res)
			give_up("REGISTER_IO_BUF", res);
	}
	sqe = io_uring_get_sqe(&z->s.ring);
	if (!sqe)
		give_up("SQE", -ENOSPC);
	io_uring_prep_read_fixed(sqe, fd, NULL, len, 0, tag + 1);
	sqe->user_data = ud;
	io_uring_submit(&z->s.ring);
	res = srv_wait(&z->s, ud, INT_MAX);
	close(fd);
	if (!z->early && !(z->s.flags & UBLK_F_AUTO_BUF_REG) &&
	    zoned_buffer(z, UBLK_U_IO_UNREGISTER_IO_BUF, tag))
		give_up("UNREGISTER_IO_BUF", 0);
	if (res < 0)
		errno = -res;
	return res;
}

/* What the server answers to a question; false if it does not answer */
static bool answer(struct zoned *z, int tag)
{
	const struct ublksrv_io_desc *d = srv_desc(&z->s, tag);
	unsigned int first = d->start_sector / ZONE, nr = d->nr_sectors, room = nr;
	struct blk_zone *zones;
	ssize_t len;

	z->questions++;
	switch (z->answer) {
	case SILENCE:
		return false;
	case ERROR:
		end_request(z, tag, -ENOSPC);
		return true;
	case NOTHING:
		end_request(z, tag, 0);
		return true;
	case MANY:
		room = 2 * nr + 64;
		break;
	default:
		break;
	}
	if (first >= z->nr_zones || nr > z->nr_zones - first || !nr)
		give_up("asked for zones that there are not", nr);
	if (z->answer == ONE_LESS && first + nr == z->nr_zones)
		nr--;
	zones = calloc(room, sizeof(*zones));
	if (!zones)
		give_up("memory", -ENOMEM);
	memcpy(zones, z->zones + first, nr * sizeof(*zones));
	if (z->answer == MANY)
		memset(zones + nr, 0xff, (room - nr) * sizeof(*zones));
	spoil(z, zones, nr);
	if (z->s.flags & UBLK_F_SUPPORT_ZERO_COPY)
		len = fill_registered(z, tag, zones, room * sizeof(*zones));
	else
		len = pwrite(z->s.cdev, zones, room * sizeof(*zones), pos_of(tag));
	free(zones);
	if (len < (ssize_t)(nr * sizeof(*zones)))
		give_up("pwrite", len < 0 ? -errno : (int)len);
	end_request(z, tag, len);
	if (z->early && zoned_buffer(z, UBLK_U_IO_UNREGISTER_IO_BUF, tag))
		give_up("UNREGISTER_IO_BUF", 0);
	return true;
}

static int write_zone(struct zoned *z, int tag, const struct ublksrv_io_desc *d)
{
	struct blk_zone *zone = &z->zones[d->start_sector / ZONE];
	int bytes = d->nr_sectors << 9;

	if (pread(z->s.cdev, z->data + (d->start_sector << 9), bytes, pos_of(tag)) != bytes)
		return -EIO;
	if (zone->type == BLK_ZONE_TYPE_CONVENTIONAL)
		return bytes;
	if (d->start_sector != zone->wp)
		return -EIO;
	zone->wp += d->nr_sectors;
	zone->cond = zone->wp == zone->start + zone->len ? BLK_ZONE_COND_FULL :
		     BLK_ZONE_COND_IMP_OPEN;
	return bytes;
}

/* Append; where that was goes to @at */
static int append(struct zoned *z, int tag, const struct ublksrv_io_desc *d, __u64 *at)
{
	struct ublksrv_io_desc there = *d;

	there.start_sector = z->zones[d->start_sector / ZONE].wp;
	*at = there.start_sector + z->lie;
	return write_zone(z, tag, &there);
}

/* Commit an append */
static void commit_append(struct zoned *z, int tag)
{
	struct io io = {
		.op = UBLK_U_IO_COMMIT_AND_FETCH_REQ,
		.tag = tag,
	};
	__u64 at;
	int res;

	if (batches(z)) {
		struct elem elem = { .tag = tag };
		struct bio silent = {
			.op = UBLK_U_IO_COMMIT_IO_CMDS, .nr = 1, .elem_bytes = 8, .elems = &elem,
		};

		res = append(z, tag, srv_desc(&z->s, tag), &at);
		elem.result = res;
		/* a server that does not say where has not committed */
		if (res >= 0 && bring_do(&z->b, &silent) != -EINVAL)
			give_up("COMMIT of an append that does not say where", 0);
		commit(z, tag, res, &at);
		return;
	}
	io.result = append(z, tag, srv_desc(&z->s, tag), &at);
	io.addr = at;
	/* 0: there is the next request already */
	res = srv_do(&z->s, &io);
	if (res != BLOCKS && res)
		give_up("COMMIT of an append", res);
}

static void set_zone(struct blk_zone *zone, int cond)
{
	if (zone->type == BLK_ZONE_TYPE_CONVENTIONAL)
		return;
	zone->cond = cond;
	if (cond == BLK_ZONE_COND_EMPTY)
		zone->wp = zone->start;
	if (cond == BLK_ZONE_COND_FULL)
		zone->wp = zone->start + zone->len;
}

/* Serve one request; false if it is not answered */
static bool serve_one(struct zoned *z, int tag)
{
	const struct ublksrv_io_desc *d = srv_desc(&z->s, tag);
	unsigned int op = ublksrv_get_op(d), i;
	int bytes = d->nr_sectors << 9, res = 0;
	struct blk_zone *zone;

	if (op == UBLK_IO_OP_REPORT_ZONES)
		return answer(z, tag);
	/* a flush is of no sector */
	if (op != UBLK_IO_OP_FLUSH && d->start_sector >= SECTORS)
		give_up("behind the end of the disk", 0);
	zone = op == UBLK_IO_OP_FLUSH ? NULL : &z->zones[d->start_sector / ZONE];
	switch (op) {
	case UBLK_IO_OP_READ:
		res = pwrite(z->s.cdev, z->data + (d->start_sector << 9), bytes, pos_of(tag));
		break;
	case UBLK_IO_OP_WRITE:
		res = write_zone(z, tag, d);
		break;
	case UBLK_IO_OP_ZONE_APPEND:
		commit_append(z, tag);
		return true;
	case UBLK_IO_OP_ZONE_OPEN:
		set_zone(zone, BLK_ZONE_COND_EXP_OPEN);
		break;
	case UBLK_IO_OP_ZONE_CLOSE:
		set_zone(zone, BLK_ZONE_COND_CLOSED);
		break;
	case UBLK_IO_OP_ZONE_FINISH:
		set_zone(zone, BLK_ZONE_COND_FULL);
		break;
	case UBLK_IO_OP_ZONE_RESET:
		set_zone(zone, BLK_ZONE_COND_EMPTY);
		break;
	case UBLK_IO_OP_ZONE_RESET_ALL:
		for (i = 0; i < z->nr_zones; i++)
			set_zone(&z->zones[i], BLK_ZONE_COND_EMPTY);
		break;
	case UBLK_IO_OP_FLUSH:
		break;
	default:
		res = -EOPNOTSUPP;
	}
	end_request(z, tag, res);
	return true;
}

int zoned_serve(struct zoned *z, pid_t pid)
{
	int status, tag;

	while (waitpid(pid, &status, WNOHANG) != pid) {
		tag = next_request(z, 20);
		/* one that is kept is not looked at again */
		if (tag >= 0 && !serve_one(z, tag))
			z->s.owned[tag] = false;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int zoned_asked(struct zoned *z)
{
	int tag;

	while ((tag = next_request(z, 1000)) < 0)
		;
	if (ublksrv_get_op(srv_desc(&z->s, tag)) != UBLK_IO_OP_REPORT_ZONES)
		give_up("not a question for zones", 0);
	return tag;
}

pid_t zoned_command(int id, __u32 op, __u64 data)
{
	pid_t pid = child();

	if (pid)
		return pid;
	_exit(-ctrl_simple(id, op, NULL, 0, data));
}

pid_t zoned_resize(int id, __u64 sectors)
{
	pid_t pid = child();
	int res;

	if (pid)
		return pid;
	do {
		res = ctrl_simple(id, UBLK_U_CMD_UPDATE_SIZE, NULL, 0, sectors);
	} while (res == -EBUSY && !usleep(1000));
	_exit(-res);
}

int zoned_start(struct zoned *z)
{
	return zoned_serve(z, zoned_command(z->s.id, UBLK_U_CMD_START_DEV, getpid()));
}

bool zoned_put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return done;
}

int zoned_nvme(void)
{
	int fd, nr;

	for (nr = 0; nr < 64; nr++) {
		char text[8] = "";

		fd = open(str("/sys/class/nvme/nvme%d/transport", nr), O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		if (read(fd, text, sizeof(text) - 1) > 0 && !strncmp(text, "loop", 4)) {
			close(fd);
			return nr;
		}
		close(fd);
	}
	return -1;
}

void zoned_nvme_remove(void)
{
	int nr = zoned_nvme();

	if (nr >= 0)
		zoned_put(str("/sys/class/nvme/nvme%d/delete_controller", nr), "1");
	unlink(NVMET "ports/77/subsystems/" NQN);
	zoned_put(NVMET "subsystems/" NQN "/namespaces/1/enable", "0");
	rmdir(NVMET "subsystems/" NQN "/namespaces/1");
	rmdir(NVMET "subsystems/" NQN);
	rmdir(NVMET "ports/77");
}
