"""Processes of this host, told apart from those that got the same pid later. The one reader of /proc."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

#: How often it is looked whether killed processes are gone, in seconds.
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Identity:
    """A process: its pid means nothing without when it started, nor beyond a reboot."""

    pid: int
    #: Clock ticks after boot.
    start_time: int
    boot_id: str

    def alive(self) -> bool:
        """Whether exactly this process runs."""
        return self.boot_id == boot_id() and start_time(self.pid) == self.start_time


@dataclass(frozen=True)
class Held:
    """A living process, held by a descriptor that never means another one."""

    fd: int

    def send(self, number: int) -> None:
        """Send a signal, if it still lives."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.fd, number)

    def wait(self, seconds: float) -> bool:
        """Wait for its end, at most so long; whether it ended."""
        return bool(select.select([self.fd], [], [], max(seconds, 0))[0])


@contextmanager
def hold(identity: Identity) -> Iterator[Held | None]:
    """Hold a process, or None if it has ended."""
    try:
        fd = os.pidfd_open(identity.pid)
    except OSError:
        yield None
        return
    try:
        yield Held(fd) if identity.alive() else None
    finally:
        os.close(fd)


def boot_id() -> str:
    """Id of the time since this host was booted."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks after boot; None if it has ended, also if nobody reaped it yet."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def marked(variable: str, value: str) -> list[int]:
    """Pids of all other processes that were started with this variable in their environment."""
    marker = f"\0{variable}={value}\0".encode("utf-8", "surrogateescape")
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            if marker in b"\0" + (entry / "environ").read_bytes() and start_time(int(entry.name)) is not None:
                found.append(int(entry.name))
    return found


def kill_marked(variable: str, value: str, seconds: float) -> list[int]:
    """SIGKILL all of them until none is left, at most so long; the pids that are still there."""
    deadline = time.monotonic() + seconds
    while (pids := marked(variable, value)) and time.monotonic() < deadline:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_SECONDS)
    return pids
