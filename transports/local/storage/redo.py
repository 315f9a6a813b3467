"""The redo log: what is confirmed before the tables have it, one entry after the other in files of its own.

To append to a file and sync it costs a fraction of a transaction. So a publish or an acknowledgement is confirmed once
its entry is synced, or written if a power cut may undo it, and the tables follow in transactions that are not synced;
what a crash cost them is redone at the start.
The tables remember the number of the last entry they have. A transaction that is synced takes a number, too; it has
what all entries say, and the next one may be written over the first.

It may, unless an entry has something large: that stays where it is, and the tables refer to it. Then entries go on
behind it, until the segment is full and another is begun.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

from transports.local.errors import BrokerError
from transports.local.storage.entries import HEAD_BYTES, Parts, entries_in, head_of
from transports.local.storage.segments import Place, Segments
from transports.local.throttle import LogThrottle

logger = logging.getLogger(__name__)

#: Bytes from which on a segment is full: the next transaction is synced, and a file begun anew.
FULL_BYTES = 16 << 20
#: Bytes from which on a part of an entry may be left where it lies.
LARGE_BYTES = 8192
#: Bytes by which the file grows: to sync what lies inside it costs less than to sync its new size, too.
_STEP_BYTES = 4 << 20
#: The same for small entries, for which zeros are written: a first write to a block costs its sync as much again.
_WRITTEN_BYTES = 1 << 20
_SALT_BITS = 64

#: How a file system says that it does not know allocation without writing; macOS has no call for it.
_CANNOT_ALLOCATE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
#: Syncs a file's content; macOS knows no way to leave out what else there is of it.
_sync = getattr(os, "fdatasync", os.fsync)


class RedoLog:
    """One database's; belongs to one thread at a time."""

    def __init__(self, segments: Segments, identity: int, needed: Callable[[], Collection[int]]) -> None:
        """Open or create the log of the database of that identity, whose tables say which segments they need.

        Raises:
            OSError: It cannot be used.
        """
        self.segments = segments
        self._identity = identity
        self._needed = needed
        self._salt = secrets.randbits(_SALT_BITS)
        #: The tables may refer to the segment that is written to.
        self._stays = bool(segments.numbers)
        self._file = segments.open_last() if segments.numbers else segments.add()
        self._size = os.fstat(self._file).st_size
        #: The latest number that was taken; none is used for two entries.
        self.last = 0
        self._end = 0
        #: What was appended last is written and not yet synced.
        self.unsynced = False
        self._usable = not self._stays
        self._refusals = LogThrottle(logger, logging.ERROR)

    def read(self, after: int) -> list[bytes]:
        """Return, in order, what the entries say whose numbers are higher; nothing is appended before ``begin_anew``.

        They are not known to be on disk.
        """
        self.last, self._usable = after, False
        found = []
        for number, body in entries_in(os.pread(self._file, self._size, 0), self._identity, after):
            if number > after:
                self.last = number
                found.append(body)
        return found

    def append(self, entries: Sequence[Parts], *, synced: bool = True) -> list[Place] | None:
        """Append entries and return where their bodies lie; None if that failed.

        Then none can be appended before ``begin_anew``. Those that are not ``synced`` outlive the process, and a crash
        of the machine once ``sync`` was called, or later ones are synced.
        """
        if not self._usable or self.is_full:
            return None
        number, end, segment = self.last, self._end, self.segments.numbers[-1]
        buffers: list[bytes] = []
        places = []
        for parts in entries:
            number += 1
            buffers += (head_of(self._identity, self._salt, number, parts), *parts)
            places.append(Place(segment, end + HEAD_BYTES))
            end += HEAD_BYTES + sum(map(len, parts))
            self._stays = self._stays or max(map(len, parts)) >= LARGE_BYTES
        self.last = number
        self._usable = self._make_room(end, zeros=not self._stays) and self._write(
            buffers, end - self._end, synced=synced
        )
        self._end = end
        self.unsynced = not synced or (self.unsynced and not self._usable)
        return places if self._usable else None

    def sync(self) -> bool:
        """Sync what was appended without; False if that failed, and none can be appended before ``begin_anew``."""
        if self.unsynced and self._usable:
            try:
                _sync(self._file)
                self.unsynced = False
            except OSError as exc:
                self._usable = False
                self._tell(f"cannot sync {self._name}", exc)
        return not self.unsynced

    @property
    def is_full(self) -> bool:
        """Whether a synced transaction would make room, and nothing else."""
        return self._usable and self._end >= FULL_BYTES

    @property
    def has_retired(self) -> bool:
        """Whether there are segments that the tables may have stopped to refer to."""
        return len(self.segments.numbers) > 1

    def begin_anew(self, number: int) -> None:
        """Go on after a synced transaction, which has taken a higher number and has what the entries say."""
        self.last, self.unsynced = number, False
        if self._usable and self._stays and not self.is_full:
            return
        if self._stays and not self._begin_segment():
            self._usable = False
            return
        self._end, self._usable = 0, True
        self._salt = secrets.randbits(_SALT_BITS)

    def tidy(self) -> None:
        """Remove segments that are needed no more, right after a synced transaction."""
        try:
            self.segments.tidy(self._needed())
        except BrokerError as exc:
            self._tell("cannot tell which segments of the redo log are needed", exc)

    def close(self) -> None:
        self.sync()
        os.close(self._file)

    def _begin_segment(self) -> bool:
        self.tidy()
        try:
            file = self.segments.add()
        except OSError as exc:
            self._tell("cannot begin another segment of the redo log", exc)
            return False
        os.close(self._file)
        self._file, self._size, self._stays = file, os.fstat(file).st_size, False
        return True

    def _make_room(self, end: int, *, zeros: bool) -> bool:
        """Have the file grow before anything is written there."""
        step, grow = (_WRITTEN_BYTES, _write_zeros) if zeros else (_STEP_BYTES, _allocate)
        try:
            while self._size < end:
                grow(self._file, self._size, step)
                os.fsync(self._file)
                self._size += step
        except OSError as exc:
            self._tell(f"{self._name} cannot grow", exc)
            with suppress(OSError):
                os.ftruncate(self._file, self._size)  # what little room is left is for the tables
            return False
        return True

    def _write(self, buffers: Sequence[bytes], size: int, *, synced: bool) -> bool:
        """Write entries; what cannot be written or synced is not to be found: it is refused if the tables refuse it."""
        try:
            _write(self._file, buffers, self._end, size)
            if synced:
                _sync(self._file)
        except OSError as exc:
            self._tell(f"cannot write to {self._name}", exc)
            try:
                _write(self._file, [bytes(HEAD_BYTES)], self._end, HEAD_BYTES)
                _sync(self._file)
            except OSError as again:
                self._tell(f"what is refused may be carried out at the next start: cannot write to {self._name}", again)
            return False
        return True

    @property
    def _name(self) -> Path:
        return self.segments.path(self.segments.numbers[-1])

    def _tell(self, what: str, error: Exception) -> None:
        self._refusals.log(what, f"{what}: {error.strerror if isinstance(error, OSError) else error}")


def _allocate(file: int, offset: int, size: int) -> None:
    """Have a file go on with so many zeros, without writing them where the system can do so.

    Raises:
        OSError: It was not possible.
    """
    try:
        os.posix_fallocate(file, offset, size)
    except (AttributeError, OSError) as exc:
        if isinstance(exc, OSError) and exc.errno not in _CANNOT_ALLOCATE:
            raise
        _write_zeros(file, offset, size)


def _write_zeros(file: int, offset: int, size: int) -> None:
    _write(file, [bytes(size)], offset, size)


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
