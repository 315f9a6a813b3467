"""An attempt's output as a sequence of chunks, written by its owner and read by anybody from any byte.

The chunk being written is overwritten while it grows and closed at a size that its number fixes, so the place of every
byte is known without a listing. A chunk's key carries the owner's epoch; where a new owner went on is told by the
journal (`Attempt.log_epochs`), and what the former one wrote beyond that is never read.
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import BinaryIO

from studio_celery.experiment import Attempt
from studio_celery.store.objects import Objects

logger = logging.getLogger(__name__)

#: Size at which the first chunk is closed, bytes: small, so that little is written again while it grows.
FIRST_CHUNK = 16 * 1024

#: Each chunk may be this much greater than the one before.
GROWTH = 1.25

#: No chunk is greater than this, bytes: what a writer and a reader hold in memory.
LAST_CHUNK = 16 * 2**20


def chunk_limit(number: int) -> int:
    """Size in bytes at which chunk `number` (from 0) of an epoch is closed."""
    return min(LAST_CHUNK, int(FIRST_CHUNK * GROWTH ** min(number, 64)))


def chunk_key(prefix: str, epoch: int, number: int) -> str:
    """Where a chunk is stored."""
    return f"{prefix}/{epoch:06d}-{number:06d}"


class LogWriter:
    """Copies a growing file to the store under one epoch, from a given byte on."""

    def __init__(self, objects: Objects, prefix: str, epoch: int, offset: int) -> None:
        self._objects = objects
        self._prefix = prefix
        self._epoch = epoch
        self._number = 0
        self._current = bytearray()
        #: Bytes of the attempt's output that are in the store.
        self.offset = offset

    def copy(self, source: Path) -> int:
        """Store what `source` has beyond `offset`; the number of bytes. Nothing advances when the store fails."""
        copied = 0
        file = _open(source)
        if file is None:
            return 0
        with file:
            while True:
                file.seek(self.offset)
                piece = file.read(chunk_limit(self._number) - len(self._current))
                if not piece:
                    return copied
                self._write(piece)
                copied += len(piece)

    def _write(self, piece: bytes) -> None:
        body = bytes(self._current) + piece
        self._objects.put(chunk_key(self._prefix, self._epoch, self._number), body)
        self.offset += len(piece)
        if len(body) == chunk_limit(self._number):
            self._number += 1
            self._current = bytearray()
        else:
            self._current += piece


def _open(source: Path) -> BinaryIO | None:
    """The file, unless there is none; a script that put a link in its place shows nothing of the worker's files."""
    try:
        return os.fdopen(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    except FileNotFoundError:
        return None
    except OSError as exc:
        if exc.errno != errno.ELOOP:
            raise
        logger.warning("%s was replaced by a link: its output is not read.", source)
        return None


class LogReader:
    """Reads an attempt's output from any byte."""

    def __init__(self, objects: Objects, prefix: str) -> None:
        self._objects = objects
        self._prefix = prefix

    def read(self, attempt: Attempt, offset: int, limit: int = 2**20) -> bytes:
        """Up to `limit` bytes from byte `offset`; empty at the end of what is stored so far."""
        for index, (epoch, start) in enumerate(attempt.log_epochs):
            end = attempt.log_epochs[index + 1][1] if index + 1 < len(attempt.log_epochs) else None
            if offset >= start and (end is None or offset < end):
                return self._read_epoch(epoch, offset - start, limit if end is None else min(limit, end - offset))
        return b""

    def stored(self, attempt: Attempt) -> int:
        """Bytes of the attempt's output that are in the store: where an adopting owner goes on."""
        epoch, start = attempt.log_epochs[-1]
        items = self._objects.listing(self._prefix)
        return start + sum(item.size for item in items if item.key.startswith(f"{self._prefix}/{epoch:06d}-"))

    def _read_epoch(self, epoch: int, offset: int, limit: int) -> bytes:
        number, begin = 0, 0
        while offset >= begin + chunk_limit(number):
            begin += chunk_limit(number)
            number += 1
        key = chunk_key(self._prefix, epoch, number)
        try:
            size = self._objects.head(key).size
            length = min(limit, size - (offset - begin))
            return self._objects.get_range(key, offset - begin, length) if length > 0 else b""
        except KeyError:
            return b""
