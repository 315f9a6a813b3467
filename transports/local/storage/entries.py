"""Entries of the redo log as they lie in a file: the head of each says whose it is, which, and whether it is whole."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from struct import Struct

#: Whose entry (the database's identity), salt, number, the bytes that follow, and the checksum of all this. Entries
#: that were written one after the other have one salt, and those that they were written over another.
_HEAD = Struct("<QQQII")
HEAD_BYTES = _HEAD.size

#: What an entry says, in parts.
Parts = Sequence[bytes]


def head_of(identity: int, salt: int, number: int, parts: Parts) -> bytes:
    """Return the head of an entry."""
    length = sum(map(len, parts))
    checksum = zlib.crc32(_HEAD.pack(identity, salt, number, length, 0))
    for each in parts:
        checksum = zlib.crc32(each, checksum)
    return _HEAD.pack(identity, salt, number, length, checksum)


def entries_in(content: bytes, identity: int, done: int = 0) -> Iterator[tuple[int, bytes]]:
    """Give entries that follow each other, up to the first that is none, or an older one: number and body.

    Between them, synced transactions may have taken numbers that are ``done``.
    """
    offset, known, expected = 0, None, 0
    while offset + HEAD_BYTES <= len(content):
        start = offset + HEAD_BYTES
        owner, salt, number, length, _ = _HEAD.unpack_from(content, offset)
        body = content[start : start + length]
        goes_on = known is None or (salt == known and (number == expected or expected < number <= done + 1))
        if owner != identity or not goes_on or head_of(owner, salt, number, [body]) != content[offset:start]:
            return
        yield number, body
        offset, known, expected = start + length, salt, number + 1


def first_head(path: Path) -> tuple[int, int] | None:
    """Return the identity and the number that a file's first entry seems to have; None if there is none.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if len(head) < HEAD_BYTES or not any(head):
        return None
    owner, _, number, _, _ = _HEAD.unpack(head)
    return owner, number
