"""What is remembered of the deliveries of a bundle's messages: for each its last token, how many, and its lease."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_FORM = struct.Struct("<qqI")


class Record(NamedTuple):
    """One message's deliveries: a token of 0 is none; ``leased_us`` is in microseconds since 1970, 0 is no lease."""

    token: int = 0
    leased_us: int = 0
    attempts: int = 0


class Records:
    """A table row of them, one after the other; changed in place."""

    def __init__(self, first: int, last: int, stored: bytes | None) -> None:
        """Read what ``stored`` was, or begin with messages that were never delivered."""
        self._first = first
        self.stored = bytearray((last - first + 1) * _FORM.size) if stored is None else bytearray(stored)

    def __getitem__(self, message_id: int) -> Record:
        return Record._make(_FORM.unpack_from(self.stored, self._place(message_id)))

    def __setitem__(self, message_id: int, record: Record) -> None:
        _FORM.pack_into(self.stored, self._place(message_id), *record)

    def forget(self, message_ids: Iterable[int]) -> None:
        """Have messages count as never delivered."""
        for each in message_ids:
            self[each] = Record()

    def __iter__(self) -> Iterator[Record]:
        return map(Record._make, _FORM.iter_unpack(self.stored))

    def _place(self, message_id: int) -> int:
        return (message_id - self._first) * _FORM.size
