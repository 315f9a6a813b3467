"""The doorway that every start of an experiment on this host goes through, whichever worker process does it.

Who holds it reads the journal, puts down what former attempts left here, and starts. A worker that stood still between
its reading and its start so can never start beside its successor. The kernel opens the door when its holder dies.
"""

from __future__ import annotations

import fcntl
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from studio_celery.runtimes.contract import Cancellation, Cancelled

#: Lock files on a host: few enough to stay, enough that experiments seldom share one.
DOORS = 64

#: Time between two tries, seconds.
TRY_SECONDS = 0.05


@contextmanager
def doorway(home: Path, experiment_id: str, cancelled: Cancelled) -> Iterator[None]:
    """Hold it; `Cancellation` if `cancelled()` before it is free."""
    path = home / "run" / "workers" / f"door-{zlib.crc32(experiment_id.encode()) % DOORS:02}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not _lock(descriptor):
            if cancelled():
                raise Cancellation
            time.sleep(TRY_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
