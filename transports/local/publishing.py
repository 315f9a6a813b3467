"""Publishing: a message is numbered, stored once, and put into the backlog of every subscription that takes it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from transports.local.catalog import Attached, Catalog, KnownTopic
from transports.local.housekeeping import Housekeeper
from transports.local.ledger import Ledger
from transports.local.model import Draft, Pending, StoredMessage
from transports.local.tables import Tables
from transports.local.writer import Change


@dataclass(frozen=True, slots=True)
class _Share:
    """What one subscription takes of a publication."""

    attached: Attached
    messages: Sequence[StoredMessage]

    @classmethod
    def of(cls, attached: Attached, messages: Sequence[StoredMessage], drafts: Sequence[Draft]) -> _Share:
        if not attached.settings.filter:
            return cls(attached, messages)
        pairs = zip(messages, drafts, strict=True)
        return cls(attached, [message for message, draft in pairs if attached.accepts(draft.attributes)])

    def store(self, tables: Tables, messages: Sequence[StoredMessage]) -> None:
        """Have the subscription wait for its part of ``messages``, which are stored."""
        number, ordered = self.attached.number, self.attached.settings.ordered
        if self.messages is messages:
            tables.add_all_to_backlog(number, messages[0].id, messages[-1].id, ordered=ordered)
        else:
            tables.add_to_backlogs((number, each.id, each.ordering_key if ordered else "") for each in self.messages)

    def deliver(self) -> None:
        ordered = self.attached.settings.ordered
        self.attached.dispatcher.add(
            Pending(each.id, each.published_us, len(each.payload), each.ordering_key if ordered else "")
            for each in self.messages
        )


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
        messages = [
            StoredMessage(number, published_us, each.payload, each.ordering_key)
            for number, each in zip(ids, drafts, strict=True)
        ]
        shares = [_Share.of(each, messages, drafts) for each in self._catalog.subscriptions_of(topic)]
        reserved = self._ledger.reserve(ids[-1])

        def stored() -> list[int]:
            self._ledger.reserved(reserved)
            for share in shares:
                if share.messages:
                    self._housekeeper.expect_expiry(share.attached, published_us)
                    share.deliver()
            self._housekeeper.expect_topic_expiry(known, published_us)
            return list(ids)

        store = self._change(known, messages, shares)

        def change(tables: Tables) -> None:
            if reserved is not None:
                tables.save_counter("messages", reserved)
            store(tables)
            if also is not None:
                also(tables)

        return self._ledger.begin(change, stored)

    def _change(self, topic: KnownTopic, messages: Sequence[StoredMessage], shares: Sequence[_Share]) -> Change:
        keepers = self._catalog.keepers_of(topic)
        wanted = messages
        if not keepers and not any(len(share.messages) == len(messages) for share in shares):
            ids = {each.id for share in shares for each in share.messages}
            wanted = [each for each in messages if each.id in ids]

        def change(tables: Tables) -> None:
            tables.add_messages(wanted)
            for share in shares:
                share.store(tables, messages)
            if keepers:
                tables.keep((keeper, each.id) for each in wanted for keeper in keepers)

        return change
