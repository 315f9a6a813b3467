"""The tables on disk, and the changes that are made to them inside a transaction.

A *keeper* is whoever needs messages: a subscription, a snapshot, a topic that retains; their numbers are never used
twice. ``backlog`` is what a subscription still has to see acknowledged, ``kept`` is what a keeper may bring back. A
payload is stored once, however many keepers need it, and goes with the last of them. What lies in the backlog at or
below a subscription's *floor* counts as acknowledged; it is swept later, in small pieces. ``leased`` is when a lease
ends, in microseconds since 1970; 0 if there is none.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from transports.local.model import Pending, Snapshot, StoredMessage, Subscription, Topic

#: Version of the tables below; a broker refuses files of any other.
SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, settings TEXT NOT NULL);
CREATE TABLE subscriptions (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, settings TEXT NOT NULL,
    floor INTEGER NOT NULL DEFAULT 0, used_us INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE snapshots (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, settings TEXT NOT NULL);
CREATE TABLE condemned (keeper INTEGER PRIMARY KEY);
CREATE TABLE messages (
    id INTEGER PRIMARY KEY, published_us INTEGER NOT NULL, ordering_key TEXT NOT NULL, payload BLOB NOT NULL
);
CREATE TABLE backlog (
    keeper INTEGER NOT NULL, message INTEGER NOT NULL, ordering_key TEXT NOT NULL, PRIMARY KEY (keeper, message)
) WITHOUT ROWID;
CREATE INDEX backlog_by_message ON backlog (message);
CREATE INDEX backlog_by_key ON backlog (keeper, ordering_key, message) WHERE ordering_key <> '';
CREATE TABLE deliveries (
    keeper INTEGER NOT NULL, message INTEGER NOT NULL, token INTEGER NOT NULL, attempts INTEGER NOT NULL,
    leased INTEGER NOT NULL, PRIMARY KEY (keeper, message)
) WITHOUT ROWID;
CREATE TABLE kept (keeper INTEGER NOT NULL, message INTEGER NOT NULL, PRIMARY KEY (keeper, message)) WITHOUT ROWID;
CREATE INDEX kept_by_message ON kept (message);
"""
#: Removes a payload that nobody needs any more.
_COLLECT = """
DELETE FROM messages WHERE id = ?1
    AND NOT EXISTS (SELECT 1 FROM backlog WHERE message = ?1) AND NOT EXISTS (SELECT 1 FROM kept WHERE message = ?1)
"""
_GIVE_UP = "DELETE FROM kept WHERE keeper = ? AND message = ?"

#: Says by its payload whether a message passes a filter.
Accepts = Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class Tally:
    """A subscription's backlog at one moment: how many messages, and the highest id."""

    total: int
    newest: int


@dataclass(frozen=True, slots=True)
class Replay:
    """Which messages come back to a subscription: those after an id, up to another, out of what a keeper kept."""

    subscription: int
    after: int
    until: int
    source: int
    ordered: bool
    accepts: Accepts | None


