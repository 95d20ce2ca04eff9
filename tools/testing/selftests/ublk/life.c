// SPDX-License-Identifier: GPL-2.0
/* life: what parity's parts expect of a program, and steps of a device's life. */
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include "life.h"

/* Nothing is given up before the harness ends the test */
int patience(void)
{
	return INT_MAX;
}

void give_up(const char *what, int res)
{
	printf("# %s: %s\n", what, res_name(res));
	fflush(stdout);
	_exit(KSFT_FAIL);
}

/* Each test deletes its own devices */
void remember(int id)
{
}

const char *why_not(void)
{
	if (getuid())
		return "not root";
	if (access("/dev/ublk-control", F_OK))
		return "no driver";
	ctrl_open();
	return NULL;
}

pid_t child(void)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0)
		give_up("fork", -errno);
	if (!pid)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

static int status_of(int status)
{
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int exit_status(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid)
		give_up("waitpid", -errno);
	return status_of(status);
}

void tell(int fd)
{
	if (write(fd, "", 1) != 1)
		give_up("write", -errno);
}

void hear(int fd)
{
	char c;

	if (read(fd, &c, 1) < 0)
		give_up("read", -errno);
}

int ctrl_path(int id, __u32 op, void *buf, unsigned int len, __u64 data)
{
	char all[64 + sizeof(struct ublk_params)] = "";
	struct ublksrv_ctrl_cmd cmd = {
		.dev_id = id,
		.queue_id = -1,
		.addr = (unsigned long)all,
		.len = 64 + len,
		.dev_path_len = 64,
		.data = { data },
	};

	snprintf(all, 64, "/dev/ublkc%d", id);
	if (len)
		memcpy(all + 64, buf, len);
	return ctrl(op, &cmd);
}

/* Root remains the saved user */
void become(unsigned int uid)
{
	if ((!uid && setresuid(0, 0, 0)) || setresgid(uid, uid, 0) ||
	    (uid && setresuid(uid, uid, 0)))
		give_up("setresuid", -errno);
}

int open_free(int id)
{
	int fd;

	while ((fd = open_cdev(id)) == -EBUSY)
		usleep(100);
	if (fd < 0)
		give_up("open", fd);
	return fd;
}

void attach(struct srv *s)
{
	srv_opened(s, open_free(s->id));
}

int serve(struct srv *s, pid_t pid)
{
	int status, tag;

	while (waitpid(pid, &status, WNOHANG) != pid) {
		tag = srv_request(s, 20);
		if (tag >= 0)
			srv_commit(s, tag, srv_desc(s, tag)->nr_sectors << 9);
	}
	return status_of(status);
}

void wait_busy(int id, unsigned int nr)
{
	unsigned int busy = 0;
	FILE *f;

	while (busy < nr) {
		usleep(1000);
		f = fopen(str("/sys/block/ublkb%d/stat", id), "r");
		if (!f)
			give_up("statistics of the disk", -errno);
		if (fscanf(f, "%*u %*u %*u %*u %*u %*u %*u %*u %u", &busy) != 1)
			give_up("statistics of the disk", -EINVAL);
		fclose(f);
	}
}

void wait_woken(int id, int nr)
{
	for (;;) {
		FILE *f = fopen(str("/sys/kernel/debug/ublk_rs/%d", id), "r");
		bool woken = false;
		char line[200];

		if (!f) {
			/* another driver, or no debugfs: it takes no time */
			usleep(500000);
			return;
		}
		while (fgets(line, sizeof(line), f))
			woken = woken || (strstr(line, str(" %d tags to tell, ", nr)) &&
					  strstr(line, "one telling"));
		fclose(f);
		if (woken)
			return;
		usleep(1000);
	}
}
