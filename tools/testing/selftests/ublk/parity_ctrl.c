// SPDX-License-Identifier: GPL-2.0
/* parity: every control command in every state of a device. */
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include "parity.h"

/* A device and the process that serves it */
struct target {
	int id;
	pid_t server;
};

enum state {
	ABSENT,
	DELETED,
	ADDED,
	ADDED_PARAMS,
	OPENED,
	PARTLY,
	READY,
	LIVE,
	LIVE_OPEN,
	STOPPING,
	STOPPED,
	KILLED_EARLY,
	KILLED,
	DELETED_OPEN,
	/* with UBLK_F_USER_RECOVERY and UBLK_F_QUIESCE */
	REC_ADDED,
	REC_READY,
	REC_LIVE,
	REC_KILLED,
	REC_FAIL_IO,
	REC_QUIESCED,
	REC_AGAIN,
	REC_AGAIN_PARTLY,
	REC_AGAIN_READY,
	REC_DONE,
	REC_STOPPED,
	NR_STATES,
};

static const char *const state_name[NR_STATES] = {
	"absent", "deleted", "added", "params set", "open", "partly fetched", "ready",
	"live", "live, disk open", "stopped, server there", "stopped", "killed early",
	"killed", "deleted, server there", "rec added", "rec ready", "rec live",
	"rec killed", "rec killed FAIL_IO", "rec quiesced", "rec open again",
	"rec partly fetched again", "rec ready again", "rec recovered", "rec stopped",
};