class Tables:
    """The changes; each method is part of the caller's transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def save_counter(self, name: str, value: int) -> None:
        self._connection.execute("INSERT OR REPLACE INTO counters VALUES (?, ?)", (name, value))

    def save_topic(self, number: int, topic: Topic) -> None:
        row = (number, topic.name, json.dumps(topic.to_dict()))
        self._connection.execute("INSERT OR REPLACE INTO topics VALUES (?, ?, ?)", row)

    def save_snapshot(self, number: int, snapshot: Snapshot) -> None:
        row = (number, snapshot.name, json.dumps(snapshot.to_dict()))
        self._connection.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)", row)

    def save_subscription(self, number: int, subscription: Subscription) -> None:
        self._connection.execute(
            "INSERT INTO subscriptions (id, name, settings) VALUES (?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET settings = excluded.settings",
            (number, subscription.name, json.dumps(subscription.to_dict())),
        )

    def note_use(self, subscription: int, used_us: int) -> None:
        self._connection.execute("UPDATE subscriptions SET used_us = ? WHERE id = ?", (used_us, subscription))

    def condemn(self, keeper: int) -> None:
        """Remove a topic, subscription or snapshot, or have one end that is begun; what it needed is swept later."""
        for table in ("topics", "subscriptions", "snapshots"):
            self._connection.execute(f"DELETE FROM {table} WHERE id = ?", (keeper,))
        self._connection.execute("INSERT OR IGNORE INTO condemned VALUES (?)", (keeper,))

    def absolve(self, keeper: int) -> None:
        """Forget a condemned keeper of whom nothing is left."""
        self._connection.execute("DELETE FROM condemned WHERE keeper = ?", (keeper,))

    def add_messages(self, messages: Iterable[StoredMessage]) -> None:
        rows = [(each.id, each.published_us, each.ordering_key, each.payload) for each in messages]
        self._connection.executemany("INSERT INTO messages VALUES (?, ?, ?, ?)", rows)

    def add_to_backlogs(self, rows: Iterable[tuple[int, int, str]]) -> None:
        """Have subscriptions wait for messages: number, message id, ordering key (empty where no order is kept)."""
        self._connection.executemany("INSERT INTO backlog VALUES (?, ?, ?)", rows)

    def add_all_to_backlog(self, subscription: int, first: int, last: int, *, ordered: bool) -> None:
        """Have a subscription wait for all messages with ids from ``first`` to ``last``."""
        self._connection.execute(
            "INSERT INTO backlog SELECT ?1, id, CASE ?2 WHEN 1 THEN ordering_key ELSE '' END FROM messages"
            " WHERE id BETWEEN ?3 AND ?4",
            (subscription, int(ordered), first, last),
        )

    def keep(self, rows: Iterable[tuple[int, int]]) -> None:
        """Keep messages for topics and snapshots: number, message id."""
        self._connection.executemany("INSERT INTO kept VALUES (?, ?)", rows)

    def settle(self, subscription: int, messages: Sequence[int], *, keep: bool, snapshot: int | None = None) -> None:
        """Remove messages from a backlog; keep them for a replay, or drop the payloads that nobody else needs.

        They are taken out of ``snapshot``, too: that of the subscription which is being made.
        """
        pairs = [(subscription, each) for each in messages]
        self._connection.executemany("DELETE FROM backlog WHERE keeper = ? AND message = ?", pairs)
        self._connection.executemany("DELETE FROM deliveries WHERE keeper = ? AND message = ?", pairs)
        if snapshot is not None:
            self._connection.executemany(_GIVE_UP, [(snapshot, each) for each in messages])
        if keep:
            self._connection.executemany("INSERT OR IGNORE INTO kept VALUES (?, ?)", pairs)
        else:
            self._collect(messages)

    def note_deliveries(self, subscription: int, delivered: Iterable[Pending], until_us: int) -> None:
        """Remember the latest delivery of messages, and until when they are leased, in microseconds since 1970."""
        self._connection.executemany(
            "INSERT OR REPLACE INTO deliveries VALUES (?, ?, ?, ?, ?)",
            [(subscription, each.message_id, each.token, each.attempts, until_us) for each in delivered],
        )

    def note_extensions(self, subscription: int, leases: Iterable[tuple[int, int]]) -> None:
        """Remember until when messages are leased: id, microseconds since 1970."""
        self._connection.executemany(
            "UPDATE deliveries SET leased = ? WHERE keeper = ? AND message = ?",
            [(until_us, subscription, message) for message, until_us in leases],
        )

    def note_returns(self, subscription: int, returned: Iterable[Pending]) -> None:
        """Remember that messages are leased no longer, and how often they were delivered."""
        self._connection.executemany(
            "UPDATE deliveries SET leased = 0, attempts = ? WHERE keeper = ? AND message = ?",
            [(each.attempts, subscription, each.message_id) for each in returned],
        )

    def set_floor(self, subscription: int, floor: int) -> None:
        self._connection.execute("UPDATE subscriptions SET floor = ? WHERE id = ?", (floor, subscription))

    def tally(self, subscription: int) -> Tally:
        return tally(self._connection, subscription)

    def take_snapshot(self, snapshot: int, subscription: int, *, after: int, until: int, at_most: int) -> int | None:
        """Keep for a snapshot some of what a subscription has not acknowledged; return the last id, None at the end."""
        sql = (
            "SELECT message FROM backlog WHERE keeper = ?1 AND message > ?2 AND message <= ?3"
            " AND message > (SELECT floor FROM subscriptions WHERE id = ?1) ORDER BY message LIMIT ?4"
        )
        messages = self._ids(sql, (subscription, after, until, at_most))
        rows = [(snapshot, each) for each in messages]
        self._connection.executemany("INSERT OR IGNORE INTO kept VALUES (?, ?)", rows)
        return messages[-1] if messages else None

    def bring_back(self, replay: Replay, *, after: int, at_most: int) -> int | None:
        """Bring some messages back into a backlog; return the id of the last, None at the end."""
        after = max(after, replay.after)
        sql = "SELECT message FROM kept WHERE keeper = ? AND message > ? AND message <= ? ORDER BY message LIMIT ?"
        messages = self._ids(sql, (replay.source, after, replay.until, at_most))
        if not messages:
            return None
        self._connection.create_function("accepts", 1, replay.accepts or (lambda payload: True))
        self._connection.execute(
            "INSERT OR IGNORE INTO backlog"
            " SELECT ?1, id, CASE ?2 WHEN 1 THEN ordering_key ELSE '' END FROM kept JOIN messages ON id = message"
            " WHERE keeper = ?3 AND message > ?4 AND message <= ?5 AND accepts(payload)",
            (replay.subscription, int(replay.ordered), replay.source, after, messages[-1]),
        )
        self._connection.execute(
            "DELETE FROM kept WHERE keeper = ?1 AND message > ?2 AND message <= ?3"
            " AND message IN (SELECT message FROM backlog WHERE keeper = ?1 AND message > ?2 AND message <= ?3)",
            (replay.subscription, after, messages[-1]),
        )
        return messages[-1]

    def drop_others(
        self, subscription: int, snapshot: int, *, after: int, until: int, at_most: int, keep: bool
    ) -> int | None:
        """Acknowledge some of what is not in a snapshot; return the last id that was looked at, None at the end."""
        sql = "SELECT message FROM backlog WHERE keeper = ? AND message > ? AND message <= ? ORDER BY message LIMIT ?"
        messages = self._ids(sql, (subscription, after, until, at_most))
        if not messages:
            return None
        strange = (
            "SELECT message FROM backlog WHERE keeper = ?1 AND message > ?2 AND message <= ?3"
            " AND NOT EXISTS (SELECT 1 FROM kept WHERE kept.keeper = ?4 AND kept.message = backlog.message)"
        )
        self.settle(subscription, self._ids(strange, (subscription, after, messages[-1], snapshot)), keep=keep)
        return messages[-1]

    def end_leases(self, subscription: int) -> None:
        self._connection.execute("UPDATE deliveries SET leased = 0 WHERE keeper = ? AND leased <> 0", (subscription,))

    def sweep_backlog(self, subscription: int, *, until: int, keep: bool, at_most: int) -> int:
        """Settle what lies at or below an id; return how many there were, ``at_most`` at a time."""
        sql = "SELECT message FROM backlog WHERE keeper = ? AND message <= ? LIMIT ?"
        messages = self._ids(sql, (subscription, until, at_most))
        self.settle(subscription, messages, keep=keep)
        return len(messages)

    def floor(self, subscription: int) -> int:
        row = self._connection.execute("SELECT floor FROM subscriptions WHERE id = ?", (subscription,)).fetchone()
        return int(row[0]) if row else 0

    def sweep_kept(self, keeper: int, *, until: int, at_most: int) -> int:
        """Give up what was kept at or below an id; return how many there were, ``at_most`` at a time."""
        messages = self._ids(
            "SELECT message FROM kept WHERE keeper = ? AND message <= ? LIMIT ?", (keeper, until, at_most)
        )
        pairs = [(keeper, each) for each in messages]
        self._connection.executemany(_GIVE_UP, pairs)
        self._collect(messages)
        return len(messages)

    def _ids(self, sql: str, parameters: tuple[int, ...]) -> list[int]:
        return [message for (message,) in self._connection.execute(sql, parameters).fetchall()]

    def _collect(self, messages: Iterable[int]) -> None:
        self._connection.executemany(_COLLECT, [(each,) for each in messages])


def last_before(connection: sqlite3.Connection, published_us: int) -> int:
    """Return the highest id that was published earlier, or one below the lowest; ids are in the order of time."""
    lowest, highest = connection.execute("SELECT coalesce(min(id), 1), coalesce(max(id), 0) FROM messages").fetchone()
    low, high = int(lowest), int(highest) + 1
    while low < high:
        middle = (low + high) // 2
        row = connection.execute(
            "SELECT id, published_us FROM messages WHERE id >= ? ORDER BY id LIMIT 1", (middle,)
        ).fetchone()
        if row is None or row[1] >= published_us:
            high = middle
        else:
            low = int(row[0]) + 1
    return low - 1


def tally(connection: sqlite3.Connection, subscription: int) -> Tally:
    """Count what lies above a subscription's floor."""
    total, newest = connection.execute(
        "SELECT count(*), coalesce(max(message), 0) FROM backlog WHERE keeper = ?1"
        " AND message > (SELECT floor FROM subscriptions WHERE id = ?1)",
        (subscription,),
    ).fetchone()
    return Tally(int(total), int(newest))
