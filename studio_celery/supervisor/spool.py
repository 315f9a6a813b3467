"""The output of an attempt on its host, between the shim that writes it and the store: freed of what is stored.

The file keeps its size and every byte its place; what lies in front is given back to the disk, so the blocks that it
has are what waits for the store. The shim goes by them: see `runtimes/shim.py` for what it does when they are too many.

Freeing and adopting exclude each other on a host. Otherwise a former owner that does not know it yet could free what
its successor, who goes on at the byte that was stored when it looked, still has to copy.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from studio_celery.experiment import Attempt
from studio_celery.journal import Standing, standing
from studio_celery.store import Journal
from studio_celery.supervisor import holes

logger = logging.getLogger(__name__)

#: Less than this is not freed, bytes: the kernel writes it to the disk first, and most logs are shorter than that.
LEAST_FREED = 16 * 2**20


class Spool:
    """Of one attempt, as its owner frees it."""

    def __init__(self, directory: Path, journal: Journal, attempt: Attempt, *, least_bytes: int = LEAST_FREED) -> None:
        """`journal` is read here only, by the one thread that copies the output."""
        self._least_bytes = least_bytes
        self._directory = directory
        self._journal = journal
        self._attempt = attempt
        #: First byte that was not to be freed when that was tried last.
        self._tried = 0
        self._refused = False

    def free(self, log: Path, end: int) -> None:
        """Give what the file has before byte `end` back to the disk, if the attempt is still ours.

        `StoreError` if that cannot be found out. What is not freed now is freed the next time: a disk that refuses is
        told once, and is no reason not to go on.
        """
        if end - self._tried < self._least_bytes:
            return
        try:
            with _locked(self._directory, fcntl.LOCK_NB) as held:
                if held and self._is_ours():
                    self._tried = end
                    _punch(log, end)
        except OSError as exc:
            if not self._refused:
                logger.warning("%s keeps what is stored already: %s.", log, exc.strerror)
            self._refused, self._tried = True, end

    def _is_ours(self) -> bool:
        now = standing(self._journal.refresh(), self._attempt.number, self._attempt.epoch)
        return now in (Standing.OWNER, Standing.STOP)


@contextmanager
def nothing_freed(directory: Path) -> Iterator[None]:
    """While an adopting owner finds out where it goes on, and records it."""
    with _locked(directory, 0):
        yield


@contextmanager
def _locked(directory: Path, flag: int) -> Iterator[bool]:
    """Hold the attempt's lock; False if somebody else has it (`LOCK_NB`), or the directory is gone."""
    try:
        descriptor = os.open(directory / "spool.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | flag)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _punch(log: Path, end: int) -> None:
    """Only a plain file that has no other name: what is in its directory was put there by the script's user."""
    descriptor = os.open(log, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            holes.punch(descriptor, end)
    finally:
        os.close(descriptor)
