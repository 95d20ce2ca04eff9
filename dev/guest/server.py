"""A server in the guest, kublk or fublk, and what can be counted about it."""
import ctypes
import json
import os
import re
import signal
import struct
import subprocess
import tempfile
import time
from pathlib import Path

KUBLK = os.environ["KUBLK"]
LIBC = ctypes.CDLL(None, use_errno=True)
# How kublk is asked for a mode, and the UBLK_F_* that says the driver gave it.
MODES = {"copy": ([], 0), "user copy": (["-u"], 1 << 7), "registered": (["-z"], 1 << 0),
         "automatic": (["--auto_zc"], 1 << 11), "fused": (["--fused"], 1 << 21), "batch": (["--batch"], 1 << 15)}
# Ours, the same way.
FUBLK = os.environ.get("FUBLK", "")
FUBLK_MODES = {f"fublk {target} {mode}": (target, mode, flag) for target in ("file", "qcow2", "nbd")
               for mode, flag in (("copy", 1 << 7), ("fused", 1 << 21))}
ALL_FLAGS = sum(flag for _, flag in MODES.values())


class Failed(Exception):
    """Of a server, a client or the kernel."""


def run(*argv, patience=120, **kw):
    """A command and its output, or Failed."""
    argv = [str(a) for a in argv]
    try:
        res = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                             timeout=patience, **kw)
    except subprocess.TimeoutExpired as err:
        raise Failed(f"no end after {patience} s: {' '.join(argv)}") from err
    if res.returncode:
        raise Failed(f"status {res.returncode}: {' '.join(argv)}\n{res.stdout}{res.stderr}")
    return res.stdout


def insist(what, test):
    """Wait until test() holds."""
    for _ in range(200):
        if test():
            return
        time.sleep(0.05)
    raise Failed(what)


class Breakpoint:
    """A debug register as a counter: hits of one address, by perf_event_open(2)."""

    EXECUTE, READ_OR_WRITE = 4, 3

    def __init__(self, kind, addr, tid=-1, cpu=-1):
        # struct perf_event_attr: PERF_TYPE_BREAKPOINT; execution of user space only
        execute = kind == self.EXECUTE
        attr = struct.pack("<IIQQQQQIIQQ", 5, 72, 0, 0, 0, 0, 1 << 5 if execute else 0, 0, kind, addr,
                           8 if execute else 1)
        self.fd = LIBC.syscall(298, attr, tid, cpu, -1, 8)
        if self.fd < 0:
            raise Failed(f"perf_event_open, {addr:#x}: {os.strerror(ctypes.get_errno())}")

    def hits(self):
        """So far."""
        return struct.unpack("<Q", os.read(self.fd, 8))[0]

    def close(self):
        """Free the debug register."""
        os.close(self.fd)


def system_calls():
    """Where a server's threads enter the kernel: liburing's two places in kublk, and libc's
    pread() and pwrite(). Offsets by file; dev/run asks on the host, where objdump is fast."""
    text = run("objdump", "-d", "--no-show-raw-insn", KUBLK)
    code = re.findall(r"<(__io_uring_submit|_io_uring_get_cqe)>:\n(.*?)\n\n", text, re.S)
    kublk = [int(a, 16) for _, body in code for a in re.findall(r"(\w+):\tsyscall", body)]
    libc = os.path.realpath(re.search(r"=> (\S*/libc\.so\S*)", run("ldd", KUBLK))[1])
    found = re.findall(r"^(\w+) \w (pread|pwrite|syscall)@", run("nm", "-D", libc), re.M)
    names = {name: int(at, 16) for at, name in found}
    # as many as there are debug registers
    if len(kublk) != 2 or len(names) != 3:
        raise Failed(f"system calls are not where they were: {kublk}, {names}")
    return {"kublk": {KUBLK: kublk, libc: [names["pread"], names["pwrite"]]},
            # fublk has them all of libc
            "fublk": {libc: list(names.values())}}


def modes():
    """Those of MODES that the driver has."""
    bits = [int(bit, 0) for bit in re.findall(r"^(0x[0-9a-f]+)", run(KUBLK, "features"), re.M)]
    ours = FUBLK_MODES if FUBLK else {}
    return [mode for mode, (*_, flag) in [*MODES.items(), *ours.items()] if not flag or flag in bits]


def target_of(mode):
    """What fublk serves from in a mode; kublk: a file."""
    return FUBLK_MODES[mode][0] if mode in FUBLK_MODES else "file"


def serve(mode, path, depth=64):
    """The server of a mode."""
    return Fublk(mode, path, depth) if mode in FUBLK_MODES else Server(mode, path, depth)


