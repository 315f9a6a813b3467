"""Publishing: messages are numbered, stored once, and put into the backlog of every subscription that takes them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from transports.local.catalog import Attached, Catalog, KnownTopic
from transports.local.housekeeping import Housekeeper
from transports.local.ledger import Ledger
from transports.local.model import Draft
from transports.local.storage.bundles import Bundle, Part, bundled
from transports.local.storage.operations import Publish, Wait
from transports.local.storage.tables import Tables
from transports.local.storage.writer import Change


@dataclass(frozen=True, slots=True)
class _Share:
    """What one subscription takes of a publication."""

    attached: Attached
    taken: Sequence[tuple[Bundle, Part]]

    @property
    def ordered(self) -> bool:
        return self.attached.settings.ordered

    def waits(self) -> Iterator[Wait]:
        """Give what of the bundles the subscription waits for."""
        number, ordered = self.attached.number, self.ordered
        return (Wait(number, part, bundle.ordering_key if ordered else "") for bundle, part in self.taken)

    def deliver(self) -> None:
        self.attached.dispatcher.add(self.taken, ordered=self.ordered)


class Publishing:
    """Takes messages for topics."""

    def __init__(self, ledger: Ledger, catalog: Catalog, housekeeper: Housekeeper) -> None:
        self._ledger = ledger
        self._catalog = catalog
        self._housekeeper = housekeeper

    def publish(self, topic: str, drafts: Sequence[Draft], also: Change | None = None) -> asyncio.Future[list[int]]:
        """Begin to store messages for everybody who takes them now; the future is their ids.

        Args:
            topic: Its name.
            drafts: The messages, one or more.
            also: A change that is made together with it, or not at all.
        """
        known = self._catalog.topic(topic)
        published_us = self._ledger.clock.now_us()  # the order of ids is that of times
        ids = self._ledger.next_messages(len(drafts))
        takers, keepers = self._catalog.subscriptions_of(topic), self._catalog.keepers_of(known)
        wanted = {each.number: _wanted(each, ids, drafts) for each in takers}
        if not keepers and None not in wanted.values():
            drafts = _blanked(ids, drafts, set().union(*(each for each in wanted.values() if each is not None)))
        bundles = bundled(ids[0], published_us, drafts)
        shares = [_Share(each, _taken(bundles, wanted[each.number])) for each in takers]
        reserved = self._ledger.reserve(ids[-1])
        stored = partial(self._stored, known, published_us, shares)
        operation = Publish(
            reserved,
            [each for each in bundles if each.payload],
            [wait for share in shares for wait in share.waits()],
            [(keeper, each.whole) for each in bundles for keeper in keepers],
        )

        def confirmed() -> list[int]:
            self._ledger.reserved(reserved)
            return list(ids)

        if also is None:
            return self._ledger.operate(operation, confirmed, stored, awaited=partial(_awaited, shares))

        def change(tables: Tables) -> None:
            operation.apply(tables)
            also(tables)

        return self._ledger.begin(change, confirmed, stored)

    def _stored(self, known: KnownTopic, published_us: int, shares: Iterable[_Share]) -> None:
        """Have memory follow the tables."""
        for share in shares:
            if share.taken:
                self._housekeeper.expect_expiry(share.attached, published_us)
                share.deliver()
        self._housekeeper.expect_topic_expiry(known, published_us)


def _awaited(shares: Iterable[_Share]) -> bool:
    return any(each.attached.dispatcher.consumers for each in shares)


def _wanted(attached: Attached, ids: Sequence[int], drafts: Sequence[Draft]) -> set[int] | None:
    """Return the ids of what a subscription takes; None if it has no filter and takes everything."""
    if not attached.settings.filter:
        return None
    return {number for number, draft in zip(ids, drafts, strict=True) if attached.accepts(draft.attributes)}


def _blanked(ids: Sequence[int], drafts: Sequence[Draft], wanted: set[int]) -> list[Draft]:
    """Leave nothing of messages that nobody wants but their ids."""
    return [each if number in wanted else Draft(b"") for number, each in zip(ids, drafts, strict=True)]


def _taken(bundles: Iterable[Bundle], wanted: set[int] | None) -> list[tuple[Bundle, Part]]:
    """Return what of bundles is wanted, without those of which that is nothing."""
    if wanted is None:
        return [(each, each.whole) for each in bundles]
    parts = ((each, each.part(wanted)) for each in bundles)
    return [(bundle, part) for bundle, part in parts if part.bits]
