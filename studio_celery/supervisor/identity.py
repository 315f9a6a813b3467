"""Who this worker is, and whether another worker of this host is still alive."""

from __future__ import annotations

import fcntl
import os
import socket
import uuid
from pathlib import Path


class Identity:
    """A worker process: an id, a host, and a lock that the kernel frees when the process ends, however it ends."""

    def __init__(self, home: Path) -> None:
        self.host = socket.gethostname()
        self.id = f"{self.host}-{uuid.uuid4().hex[:8]}"
        self._locks = home / "run" / "workers"
        self._locks.mkdir(parents=True, exist_ok=True)
        path = self._path(self.id)
        new = path.with_suffix(".new")
        self._file = new.open("x")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        # It has its name only once it is locked: who sees it never takes a worker that begins for one that has ended.
        new.rename(path)

    def close(self) -> None:
        """Free the lock: from now on others may take over what this worker owned."""
        self._file.close()

    def is_gone(self, worker_id: str, host: str) -> bool:
        """Whether that worker was on this host, under this STUDIO_HOME, and has certainly ended."""
        path = self._path(worker_id)
        if host != self.host or worker_id == self.id or not path.exists():
            return False
        descriptor = os.open(path, os.O_RDWR)  # over NFS an exclusive lock needs a file that is open for writing
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    def _path(self, worker_id: str) -> Path:
        return self._locks / f"{worker_id.replace('/', '_')}.lock"