class Server:
    """kublk's loop target in one of the modes: one queue, a file behind it."""

    name = "kublk"

    def __init__(self, mode, path, depth=64):
        options, flag = MODES[mode]
        out = run(KUBLK, "add", "-t", "loop", "-q", 1, "-d", depth, *options, path)
        found = re.search(r"dev id (\d+): .*daemon pid (\d+) flags (0x[0-9a-f]+)", out, re.S)
        if not found:
            raise Failed(f"kublk add: {out}")
        self.id, self.pid, flags = (int(g, 0) for g in found.groups())
        self.mode, self.dev, self.behind = mode, f"/dev/ublkb{self.id}", path
        self.sysfs = Path(f"/sys/block/ublkb{self.id}")
        insist(f"{self.dev} does not appear", lambda: os.path.exists(self.dev))
        # the mode has to be what was asked for
        if flags & ALL_FLAGS != flag:
            self.close()
            raise Failed(f"{mode}: the driver gave flags {flags:#x}")

    def close(self):
        """Delete the device, wait for the server's end."""
        run(KUBLK, "del", "-n", self.id)
        insist("the server does not end", lambda: not os.path.exists(f"/proc/{self.pid}/exe"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def requests(self):
        """Reads and writes that the device has ended."""
        stat = (self.sysfs / "stat").read_text().split()
        return int(stat[0]) + int(stat[4])

    def tasks(self):
        """Its threads, io_uring's workers among them."""
        return [int(t) for t in os.listdir(f"/proc/{self.pid}/task")]

    def settle(self):
        """Wait until all its threads sleep: what it does after a request has ended belongs to it."""
        def asleep(tid):
            try:
                return "\nState:\tS" in Path(f"/proc/{self.pid}/task/{tid}/status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                return True  # a worker that had nothing to do for long has ended
        for _ in range(10000):
            if all(asleep(tid) for tid in self.tasks()):
                return
            time.sleep(0.0001)
        raise Failed("the server does not come to rest")

    def counters(self):
        """CPU time, context switches, SQEs and CQEs of the server; requests of the device."""
        now = dict.fromkeys(("cpu", "switches", "sqes", "cqes"), 0)
        for tid in self.tasks():
            try:
                sched = Path(f"/proc/{self.pid}/task/{tid}/sched").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            value = dict(re.findall(r"^(\S+) +: +([\d.]+)$", sched, re.M))
            now["cpu"] += float(value["se.sum_exec_runtime"]) * 1e6
            now["switches"] += int(value["nr_switches"])
        for fd in os.listdir(f"/proc/{self.pid}/fd"):
            if "io_uring" not in os.readlink(f"/proc/{self.pid}/fd/{fd}"):
                continue
            info = Path(f"/proc/{self.pid}/fdinfo/{fd}").read_text()
            value = dict(re.findall(r"^(\w+):\t(\d+)$", info, re.M))
            now["sqes"] += int(value["CachedSqHead"])
            now["cqes"] += int(value["CachedCqTail"])
        now["requests"] = self.requests()
        return now

    def watch_system_calls(self, places):
        """Breakpoints where its threads enter the kernel."""
        places = places[self.name]
        maps = Path(f"/proc/{self.pid}/maps").read_text()
        addrs = [int(re.search(rf"^(\w+)-\w+ \S+ 0+ .*{re.escape(path)}$", maps, re.M)[1], 16) + offset
                 for path, offsets in places.items() for offset in offsets]
        return [Breakpoint(Breakpoint.EXECUTE, a, tid=tid) for tid in self.tasks() for a in addrs]


class Export:
    """A file as qemu-nbd exports it, at a UNIX socket."""

    def __init__(self, path):
        self.at = tempfile.TemporaryDirectory()
        socket, pid = Path(self.at.name, "socket"), Path(self.at.name, "pid")
        # in the background when it can be connected to
        run("qemu-nbd", "--fork", "--persistent", "--format=raw", "--discard=unmap",
            f"--socket={socket}", f"--pid-file={pid}", path)
        self.pid, self.uri = int(pid.read_text()), f"nbd+unix:///?socket={socket}"

    def close(self):
        """Its end; what was written is in the file then."""
        os.kill(self.pid, signal.SIGTERM)
        insist("qemu-nbd does not end", lambda: not os.path.exists(f"/proc/{self.pid}/exe"))
        self.at.cleanup()


class Fublk(Server):
    """One of our targets in one of its modes, the same way."""

    name = "fublk"

    def __init__(self, mode, path, depth=64):
        target, option, flag = FUBLK_MODES[mode]
        self.mode, self.behind = mode, path
        self.export = Export(path) if target == "nbd" else None
        what = {"file": ["--direct", path], "qcow2": [path], "nbd": [self.export and self.export.uri]}[target]
        try:
            self.dev = run(FUBLK, "add", "--depth", depth, "--mode", option, target, *what).strip()
        except Failed:
            self.end_export()
            raise
        self.id = int(self.dev.removeprefix("/dev/ublkb"))
        info = json.loads(run(FUBLK, "list", "--json", self.id))[0]
        self.pid, self.sysfs = info["pid"], Path(f"/sys/block/ublkb{self.id}")
        wanted = {1 << 7: "USER_COPY", 1 << 21: "FUSED_CMD"}[flag]
        if wanted not in info["features"]:
            self.close()
            raise Failed(f"{mode}: the driver gave {info['features']}")

    def close(self):
        run(FUBLK, "del", self.id)
        insist("the server does not end", lambda: not os.path.exists(f"/proc/{self.pid}/exe"))
        self.end_export()

    def end_export(self):
        """What it is a client of."""
        if self.export:
            self.export.close()
