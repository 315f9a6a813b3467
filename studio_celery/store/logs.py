"""An attempt's output as a sequence of chunks, written by its owner and read by anybody from any byte.

Where chunks begin is fixed for all logs alike (`chunk_at`), so the place of every byte is known without a listing. The
chunk being written is kept in parts, so that little is stored again while it grows; when it is full it becomes one
object and the parts go. A key carries the owner's epoch; where a new owner went on is told by the journal
(`Attempt.log_epochs`), and what the former one wrote beyond that is never read.

Objects: at most 64 + size / 16 MiB, and up to 17 more for each further owner.
"""

from __future__ import annotations

import errno
import logging
import os
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from studio_celery.experiment import Attempt
from studio_celery.store.objects import Objects

logger = logging.getLogger(__name__)

#: Size of the first chunk, bytes; each may be a quarter greater than the one before.
FIRST_CHUNK = 16 * 1024
GROWTH = 1.25

#: No chunk is greater than this, bytes: what a writer holds in memory.
LAST_CHUNK = 16 * 2**20

#: Parts of a growing chunk at most, and the size below which none is divided further, bytes.
PARTS = 16
LEAST_PART = 256 * 1024

#: Bytes that a reader is given at most, unless it asks for more or less.
PIECE = 2**20


@dataclass(frozen=True)
class Chunk:
    """Where a chunk lies in every log: bytes `begin` to `end`."""

    number: int
    begin: int
    end: int

    @property
    def part_bytes(self) -> int:
        """Size of its parts; one that is not divided is its own and only part."""
        size = self.end - self.begin
        return size if size <= LEAST_PART else max(LEAST_PART, -(-size // PARTS))

    def part_at(self, offset: int) -> Chunk:
        """The part that holds a byte."""
        number = (offset - self.begin) // self.part_bytes
        begin = self.begin + number * self.part_bytes
        return Chunk(number, begin, min(begin + self.part_bytes, self.end))


def chunk_limit(number: int) -> int:
    """Size in bytes of chunk `number` (from 0)."""
    return min(LAST_CHUNK, int(FIRST_CHUNK * GROWTH ** min(number, 64)))


#: Where the chunks begin that are smaller than the greatest, and the first of those.
_BEGINNINGS = [0, *accumulate(chunk_limit(n) for n in range(64) if chunk_limit(n) < LAST_CHUNK)]


def chunk_at(offset: int) -> Chunk:
    """The chunk that holds a byte."""
    number, last = bisect_right(_BEGINNINGS, offset) - 1, len(_BEGINNINGS) - 1
    begin = _BEGINNINGS[number]
    if number == last:
        number += (offset - begin) // LAST_CHUNK
        begin += (number - last) * LAST_CHUNK
    return Chunk(number, begin, begin + chunk_limit(number))


def chunk_key(prefix: str, epoch: int, number: int) -> str:
    """Where a chunk is stored."""
    return f"{prefix}/{epoch:06d}-{number:06d}"


def part_key(prefix: str, epoch: int, chunk: Chunk, part: Chunk) -> str:
    """Where a part of a growing chunk is stored."""
    key = chunk_key(prefix, epoch, chunk.number)
    return key if (part.begin, part.end) == (chunk.begin, chunk.end) else f"{key}.{part.number:02d}"


class LogWriter:
    """Copies a growing file to the store under one epoch, from a given byte on."""

    def __init__(self, objects: Objects, prefix: str, epoch: int, offset: int) -> None:
        self._objects = objects
        self._prefix = prefix
        self._epoch = epoch
        self._start = offset
        #: Parts of the growing chunk, and of chunks that are stored whole by now.
        self._parts: set[str] = set()
        self._litter: set[str] = set()
        self._told_of_hole = False
        #: Bytes of the attempt's output that are in the store.
        self.offset = offset

    @property
    def needed_from(self) -> int:
        """First byte of the source that may be read again: what lies before is stored for good."""
        return min(self.offset, max(self._start, chunk_at(self.offset).begin))

    def copy(self, source: Path, limit: int | None = None) -> int:
        """Store what `source` has beyond `offset` now; the number of bytes. Nothing advances when the store fails.

        It ends early once `limit` bytes are reached: who copies a file that grows fast has other things to do.
        A hole is where the file ends: output is only ever appended, so the script made it (`os.truncate`).
        """
        descriptor = _open(source)
        if descriptor is None:
            return 0
        begun = self.offset
        try:
            size = self._written(descriptor, source)
            self._sweep()
            while self.offset < size and (limit is None or self.offset - begun < limit):
                if not self._step(descriptor, size):
                    break
        finally:
            os.close(descriptor)
        return self.offset - begun

    def _written(self, descriptor: int, source: Path) -> int:
        """Bytes up to the end of the file, or to the first hole in what is still needed of it."""
        size = os.fstat(descriptor).st_size
        hole = min(size, _hole(descriptor, self.needed_from)) if size > self.needed_from else size
        if hole < size and not self._told_of_hole:
            self._told_of_hole = True
            logger.warning(
                "%s has a hole from byte %d to %d, which the script made: its output ends there.", source, hole, size
            )
        return hole

    def _step(self, descriptor: int, size: int) -> bool:
        """Store a whole chunk, or a part of it; False if the file has become shorter than it was."""
        chunk = chunk_at(self.offset)
        whole = size >= chunk.end
        part = chunk if whole else chunk.part_at(self.offset)
        begin, end = max(self._start, part.begin), min(size, part.end)
        data = _read(descriptor, begin, end - begin)
        if begin + len(data) < end:
            return False
        key = part_key(self._prefix, self._epoch, chunk, part)
        self._objects.put(key, data)
        self.offset = end
        self._parts.add(key)
        if whole:
            self._litter |= self._parts - {key}
            self._parts.clear()
            self._sweep()
        return True

    def _sweep(self) -> None:
        """Remove parts whose chunk is stored whole."""
        if self._litter:
            self._objects.delete_all(sorted(self._litter))
            self._litter.clear()


def _open(source: Path) -> int | None:
    """The file, unless there is none; a script that put a link in its place shows nothing of the worker's files."""
    try:
        return os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as exc:
        if exc.errno != errno.ELOOP:
            raise
        logger.warning("%s was replaced by a link: its output is not read.", source)
        return None


def _hole(descriptor: int, begin: int) -> int:
    """First byte from `begin` on that was never written; where the file system cannot tell, the end of the file."""
    try:
        return os.lseek(descriptor, begin, os.SEEK_HOLE)
    except OSError as exc:
        # It has become shorter meanwhile, or has no such thing.
        if exc.errno not in (errno.ENXIO, errno.EINVAL):
            raise
        return os.fstat(descriptor).st_size


def _read(descriptor: int, begin: int, length: int) -> bytes:
    """So many bytes from a byte on, or fewer at the end of the file."""
    data = os.pread(descriptor, length, begin)
    while len(data) < length and (more := os.pread(descriptor, length - len(data), begin + len(data))):
        data += more
    return data


class LogReader:
    """Reads an attempt's output from any byte."""

    def __init__(self, objects: Objects, prefix: str) -> None:
        self._objects = objects
        self._prefix = prefix

    def read(self, attempt: Attempt, offset: int, limit: int = PIECE) -> bytes:
        """Up to `limit` bytes from byte `offset`; empty at the end of what is stored so far."""
        for index, (epoch, start) in enumerate(attempt.log_epochs):
            end = attempt.log_epochs[index + 1][1] if index + 1 < len(attempt.log_epochs) else None
            if offset >= start and (end is None or offset < end):
                return self._read_epoch(epoch, start, offset, limit if end is None else min(limit, end - offset))
        return b""

    def stored(self, attempt: Attempt) -> int:
        """Bytes of the attempt's output that are in the store: where an adopting owner goes on."""
        epoch, start = attempt.log_epochs[-1]
        end = start
        for item in self._objects.listing(self._prefix):
            name = item.key.removeprefix(f"{self._prefix}/")
            if name.startswith(f"{epoch:06d}-"):
                end = max(end, max(start, _begin_of(name)) + item.size)
        return end

    def _read_epoch(self, epoch: int, start: int, offset: int, limit: int) -> bytes:
        chunk = chunk_at(offset)
        part = chunk.part_at(offset)
        # In this order: a part that is gone has gone because its chunk is stored whole.
        places = {
            part_key(self._prefix, epoch, chunk, part): max(start, part.begin),
            chunk_key(self._prefix, epoch, chunk.number): max(start, chunk.begin),
        }
        for key, begin in places.items():
            if data := self._read_object(key, offset - begin, limit):
                return data
        return b""

    def _read_object(self, key: str, offset: int, limit: int) -> bytes:
        try:
            length = min(limit, self._objects.head(key).size - offset)
            return self._objects.get_range(key, offset, length) if length > 0 else b""
        except KeyError:
            return b""


def _begin_of(name: str) -> int:
    """First byte of the chunk or part that is called so, in a log that was written from its beginning."""
    number, _, part = name.partition("-")[2].partition(".")
    chunk = _chunk(int(number))
    return chunk.begin + int(part or 0) * chunk.part_bytes


def _chunk(number: int) -> Chunk:
    last = len(_BEGINNINGS) - 1
    begin = _BEGINNINGS[min(number, last)] + max(0, number - last) * LAST_CHUNK
    return Chunk(number, begin, begin + chunk_limit(number))
