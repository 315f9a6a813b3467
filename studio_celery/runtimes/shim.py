"""The shim beside a script: copies its output to a file byte for byte, and writes down how it ended.

    python3 -E -S shim.py [--daemon] [--spool=BYTES --hold=SECONDS] IO_DIRECTORY

Runs inside any image that has Python 3.6 or later, so: standard library only, and no import of studio_celery. The
directory holds `argv` (the command, its parts separated by NUL bytes); the shim writes there

    log         what the script printed, stdout and stderr in the order of one pipe
    exit.json   exit_code or signal, oom_kills, terminated, started_at, finished_at, log_bytes, lost_bytes
    pid.json    with --daemon: pid, start time and boot id of the shim, session of the script

SIGTERM and SIGINT are forwarded to the script's process group as SIGTERM; SIGUSR1 kills the group (with --daemon every
descendant), and the shim still saves the last output. A full disk loses output but never stops the script. With
--daemon the shim leaves its parent and becomes a session of its own; the command returns when the script runs.

With --spool the log may have so many bytes on the disk. Whoever copies it elsewhere frees its beginning meanwhile; when
there is no room, the script is held up (nothing reads its pipe) as long as room is being made, and after --hold seconds
without any its output is dropped, which the log says in one line as soon as there is room again, or at the end.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

#: Bytes read from the pipe at once: the capacity of a pipe on Linux.
CHUNK_BYTES = 65536

#: How long, after the script's end, output is awaited from processes that it left behind.
DRAIN_SECONDS = 2.0

#: Room kept for `exit.json` from the start, so that a full disk cannot prevent it.
RESERVED_BYTES = 4096

#: Time between two looks for room, seconds.
ROOM_SECONDS = 0.02

#: What the last words of a script may have beyond the limit: a pipe, and what is said by those that it left behind.
LAST_WORDS_BYTES = 1024 * 1024

#: Rounds of killing descendants, 10 ms apart; more than one because they may fork meanwhile.
KILL_ROUNDS = 300

#: Where the kernel counts what it killed at the container's memory limit: cgroup v2, then v1.
OOM_COUNTERS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")

#: prctl: orphaned descendants become children of this process, so none can leave its tree.
PR_SET_CHILD_SUBREAPER = 36


def utc_now() -> str:
    """The time now, UTC, ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class Log:
    """The file with the output, append only; with a limit to the bytes that it has on the disk."""

    def __init__(self, path: Path, limit: "int | None" = None) -> None:
        self._fd = os.open(str(path), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._limit = limit
        #: Bytes that could not be written, in all and since the last note about it, and why.
        self.lost = 0
        self._unnoted = 0
        self._why = b""
        #: The last of what there was no room for.
        self._tail = b""

    def room(self) -> "int | None":
        """Bytes that it may still grow by, None without a limit."""
        return None if self._limit is None else self._limit - self._used()

    def _used(self) -> int:
        """Bytes that it has on the disk: what was freed, and what the file system has put by, is not counted."""
        found = os.fstat(self._fd)
        allotted = found.st_blocks * 512
        if self._limit is None or allotted + CHUNK_BYTES <= self._limit:
            return allotted
        try:
            return min(allotted, found.st_size - os.lseek(self._fd, 0, os.SEEK_DATA))
        except OSError:
            return 0  # there is no data in it

    def full(self) -> bool:
        """Whether there is no room for what one read can bring."""
        room = self.room()
        return room is not None and room < CHUNK_BYTES

    def allow_last_words(self) -> None:
        """Take a little more than the limit: nothing much will follow."""
        if self._limit is not None:
            self._limit = max(self._limit, self._used()) + LAST_WORDS_BYTES

    def write(self, data: bytes) -> None:
        """Append; what cannot be written is counted, and noted as soon as something can be."""
        data = self._tail + data
        self._tail = b""
        if self.full():
            self._tail = data[-CHUNK_BYTES:]
            return self._lose(
                len(data) - len(self._tail), b"this worker's disk held all that the store did not take yet"
            )
        left = memoryview(self._note() + data)
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except OSError:
                return self._lose(min(len(left), len(data)), b"the disk was full")
        self._unnoted = 0
        return None

    def _note(self) -> bytes:
        if not self._unnoted:
            return b""
        return b"\n[studio] %d bytes of output were lost: %s\n" % (self._unnoted, self._why)

    def _lose(self, count: int, why: bytes) -> None:
        self.lost += count
        self._unnoted += count
        self._why = why

    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self._fd).st_size


