"""What happens when nobody asks: messages become too old, idle subscriptions and snapshots end, leftovers are swept.

Whatever takes long goes in small pieces, between which others write.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from transports.local.agenda import Agenda
from transports.local.catalog import Attached, Catalog, KnownSnapshot, KnownTopic
from transports.local.clock import now_us
from transports.local.errors import RequestError
from transports.local.ledger import Ledger
from transports.local.storage.database import StorageError
from transports.local.storage.tables import Tables

logger = logging.getLogger(__name__)

#: Messages that a long change touches in one transaction: some 10 ms.
PIECE_MESSAGES = 500
#: Microseconds between two looks for messages that have become too old.
_LOOK_US = 1_000_000
#: Microseconds after which something is tried again that the disk refused.
_RETRY_US = 60_000_000
#: The same for the end of a change of a backlog: until then consumers get only what is in memory.
_FOLLOW_US = 500_000
#: Microseconds after the start before which no subscription expires, so that its consumers can come back first.
_GRACE_US = 3600 * 1_000_000
#: Microseconds of use that may be forgotten when the broker is killed; a time to live is a day at least.
_USE_NOTED_US = 600 * 1_000_000
_ALL = (1 << 63) - 1


#: Somebody whose messages, or who himself, ends some time.
Keeper = Attached | KnownTopic | KnownSnapshot


#: What can be due for a keeper.
_KINDS = ("retention", "expiration", "sweep", "follow", "topic", "snapshot")


@dataclass(frozen=True, slots=True)
class _Chore:
    """One thing to do for a keeper, or for what a deleted one of that number left."""

    kind: str
    keeper: Keeper | int


class Remover(Protocol):
    """Who deletes what has expired, drops what is too old, and has memory follow a change that the disk broke off."""

    async def expire_subscription(self, attached: Attached) -> None: ...

    async def expire_snapshot(self, snapshot: KnownSnapshot) -> None: ...

    async def drop_until(self, attached: Attached, message_id: int) -> None: ...

    async def follow(self, attached: Attached) -> None: ...


class Housekeeper:
    """Knows when what is due."""

    def __init__(self, ledger: Ledger, catalog: Catalog) -> None:
        self._ledger = ledger
        self._catalog = catalog
        self._agenda: Agenda[_Chore] = Agenda(self._carry_out)
        self._remover: Remover
        self._started_us = 0

    def start(self, remover: Remover, condemned: list[int]) -> None:
        """Take up what was left to do."""
        self._remover, self._started_us = remover, now_us()
        for number in condemned:
            self.sweep_condemned(number)
        for attached in self._catalog.everything():
            self.watch(attached)
            self.sweep(attached)
        for topic in self._catalog.all_topics():
            self.watch_topic(topic)
        for snapshot in self._catalog.all_snapshots():
            self.watch_snapshot(snapshot)
        self._agenda.start()

    def stop(self) -> None:
        """Do nothing any more."""
        self._agenda.stop()

    def watch(self, attached: Attached) -> None:
        """See to it that a subscription's messages, and itself, end in time."""
        self._agenda.note(_Chore("retention", attached), 0)
        self._agenda.note(_Chore("expiration", attached), 0)

    def watch_topic(self, topic: KnownTopic) -> None:
        self._agenda.note(_Chore("topic", topic), 0)

    def watch_snapshot(self, snapshot: KnownSnapshot) -> None:
        self._agenda.note(_Chore("snapshot", snapshot), snapshot.settings.expires_us)

    def expect_expiry(self, attached: Attached, published_us: int) -> None:
        """Look at a subscription's messages when one published then becomes too old."""
        due = published_us + attached.settings.retention_seconds * 1_000_000
        self._agenda.note(_Chore("retention", attached), due)

    def expect_topic_expiry(self, topic: KnownTopic, published_us: int) -> None:
        if topic.settings.retention_seconds is not None:
            due = published_us + topic.settings.retention_seconds * 1_000_000
            self._agenda.note(_Chore("topic", topic), due)

    def sweep(self, attached: Attached) -> None:
        """Remove what lies below a subscription's floor, soon."""
        self._agenda.note(_Chore("sweep", attached), 0)

    def follow(self, attached: Attached) -> None:
        """End a change of a subscription's backlog, as soon as the disk permits it."""
        self._agenda.note(_Chore("follow", attached), now_us() + _FOLLOW_US)

    def sweep_condemned(self, number: int) -> None:
        """Remove what belonged to somebody who was deleted, soon."""
        self._agenda.note(_Chore("condemned", number), 0)

    def forget(self, keeper: Keeper) -> None:
        """Do nothing any more for something that was deleted."""
        for kind in _KINDS:
            self._agenda.forget(_Chore(kind, keeper))

    def used(self, attached: Attached) -> None:
        """Note that a subscription is in use."""
        now = now_us()
        if now - attached.used_us >= _USE_NOTED_US:
            attached.used_us = now
            self._ledger.write_later(lambda tables: tables.note_use(attached.number, now))

    async def _carry_out(self, chore: _Chore) -> None:
        try:
            await self._do(chore)
        except (RequestError, StorageError):
            self._agenda.note(chore, now_us() + (_FOLLOW_US if chore.kind == "follow" else _RETRY_US))
        except Exception:
            # An outermost loop: the other chores must not end with this one.
            logger.exception("housekeeping failed: %s", chore)

    async def _do(self, chore: _Chore) -> None:
        keeper = chore.keeper
        if isinstance(keeper, int):
            await self._sweep_condemned(keeper)
        elif not self._catalog.has(keeper):
            logger.debug("nothing to do for %s, which was deleted", keeper.settings.name)
        elif isinstance(keeper, KnownTopic):
            await self._drop_old_of_topic(keeper)
        elif isinstance(keeper, KnownSnapshot):
            await self._remover.expire_snapshot(keeper)
        elif chore.kind == "retention":
            await self._drop_old(keeper)
        elif chore.kind == "expiration":
            await self._expire(keeper)
        elif chore.kind == "follow":
            await self._remover.follow(keeper)
        else:
            await self._sweep(keeper)

    async def _drop_old(self, attached: Attached) -> None:
        number, database = attached.number, self._ledger.database
        retention_us = attached.settings.retention_seconds * 1_000_000
        times = (database.oldest_waiting_us(number, attached.floor), database.oldest_kept_us(number))
        oldest = min((each for each in times if each is not None), default=None)
        if oldest is None:
            return
        if oldest + retention_us <= now_us():
            boundary = database.last_before(now_us() - retention_us + 1)
            await self._remover.drop_until(attached, boundary)
            async with attached.changing:
                await self._in_pieces(lambda tables: self._sweep_floor(tables, number, boundary))
                await self._in_pieces(lambda tables: tables.sweep_kept(number, until=boundary, at_most=PIECE_MESSAGES))
        self._agenda.note(_Chore("retention", attached), max(oldest + retention_us, now_us() + _LOOK_US))

    async def _drop_old_of_topic(self, topic: KnownTopic) -> None:
        number, database, seconds = topic.number, self._ledger.database, topic.settings.retention_seconds
        oldest = database.oldest_kept_us(number)
        if oldest is None:
            return
        # A topic that retains nothing any more may have been given a message while that was changed.
        retention_us = (seconds or 0) * 1_000_000
        if oldest + retention_us <= now_us():
            boundary = database.last_before(now_us() - retention_us + 1)
            await self._in_pieces(lambda tables: tables.sweep_kept(number, until=boundary, at_most=PIECE_MESSAGES))
        self._agenda.note(_Chore("topic", topic), max(oldest + retention_us, now_us() + _LOOK_US))

    async def _expire(self, attached: Attached) -> None:
        seconds = attached.settings.expiration_seconds
        if seconds is None:
            return
        if attached.consumers:
            self.used(attached)
        due = max(attached.used_us + seconds * 1_000_000, self._started_us + _GRACE_US)
        if due > now_us():
            self._agenda.note(_Chore("expiration", attached), due)
        else:
            await self._remover.expire_subscription(attached)

    async def _sweep(self, attached: Attached) -> None:
        """Remove what counts as acknowledged, and what is kept for a replay although nothing is to be any more."""

        def keeps() -> bool:
            return attached.settings.retain_acked and not attached.settings.detached

        number = attached.number
        async with attached.changing:
            await self._in_pieces(lambda tables: self._sweep_floor(tables, number, _ALL, keep=keeps()))
            await self._in_pieces(
                # It may be switched on again meanwhile.
                lambda tables: 0 if keeps() else tables.sweep_kept(number, until=_ALL, at_most=PIECE_MESSAGES)
            )

    async def _sweep_condemned(self, number: int) -> None:
        def sweep(tables: Tables) -> int:
            done = tables.sweep_backlog(number, until=_ALL, keep=False, at_most=PIECE_MESSAGES)
            return done + tables.sweep_kept(number, until=_ALL, at_most=PIECE_MESSAGES - done)

        await self._in_pieces(sweep)
        await self._ledger.commit(lambda tables: tables.absolve(number))

    @staticmethod
    def _sweep_floor(tables: Tables, number: int, until: int, *, keep: bool = False) -> int:
        """Sweep what counts as acknowledged; the floor may have moved since the chore was noted."""
        until = min(until, tables.floor(number))
        return tables.sweep_backlog(number, until=until, keep=keep, at_most=PIECE_MESSAGES)

    async def _in_pieces(self, sweep: Callable[[Tables], int]) -> None:
        while await self._ledger.ask(sweep) >= PIECE_MESSAGES:
            pass
