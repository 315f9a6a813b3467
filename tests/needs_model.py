"""Who needs which message, as sets of ids: what the local broker's tables must agree with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Self

from transports.local.model import Pending
from transports.local.storage.bundles import Bundle, read_sizes
from transports.local.storage.records import Record

KEYS = ["", "", "A", "B"]


class Stored(NamedTuple):
    """A bundle that was published, on disk or not any more."""

    first: int
    last: int
    published_us: int
    ordering_key: str
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        return cls(bundle.first, bundle.last, bundle.published_us, bundle.ordering_key, read_sizes(bundle.sizes))


class Model:
    """Messages by keeper; subscription 1 keeps the order of keys."""

    def __init__(self) -> None:
        self.bundles: dict[int, Stored] = {}
        self.waiting: dict[int, set[int]] = defaultdict(set)
        self.kept: dict[int, set[int]] = defaultdict(set)
        self.records: dict[int, dict[int, Record]] = defaultdict(dict)
        self.floors: dict[int, int] = defaultdict(int)
        self._bundle_of: dict[int, Stored] = {}

    def bundle_of(self, message: int) -> Stored:
        if message not in self._bundle_of:
            for each in self.bundles.values():
                self._bundle_of.update(dict.fromkeys(range(each.first, each.last + 1), each))
        return self._bundle_of[message]

    def needed_bundles(self) -> list[int]:
        needed = set().union(*self.waiting.values(), *self.kept.values())
        return sorted({self.bundle_of(each).first for each in needed})

    def above_floor(self, number: int) -> set[int]:
        return {each for each in self.waiting[number] if each > self.floors[number]}

    def pending(self, number: int) -> list[Pending]:
        """Return what a subscription waits for as the tables tell it."""
        return [self._pending(number, each) for each in sorted(self.waiting[number])]

    def seen(self, number: int) -> list[Pending]:
        """Return what it waits for, and what else there is or was."""
        return [
            self._pending(number, each)
            for bundle in self.bundles.values()
            for each in range(bundle.first, bundle.last + 1)
        ]

    def delivered(self, number: int) -> list[Pending]:
        """Return what it waits for and was given before."""
        return [self._pending(number, each) for each in sorted(self.records[number])]

    def change(self, number: int, message: int, **changes: Any) -> None:
        self.records[number][message] = self.records[number][message]._replace(**changes)

    def settle(self, number: int, messages: Iterable[int], *, keep: bool) -> None:
        taken = self.waiting[number] & set(messages)
        self.waiting[number] -= taken
        for each in taken:
            self.records[number].pop(each, None)
        if keep:
            self.kept[number] |= taken

    def bring_back(self, number: int, messages: set[int], accepts: Callable[[int], bool] | None) -> None:
        """Have those wait anew, and be kept no longer, that are accepted and did not wait."""
        self.waiting[number] |= {each for each in messages if accepts is None or accepts(each)}
        self.kept[number] -= self.waiting[number]

    def first(self, messages: set[int], until: int, at_most: int) -> list[int]:
        """Return the first of some messages: whole bundles, until there are enough."""
        found: list[int] = []
        for bundle in self.bundles.values():
            if bundle.last <= until and len(found) < at_most:
                found += sorted(messages & set(range(bundle.first, bundle.last + 1)))
        return found

    def _pending(self, number: int, message: int) -> Pending:
        bundle, record = self.bundle_of(message), self.records[number].get(message, Record())
        key = bundle.ordering_key if number == 1 else ""
        size = bundle.sizes[message - bundle.first]
        return Pending(message, bundle.published_us, size, key, record.token, record.attempts, bundle.first)