class Patience:
    """How long a script is held up for room: while room is being made, and then for a time."""

    def __init__(self, log: Log, seconds: float) -> None:
        self._log = log
        self._seconds = seconds
        self._room = 0
        self._since = None  # type: float | None

    def lasts(self) -> bool:
        """Whether to wait now: there is no room, and may soon be some."""
        if not self._log.full():
            self._since = None
            return False
        room = self._log.room() or 0
        if self._since is None or room > self._room:
            self._since = time.monotonic()
        self._room = room
        return time.monotonic() - self._since < self._seconds


class Script:
    """The running script: its process group, its pipe, and the signals that reach the shim."""

    def __init__(self, log: Log, daemon: bool, patience: Patience) -> None:
        self._log = log
        self._patience = patience
        self._daemon = daemon
        self._pipe, self._pipe_end = os.pipe()
        self._wake = _wake_on_signals()
        self._watched = [self._wake, self._pipe]
        self.pid = 0
        #: Kept, because it would reap the script in our place when it is thrown away.
        self._child = None  # type: subprocess.Popen[bytes] | None
        self.terminated = False
        self._ended = False

    def start(self, argv: "list[bytes]") -> int:
        """Start it; 0, or the exit code that shells use when a command cannot be started."""
        out = self._pipe_end
        try:
            child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
            self._child = child
        except OSError as exc:
            command = argv[0].decode("utf-8", "replace")
            self._log.write("[studio] cannot start {}: {}\n".format(command, exc.strerror).encode())  # noqa: UP032
            return 127 if isinstance(exc, FileNotFoundError) else 126
        finally:
            os.close(self._pipe_end)
        self.pid = child.pid
        return 0

    def follow(self) -> None:
        """Copy output and forward signals until the script has ended."""
        while not self._ended:
            waits = self._pipe in self._watched and self._patience.lasts()
            watched = [self._wake] if waits else self._watched
            ready = select.select(watched, [], [], ROOM_SECONDS if waits else None)[0]
            if self._wake in ready:
                self._obey(os.read(self._wake, 512))
            if self._pipe in ready and not self._copy():
                self._watched.remove(self._pipe)

    def finish(self) -> int:
        """Save the rest of the output, end what the script left behind, and return its wait status."""
        self._log.allow_last_words()
        deadline = time.monotonic() + DRAIN_SECONDS
        while self._pipe in self._watched:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._pipe], [], [], left)[0] or not self._copy():
                break
        self._kill()
        for _ in range(16):  # 16 chunks are the most that a pipe holds
            if not select.select([self._pipe], [], [], 0)[0] or not self._copy():
                break
        self._log.write(b"")
        return os.waitpid(self.pid, 0)[1]

    def _copy(self) -> bool:
        """Copy one chunk; False at the end of the pipe."""
        data = os.read(self._pipe, CHUNK_BYTES)
        self._log.write(data)
        return bool(data)

    def _obey(self, signals: bytes) -> None:
        """Do what the signals ask for; each byte is the number of one."""
        if signal.SIGTERM in signals or signal.SIGINT in signals:
            self.terminated = True
            send(signal.SIGTERM, group=self.pid)
        if signal.SIGUSR1 in signals:
            self._kill()
        if signal.SIGCHLD in signals:
            self._reap()

    def _reap(self) -> None:
        """Note the script's end but keep its pid reserved until `finish`; reap whatever else was adopted."""
        while True:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None or ended.si_pid == self.pid:
                self._ended = ended is not None
                return
            os.waitpid(ended.si_pid, 0)

    def _kill(self) -> None:
        """SIGKILL to the group, and as a daemon to all descendants. (In a container they end with the shim.)"""
        send(signal.SIGKILL, group=self.pid)
        if not self._daemon:
            return
        for _ in range(KILL_ROUNDS):
            alive = descendants(os.getpid())
            for pid in alive:
                send(signal.SIGKILL, pid=pid)
            if not alive:
                return
            time.sleep(0.01)


