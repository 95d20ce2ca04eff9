// SPDX-License-Identifier: GPL-2.0
/*
 * IORING_OP_FUSED_CMD: each request of a group passes LSM and audit as if it
 * had been submitted alone. So the tests first submit it alone.
 *
 * The LSM is Smack (boot with lsm=smack): it looks at uring commands, at
 * personalities and at what is sent, and needs no policy. What is read, written
 * and received is left to fused_selinux.c. Audit skips most opcodes; of those
 * that may be secondaries, all but URING_CMD.
 */
#include "fixture.h"
#include <arpa/inet.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/netlink.h>
#include <sys/mount.h>
#include <sys/xattr.h>

/* labels: without a rule, one has no access to the other */
#define OURS	"FusedTest"
#define SECRET	"FusedSecret"
#define LABEL	"/proc/thread-self/attr/smack/current"
/* a mount of our own covers it */
#define DIR	"/tmp"
/* an address of the loopback device that others do not use */
#define LABELLED_HOST	"127.77.0.1"

/* Audit --------------------------------------------------------------------*/

/* why there is no audit, or 0 */
static int no_audit;

/* what was recorded of this process: requests, and denials by the LSM */
struct records {
	int nr;
	char text[16][500];
};

static int audit_socket(unsigned int groups)
{
	struct sockaddr_nl addr = { .nl_family = AF_NETLINK, .nl_groups = groups };
	int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT), size = 4 << 20;

	if (fd < 0)
		return -errno;
	/* no timeout: with one, recv() fails with EINTR for task work of the ring */
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	return bind(fd, (struct sockaddr *)&addr, sizeof(addr)) ? -errno : fd;
}

/* Returns 0 or an error; for AUDIT_GET, whether audit is enabled. */
static int audit_request(int type, const void *data, size_t len)
{
	struct {
		struct nlmsghdr head;
		union {
			char data[2048];
			struct nlmsgerr err;
			struct audit_status status;
		};
	} msg = { .head = {
		.nlmsg_len = NLMSG_LENGTH(len),
		.nlmsg_type = type,
		.nlmsg_flags = NLM_F_REQUEST | (type == AUDIT_GET ? 0 : NLM_F_ACK),
	} };
	int fd = audit_socket(0), ret;

	if (fd < 0)
		return fd;
	memcpy(msg.data, data, len);
	if (send(fd, &msg, msg.head.nlmsg_len, 0) < 0 || recv(fd, &msg, sizeof(msg), 0) < 0)
		ret = -errno;
	else
		ret = msg.head.nlmsg_type == NLMSG_ERROR ? msg.err.error : msg.status.enabled;
	close(fd);
	return ret;
}

/* All records so far, @want at least: a worker may be late with its own. */
static struct records audit_read(struct __test_metadata *_metadata, int fd, int want)
{
	char msg[9000], mark[64], pid[32], *text = NLMSG_DATA((void *)msg);
	struct nlmsghdr *head = (void *)msg;
	struct records r = { .nr = 0 };
	int try, len;

	sprintf(pid, " pid=%d ", getpid());
	for (try = 0; try < 20 && (!try || r.nr < want); try++) {
		usleep(try * 1000);
		/* they come in order: behind this one is nothing that is older */
		sprintf(mark, "fused_security %d.%ld", getpid(), random());
		ASSERT_EQ(0, audit_request(AUDIT_USER, mark, strlen(mark) + 1));
		do {
			len = recv(fd, msg, sizeof(msg) - 1, 0);
			ASSERT_LE(NLMSG_HDRLEN, len);
			msg[len] = 0;
			/* opcode 0: an SQPOLL thread that starts */
			if ((head->nlmsg_type != AUDIT_URINGOP && head->nlmsg_type != AUDIT_AVC) ||
			    !strstr(text, pid) || strstr(text, "uring_op=0 "))
				continue;
			ASSERT_LT(r.nr, ARRAY_SIZE(r.text));
			/* not the time */
			strncpy(r.text[r.nr++], strstr(text, "): "), sizeof(r.text[0]) - 1);
		} while (head->nlmsg_type != AUDIT_USER || !strstr(text, mark));
	}
	return r;
}

/* The rule of main() is in force: returns where to read records, or -1. */
static int audit_begin(struct __test_metadata *_metadata)
{
	int fd;

	if (no_audit)
		SKIP(return -1, "no audit: %d, see CONFIG_AUDITSYSCALL", no_audit);
	fd = audit_socket(1 << (AUDIT_NLGRP_READLOG - 1));
	ASSERT_LE(0, fd);
	/* what is recorded is sent later: what was done before may still be on its way */
	audit_read(_metadata, fd, 0);
	return fd;
}

static int nr_with(const struct records *r, const char *part)
{
	int i, nr = 0;

	for (i = 0; i < r->nr; i++)
		nr += !!strstr(r->text[i], part);
	return nr;
}

