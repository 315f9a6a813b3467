"""Publishing: a message is numbered, stored once, and put into the backlog of every subscription that takes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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

    def rows(self) -> Iterable[tuple[int, int, str]]:
        return [(self.attached.number, each.id, self._key(each)) for each in self.messages]

    def deliver(self) -> None:
        self.attached.dispatcher.add(
            Pending(each.id, each.published_us, len(each.payload), self._key(each)) for each in self.messages
        )

    def _key(self, message: StoredMessage) -> str:
        return message.ordering_key if self.attached.settings.ordered else ""


class Publishing:
    """Takes messages for topics."""

    def __init__(self, ledger: Ledger, catalog: Catalog, housekeeper: Housekeeper) -> None:
        self._ledger = ledger
        self._catalog = catalog
        self._housekeeper = housekeeper

    async def publish(self, topic: str, drafts: Sequence[Draft], also: Change | None = None) -> list[int]:
        """Store messages for everybody who takes them now; return their ids.

        Args:
            topic: Its name.
            drafts: The messages.
            also: A change that is made together with it, or not at all.
        """
        known = self._catalog.topic(topic)
        published_us = self._ledger.publish_time_us()
        messages = [
            StoredMessage(self._ledger.next("messages"), published_us, each.payload, each.ordering_key)
            for each in drafts
        ]
        pairs = list(zip(messages, drafts, strict=True))
        shares = [
            _Share(
                each,
                [message for message, draft in pairs if each.accepts(draft.attributes)],
            )
            for each in self._catalog.subscriptions_of(topic)
        ]
        await self._ledger.commit(self._change(known, messages, shares, also))
        for share in shares:
            if share.messages:
                self._housekeeper.expect_expiry(share.attached, published_us)
                share.deliver()
        self._housekeeper.expect_topic_expiry(known, published_us)
        return [each.id for each in messages]

    def _change(
        self, topic: KnownTopic, messages: Sequence[StoredMessage], shares: Sequence[_Share], also: Change | None
    ) -> Change:
        keepers = self._catalog.keepers_of(topic)
        wanted = {each.id for share in shares for each in share.messages}
        stored = messages if keepers else [each for each in messages if each.id in wanted]
        last = messages[-1].id

        def change(tables: Tables) -> None:
            tables.save_counter("messages", last)
            tables.add_messages(stored)
            for share in shares:
                tables.add_to_backlogs(share.rows())
            if keepers:
                tables.keep((keeper, each.id) for each in stored for keeper in keepers)
            if also is not None:
                also(tables)

        return change
