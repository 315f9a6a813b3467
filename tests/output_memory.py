"""What a gigabyte of output costs in memory, at both ends: real processes that write, copy, print and serve it."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from processes import Studio
from studio import submit, wait_for

from studio_celery.experiment import Status

#: No process may need more than this, bytes.
MOST = 100 * 10**6

#: Writes its most memory to a file at its end. (What `wait4` tells includes the process it was forked from.)
TOLD = """
import atexit, pathlib, re, sys
def tell():
    found = re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())
    peak.write_text(found[1])
peak = pathlib.Path(sys.argv.pop(1))
atexit.register(tell)
"""

WORKER = """
from studio_celery import settings
from studio_celery.runtimes import make_runtime
from studio_celery.store import Store
from studio_celery.supervisor import Supervisor
options = settings.load()
supervisor = Supervisor(Store(sys.argv[1]), make_runtime(options), options)
supervisor.handle(sys.argv[2])
"""

LOGS = """
from studio_celery.cli.studio import studio
studio(["logs", sys.argv[1]])
"""

SCRIPT = """
import os, sys
line = b"x" * 99 + b"\\n"
block = line * 655
left = int(sys.argv[1])
while left > 0:
    os.write(1, block[:left])
    left -= len(block)
"""


@dataclass(frozen=True)
class Peaks:
    """Most memory that each process had, bytes."""

    worker: int
    logs: int
    page: int

    def check(self) -> None:
        """Fail if one of them had too much."""
        assert max(self.worker, self.logs, self.page) < MOST, self


def measure(folder: Path, size: int) -> Peaks:
    """Run a script that prints `size` bytes; the output is whole at each end, or an assertion fails."""
    studio = Studio(folder, runtime="process", gpus="none", log_seconds=0.5)
    try:
        one = submit(studio.store, folder, SCRIPT, str(size))
        worker = _peak(studio, WORKER, studio.store.url, one)[0]
        assert studio.status(one) is Status.FINISHED
        logs, digest = _peak(studio, LOGS, one)
        assert digest == expected(size)
        return Peaks(worker, logs, _page(studio, one, size))
    finally:
        studio.close()


def expected(size: int) -> str:
    """Digest of what the script prints."""
    line, digest = b"x" * 99 + b"\n", hashlib.sha256()
    block = line * 655
    for begin in range(0, size, len(block)):
        digest.update(block[: size - begin])
    return digest.hexdigest()


def _peak(studio: Studio, program: str, *arguments: str) -> tuple[int, str]:
    """Most memory that a process had at a time, and the digest of what it printed."""
    digest, told = hashlib.sha256(), studio.folder / "peak"
    command = [sys.executable, "-c", TOLD + program, str(told), *arguments]
    with subprocess.Popen(command, env=studio.environ, stdout=subprocess.PIPE, cwd=studio.work) as process:
        assert process.stdout is not None
        while piece := process.stdout.read(2**16):
            digest.update(piece)
    assert process.returncode == 0
    return int(told.read_text()) * 1024, digest.hexdigest()


def _page(studio: Studio, experiment_id: str, size: int) -> int:
    """Look at the page, then at all of the output, with what a browser would ask."""
    server = studio.start("studio", "ui", "--port", "0")
    line = wait_for(
        "the page", lambda: re.search(r"http://\S+(?=\s)", studio.output(server) + studio.output(server, "err"))
    )
    address = f"{line[0].rstrip('/.')}/experiments/{experiment_id}"
    with urllib.request.urlopen(address, timeout=60) as answer:
        assert answer.status == 200
    with urllib.request.urlopen(f"{address}/log?attempt=0&offset=0", timeout=60) as answer:
        assert len(answer.read()) < 2**20
    digest = hashlib.sha256()
    with urllib.request.urlopen(f"{address}/log.txt", timeout=60) as answer:
        while piece := answer.read(2**16):
            digest.update(piece)
    assert digest.hexdigest() == expected(size)
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{server.pid}/status").read_text())
    assert found
    return int(found[1]) * 1024