/* How many records say that of a primary? */
static int nr_primaries(const struct records *r, const char *result)
{
	char text[64];

	sprintf(text, "uring_op=%d %s", IORING_OP_FUSED_CMD, result);
	return nr_with(r, text);
}

/*
 * Each secondary has the same result alone and in the group, which has @res.
 * If @fd is one of audit_begin(), then the group also has the same @nr_records,
 * and those of the primary. Returns them all.
 */
static struct records
like_alone(struct __test_metadata *_metadata, struct group *g, void *buf, int fd, int nr_records,
	   int res, int nr, const int *want)
{
	/* the driver says once that it has to sleep */
	int nr_primary = 1 + g->mode->blocking, i;
	struct records by_one = { .nr = 0 }, all = { .nr = 0 };
	const char *wrong;

	ASSERT_EQ(nr, g->nr);
	for (i = 0; i < nr; i++)
		ASSERT_EQ(want[i], group_alone(g, buf, i)) TH_LOG("alone: %d", i);
	if (fd >= 0) {
		by_one = audit_read(_metadata, fd, nr_records);
		for (i = nr_records; i < by_one.nr; i++)
			TH_LOG("one more: %s", by_one.text[i]);
		ASSERT_EQ(nr_records, by_one.nr);
	}
	wrong = group_run(g, res, nr, want);
	ASSERT_EQ(NULL, wrong) TH_LOG("%s", wrong);
	if (fd >= 0) {
		all = audit_read(_metadata, fd, nr_records + nr_primary);
		EXPECT_EQ(nr_records + nr_primary, all.nr);
		EXPECT_EQ(nr_primary, nr_primaries(&all, ""));
		/* what goes on is recorded as pending */
		EXPECT_EQ(1, nr_primaries(&all, "success=no exit=-529 "));
	}
	for (i = 0; i < by_one.nr; i++)
		EXPECT_EQ(nr_with(&by_one, by_one.text[i]), nr_with(&all, by_one.text[i]))
			TH_LOG("alone: %s", by_one.text[i]);
	return all;
}

#define RECORDED_ALONE(fd, nr, res, ...) ({				\
	const int want_[] = { __VA_ARGS__ };				\
									\
	like_alone(_metadata, &self->g, self->buf, fd, nr, res,		\
		   sizeof(want_) / sizeof(int), want_);			\
})

/* Smack --------------------------------------------------------------------*/

static int put_text(const char *path, const char *text)
{
	return put_file(path, text, strlen(text));
}

/* Who has CAP_MAC_OVERRIDE in effect may do everything. */
static int mac_override(bool on)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	if (syscall(__NR_capget, &head, data))
		return -errno;
	data[CAP_TO_INDEX(CAP_MAC_OVERRIDE)].effective &= ~CAP_TO_MASK(CAP_MAC_OVERRIDE);
	if (on)
		data[CAP_TO_INDEX(CAP_MAC_OVERRIDE)].effective |= CAP_TO_MASK(CAP_MAC_OVERRIDE);
	return syscall(__NR_capset, &head, data) ? -errno : 0;
}

/* A file of the device with that label, on an inode of its own */
static int open_labelled(const char *label, int dev)
{
	char path[64];
	struct stat st;
	int fd;

	if (is_mock()) {
		fd = open_device();
	} else {
		snprintf(path, sizeof(path), DIR "/%s", label);
		if (fstat(dev, &st) || mknod(path, S_IFCHR | 0600, st.st_rdev))
			return -1;
		fd = open(path, O_RDWR);
	}
	if (fd < 0 || fsetxattr(fd, "security.SMACK64", label, strlen(label), 0))
		return -1;
	return fd;
}

/*
 * Become a task that Smack keeps from what is labelled SECRET, with a ring to
 * match: an SQPOLL thread has the credentials of who set up the ring. Returns
 * the device as a secret, or -1.
 */
static int confine(struct __test_metadata *_metadata, struct ring *r,
		   const struct mode *mode, int *dev)
{
	int ours, secret;

	if (put_text(LABEL, OURS))
		SKIP(return -1, "Smack is not active: boot with lsm=smack");
	ASSERT_EQ(0, private_dir(DIR));
	ours = open_labelled(OURS, *dev);
	ASSERT_LE(0, ours);
	secret = open_labelled(SECRET, *dev);
	ASSERT_LE(0, secret);
	close(*dev);
	*dev = ours;

	ring_exit(r);
	ASSERT_EQ(0, mac_override(false));
	ASSERT_EQ(0, mode_ring(mode, r, RING_ENTRIES));
	return secret;
}

#define CONFINE()	confine(_metadata, &self->ring, &variant->mode, &self->dev)

