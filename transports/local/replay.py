"""Seeking and snapshots: which messages of a subscription count as acknowledged, changed all at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from transports.local import wire
from transports.local.catalog import Attached, Catalog, KnownSnapshot
from transports.local.errors import FailedPreconditionError, UnavailableError
from transports.local.housekeeping import Housekeeper
from transports.local.ledger import Ledger, now_us, save_keeper
from transports.local.model import DELETED_TOPIC, Snapshot
from transports.local.tables import Accepts, Replay, Tables, Tally

logger = logging.getLogger(__name__)

#: Seconds that a snapshot lives, less the age of its oldest message.
_SNAPSHOT_SECONDS = 7 * 86400
#: Seconds that a new snapshot must have left to live.
_MIN_SNAPSHOT_SECONDS = 3600


class Replays:
    """Seeks, and keeps the snapshots to seek to."""

    def __init__(self, ledger: Ledger, catalog: Catalog, housekeeper: Housekeeper) -> None:
        self._ledger = ledger
        self._catalog = catalog
        self._housekeeper = housekeeper

    async def seek_to_time(self, name: str, published_us: int) -> None:
        """Acknowledge what was published before, and bring back what was published since and is still kept."""
        async with self._ledger.changing:
            attached = self._catalog.subscription(name)
            keep = attached.settings.retain_acked

            def change(tables: Tables) -> int:
                floor = tables.last_before(published_us)
                if floor < attached.floor:
                    # What is still being swept was acknowledged, and must not come back by the way.
                    tables.sweep_backlog(attached.number, until=attached.floor, keep=keep)
                tables.set_floor(attached.number, floor)
                tables.replay(self._replay(attached, floor, [attached.number, *self._topic_keeper(attached)]))
                return floor

            await self._change_backlog(attached, change)
        self._after(attached)
        logger.info("sought %s to a time", name)

    async def seek_to_snapshot(self, name: str, snapshot_name: str) -> None:
        """Have exactly that unacknowledged what was so when the snapshot was made, or was published since."""
        async with self._ledger.changing:
            attached, snapshot = self._catalog.subscription(name), self._catalog.snapshot(snapshot_name)
            topic = snapshot.settings.topic
            if topic != attached.settings.topic or topic == DELETED_TOPIC:
                raise FailedPreconditionError(
                    f"The subscription's topic {attached.settings.topic} is not that of the snapshot, {topic}."
                )

            def change(tables: Tables) -> int:
                tables.retreat(attached.number, snapshot.number, keep=attached.settings.retain_acked)
                tables.replay(self._replay(attached, 0, [snapshot.number]))
                return 0

            await self._change_backlog(attached, change, keep_leases=False)
        self._after(attached)
        logger.info("sought %s to %s", name, snapshot_name)

    async def drop_until(self, attached: Attached, message_id: int) -> None:
        """Drop what has become too old."""
        async with self._ledger.changing:
            floor = max(attached.floor, message_id)

            def change(tables: Tables) -> int:
                tables.set_floor(attached.number, floor)
                return floor

            await self._change_backlog(attached, change)

    async def create_snapshot(self, snapshot: Snapshot, subscription: str) -> Snapshot:
        """Keep what a subscription has not acknowledged, and what its topic gets from now on."""
        async with self._ledger.changing:
            self._catalog.require_new_snapshot(snapshot.name)
            attached = self._catalog.subscription(subscription)
            snapshot = replace(snapshot, topic=attached.settings.topic, expires_us=self._end_of_snapshot(attached))
            known = KnownSnapshot(self._ledger.next_keeper(), snapshot)

            def change(tables: Tables) -> None:
                save_keeper(tables, known.number)
                tables.save_snapshot(known.number, snapshot)
                tables.take_snapshot(known.number, attached.number)

            # First in memory, so that nothing is published between that the snapshot would miss.
            self._catalog.put_snapshot(known)
            try:
                async with attached.gate:
                    await self._ledger.commit(change)
            except UnavailableError:
                self._catalog.forget_snapshot(snapshot.name)
                raise
            self._housekeeper.watch_snapshot(known)
        logger.info("created snapshot %s of %s", snapshot.name, subscription)
        return snapshot

    async def label_snapshot(self, name: str, labels: Mapping[str, str]) -> Snapshot:
        async with self._ledger.changing:
            known = self._catalog.snapshot(name)
            settings = replace(known.settings, labels=labels)
            await self._ledger.commit(lambda tables: tables.save_snapshot(known.number, settings))
            known.settings = settings
        return settings

    async def delete_snapshot(self, name: str) -> None:
        async with self._ledger.changing:
            known = self._catalog.snapshot(name)
            await self._ledger.commit(lambda tables: tables.condemn(known.number))
            self._catalog.forget_snapshot(name)
            self._housekeeper.sweep_condemned(known.number)
        logger.info("deleted snapshot %s", name)

    async def _change_backlog(
        self, attached: Attached, change: Callable[[Tables], int], *, keep_leases: bool = True
    ) -> None:
        """Change a backlog on disk to what lies above the floor that ``change`` returns, and then in memory."""
        backlog, results = attached.dispatcher.backlog, list[tuple[int, Tally]]()
        async with attached.gate:
            backlog.begin_change()
            try:
                await self._ledger.commit(
                    lambda tables: results.append((change(tables), tables.tally(attached.number)))
                )
            finally:
                if results:
                    attached.floor, tally = results[-1]
                    backlog.end_change(tally, attached.floor, keep_leases=keep_leases)
                else:
                    backlog.end_change()

    def _after(self, attached: Attached) -> None:
        self._housekeeper.sweep(attached)
        self._housekeeper.watch(attached)
        attached.dispatcher.pump()

    def _replay(self, attached: Attached, after: int, sources: list[int]) -> Replay:
        return Replay(attached.number, after, sources, attached.settings.ordered, _payload_filter(attached))

    def _topic_keeper(self, attached: Attached) -> list[int]:
        if attached.settings.topic == DELETED_TOPIC or attached.settings.detached:
            return []
        topic = self._catalog.topic(attached.settings.topic)
        return [topic.number] if topic.settings.retention_seconds is not None else []

    def _end_of_snapshot(self, attached: Attached) -> int:
        oldest_us = attached.oldest_published_us
        now = now_us()
        end = (now if oldest_us is None else oldest_us) + _SNAPSHOT_SECONDS * 1_000_000
        if end < now + _MIN_SNAPSHOT_SECONDS * 1_000_000:
            raise FailedPreconditionError(
                "The subscription's oldest message is so old that the snapshot would end in less than an hour."
            )
        return end


def _payload_filter(attached: Attached) -> Accepts | None:
    if not attached.settings.filter:
        return None
    return lambda payload: attached.accepts(wire.read_attributes(payload))
