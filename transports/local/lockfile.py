"""One broker per data directory: a lock that the kernel gives up with the process, however that ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transports.local.errors import DataInUseError, DataUnusableError

#: The lock file's name inside the data directory; it holds the process id, for people.
NAME = "broker.lock"


@contextmanager
def locked(data: Path) -> Iterator[None]:
    """Create the directory if need be and hold its lock."""
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(data / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise DataUnusableError(f"Cannot write to the data directory {data}: {exc.strerror}.") from exc
    try:
        _lock(descriptor, data)
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, data: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise DataInUseError(data) from exc
