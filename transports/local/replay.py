"""Seeking and snapshots: which messages of a subscription count as acknowledged, changed all at once.

Whatever takes long is done in pieces, between which others write. What a piece brings back stays unseen until the last
one. A seek that was not answered, because the disk refused or the broker ended, may have been carried out in part: then
some of what it was to acknowledge is acknowledged. A snapshot has what is unacknowledged when it is complete;
until then, whoever acknowledges takes out of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from transports.local import wire
from transports.local.catalog import Attached, Catalog, KnownSnapshot
from transports.local.clock import now_us
from transports.local.errors import FailedPreconditionError, UnavailableError
from transports.local.housekeeping import PIECE_MESSAGES, Housekeeper
from transports.local.ledger import Ledger, save_keeper
from transports.local.model import DELETED_TOPIC, Snapshot
from transports.local.storage.needs import Accepts, Replay
from transports.local.storage.reading import Tally
from transports.local.storage.tables import Tables

logger = logging.getLogger(__name__)

#: Seconds that a snapshot lives, less the age of its oldest message.
_SNAPSHOT_SECONDS = 7 * 86400
#: Seconds that a new snapshot must have left to live.
_MIN_SNAPSHOT_SECONDS = 3600

#: A part of a long change: takes the id where the last part ended, returns the one where it ended, None at the end.
Piece = Callable[[Tables, int], int | None]


class Replays:
    """Seeks, and keeps the snapshots to seek to."""

    def __init__(self, ledger: Ledger, catalog: Catalog, housekeeper: Housekeeper) -> None:
        self._ledger = ledger
        self._catalog = catalog
        self._housekeeper = housekeeper
        self._stopping = False

    def stop(self) -> None:
        """Break off, between two pieces, what is under way: a stop does not wait for a long backlog."""
        self._stopping = True

    async def seek_to_time(self, name: str, published_us: int) -> None:
        """Acknowledge what was published before, and bring back what was published since and is still kept."""
        attached = self._catalog.subscription(name)
        async with attached.changing:
            floor = await self._ledger.ask(lambda tables: tables.last_before(published_us))
            pieces = [self._bring_back(attached, floor, source) for source in self._keepers(attached)]
            if floor < attached.floor:
                # What is still being swept was acknowledged, and must not come back by the way.
                pieces.insert(0, self._sweep(attached))
            await self._seek(attached, floor, pieces)
        logger.info("sought %s to a time", name)

    async def seek_to_snapshot(self, name: str, snapshot_name: str) -> None:
        """Have exactly that unacknowledged what was so when the snapshot was made, or was published since."""
        attached, snapshot = self._catalog.subscription(name), self._catalog.snapshot(snapshot_name)
        async with attached.changing, snapshot.gate:
            self._catalog.require(snapshot)
            topic = snapshot.settings.topic
            if topic != attached.settings.topic or topic == DELETED_TOPIC:
                raise FailedPreconditionError(
                    f"The subscription's topic {attached.settings.topic} is not that of the snapshot, {topic}."
                )
            pieces = [
                self._sweep(attached),
                self._bring_back(attached, 0, snapshot.number),
                self._drop_others(attached, snapshot),
            ]
            await self._seek(attached, 0, pieces, keep_leases=False)
        logger.info("sought %s to %s", name, snapshot_name)

    async def drop_until(self, attached: Attached, message_id: int) -> None:
        """Drop what has become too old."""
        async with attached.changing:
            await self._change_backlog(attached, max(attached.floor, message_id), [])

    async def follow(self, attached: Attached) -> None:
        """End a change that the disk has refused to end."""
        async with attached.changing:
            if attached.dispatcher.backlog.changing:
                await self._finish(attached, attached.floor)
        attached.dispatcher.pump()

    async def create_snapshot(self, snapshot: Snapshot, subscription: str) -> Snapshot:
        """Keep what a subscription has not acknowledged, and what its topic gets from now on."""
        self._catalog.require_new_snapshot(snapshot.name)
        attached = self._catalog.subscription(subscription)
        async with attached.changing:
            await self._ledger.followed()  # by the tables it is seen how old the oldest message is
            async with self._ledger.changing:
                known, until = self._begin_snapshot(snapshot, attached)
            try:
                await self._take(known, attached, until)
            except Exception:
                self._catalog.abandon_snapshot(known)
                self._housekeeper.sweep_condemned(known.number)
                raise
            finally:
                attached.snapshot = None
            self._housekeeper.watch_snapshot(known)
        logger.info("created snapshot %s of %s", snapshot.name, subscription)
        return known.settings

    async def label_snapshot(self, name: str, labels: Mapping[str, str]) -> Snapshot:
        async with self._ledger.changing:
            known = self._catalog.snapshot(name)
            settings = replace(known.settings, labels=labels)
            await self._ledger.commit(lambda tables: tables.save_snapshot(known.number, settings))
            known.settings = settings
        return settings

    async def delete_snapshot(self, name: str) -> None:
        known = self._catalog.snapshot(name)
        async with known.gate, self._ledger.changing:
            self._catalog.require(known)
            await self._ledger.commit(lambda tables: tables.condemn(known.number))
            self._catalog.forget_snapshot(name)
            self._housekeeper.forget(known)
            self._housekeeper.sweep_condemned(known.number)
        logger.info("deleted snapshot %s", name)

    def _begin_snapshot(self, snapshot: Snapshot, attached: Attached) -> tuple[KnownSnapshot, int]:
        """Have what is published from now on kept for a new snapshot; return it with the last id of before."""
        self._catalog.require(attached)
        self._catalog.require_new_snapshot(snapshot.name)
        snapshot = replace(snapshot, topic=attached.settings.topic, expires_us=self._end_of_snapshot(attached))
        known = KnownSnapshot(self._ledger.next_keeper(), snapshot)
        self._catalog.begin_snapshot(known)
        attached.snapshot = known.number
        return known, self._ledger.last_message

    async def _take(self, known: KnownSnapshot, attached: Attached, until: int) -> None:
        """Write a snapshot; until it is complete, it is one of those whose messages are swept."""

        def begin(tables: Tables) -> None:
            save_keeper(tables, known.number)
            tables.condemn(known.number)

        def end(tables: Tables) -> None:
            tables.absolve(known.number)
            tables.save_snapshot(known.number, known.settings)

        await self._ledger.commit(begin)
        await self._in_pieces(
            attached,
            lambda tables, after: tables.take_snapshot(
                known.number, attached.number, after=after, until=until, at_most=PIECE_MESSAGES
            ),
        )
        async with self._ledger.changing:
            self._catalog.require(attached)
            await self._ledger.commit(end)
            self._catalog.put_snapshot(known)

    async def _seek(self, attached: Attached, floor: int, pieces: list[Piece], *, keep_leases: bool = True) -> None:
        try:
            await self._change_backlog(attached, floor, pieces, keep_leases=keep_leases)
        finally:
            self._housekeeper.sweep(attached)
            self._housekeeper.watch(attached)

    async def _change_backlog(
        self, attached: Attached, floor: int, pieces: list[Piece], *, keep_leases: bool = True
    ) -> None:
        """Change a backlog on disk, then in memory, to what lies above a floor."""
        backlog = attached.dispatcher.backlog
        touches = bool(pieces) or backlog.changing
        backlog.begin_change(keep_leases=keep_leases)
        try:
            for piece in pieces:
                await self._in_pieces(attached, piece)
            self._catalog.require(attached)
            await self._finish(attached, floor)
        except Exception:
            if touches:
                await self._give_up(attached)
            else:
                backlog.end_change()
            raise
        finally:
            attached.dispatcher.pump()

    async def _finish(self, attached: Attached, floor: int) -> None:
        """End a change: let memory follow what was done on disk, down to a floor."""
        backlog = attached.dispatcher.backlog

        def finish(tables: Tables) -> Tally:
            tables.set_floor(attached.number, floor)
            if not backlog.keeps_leases:
                tables.end_leases(attached.number)
            return tables.tally(attached.number)

        async with attached.gate:
            tally = await self._ledger.ask(finish)
            attached.floor = floor
            backlog.end_change(tally, floor)

    async def _give_up(self, attached: Attached) -> None:
        """Follow in memory what was done on disk until it refused; as long as it does, the change does not end."""
        try:
            await self._finish(attached, attached.floor)
        except UnavailableError:
            self._housekeeper.follow(attached)

    async def _in_pieces(self, attached: Attached, piece: Piece) -> None:
        after: int | None = 0
        while after is not None:
            if self._stopping:
                raise UnavailableError("The broker is stopping.")
            self._catalog.require(attached)
            start = after
            after = await self._ledger.ask(lambda tables: piece(tables, start))  # noqa: B023 - carried out at once

    @staticmethod
    def _sweep(attached: Attached) -> Piece:
        def piece(tables: Tables, after: int) -> int | None:
            swept = tables.sweep_backlog(
                attached.number,
                until=attached.floor,
                keep=attached.settings.retain_acked,
                at_most=PIECE_MESSAGES,
            )
            return after if swept else None

        return piece

    def _bring_back(self, attached: Attached, floor: int, source: int) -> Piece:
        # What is published from now on is not to be brought back.
        until, accepts = self._ledger.last_message, _payload_filter(attached)
        replay = Replay(attached.number, floor, until, source, attached.settings.ordered, accepts)
        return lambda tables, after: tables.bring_back(replay, after=after, at_most=PIECE_MESSAGES)

    def _drop_others(self, attached: Attached, snapshot: KnownSnapshot) -> Piece:
        until = self._ledger.last_message
        return lambda tables, after: tables.drop_others(
            attached.number,
            snapshot.number,
            after=after,
            until=until,
            at_most=PIECE_MESSAGES,
            keep=attached.settings.retain_acked,
        )

    def _keepers(self, attached: Attached) -> list[int]:
        """Return the numbers of those that have what a subscription could see again."""
        numbers = [attached.number] if attached.settings.retain_acked else []
        if attached.settings.topic == DELETED_TOPIC or attached.settings.detached:
            return numbers
        topic = self._catalog.topic(attached.settings.topic)
        return [*numbers, topic.number] if topic.settings.retention_seconds is not None else numbers

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
