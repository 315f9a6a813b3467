"""Operations: the changes that can be confirmed by the redo log, as they are made, written down and read again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, Protocol, Self

from transports.local.storage import redo
from transports.local.storage.bundles import Bundle, Part
from transports.local.storage.entries import Parts
from transports.local.storage.segments import Place
from transports.local.storage.tables import Tables

_encode = json.JSONEncoder(separators=(",", ":")).encode
#: Bytes before what an operation says in JSON: how many those are.
_PREFIX_BYTES = 4
#: How many parts that is, before what else there is.
_TEXT_PARTS = 2


class Operation(Protocol):
    """A change that can be written down."""

    def apply(self, tables: Tables) -> None:
        """Make it, as part of the caller's transaction."""

    def parts(self) -> Parts:
        """Return what ``read`` reads."""

    def left(self, blobs: Place) -> Operation:
        """Return what is left to do once the redo log has it; what it has beside its text lies from that place on."""


class Wait(NamedTuple):
    """A subscription has to see a part of a bundle acknowledged; the key is empty where no order is kept."""

    subscription: int
    part: Part
    ordering_key: str


class Publish(NamedTuple):
    """Messages are stored for everybody who takes them."""

    #: What the counter of messages becomes; None leaves it.
    reserved: int | None
    bundles: Sequence[Bundle]
    waits: Sequence[Wait]
    #: Number of a topic or snapshot, and what it keeps.
    keeps: Sequence[tuple[int, Part]]

    def apply(self, tables: Tables) -> None:
        if self.reserved is not None:
            tables.save_counter("messages", self.reserved)
        tables.add_bundles(self.bundles)
        tables.add_to_backlogs(self.waits)
        tables.keep(self.keeps)

    def parts(self) -> Parts:
        text = {
            "reserved": self.reserved,
            "bundles": [(*each[:4], len(each.sizes), len(each.payload)) for each in self.bundles],
            "waits": self.waits,
            "keeps": self.keeps,
        }
        return (*_written("publish", text), *(part for each in self.bundles for part in (each.sizes, each.payload)))

    def left(self, blobs: Place) -> Self:
        bundles, offset = [], blobs.offset
        for each in self.bundles:
            offset += len(each.sizes)
            is_large = len(each.payload) >= redo.LARGE_BYTES
            bundles.append(each.lying_at(blobs._replace(offset=offset)) if is_large else each)
            offset += len(each.payload)
        return self._replace(bundles=bundles)

    @classmethod
    def read(cls, text: Mapping[str, Any], blobs: bytes) -> Self:
        sizes = [size for row in text["bundles"] for size in row[4:]]
        ends = list(accumulate(sizes, initial=0))
        found = [blobs[start:end] for start, end in pairwise(ends)]
        return cls(
            text["reserved"],
            [Bundle(*row[:4], *found[2 * place : 2 * place + 2]) for place, row in enumerate(text["bundles"])],
            [Wait(number, Part(*part), key) for number, part, key in text["waits"]],
            [(number, Part(*part)) for number, part in text["keeps"]],
        )


class Acknowledge(NamedTuple):
    """Acknowledged messages leave a backlog."""

    subscription: int
    #: By the first id of a bundle, which of its messages.
    bits: Mapping[int, int]
    keep: bool
    snapshot: int | None
    #: When, in microseconds since 1970: publish times do not go back although nothing is left of what was published.
    time_us: int

    def apply(self, tables: Tables) -> None:
        tables.save_time(self.time_us)
        tables.settle(self.subscription, self.bits, keep=self.keep, snapshot=self.snapshot)

    def parts(self) -> Parts:
        text = {
            "subscription": self.subscription,
            "bits": list(self.bits.items()),
            "keep": self.keep,
            "snapshot": self.snapshot,
            "time_us": self.time_us,
        }
        return _written("acknowledge", text)

    def left(self, blobs: Place) -> Self:
        return self

    @classmethod
    def read(cls, text: Mapping[str, Any], blobs: bytes) -> Self:
        return cls(text["subscription"], dict(text["bits"]), text["keep"], text["snapshot"], text["time_us"])


_KINDS: Mapping[str, type[Publish] | type[Acknowledge]] = {"publish": Publish, "acknowledge": Acknowledge}


def read(body: bytes) -> Operation:
    """Read what ``parts`` returned, joined."""
    start = _PREFIX_BYTES + int.from_bytes(body[:_PREFIX_BYTES], "little")
    kind, text = json.loads(body[_PREFIX_BYTES:start])
    return _KINDS[kind].read(text, body[start:])


def left(operation: Operation, body: Place, parts: Parts) -> tuple[Operation, Parts]:
    """Return what is left to do of an operation whose parts are at that place in the redo log, and what of those."""
    text, blobs = parts[:_TEXT_PARTS], parts[_TEXT_PARTS:]
    done = operation.left(body._replace(offset=body.offset + sum(map(len, text))))
    return done, [*text, *(each for each in blobs if len(each) < redo.LARGE_BYTES)]


def _written(kind: str, text: Mapping[str, Any]) -> tuple[bytes, bytes]:
    data = _encode((kind, text)).encode()
    return len(data).to_bytes(_PREFIX_BYTES, "little"), data
