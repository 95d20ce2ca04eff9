// SPDX-License-Identifier: GPL-2.0
/*
 * IORING_OP_FUSED_CMD: the LSM has its say in each read, write and receive of a
 * group as if that had been submitted alone. fused_security.c has the other
 * hooks; Smack, which it uses, does not look at these three.
 *
 * Boot with lsm=selinux. If there is no policy yet, main() loads a small one,
 * fused_selinux.conf, and enforces it; that takes checkpolicy.
 */
#include "fixture.h"
#include <sys/mount.h>
#include <sys/xattr.h>

#define SELINUXFS	"/sys/fs/selinux"
#define OURS		"fused_u:base_r:base_t"
#define PUBLIC		"fused_u:object_r:base_t"
#define SECRET		"fused_u:object_r:secret_t"
#define SOCKET_LABEL	"/proc/thread-self/attr/sockcreate"
/* a mount of our own covers it */
#define DIR		"/tmp"

/* why SELinux can not be tested, or NULL */
static const char *no_selinux;

/* Has this task the label of our policy? Without one, it is "kernel". */
static bool has_label(const char *label)
{
	char text[64] = "";
	int fd = open("/proc/self/attr/current", O_RDONLY);

	if (read(fd, text, sizeof(text) - 1) < 0)
		text[0] = 0;
	close(fd);
	return !strcmp(text, label);
}

/* Compile our policy and enforce it. Returns why not, or NULL. */
static const char *load_policy(void)
{
	char path[] = "/tmp/fused_selinux.XXXXXX", command[128], policy[1 << 16];
	int fd = mkstemp(path), failed;
	ssize_t len;

	snprintf(command, sizeof(command),
		 "checkpolicy -U allow -o %s fused_selinux.conf > /dev/null", path);
	failed = fd < 0 || system(command);
	len = read(fd, policy, sizeof(policy));
	close(fd);
	unlink(path);
	if (failed || len <= 0)
		return "no checkpolicy";
	if (put_file(SELINUXFS "/load", policy, len) || !has_label(OURS) ||
	    put_file(SELINUXFS "/enforce", "1", 1))
		return "the policy is refused";
	return NULL;
}

/* Returns why there is no policy of ours, or NULL. */
static const char *have_policy(void)
{
	mount("selinuxfs", SELINUXFS, "selinuxfs", 0, NULL);
	if (access(SELINUXFS "/load", W_OK))
		return "SELinux is not active: boot with lsm=selinux";
	if (has_label(OURS))
		return NULL;
	if (!has_label("kernel"))
		return "SELinux has a policy already";
	return load_policy();
}

/* A file that was opened by who may not read or write it any more, or -1 */
static int secret_file(struct __test_metadata *_metadata)
{
	char data[4096];
	int fd;

	if (no_selinux)
		SKIP(return -1, "%s", no_selinux);
	ASSERT_EQ(0, private_dir(DIR));
	fd = open(DIR "/secret", O_CREAT | O_RDWR, 0600);
	fill(data, 1, 0, sizeof(data));
	ASSERT_EQ(sizeof(data), write(fd, data, sizeof(data)));
	ASSERT_EQ(0, fsetxattr(fd, "security.selinux", SECRET, strlen(SECRET), 0));
	return fd;
}

/* uapi: each secondary passes the LSM: here security_file_permission() */
TEST_F(fused, lsm_read)
{
	int secret = secret_file(_metadata);

	if (secret < 0)
		return;
	SET_BUFFER(0, 7);
	LEND_DEST(4096);
	ADD(IORING_OP_READ, secret, 0, 512, 0);
	LIKE_ALONE(-EACCES, -EACCES);
	self->g.secondary[0]->opcode = IORING_OP_READ_FIXED;
	EXPECT_GROUP(-EACCES, -EACCES);
	GET_BUFFER(0);
	EXPECT_TRUE(is_pattern(self->buf, 7, 0, BUFFER_LEN));
	/* those beside it are none the worse */
	LEND_DEST(4096);
	ADD_READ(0, 512, 0);
	ADD(IORING_OP_READ, secret, 512, 512, 0);
	ADD_READ(1024, 512, 0);
	LIKE_ALONE(-EACCES, 512, -EACCES, 512);
}

TEST_F(fused, lsm_write)
{
	int secret = secret_file(_metadata);

	if (secret < 0)
		return;
	LEND_SRC(4096);
	ADD(IORING_OP_WRITE, secret, 0, 512, 0);
	LIKE_ALONE(-EACCES, -EACCES);
	self->g.secondary[0]->opcode = IORING_OP_WRITE_FIXED;
	EXPECT_GROUP(-EACCES, -EACCES);
	LEND_SRC(4096);
	ADD(IORING_OP_WRITE, self->file, 0, 512, 0);
	ADD(IORING_OP_WRITE, secret, 512, 512, 0);
	ADD(IORING_OP_WRITE, self->file, 1024, 512, 1024);
	LIKE_ALONE(-EACCES, 512, -EACCES, 512);
	ASSERT_EQ(0, fsetxattr(secret, "security.selinux", PUBLIC, strlen(PUBLIC), 0));
	ASSERT_EQ(4096, pread(secret, self->buf, 4096, 0));
	EXPECT_TRUE(is_pattern(self->buf, 1, 0, 4096));
}

/* ... security_socket_recvmsg() */
TEST_F(fused, lsm_recv)
{
	int sock[2];

	if (no_selinux)
		SKIP(return, "%s", no_selinux);
	ASSERT_EQ(0, put_file(SOCKET_LABEL, SECRET, strlen(SECRET)));
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_DGRAM, 0, sock));
	ASSERT_EQ(512, send(sock[0], self->buf, 512, 0));
	LEND_DEST(4096);
	ADD(IORING_OP_RECV, sock[1], 0, 512, 0);
	LIKE_ALONE(-EACCES, -EACCES);
	/* it is not the socket that refuses: this one may be read */
	ASSERT_EQ(0, put_file(SOCKET_LABEL, "\n", 1));
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_DGRAM, 0, sock));
	ASSERT_EQ(512, send(sock[0], self->buf, 512, 0));
	LEND_DEST(4096);
	ADD(IORING_OP_RECV, sock[1], 0, 512, 0);
	EXPECT_GROUP(512, 512);
}

int main(int argc, char **argv)
{
	no_selinux = have_policy();
	return test_harness_run(argc, argv);
}