def send(number: int, *, pid: int = 0, group: int = 0) -> None:
    """Send a signal to a process or a process group, if it is still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if group:
            os.killpg(group, number)
        else:
            os.kill(pid, number)


def _wake_on_signals() -> int:
    """A file descriptor that yields the number of each signal as a byte."""
    wake, wake_end = os.pipe()
    os.set_blocking(wake_end, False)
    signal.set_wakeup_fd(wake_end)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return wake


def descendants(root: int) -> "list[int]":
    """Pids of all living processes below `root`."""
    children = {}  # type: dict[int, list[int]]
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        if fields[0] not in (b"Z", b"X"):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = [], [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def oom_kills() -> int:
    """How many processes of this container the kernel killed at its memory limit."""
    for counter in OOM_COUNTERS:
        try:
            lines = Path(counter).read_text().splitlines()
        except OSError:
            continue
        return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return 0


def reserve(directory: Path) -> "int | None":
    """Open a file with room for the last words; None where there is none."""
    try:
        fd = os.open(str(directory / "exit.json.new"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.write(fd, b" " * RESERVED_BYTES)
    except OSError:
        return None
    return fd


def write_exit(directory: Path, reserved: "int | None", record: "dict[str, object]") -> None:
    """Write `exit.json` atomically; without any room the exit code of the shim has to do."""
    if reserved is None:
        reserved = reserve(directory)
    if reserved is not None:
        os.ftruncate(reserved, os.pwrite(reserved, json.dumps(record).encode(), 0))
        (directory / "exit.json.new").replace(directory / "exit.json")


def write_pid(directory: Path, session: int) -> None:
    """Write `pid.json`: who the shim is, such that a recycled pid is not mistaken for it."""
    stat = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    record = {
        "pid": os.getpid(),
        "start_time": int(stat[19]),
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "session": session,
    }
    (directory / "pid.json.new").write_text(json.dumps(record))
    (directory / "pid.json.new").replace(directory / "pid.json")


def detach(directory: Path) -> int:
    """Go on as a session of our own; the parent waits for a byte on the returned descriptor, then exits."""
    import ctypes  # not every image has it, and only hosts need it

    ready, ready_end = os.pipe()
    if os.fork():
        os.close(ready_end)
        os._exit(0 if os.read(ready, 1) else 1)
    os.close(ready)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    errors = os.open(str(directory / "shim.err"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for target, source in enumerate((null, null, errors)):
        os.dup2(source, target)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    return ready_end


def awaited(ready: int) -> bool:
    """Whether the parent still waits for a byte: it is killed if that takes too long."""
    poller = select.poll()
    poller.register(ready, 0)
    return not poller.poll(0)


def main(arguments: "list[str]") -> int:
    """Run the command to its end; the exit code is the script's, or 128 + signal."""
    daemon = "--daemon" in arguments[:-1]
    options = dict(argument.split("=", 1) for argument in arguments[:-1] if "=" in argument)
    directory = Path(arguments[-1])
    argv = (directory / "argv").read_bytes().split(b"\0")
    ready = detach(directory) if daemon else None
    log = Log(directory / "log", int(options["--spool"]) if "--spool" in options else None)
    reserved = reserve(directory)
    patience = Patience(log, float(options.get("--hold", "0")))
    script, started_at = Script(log, daemon, patience), utc_now()
    if ready is not None and not awaited(ready):
        sys.exit("[studio] The script was not started: nobody waits for it any more.")
    code = script.start(argv)
    if ready is not None:
        write_pid(directory, script.pid)
        with contextlib.suppress(BrokenPipeError):  # given up just now: who did so ends us, or finds us by the pid
            os.write(ready, b"1")
        os.close(ready)
    record = {"exit_code": code}
    if script.pid:
        script.follow()
        status = script.finish()
        killed = os.WIFSIGNALED(status)
        record = {"signal": os.WTERMSIG(status)} if killed else {"exit_code": os.WEXITSTATUS(status)}
        code = 128 + os.WTERMSIG(status) if killed else os.WEXITSTATUS(status)
    record.update(oom_kills=0 if daemon else oom_kills(), terminated=script.terminated)
    times = {"started_at": started_at, "finished_at": utc_now()}
    write_exit(directory, reserved, dict(record, log_bytes=log.size(), lost_bytes=log.lost, **times))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
