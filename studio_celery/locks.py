"""Locks on files, between the processes of one host; the kernel frees them when their holder ends, however it ends.

A lock file may be removed by whoever holds it exclusively: who waited for it notices that its file is gone.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from studio_celery.runtimes.contract import Cancellation

#: Time between two tries of a lock that another process holds, seconds.
TRY_SECONDS = 0.25


class Lock:
    """A lock that is held."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def release(self) -> None:
        """Free it."""
        os.close(self._descriptor)

    def remove(self) -> None:
        """Free it together with its file; only for one that is held exclusively. The context then ends as usual."""
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def try_lock(path: Path, *, shared: bool = False) -> Lock | None:
    """Lock a file, which is made if it is missing; None if somebody else holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if _is_open_as(path, descriptor):
                return Lock(path, descriptor)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its former holder removed it in between


@contextmanager
def locked(
    path: Path, waiting: Callable[[], None], cancelled: Callable[[], bool], *, shared: bool = False
) -> Iterator[Lock]:
    """Hold a lock; `waiting` is told once if somebody else has it, `Cancellation` if `cancelled()` meanwhile."""
    lock = try_lock(path, shared=shared)
    if lock is None:
        waiting()
    while lock is None:
        if cancelled():
            raise Cancellation
        time.sleep(TRY_SECONDS)
        lock = try_lock(path, shared=shared)
    with lock:
        yield lock


def _is_open_as(path: Path, descriptor: int) -> bool:
    """Whether the name still means the file that is open."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