/* uapi: the primary is a uring command, LSM hook included */
TEST_F(fused, lsm_primary)
{
	int secret = CONFINE();

	if (secret < 0)
		return;
	LEND_DEST(4096);
	group_add_cmd(&self->g, secret, 7);
	ASSERT_EQ(-EACCES, group_alone(&self->g, NULL, 0));
	LEND_DEST(4096);
	self->g.primary->fd = secret;
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(-EACCES, -ECANCELED);
	/* it is not the device that refuses */
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(512, 512);
}

/* uapi: each secondary passes the LSM: here security_uring_cmd() */
TEST_F(fused, lsm_uring_cmd)
{
	int secret = CONFINE(), fd = no_audit ? -1 : audit_begin(_metadata);

	if (secret < 0)
		return;
	/* recorded by the LSM, and as how the request ended */
	LEND_DEST(4096);
	group_add_cmd(&self->g, secret, 7);
	RECORDED_ALONE(fd, 2, -EACCES, -EACCES);
	/* those beside it are none the worse */
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	group_add_cmd(&self->g, secret, 7);
	group_add_cmd(&self->g, self->dev, 7);
	LIKE_ALONE(-EACCES, 512, -EACCES, 7);
}

/* ... security_unix_may_send(), and security_socket_sendmsg() of labelled addresses */
TEST_F(fused, lsm_send)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(9) };
	int secret = CONFINE(), sock[2], inet;

	if (secret < 0)
		return;
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_DGRAM, 0, sock));
	LEND_SRC(4096);
	ADD(IORING_OP_SEND, sock[0], 0, 512, 0);
	LIKE_ALONE(512, 512);
	ASSERT_EQ(0, fsetxattr(sock[1], "security.SMACK64IPIN", SECRET, strlen(SECRET), 0));
	LIKE_ALONE(-EACCES, -EACCES);

	ASSERT_EQ(0, mac_override(true));
	ASSERT_EQ(0, mount("smackfs", DIR, "smackfs", 0, NULL));
	ASSERT_EQ(0, put_text(DIR "/netlabel", LABELLED_HOST "/32 " SECRET));
	ASSERT_EQ(0, mac_override(false));
	inet = socket(AF_INET, SOCK_DGRAM, 0);
	inet_aton(LABELLED_HOST, &to.sin_addr);
	LEND_SRC(4096);
	ADD(IORING_OP_SEND, inet, 0, 512, 0)->addr2 = (uintptr_t)&to;
	self->g.secondary[0]->addr_len = sizeof(to);
	LIKE_ALONE(-EACCES, -EACCES);
	self->g.secondary[0]->opcode = IORING_OP_SEND_ZC;
	self->g.secondary[0]->addr3 = UD_OTHER;
	LIKE_ALONE(-EACCES, -EACCES);
	ASSERT_EQ(0, mac_override(true));
	EXPECT_EQ(0, put_text(DIR "/netlabel", LABELLED_HOST "/32 -CIPSO"));
}

/* ... security_uring_override_creds(), before anything is issued */
TEST_F(fused, lsm_personality)
{
	int secret = CONFINE(), other;

	if (secret < 0)
		return;
	ASSERT_EQ(0, put_text(LABEL, SECRET));
	other = ring_register(&self->ring, IORING_REGISTER_PERSONALITY, NULL, 0);
	ASSERT_LT(0, other);
	ASSERT_EQ(0, put_text(LABEL, OURS));
	LEND_DEST(4096);
	ADD_READ(0, 512, 0)->personality = other;
	ASSERT_EQ(-EPERM, group_alone(&self->g, self->buf, 0));
	EXPECT_GROUP(-EPERM, -ECANCELED);
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	ADD_READ(0, 512, 0)->personality = other;
	EXPECT_GROUP(-EPERM, -ECANCELED, -ECANCELED);
	LEND_DEST(4096);
	self->g.primary->personality = other;
	ADD_READ(0, 512, 0);
	EXPECT_GROUP(-EPERM, -ECANCELED);
}

/* The LSM sees each with credentials of its own, not those of another. */
TEST_F(fused, lsm_creds)
{
	int secret = CONFINE(), strong, async;

	if (secret < 0)
		return;
	ASSERT_EQ(0, mac_override(true));
	strong = ring_register(&self->ring, IORING_REGISTER_PERSONALITY, NULL, 0);
	ASSERT_LT(0, strong);
	ASSERT_EQ(0, mac_override(false));
	for (async = 0; async <= IOSQE_ASYNC; async += IOSQE_ASYNC) {
		LEND_DEST(4096);
		self->g.primary->flags = async;
		self->g.primary->personality = strong;
		self->g.primary->fd = secret;
		group_add_cmd(&self->g, secret, 7);
		LIKE_ALONE(-EACCES, -EACCES);
		LEND_DEST(4096);
		self->g.primary->flags = async;
		group_add_cmd(&self->g, secret, 7)->personality = strong;
		group_add_cmd(&self->g, secret, 7);
		LIKE_ALONE(-EACCES, 7, -EACCES);
	}
}

