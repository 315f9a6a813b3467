"""Who needs which message on disk, and who was given it: changes inside a transaction.

A *keeper* is whoever needs messages: a subscription, a snapshot, a topic that retains. ``backlog`` is what a
subscription still has to see acknowledged, ``kept`` is what a keeper may bring back: both have a row for each bundle
of which there is a part. A bundle goes when nobody needs any part of it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from transports.local.model import Pending
from transports.local.storage.bundles import Bundle, Part
from transports.local.storage.reading import Tally, last_before, select_bundle, tally
from transports.local.storage.records import Record, Records
from transports.local.storage.segments import Segments

#: Removes a bundle that nobody needs any more.
_COLLECT = """
DELETE FROM bundles WHERE first = ?1
    AND NOT EXISTS (SELECT 1 FROM backlog WHERE first = ?1) AND NOT EXISTS (SELECT 1 FROM kept WHERE first = ?1)
"""
_ADD = "INSERT INTO bundles VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_WAIT = "INSERT INTO backlog VALUES (?, ?, ?, ?, ?, ?)"
_KEEP = "INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?)"

#: Says by its payload whether a message passes a filter.
Accepts = Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class Replay:
    """Which messages come back to a subscription: those after an id, up to another, out of what a keeper kept."""

    subscription: int
    after: int
    until: int
    source: int
    ordered: bool
    accepts: Accepts | None


class Needs:
    """The changes; each method is part of the caller's transaction."""

    def __init__(self, connection: sqlite3.Connection, segments: Segments) -> None:
        self._connection = connection
        self._segments = segments

    def add_bundles(self, bundles: Iterable[Bundle]) -> None:
        self._connection.executemany(_ADD, [each.row for each in bundles])

    def add_to_backlogs(self, rows: Iterable[tuple[int, Part, str]]) -> None:
        """Have subscriptions wait for messages: number, part, ordering key (empty where no order is kept)."""
        self._connection.executemany(
            _WAIT, [(number, part.first, part.last, part.total, part.members, key) for number, part, key in rows]
        )

    def keep(self, rows: Iterable[tuple[int, Part]]) -> None:
        """Keep messages of new bundles for topics and snapshots: number, part."""
        self._connection.executemany(_KEEP, [(number, part.first, part.last, part.members) for number, part in rows])

    def settle(self, subscription: int, settled: Mapping[int, int], *, keep: bool, snapshot: int | None) -> None:
        """Remove messages from a backlog, by bundle; keep them for a replay, or drop the payloads nobody else needs.

        They are taken out of ``snapshot``, too: that of the subscription which is being made.
        """
        for first, bits in settled.items():
            part = self._part("backlog", subscription, first)
            if part is not None:
                self._settle(subscription, part, bits, keep=keep, snapshot=snapshot)

    def note_deliveries(self, subscription: int, delivered: Sequence[Pending], until_us: int) -> None:
        """Remember the latest delivery of messages, and until when they are leased, in microseconds since 1970."""
        for each, records in self._records(subscription, delivered, create=True):
            records[each.message_id] = Record(each.token, until_us, each.attempts)

    def note_extensions(self, subscription: int, leases: Iterable[tuple[Pending, int]]) -> None:
        """Remember until when messages are leased, in microseconds since 1970."""
        ends = {each.message_id: (each, until_us) for each, until_us in leases}
        for each, records in self._records(subscription, [each for each, _ in ends.values()]):
            record = records[each.message_id]
            records[each.message_id] = record._replace(leased_us=ends[each.message_id][1])

    def note_returns(self, subscription: int, returned: Iterable[Pending]) -> None:
        """Remember that messages are leased no longer, and how often they were delivered."""
        for each, records in self._records(subscription, returned):
            records[each.message_id] = Record(records[each.message_id].token, 0, each.attempts)

    def end_leases(self, subscription: int) -> None:
        # In this order: deliveries are few.
        sql = (
            "SELECT deliveries.first, last, records FROM deliveries CROSS JOIN backlog USING (keeper, first)"
            " WHERE deliveries.keeper = ?"
        )
        for first, last, stored in self._connection.execute(sql, (subscription,)).fetchall():
            records = Records(first, last, stored)
            if any(record.leased_us for record in records):
                for number in range(first, last + 1):
                    records[number] = records[number]._replace(leased_us=0)
                self._save_records(subscription, first, records)

    def set_floor(self, subscription: int, floor: int) -> None:
        self._connection.execute("UPDATE subscriptions SET floor = ? WHERE id = ?", (floor, subscription))

    def floor(self, subscription: int) -> int:
        row = self._connection.execute("SELECT floor FROM subscriptions WHERE id = ?", (subscription,)).fetchone()
        return int(row[0]) if row else 0

    def tally(self, subscription: int) -> Tally:
        return tally(self._connection, subscription)

    def last_before(self, published_us: int) -> int:
        return last_before(self._connection, published_us)

    def take_snapshot(self, snapshot: int, subscription: int, *, after: int, until: int, at_most: int) -> int | None:
        """Keep for a snapshot some of what a subscription has not acknowledged; return the last id, None at the end."""
        found = self._parts(
            "backlog", subscription, after=max(after, self.floor(subscription)), until=until, at_most=at_most
        )
        for part in found:
            self._keep_too(snapshot, part)
        return found[-1].last if found else None

    def bring_back(self, replay: Replay, *, after: int, at_most: int) -> int | None:
        """Bring some messages back into a backlog; return the id of the last, None at the end."""
        after = max(after, replay.after)
        found = self._parts("kept", replay.source, after=after, until=replay.until, at_most=at_most)
        for part in found:
            self._bring_back(replay, part)
        return found[-1].last if found else None

    def drop_others(
        self, subscription: int, snapshot: int, *, after: int, until: int, at_most: int, keep: bool
    ) -> int | None:
        """Acknowledge some of what is not in a snapshot; return the last id that was looked at, None at the end."""
        found = self._parts("backlog", subscription, after=after, until=until, at_most=at_most)
        for part in found:
            kept = self._part("kept", snapshot, part.first)
            others = part.bits & ~kept.bits if kept else part.bits
            if others:
                self._settle(subscription, part, others, keep=keep, snapshot=None)
        return found[-1].last if found else None

    def sweep_backlog(self, subscription: int, *, until: int, keep: bool, at_most: int) -> int:
        """Settle what lies at or below an id, a bundle at least; return how many there were, 0 at the end."""
        found = self._parts("backlog", subscription, after=-1, until=until, at_most=at_most)
        for part in found:
            self._settle(subscription, part, part.bits, keep=keep, snapshot=None)
        return sum(part.total for part in found)

    def sweep_kept(self, keeper: int, *, until: int, at_most: int) -> int:
        """Give up what was kept at or below an id, a bundle at least; return how many there were, 0 at the end."""
        found = self._parts("kept", keeper, after=-1, until=until, at_most=at_most)
        for part in found:
            self._give_up(keeper, part.first, part.bits)
            self._collect(part.first)
        return sum(part.total for part in found)

    def _settle(self, subscription: int, part: Part, bits: int, *, keep: bool, snapshot: int | None) -> None:
        """Take messages out of a part of a backlog."""
        left, taken = part._replace(bits=part.bits & ~bits), part._replace(bits=part.bits & bits)
        self._set_waiting(subscription, left)
        if snapshot is not None:
            self._give_up(snapshot, part.first, taken.bits)
        if keep and taken.bits:
            self._keep_too(subscription, taken)
        elif not left.bits:
            self._collect(part.first)

    def _bring_back(self, replay: Replay, part: Part) -> None:
        number = replay.subscription
        there = self._part("backlog", number, part.first)
        waiting = there.bits if there else 0
        accepted = part if replay.accepts is None else self._accepted(part, replay.accepts)
        new = accepted._replace(bits=accepted.bits & ~waiting)
        if new.bits:
            self._forget_deliveries(number, new)
            if there is None:
                self.add_to_backlogs([(number, new, self._key_of(part.first) if replay.ordered else "")])
            else:
                self._set_waiting(number, new._replace(bits=new.bits | waiting))
        self._give_up(number, part.first, new.bits | waiting)

    def _accepted(self, part: Part, accepts: Accepts) -> Part:
        """Return what of a part passes a filter."""
        bundle = select_bundle(self._connection, self._segments, part.first)
        if bundle is None:
            return part._replace(bits=0)
        return bundle.part({each.id for each in bundle.messages(part.ids()) if accepts(each.payload)})

    def _key_of(self, first: int) -> str:
        row = self._connection.execute("SELECT ordering_key FROM bundles WHERE first = ?", (first,)).fetchone()
        return str(row[0]) if row else ""

    def _set_waiting(self, subscription: int, part: Part) -> None:
        """Have a subscription wait for nothing but this of a bundle that it waits for."""
        if part.bits:
            self._connection.execute(
                "UPDATE backlog SET waiting = ?, members = ? WHERE keeper = ? AND first = ?",
                (part.total, part.members, subscription, part.first),
            )
        else:
            row = (subscription, part.first)
            self._connection.execute("DELETE FROM backlog WHERE keeper = ? AND first = ?", row)
            self._connection.execute("DELETE FROM deliveries WHERE keeper = ? AND first = ?", row)

    def _keep_too(self, keeper: int, part: Part) -> None:
        """Keep a part of a bundle of which the keeper may have another."""
        kept = self._part("kept", keeper, part.first)
        self.keep([(keeper, part._replace(bits=part.bits | kept.bits) if kept else part)])

    def _give_up(self, keeper: int, first: int, bits: int) -> None:
        """Keep messages of a bundle no longer, if they were kept."""
        kept = self._part("kept", keeper, first)
        if kept is None or not kept.bits & bits:
            return
        left = kept._replace(bits=kept.bits & ~bits)
        if left.bits:
            self.keep([(keeper, left)])
        else:
            self._connection.execute("DELETE FROM kept WHERE keeper = ? AND first = ?", (keeper, first))

    def _part(self, table: str, keeper: int, first: int) -> Part | None:
        sql = f"SELECT first, last, members FROM {table} WHERE keeper = ? AND first = ?"
        row = self._connection.execute(sql, (keeper, first)).fetchone()
        return None if row is None else Part.read(*row)

    def _parts(self, table: str, keeper: int, *, after: int, until: int, at_most: int) -> list[Part]:
        """Return the first parts of bundles in that range of ids, until they have enough messages."""
        sql = f"SELECT first, last, members FROM {table} WHERE keeper = ? AND first > ? AND first <= ? ORDER BY first"
        found: list[Part] = []
        for row in self._connection.execute(sql, (keeper, after, until)):
            if at_most <= 0:
                break
            found.append(Part.read(*row))
            at_most -= found[-1].total
        return found

    def _records(
        self, subscription: int, messages: Iterable[Pending], *, create: bool = False
    ) -> Iterator[tuple[Pending, Records]]:
        """Give messages with the records of their bundle, and save those; without what is not waited for."""
        by_bundle: dict[int, list[Pending]] = {}
        for each in messages:
            by_bundle.setdefault(each.bundle, []).append(each)
        for first, some in by_bundle.items():
            row = self._connection.execute(
                "SELECT last, records FROM backlog LEFT JOIN deliveries USING (keeper, first)"
                " WHERE keeper = ? AND first = ?",
                (subscription, first),
            ).fetchone()
            if row is None or (row[1] is None and not create):
                continue
            records = Records(first, *row)
            for each in some:
                yield each, records
            self._save_records(subscription, first, records)

    def _save_records(self, subscription: int, first: int, records: Records) -> None:
        row = (subscription, first, records.stored)
        self._connection.execute("INSERT OR REPLACE INTO deliveries VALUES (?, ?, ?)", row)

    def _forget_deliveries(self, subscription: int, part: Part) -> None:
        sql = "SELECT records FROM deliveries WHERE keeper = ? AND first = ?"
        row = self._connection.execute(sql, (subscription, part.first)).fetchone()
        if row is not None:
            records = Records(part.first, part.last, row[0])
            records.forget(part.ids())
            self._save_records(subscription, part.first, records)

    def _collect(self, first: int) -> None:
        self._connection.execute(_COLLECT, (first,))
