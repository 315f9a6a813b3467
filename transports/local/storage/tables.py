"""The tables on disk, and the changes that are made to them inside a transaction.

Numbers of topics, subscriptions and snapshots, which all need messages (see ``needs``), are never used twice. What
lies in the backlog at or below a subscription's *floor*, which is always the end of a bundle, counts as acknowledged;
it is swept later, in small pieces. ``redo`` is one row: which database this is, and the number of the latest entry of
its redo log that the tables have. ``waiting`` is how many messages of a bundle are in ``members``. A bundle's payload
lies in the table, or in a segment of the redo log from an offset on.
"""

from __future__ import annotations

import json

from transports.local.model import Snapshot, Subscription, Topic
from transports.local.storage.bundles import Bundle, read_sizes
from transports.local.storage.needs import Needs

#: The counter that is the time of the last run, in microseconds since 1970.
TIME = "clock_us"
#: Version of the tables below; a broker refuses files of any other.
SCHEMA_VERSION = 5
SCHEMA = """
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE redo (identity INTEGER NOT NULL, done INTEGER NOT NULL);
INSERT INTO redo VALUES (random() & 0x7FFFFFFFFFFFFFFF, 0);
CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, settings TEXT NOT NULL);
CREATE TABLE subscriptions (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, settings TEXT NOT NULL,
    floor INTEGER NOT NULL DEFAULT 0, used_us INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE snapshots (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, settings TEXT NOT NULL);
CREATE TABLE condemned (keeper INTEGER PRIMARY KEY);
CREATE TABLE bundles (
    first INTEGER PRIMARY KEY, last INTEGER NOT NULL, published_us INTEGER NOT NULL, ordering_key TEXT NOT NULL,
    sizes BLOB NOT NULL, payload BLOB, segment INTEGER, offset INTEGER
);
CREATE INDEX bundles_by_segment ON bundles (segment, offset) WHERE segment IS NOT NULL;
CREATE TABLE backlog (
    keeper INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, waiting INTEGER NOT NULL, members BLOB,
    ordering_key TEXT NOT NULL, PRIMARY KEY (keeper, first)
) WITHOUT ROWID;
CREATE INDEX backlog_by_bundle ON backlog (first);
CREATE INDEX backlog_by_key ON backlog (keeper, ordering_key, first) WHERE ordering_key <> '';
CREATE TABLE deliveries (
    keeper INTEGER NOT NULL, first INTEGER NOT NULL, records BLOB NOT NULL, PRIMARY KEY (keeper, first)
) WITHOUT ROWID;
CREATE TABLE kept (
    keeper INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, members BLOB, PRIMARY KEY (keeper, first)
) WITHOUT ROWID;
CREATE INDEX kept_by_bundle ON kept (first);
"""
_TAKE_HOME = "UPDATE bundles SET payload = ?, segment = NULL, offset = NULL WHERE first = ?"


class Tables(Needs):
    """The changes; each method is part of the caller's transaction."""

    def save_counter(self, name: str, value: int) -> None:
        self._connection.execute("INSERT OR REPLACE INTO counters VALUES (?, ?)", (name, value))

    def save_time(self, time_us: int) -> None:
        """Note the time, in microseconds since 1970, for the clock of the next run."""
        self.save_counter(TIME, time_us)

    def save_redone(self, entry: int) -> None:
        """Note the number of the latest entry of the redo log that the tables have."""
        self._connection.execute("UPDATE redo SET done = ?", (entry,))

    def bytes_in(self, segment: int) -> int:
        """Return the bytes of payloads that lie in a segment."""
        rows = self._connection.execute("SELECT sizes FROM bundles WHERE segment = ?", (segment,))
        return sum(sum(read_sizes(sizes)) for (sizes,) in rows)

    def take_home(self, segment: int) -> None:
        """Have payloads lie in the table that lie in a segment.

        Raises:
            OSError: One cannot be read; those before it lie in the table.
        """
        rows = self._connection.execute("SELECT * FROM bundles WHERE segment = ?", (segment,))
        for row in rows.fetchall():
            bundle = Bundle.read(row, self._segments)
            self._connection.execute(_TAKE_HOME, (bundle.payload, bundle.first))

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
