"""A backlog without a disk: what tests of order and leases share."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from transports.local.dispatch.backlog import Backlog, Lease
from transports.local.model import Pending
from transports.local.storage.reading import Tally

#: The first token of "this process"; lower ones are from before a restart.
FIRST_TOKEN = 1000


class Shelf:
    """Messages that are not in memory; ``reads`` counts the pages."""

    def __init__(self, *messages: Pending) -> None:
        self.messages = {each.message_id: each for each in messages}
        self.reads = 0

    def page(self, *, after: int, until: int, at_most: int) -> list[Pending]:
        self.reads += 1
        return [each for each in self._sorted() if after < each.message_id <= until][:at_most]

    def page_of_key(self, key: str, *, since: int, until: int, at_most: int) -> list[Pending]:
        self.reads += 1
        of_key = (each for each in self._sorted() if each.ordering_key == key)
        return [each for each in of_key if since <= each.message_id <= until][:at_most]

    def oldest_published_us(self) -> int | None:
        return min((each.published_us for each in self.messages.values()), default=None)

    def tally(self) -> Tally:
        return Tally(len(self.messages), max(self.messages, default=0))

    def _sorted(self) -> Iterable[Pending]:
        return [self.messages[number] for number in sorted(self.messages)]


class Holder:
    """Counts what it holds no longer."""

    def __init__(self) -> None:
        self.released: list[int] = []

    def release(self, size: int) -> None:
        self.released.append(size)


def pending(number: int, key: str = "") -> Pending:
    """Return message ``number``, with ten times that many bytes, published at a hundred times that time."""
    return Pending(number, number * 100, number * 10, key)


def empty_backlog() -> Backlog:
    return Backlog(Shelf(), first_token=FIRST_TOKEN)


def stored_backlog(*messages: Pending) -> Backlog:
    """Return a backlog after a start: all of it is on disk."""
    shelf = Shelf(*messages)
    return Backlog(shelf, first_token=FIRST_TOKEN, tally=shelf.tally())


def all_tokens() -> Iterator[int]:
    return itertools.count(FIRST_TOKEN)


def lease(deadline: float = 10, messages: int = 10, size: int = 10**9, *, holder: Holder | None = None) -> Lease:
    return Lease(deadline=deadline, max_messages=messages, max_bytes=size, holder=holder)


def take(backlog: Backlog, tokens: Iterator[int], terms: Lease | None = None) -> list[int]:
    """Take messages and return their ids."""
    return [each.message_id for each in backlog.take(terms or lease(), tokens)]
