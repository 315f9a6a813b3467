"""Segments: the files of the redo log, of which the last is written to, and payloads that the tables left in them.

What was read by number and offset once never becomes something else: a number is not used again after anybody may have
referred to it. A segment that is needed no more becomes the next one, or goes.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from transports.local.folders import sync_folder

logger = logging.getLogger(__name__)

#: Bytes of a file up to which it is used again: what it has on disk need not be allocated.
_REUSED_BYTES = 32 << 20
#: What the name of a segment ends with, after the database's: this and its number.
_SUFFIX = "-redo-"


class Place(NamedTuple):
    """Where bytes lie."""

    segment: int
    offset: int


class Segments:
    """Those of one database, by number; read by any thread, the rest belongs to one at a time."""

    def __init__(self, database: Path) -> None:
        """Find those that are there.

        Raises:
            OSError: The directory cannot be read.
        """
        self._database = database
        #: In ascending order; entries are appended to the last.
        self.numbers = numbers(database)
        #: Numbers up to this one are never used again.
        self._highest = max(numbers(database, also="[.].*"), default=0)
        #: Those that are needed no more and are to be removed.
        self.doomed: list[int] = []
        #: What is left of a segment that is needed no more, to be used again.
        self._spare: int | None = None

    def path(self, number: int) -> Path:
        return self._database.with_name(f"{self._database.name}{_SUFFIX}{number}")

    @property
    def retired(self) -> list[int]:
        """Those that nothing is appended to."""
        return self.numbers[:-1]

    def read(self, place: Place, size: int) -> bytes:
        """Read so many bytes.

        Raises:
            OSError: They cannot be read, or are not there.
        """
        path = self.path(place.segment)
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = os.pread(file, size, place.offset)
        finally:
            os.close(file)
        if len(content) < size:
            raise OSError(errno.EIO, "it ends before that", str(path))
        return content

    def open_last(self) -> int:
        """Open the last one to be read and written; there must be one.

        Raises:
            OSError: It cannot be used.
        """
        return os.open(self.path(self.numbers[-1]), os.O_RDWR | os.O_CLOEXEC)

    def add(self) -> int:
        """Begin a segment and return its file, which may have what an older one had.

        Raises:
            OSError: That is not possible, and there is none more.
        """
        path = self.path(self._highest + 1)
        spare, self._spare = self._spare, None
        if spare is not None and self.path(spare).exists():
            self.path(spare).rename(path)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            sync_folder(path.parent)
        except BaseException:
            os.close(file)
            raise
        self._highest += 1
        self.numbers.append(self._highest)
        return file

    def tidy(self, needed: Collection[int]) -> None:
        """Part with what is needed no more; nothing but what is durable may count for that."""
        for number in self.retired:
            if number in needed:
                continue
            self.numbers.remove(number)
            if self._spare is None and self._is_worth_it(number):
                self._spare = number
            else:
                self.doomed.append(number)

    def remove_one(self) -> None:
        """Remove the file of a segment that is needed no more; to do so takes milliseconds."""
        path = self.path(self.doomed.pop())
        try:
            path.unlink(missing_ok=True)
        except OSError as exc:
            # Its number is not used again, and the next start comes upon it.
            logger.warning("cannot remove %s, which is needed no more: %s", path, exc.strerror)

    def _is_worth_it(self, number: int) -> bool:
        path = self.path(number)
        return path.exists() and path.stat().st_size <= _REUSED_BYTES


def numbers(database: Path, also: str = "") -> list[int]:
    """Return the numbers of a database's segments, in ascending order; also of files whose names go on like that.

    Raises:
        OSError: The directory cannot be read.
    """
    form = re.compile(re.escape(database.name + _SUFFIX) + f"([0-9]+)({also})?")
    return sorted(int(found[1]) for each in database.parent.iterdir() if (found := form.fullmatch(each.name)))
