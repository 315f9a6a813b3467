"""A Celery worker in a process of its own, the same for every contender."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

#: Tasks at a time.
CONCURRENCY = 4
#: Seconds after which a worker that was told to stop counts as one that does not.
STOP_CAP_SECONDS = 60.0


class Worker:
    """Runs from its making to `stop` or `kill`; its application notes `ready` when it is."""

    def __init__(self, environ: Mapping[str, str], folder: Path, *, queues: str) -> None:
        self.ready = f"ready-{uuid4().hex}"
        command = [sys.executable, "-m", "celery", "-A", "application", "worker", "-P", "threads"]
        command += ["-c", str(CONCURRENCY), "-Q", queues, "-n", f"{self.ready}@%h", "-l", "WARNING"]
        with (folder / "worker.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={**environ, "BENCH_READY": self.ready},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def stop(self) -> float:
        """Ask it to end; return when it had ended, infinity if it has not within the cap."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_CAP_SECONDS)
        except subprocess.TimeoutExpired:
            return float("inf")
        return time.monotonic()

    def kill(self) -> float:
        """End it as a power failure would; return when."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        return time.monotonic()
