"""Bundles: messages that were published together are stored together, and who needs which of them is a bitmap.

To store a row for each message of a batch, and one more for each subscription, costs several times what the bytes cost.
So a batch becomes a few *bundles*, each with the ids from ``first`` to ``last``, one publish time and one ordering key;
a message that has a key is a bundle by itself. Of a bundle, a keeper needs a *part*.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

from transports.local.model import Draft, Pending, PlainDrafts, StoredMessage
from transports.local.storage.segments import Place, Segments

#: Most messages in a bundle: what is rewritten when one of them is acknowledged or delivered stays small.
BUNDLE_MESSAGES = 128
#: Most bytes in a bundle, but for a larger message by itself: none is read or removed without the others.
BUNDLE_BYTES = 128 * 1024


class Stored(Protocol):
    """A message of which is known where it is stored."""

    @property
    def message_id(self) -> int: ...

    @property
    def bundle(self) -> int:
        """First id of its bundle."""


class Part(NamedTuple):
    """Some messages of a bundle: bit ``n`` of ``bits`` is the message ``first + n``."""

    first: int
    last: int
    bits: int

    @classmethod
    def read(cls, first: int, last: int, members: bytes | None) -> Part:
        """Read what ``members`` wrote."""
        return cls(first, last, _all(first, last) if members is None else int.from_bytes(members, "little"))

    @property
    def members(self) -> bytes | None:
        """The bits as they are stored: None is all."""
        if self.bits == _all(self.first, self.last):
            return None
        return self.bits.to_bytes((self.last - self.first) // 8 + 1, "little")

    @property
    def total(self) -> int:
        return self.bits.bit_count()

    def within(self, ids: range) -> Part:
        """Return what of it is within a range of ids."""
        low, high = max(ids.start - self.first, 0), min(ids.stop - self.first, self.last - self.first + 1)
        return self._replace(bits=self.bits & ((1 << max(high, low)) - (1 << low)))

    def ids(self) -> list[int]:
        """Return the ids in their order."""
        first, bits = self.first, self.bits
        if bits == _all(first, self.last):
            return list(range(first, self.last + 1))
        return [first + place for place in range(self.last - first + 1) if bits >> place & 1]


class Bundle(NamedTuple):
    """Messages with ids from ``first`` to ``last`` as they lie on disk; one that nobody needs has a size of 0."""

    first: int
    last: int
    published_us: int
    ordering_key: str
    #: Bytes of each message: four of them for a number, the lowest first.
    sizes: bytes
    #: The messages, one after the other; empty if they lie in the redo log.
    payload: bytes
    #: Where in the redo log that is.
    place: Place | None = None

    @classmethod
    def read(cls, row: Sequence[Any], segments: Segments) -> Bundle:
        """Read what ``row`` wrote.

        Raises:
            OSError: The payload lies in the redo log, and cannot be read.
        """
        first, last, published_us, key, sizes, payload, segment, offset = row
        if payload is None:
            payload = segments.read(Place(segment, offset), sum(read_sizes(sizes)))
        return cls(first, last, published_us, key, sizes, payload)

    @property
    def row(self) -> Sequence[Any]:
        """The row of the tables."""
        return (*self[:6], None, None) if self.place is None else (*self[:5], None, *self.place)

    def lying_at(self, place: Place) -> Bundle:
        """Return it without a payload, which lies in the redo log."""
        return self._replace(payload=b"", place=place)

    @property
    def whole(self) -> Part:
        return Part(self.first, self.last, _all(self.first, self.last))

    def part(self, wanted: Container[int]) -> Part:
        """Return of it what is wanted, by ids."""
        places = enumerate(range(self.first, self.last + 1))
        return Part(self.first, self.last, sum(1 << place for place, number in places if number in wanted))

    def messages(self, ids: Iterable[int]) -> Iterator[StoredMessage]:
        """Return some of the messages; those that are not there are left out."""
        ends = list(accumulate(read_sizes(self.sizes), initial=0))
        for each in ids:
            start, end = ends[each - self.first : each - self.first + 2]
            if start < end:
                yield StoredMessage(each, self.published_us, self.payload[start:end], self.ordering_key)

    def pending(self, part: Part, *, ordered: bool) -> Iterator[Pending]:
        """Return a part of it as a subscription sees it that has just been given it."""
        sizes, key = read_sizes(self.sizes), self.ordering_key if ordered else ""
        for each in part.ids():
            yield Pending(each, self.published_us, sizes[each - self.first], key, bundle=self.first)


def bundled(first: int, published_us: int, drafts: Sequence[Draft]) -> list[Bundle]:
    """Number messages from ``first`` on, and put them into bundles."""
    if len(drafts) == 1:
        return [_bundle(first, published_us, drafts[0].ordering_key, [drafts[0].payload])]
    payloads, keyed = _read(drafts)
    ends = list(accumulate(map(len, payloads), initial=0))
    bundles: list[Bundle] = []
    begin = 0
    for limit in (*keyed, len(drafts)):
        while begin < limit:
            fitting = bisect_right(ends, ends[begin] + BUNDLE_BYTES) - 1
            end = min(max(fitting, begin + 1), begin + BUNDLE_MESSAGES, limit)
            bundles.append(_bundle(first + begin, published_us, "", payloads[begin:end]))
            begin = end
        if limit < len(drafts):
            key, begin = drafts[limit].ordering_key, limit + 1
            bundles.append(_bundle(first + limit, published_us, key, payloads[limit:begin]))
    return bundles


def _read(drafts: Sequence[Draft]) -> tuple[Sequence[bytes], Sequence[int]]:
    """Return the payloads, and the places of those with an ordering key."""
    if isinstance(drafts, PlainDrafts):
        return drafts.payloads, ()
    return [each for each, _, _ in drafts], [place for place, (_, _, key) in enumerate(drafts) if key]


def bits_by_bundle(messages: Iterable[Stored]) -> dict[int, int]:
    """Return by the bundle's first id which of its messages are among these."""
    found: dict[int, int] = {}
    for each in messages:
        found[each.bundle] = found.get(each.bundle, 0) | 1 << each.message_id - each.bundle
    return found


def read_sizes(sizes: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(sizes) // 4}I", sizes)


def _bundle(first: int, published_us: int, key: str, payloads: Sequence[bytes]) -> Bundle:
    sizes = struct.pack(f"<{len(payloads)}I", *map(len, payloads))
    return Bundle(first, first + len(payloads) - 1, published_us, key, sizes, b"".join(payloads))


def _all(first: int, last: int) -> int:
    return (2 << last - first) - 1
