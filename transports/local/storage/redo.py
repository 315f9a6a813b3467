"""The redo log: what is confirmed before the tables have it, one entry after the other in a file of its own.

To append to a file and sync it costs a fraction of a transaction. So a publish or an acknowledgement is confirmed once
its entry is synced, and the tables follow in transactions that are not; what a crash cost them is redone at the start.
The tables remember the number of the last entry they have. Once a transaction that is synced has what all entries
say, the next one is written over the first.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from struct import Struct

from transports.local.folders import sync_folder
from transports.local.throttle import LogThrottle

logger = logging.getLogger(__name__)

#: Most bytes of the file; if there is no room for an entry, the next transaction is synced and the file begun anew.
MAX_BYTES = 16 << 20
#: Bytes by which the file grows: to sync what lies inside it costs less than to sync its new size, too.
_STEP_BYTES = 1 << 20
#: Whose entry (the database's identity), its number, the bytes that follow, and the checksum of all this.
_HEAD = Struct("<QQII")

#: Syncs a file's content; macOS knows no way to leave out what else there is of it.
_sync = getattr(os, "fdatasync", os.fsync)

#: What an entry says, in parts.
Parts = Sequence[bytes]


class RedoLog:
    """One file; belongs to one thread at a time."""

    def __init__(self, path: Path, identity: int) -> None:
        """Open or create the file of the database of that identity.

        Raises:
            OSError: It cannot be used.
        """
        self._path = path
        self._identity = identity
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._file).st_size
        if not self._size:
            sync_folder(path.parent)
        #: Number of the latest entry; that of an entry is never used again.
        self.last = 0
        self._end = 0
        self._usable = True
        self._refusals = LogThrottle(logger, logging.ERROR)

    @property
    def holds_entries(self) -> bool:
        """Whether there is an entry, whole or not, that a start would find."""
        return self._end > 0 or not self._usable

    def read(self, after: int) -> Iterator[bytes]:
        """Give, in order, what the entries say whose numbers are higher; appending goes on behind all of them."""
        self.last = after
        content = os.pread(self._file, self._size, 0)
        for number, body in _entries(content, self._identity):
            self._end += _HEAD.size + len(body)
            if number > after:
                self.last = number
                yield body

    def append(self, entries: Sequence[Parts]) -> bool:
        """Append entries and sync them; False if they are not, or perhaps not, on disk.

        Then nothing can be appended before ``begin_anew``.
        """
        if not self._usable:
            return False
        number, size = self.last, 0
        buffers: list[bytes] = []
        for parts in entries:
            number += 1
            length = sum(map(len, parts))
            buffers += (_head(self._identity, number, length, parts), *parts)
            size += _HEAD.size + length
        self.last = number
        try:
            self._usable = self._make_room(self._end + size)
            if self._usable:
                _write(self._file, buffers, self._end, size)
                _sync(self._file)
        except OSError as exc:
            self._usable = False
            self._refusals.log(str(exc), f"cannot write to {self._path}: {exc.strerror}")
        self._end += size
        return self._usable

    def begin_anew(self) -> None:
        """Write over the entries: a synced transaction has what they say, and the number of the last."""
        self._end, self._usable = 0, True

    def close(self) -> None:
        os.close(self._file)

    def _make_room(self, end: int) -> bool:
        if end > MAX_BYTES:
            return False
        while self._size < end:
            _write(self._file, [bytes(_STEP_BYTES)], self._size, _STEP_BYTES)
            os.fsync(self._file)
            self._size += _STEP_BYTES
        return True


def first_entry(path: Path) -> tuple[int, int] | None:
    """Return the identity of the database whose entry a file begins with, and its number; None if there is none.

    Raises:
        OSError: It cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(content) < _HEAD.size:
        return None
    identity = int(_HEAD.unpack_from(content)[0])
    return next(((identity, number) for number, _ in _entries(content, identity)), None)


def _head(identity: int, number: int, length: int, parts: Parts) -> bytes:
    checksum = zlib.crc32(_HEAD.pack(identity, number, length, 0))
    for each in parts:
        checksum = zlib.crc32(each, checksum)
    return _HEAD.pack(identity, number, length, checksum)


def _entries(content: bytes, identity: int) -> Iterator[tuple[int, bytes]]:
    """Give the numbers and bodies of entries that follow each other, up to the first that is none, or an older one."""
    offset, expected = 0, 0
    while offset + _HEAD.size <= len(content):
        start = offset + _HEAD.size
        owner, number, length, _ = _HEAD.unpack_from(content, offset)
        body = content[start : start + length]
        if owner != identity or number != (expected or number) or not number or len(body) < length:
            return
        if _head(owner, number, length, [body]) != content[offset:start]:
            return
        yield number, body
        offset, expected = start + length, number + 1


def _write(file: int, buffers: Sequence[bytes], offset: int, size: int) -> None:
    """Write all of some buffers.

    Raises:
        OSError: It was not possible.
    """
    done = os.pwritev(file, buffers, offset) if len(buffers) <= 100 else 0
    if done < size:
        rest = memoryview(b"".join(buffers))
        while done < size:
            done += os.pwrite(file, rest[done:], offset + done)