/* Audit --------------------------------------------------------------------*/

/* uapi: each secondary passes audit */
TEST_F(fused, audit_secondaries)
{
	int fd = audit_begin(_metadata), sock[2];

	if (no_audit)
		return;
	/* refused by io_uring, which is a failure; what the driver says is none */
	LEND_DEST(4096);
	group_add_cmd(&self->g, self->file, 7);
	RECORDED_ALONE(fd, 1, -EOPNOTSUPP, -EOPNOTSUPP);
	/* audit skips the others, also as what a lease makes of them */
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_DGRAM, 0, sock));
	LEND_SRC(4096);
	ADD(IORING_OP_SEND, sock[0], 0, 256, 0);
	group_add_cmd(&self->g, self->file, 7);
	ADD(IORING_OP_WRITE, self->file, 0, 512, 0);
	RECORDED_ALONE(fd, 1, -EOPNOTSUPP, 256, -EOPNOTSUPP, 512);
	LEND_DEST(4096);
	group_add_cmd(&self->g, self->file, 7);
	ADD(IORING_OP_RECV, sock[1], 0, 256, 0);
	group_add_cmd(&self->g, self->dev, 7)->cmd_op = 999;
	ADD_READ(0, 512, 0);
	group_add_cmd(&self->g, self->file, 7);
	RECORDED_ALONE(fd, 3, -EOPNOTSUPP, -EOPNOTSUPP, 256, -EINVAL, 512, -EOPNOTSUPP);
}

/* A primary that is refused is recorded as such, and no secondary is. */
TEST_F(fused, audit_primary)
{
	int fd = audit_begin(_metadata), nr = 2 + variant->mode.blocking;
	struct records r;

	if (no_audit)
		return;
	LEND_DEST(4096);
	self->g.primary->fd = self->file;
	group_add_cmd(&self->g, self->file, 7);
	EXPECT_GROUP(-EOPNOTSUPP, -ECANCELED);
	INIT(OP_REFUSE, 0, 0);
	group_cmd(&self->g)->arg = ENOSPC;
	group_add_cmd(&self->g, self->dev, 7);
	EXPECT_GROUP(-ENOSPC, -ECANCELED);
	r = audit_read(_metadata, fd, nr);
	EXPECT_EQ(nr, r.nr);
	EXPECT_EQ(1, nr_primaries(&r, "success=no exit=-95 "));
	EXPECT_EQ(1, nr_primaries(&r, "success=no exit=-28 "));
}

/* Each record has the credentials that the request has. */
TEST_F(fused, audit_creds)
{
	int fd = audit_begin(_metadata), p;
	struct records r;

	if (no_audit)
		return;
	ASSERT_EQ(0, syscall(__NR_setresuid, 1000, 1000, -1));
	p = ring_register(&self->ring, IORING_REGISTER_PERSONALITY, NULL, 0);
	ASSERT_EQ(0, syscall(__NR_setresuid, 0, 0, -1));
	LEND_DEST(4096);
	group_add_cmd(&self->g, self->dev, 7)->personality = p;
	r = RECORDED_ALONE(fd, 1, 7, 7);
	EXPECT_EQ(1, nr_with(&r, " uid=1000 "));
	LEND_DEST(4096);
	self->g.primary->personality = p;
	group_add_cmd(&self->g, self->dev, 7);
	r = RECORDED_ALONE(fd, 1, 7, 7);
	EXPECT_EQ(1, nr_with(&r, " uid=0 "));
}

static struct audit_rule_data rule = {
	.flags = AUDIT_FILTER_URING_EXIT,
	.action = AUDIT_ALWAYS,
	.mask = { ~0U, ~0U, ~0U },
};

static struct audit_status status = { .mask = AUDIT_STATUS_ENABLED, .enabled = 1 };

/* In this order: a rule that outlives audit makes __audit_uring_exit() BUG(). */
static void restore(void)
{
	audit_request(AUDIT_DEL_RULE, &rule, sizeof(rule));
	audit_request(AUDIT_SET, &status, sizeof(status));
}

int main(int argc, char **argv)
{
	int was = audit_request(AUDIT_GET, NULL, 0);

	/* only what is forked while it is enabled is ever audited */
	no_audit = was < 0 ? was : audit_request(AUDIT_SET, &status, sizeof(status));
	if (!no_audit)
		no_audit = audit_request(AUDIT_ADD_RULE, &rule, sizeof(rule));
	status.enabled = was;
	/* the harness does not return; its children leave by _exit() */
	if (!no_audit)
		atexit(restore);
	return test_harness_run(argc, argv);
}