/* Serve until killed: open, fetch @slots slots, and hold what comes */
static pid_t server(struct target *t, __u64 flags, int slots)
{
	struct io_uring_cqe *cqe;
	struct srv s = {};
	int pipes[2];
	pid_t pid;
	char c = 0;

	if (pipe(pipes))
		give_up("pipe", -errno);
	pid = fork();
	if (pid) {
		close(pipes[1]);
		if (read(pipes[0], &c, 1) != 1)
			give_up("server", -EPIPE);
		close(pipes[0]);
		return pid;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	s.id = t->id;
	s.flags = flags;
	s.queues = 1;
	s.depth = DEPTH;
	s.desc_size = sizeof(struct ublksrv_io_desc);
	srv_attach(&s);
	srv_fetch(&s, 0, slots);
	if (write(pipes[1], &c, 1) != 1)
		_exit(1);
	for (;;) {
		if (!io_uring_wait_cqe(&s.ring, &cqe))
			io_uring_cqe_seen(&s.ring, cqe);
	}
}

static void kill_server(struct target *t)
{
	if (!t->server)
		return;
	kill(t->server, SIGKILL);
	waitpid(t->server, NULL, 0);
	t->server = 0;
}

static void must(const char *what, int res)
{
	if (res)
		give_up(what, res);
}

static void to_state(struct target *t, enum state st)
{
	__u64 flags = UBLK_F_NO_AUTO_PART_SCAN | UBLK_F_UPDATE_SIZE;
	struct ublk_params params = default_params();
	bool rec = st >= REC_ADDED;

	if (rec)
		flags |= UBLK_F_USER_RECOVERY | UBLK_F_QUIESCE;
	if (st == REC_FAIL_IO)
		flags |= UBLK_F_USER_RECOVERY_FAIL_IO;
	t->server = 0;
	t->id = 4000;
	if (st == ABSENT)
		return;
	t->id = add(flags);
	if (t->id < 0)
		give_up("ADD_DEV", t->id);
	if (st == DELETED) {
		must("DEL_DEV", ctrl_simple(t->id, UBLK_U_CMD_DEL_DEV, NULL, 0, 0));
		return;
	}
	if (st == ADDED || st == REC_ADDED)
		return;
	must("SET_PARAMS", set_params(t->id, &params));
	if (st == ADDED_PARAMS)
		return;
	if (st == OPENED || st == PARTLY || st == KILLED_EARLY) {
		t->server = server(t, flags, st != OPENED);
		if (st == KILLED_EARLY) {
			kill_server(t);
			wait_closed(t->id);
		}
		return;
	}
	t->server = server(t, flags, DEPTH);
	if (st == READY || st == REC_READY)
		return;
	must("START_DEV", start(t->id, t->server));
	if (st == LIVE || st == REC_LIVE)
		return;
	if (st == LIVE_OPEN) {
		if (open(str("/dev/ublkb%d", t->id), O_RDONLY) < 0)
			give_up("open disk", -errno);
		return;
	}
	if (st == STOPPING || st == STOPPED || st == REC_STOPPED) {
		must("STOP_DEV", ctrl_simple(t->id, UBLK_U_CMD_STOP_DEV, NULL, 0, 0));
		if (st != STOPPING) {
			kill_server(t);
			wait_closed(t->id);
		}
		return;
	}
	if (st == DELETED_OPEN) {
		must("DEL_DEV_ASYNC",
		     ctrl_simple(t->id, UBLK_U_CMD_DEL_DEV_ASYNC, NULL, 0, 0));
		return;
	}
	if (st == REC_QUIESCED) {
		must("QUIESCE_DEV", ctrl_simple(t->id, UBLK_U_CMD_QUIESCE_DEV, NULL, 0, 500));
		return;
	}
	kill_server(t);
	if (!wait_dev_state(t->id, st == KILLED ? UBLK_S_DEV_DEAD :
			    st == REC_FAIL_IO ? UBLK_S_DEV_FAIL_IO :
			    UBLK_S_DEV_QUIESCED))
		give_up("state after the kill", -ETIME);
	usleep(50000);
	if (st == KILLED || st == REC_KILLED || st == REC_FAIL_IO)
		return;
	must("START_USER_RECOVERY",
	     ctrl_simple(t->id, UBLK_U_CMD_START_USER_RECOVERY, NULL, 0, 0));
	t->server = server(t, flags, st == REC_AGAIN ? 0 : st == REC_AGAIN_PARTLY ? 1 : DEPTH);
	if (st == REC_DONE)
		must("END_USER_RECOVERY",
		     ctrl_simple(t->id, UBLK_U_CMD_END_USER_RECOVERY, NULL, 0, t->server));
}

/* What a command has besides the device */
enum buffer { NONE, INFO, INFO_PATH, PARAMS_IN, PARAMS_OUT, MASK, FEATURES, SHMEM };
enum number { ZERO, SERVER_PID, OWN_PID, MSECS, SECTORS };

static const struct command {
	const char *name;
	__u32 op;
	enum buffer buffer;
	enum number data;
} commands[] = {
	{ "GET_FEATURES", UBLK_U_CMD_GET_FEATURES, FEATURES },
	{ "GET_DEV_INFO", UBLK_U_CMD_GET_DEV_INFO, INFO },
	{ "GET_DEV_INFO2", UBLK_U_CMD_GET_DEV_INFO2, INFO_PATH },
	{ "GET_QUEUE_AFFINITY", UBLK_U_CMD_GET_QUEUE_AFFINITY, MASK },
	{ "GET_PARAMS", UBLK_U_CMD_GET_PARAMS, PARAMS_OUT },
	{ "SET_PARAMS", UBLK_U_CMD_SET_PARAMS, PARAMS_IN },
	{ "START_DEV", UBLK_U_CMD_START_DEV, NONE, SERVER_PID },
	{ "START_DEV by another pid", UBLK_U_CMD_START_DEV, NONE, OWN_PID },
	{ "STOP_DEV", UBLK_U_CMD_STOP_DEV },
	{ "TRY_STOP_DEV", UBLK_U_CMD_TRY_STOP_DEV },
	{ "DEL_DEV", UBLK_U_CMD_DEL_DEV },
	{ "DEL_DEV_ASYNC", UBLK_U_CMD_DEL_DEV_ASYNC },
	{ "START_USER_RECOVERY", UBLK_U_CMD_START_USER_RECOVERY },
	{ "END_USER_RECOVERY", UBLK_U_CMD_END_USER_RECOVERY, NONE, SERVER_PID },
	{ "END_USER_RECOVERY by another pid", UBLK_U_CMD_END_USER_RECOVERY, NONE, OWN_PID },
	{ "UPDATE_SIZE", UBLK_U_CMD_UPDATE_SIZE, NONE, SECTORS },
	{ "QUIESCE_DEV", UBLK_U_CMD_QUIESCE_DEV, NONE, MSECS },
	{ "REG_BUF", UBLK_U_CMD_REG_BUF, SHMEM },
	{ "UNREG_BUF", UBLK_U_CMD_UNREG_BUF },
	{ "unknown command 0x3f", _IOWR('u', 0x3f, struct ublksrv_ctrl_cmd) },
};

/* What came back, without what differs from run to run */
static const char *output(const struct target *t, const struct command *c, const char *buf)
{
	const struct ublksrv_ctrl_dev_info *info = (const void *)buf;
	const struct ublk_params *p = (const void *)buf;

	switch (c->buffer) {
	case INFO_PATH:
		info = (const void *)(buf + 64);
		__attribute__((fallthrough));
	case INFO:
		return str(" state %u pid %s own id %d", info->state,
			   info->ublksrv_pid == -1 ? "-1" :
			   info->ublksrv_pid == t->server ? "server" : "other",
			   (int)info->dev_id == t->id);
	case PARAMS_OUT:
		return str(" types %x sectors %llu char minor is id %d disk %u",
			   p->types, (unsigned long long)p->basic.dev_sectors,
			   (int)p->devt.char_minor == t->id, p->devt.disk_major);
	case MASK:
		return str(" cpus %lx", *(const unsigned long *)buf);
	default:
		return "";
	}
}

static void prepare(struct target *t, const struct command *c, struct ublksrv_ctrl_cmd *cmd,
		    char *buf)
{
	static const int lens[] = {
		[NONE] = 0, [INFO] = 64, [INFO_PATH] = 128,
		[PARAMS_IN] = sizeof(struct ublk_params),
		[PARAMS_OUT] = sizeof(struct ublk_params), [MASK] = 128,
		[FEATURES] = 8, [SHMEM] = sizeof(struct ublk_shmem_buf_reg),
	};
	struct ublk_params params = default_params();

	memset(buf, 0, 4096);
	*cmd = (struct ublksrv_ctrl_cmd){ .dev_id = t->id, .queue_id = -1 };
	if (c->buffer != NONE) {
		cmd->addr = (unsigned long)buf;
		cmd->len = lens[c->buffer];
	}
	if (c->buffer == INFO_PATH) {
		cmd->dev_path_len = 64;
		sprintf(buf, "/dev/ublkc%d", t->id);
	} else if (c->buffer == PARAMS_IN || c->buffer == PARAMS_OUT) {
		memcpy(buf, &params, sizeof(params));
	}
	switch (c->data) {
	case ZERO:
		break;
	case SERVER_PID:
		/* nobody's pid, but a possible one */
		cmd->data[0] = t->server ? t->server : 4000000;
		break;
	case OWN_PID:
		cmd->data[0] = getpid();
		break;
	case MSECS:
		cmd->data[0] = 200;
		break;
	case SECTORS:
		cmd->data[0] = 4096;
		break;
	}
}

struct pair {
	enum state state;
	const struct command *command;
};

static void one(const void *arg)
{
	const struct pair *pair = arg;
	const struct command *c = pair->command;
	struct ublksrv_ctrl_cmd cmd;
	const char *out, *later = "";
	static char buf[4096];
	struct target t;
	int res;

	to_state(&t, pair->state);
	prepare(&t, c, &cmd, buf);
	res = ctrl(c->op, &cmd);
	out = res ? "" : output(&t, c, buf);
	if (res == BLOCKS && t.server) {
		kill_server(&t);
		later = str(", server killed: %s", res_name(ctrl_pending(patience())));
	}
	put(state_name[pair->state], c->name, "", "%s%s%s; then %s%s", res_name(res), out,
	    later, dev_state(t.id), has_disk(t.id) ? ", disk" : "");
}

void group_ctrl(void)
{
	unsigned int i;
	int st;

	for (st = 0; st < NR_STATES; st++) {
		for (i = 0; i < ARRAY_SIZE(commands); i++) {
			struct pair pair = { st, &commands[i] };

			run(str("%s, %s", state_name[st], commands[i].name), one, &pair);
		}
	}
}
