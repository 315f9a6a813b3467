"""The redo log: what is confirmed before the tables have it, one entry after the other in a file of its own.

To append to a file and sync it costs a fraction of a transaction. So a publish or an acknowledgement is confirmed once
its entry is synced, and the tables follow in transactions that are not; what a crash cost them is redone at the start.
The tables remember the number of the last entry they have. A transaction that is synced takes a number, too; it has
what all entries say, and the next one is written over the first.
"""

from __future__ import annotations

import logging
import os
import secrets
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
#: Whose entry (the database's identity), salt, number, the bytes that follow, and the checksum of all this. Entries
#: that were written one after the other have one salt, and those that they were written over another.
_HEAD = Struct("<QQQII")
_SALT_BITS = 64

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
        self._salt = secrets.randbits(_SALT_BITS)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._file).st_size
        if not self._size:
            sync_folder(path.parent)
        #: The latest number that was taken; none is used for two entries.
        self.last = 0
        self._end = 0
        self._usable = True
        self._refusals = LogThrottle(logger, logging.ERROR)

    def read(self, after: int) -> Iterator[bytes]:
        """Give, in order, what the entries say whose numbers are higher; nothing is appended before ``begin_anew``."""
        self.last, self._usable = after, False
        content = os.pread(self._file, self._size, 0)
        for number, body in _entries(content, self._identity):
            if number > after:
                self.last = number
                yield body

    def append(self, entries: Sequence[Parts]) -> bool:
        """Append entries and sync them; False if they are not, and no others can be before ``begin_anew``."""
        if not self._usable:
            return False
        number, size = self.last, 0
        buffers: list[bytes] = []
        for parts in entries:
            number += 1
            length = sum(map(len, parts))
            buffers += (_head(self._identity, self._salt, number, parts), *parts)
            size += _HEAD.size + length
        self.last = number
        self._usable = self._make_room(self._end + size) and self._write(buffers, size)
        self._end += size
        return self._usable

    def begin_anew(self, number: int) -> None:
        """Write over the entries: a synced transaction, which has taken a higher number, has what they say."""
        self.last, self._end, self._usable = number, 0, True
        self._salt = secrets.randbits(_SALT_BITS)

    def close(self) -> None:
        os.close(self._file)

    def _make_room(self, end: int) -> bool:
        if end > MAX_BYTES:
            return False
        try:
            while self._size < end:
                _write(self._file, [bytes(_STEP_BYTES)], self._size, _STEP_BYTES)
                os.fsync(self._file)
                self._size += _STEP_BYTES
        except OSError as exc:
            self._tell(f"{self._path} cannot grow", exc)
            return False
        return True

    def _write(self, buffers: Sequence[bytes], size: int) -> bool:
        """Write and sync entries; what cannot be synced is not to be found: it is refused, if the tables refuse it."""
        try:
            _write(self._file, buffers, self._end, size)
            _sync(self._file)
        except OSError as exc:
            self._tell(f"cannot write to {self._path}", exc)
            try:
                _write(self._file, [bytes(_HEAD.size)], self._end, _HEAD.size)
                _sync(self._file)
            except OSError as again:
                self._tell(f"what is refused may be carried out at the next start: cannot write to {self._path}", again)
            return False
        return True

    def _tell(self, what: str, error: OSError) -> None:
        self._refusals.log(what, f"{what}: {error.strerror}")


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


def _head(identity: int, salt: int, number: int, parts: Parts) -> bytes:
    length = sum(map(len, parts))
    checksum = zlib.crc32(_HEAD.pack(identity, salt, number, length, 0))
    for each in parts:
        checksum = zlib.crc32(each, checksum)
    return _HEAD.pack(identity, salt, number, length, checksum)


def _entries(content: bytes, identity: int) -> Iterator[tuple[int, bytes]]:
    """Give the numbers and bodies of entries that follow each other, up to the first that is none, or an older one."""
    offset, known, expected = 0, None, 0
    while offset + _HEAD.size <= len(content):
        start = offset + _HEAD.size
        owner, salt, number, length, _ = _HEAD.unpack_from(content, offset)
        body = content[start : start + length]
        goes_on = known is None or (salt, number) == (known, expected)
        if owner != identity or not goes_on or _head(owner, salt, number, [body]) != content[offset:start]:
            return
        yield number, body
        offset, known, expected = start + length, salt, number + 1


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
