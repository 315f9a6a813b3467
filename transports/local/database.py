"""The one door to SQLite: what lies on disk, and how it changes.

``Tables`` are the changes; they run inside a transaction that ``writer.Writer`` opens and commits. A payload is stored
once, however many subscriptions wait for it, and goes when the last one has settled it.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from transports.local.errors import BrokerError, DataUnusableError
from transports.local.model import Pending, StoredMessage, Subscription, Topic

logger = logging.getLogger(__name__)

#: Version of the tables below; a broker refuses files of a later one.
SCHEMA_VERSION = 1
#: Most ids in one SELECT; SQLite's own limit on parameters is far higher.
_IDS_PER_SELECT = 500
_SCHEMA = """
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE topics (name TEXT PRIMARY KEY, labels TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE subscriptions (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, topic TEXT NOT NULL, ack_deadline_seconds INTEGER NOT NULL,
    retention_seconds INTEGER NOT NULL, expiration_seconds INTEGER, exactly_once INTEGER NOT NULL, labels TEXT NOT NULL
);
CREATE TABLE messages (id INTEGER PRIMARY KEY, published_us INTEGER NOT NULL, payload BLOB NOT NULL);
CREATE TABLE backlog (
    message INTEGER NOT NULL, subscription INTEGER NOT NULL, token INTEGER NOT NULL, PRIMARY KEY (message, subscription)
) WITHOUT ROWID;
"""


class StorageError(BrokerError):
    """The disk refused to store or to read."""


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything but the payloads, as it lay on disk at the start."""

    topics: Sequence[Topic]
    subscriptions: Mapping[int, Subscription]
    pending: Mapping[int, Sequence[Pending]]
    counters: Mapping[str, int]


class Tables:
    """The changes; each method is part of the caller's transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def save_topic(self, topic: Topic) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO topics VALUES (?, ?)", (topic.name, json.dumps(dict(topic.labels)))
        )

    def remove_topic(self, name: str) -> None:
        self._connection.execute("DELETE FROM topics WHERE name = ?", (name,))

    def save_subscription(self, number: int, subscription: Subscription) -> None:
        row = (
            number,
            subscription.name,
            subscription.topic,
            subscription.ack_deadline_seconds,
            subscription.retention_seconds,
            subscription.expiration_seconds,
            subscription.exactly_once,
            json.dumps(dict(subscription.labels)),
        )
        self._connection.execute("INSERT OR REPLACE INTO subscriptions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def remove_subscription(self, number: int) -> None:
        """Remove a subscription with its backlog."""
        self._connection.execute("DELETE FROM subscriptions WHERE id = ?", (number,))
        self._connection.execute("DELETE FROM backlog WHERE subscription = ?", (number,))
        self._connection.execute("DELETE FROM messages WHERE id NOT IN (SELECT message FROM backlog)")

    def add_messages(self, messages: Sequence[StoredMessage], subscriptions: Sequence[int]) -> None:
        self._connection.executemany(
            "INSERT INTO messages VALUES (?, ?, ?)", [(each.id, each.published_us, each.payload) for each in messages]
        )
        self._connection.executemany(
            "INSERT INTO backlog VALUES (?, ?, 0)", [(each.id, number) for each in messages for number in subscriptions]
        )

    def settle(self, subscription: int, messages: Sequence[int]) -> None:
        """Remove messages from a backlog, and their payloads where nobody else waits for them."""
        self._connection.executemany(
            "DELETE FROM backlog WHERE message = ? AND subscription = ?", [(each, subscription) for each in messages]
        )
        self._connection.executemany(
            "DELETE FROM messages WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM backlog WHERE message = ?1)",
            [(each,) for each in messages],
        )

    def note_tokens(self, subscription: int, delivered: Sequence[Pending]) -> None:
        """Remember the latest delivery of messages."""
        self._connection.executemany(
            "UPDATE backlog SET token = ? WHERE message = ? AND subscription = ?",
            [(each.token, each.message_id, subscription) for each in delivered],
        )

    def save_counter(self, name: str, value: int) -> None:
        self._connection.execute("INSERT OR REPLACE INTO counters VALUES (?, ?)", (name, value))


class Database:
    """One SQLite file with a connection that reads and one that writes; the latter belongs to the writer's thread."""

    def __init__(self, path: Path) -> None:
        """Open or create the file; set a damaged one aside and start anew."""
        try:
            self._open(path)
        except sqlite3.DatabaseError as exc:
            if isinstance(exc, sqlite3.OperationalError) or not path.exists():
                raise DataUnusableError(f"Cannot use {path}: {exc}.") from exc
            _set_aside(path, str(exc))
            self._open(path)

    def contents(self) -> Contents:
        """Read everything but the payloads."""
        try:
            subscriptions = dict(self._subscriptions())
            topics = [Topic(name, json.loads(labels)) for name, labels in self._reader.execute("SELECT * FROM topics")]
            counters = dict(self._reader.execute("SELECT * FROM counters"))
            return Contents(topics, subscriptions, self._pending(subscriptions), counters)
        except sqlite3.Error as exc:
            raise DataUnusableError(f"Cannot read what the broker had stored: {exc}.") from exc

    def messages(self, ids: Sequence[int]) -> list[StoredMessage]:
        """Read messages, in the order of their ids; ids that are gone are left out."""
        try:
            return [StoredMessage(*row) for some in _chunks(ids) for row in self._select(some)]
        except sqlite3.Error as exc:
            raise StorageError(f"The broker cannot read: {exc}.") from exc

    @contextmanager
    def transaction(self) -> Iterator[Tables]:
        """Commit all changes made inside, durably, or none; raise ``StorageError`` if the disk refuses."""
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield Tables(self._writer)
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise
        except sqlite3.Error as exc:
            raise StorageError(f"The broker cannot store: {exc}.") from exc

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    def _subscriptions(self) -> Iterator[tuple[int, Subscription]]:
        for row in self._reader.execute("SELECT * FROM subscriptions"):
            number, name, topic, deadline, retention, expiration, exactly_once, labels = row
            settings = Subscription(
                name, topic, deadline, retention, expiration, bool(exactly_once), json.loads(labels)
            )
            yield number, settings

    def _pending(self, subscriptions: Iterable[int]) -> dict[int, list[Pending]]:
        pending: dict[int, list[Pending]] = {number: [] for number in subscriptions}
        for number, *fields in self._reader.execute(
            "SELECT subscription, message, published_us, length(payload), token"
            " FROM backlog JOIN messages ON messages.id = backlog.message ORDER BY message"
        ):
            if number in pending:
                pending[number].append(Pending(*fields))
        return pending

    def _select(self, ids: Sequence[int]) -> list[tuple[int, int, bytes]]:
        marks = ", ".join("?" * len(ids))
        return self._reader.execute(f"SELECT * FROM messages WHERE id IN ({marks}) ORDER BY id", ids).fetchall()

    def _open(self, path: Path) -> None:
        self._writer = _connect(path)
        try:
            _check_integrity(self._writer)
            _create_tables(self._writer, path)
            self._reader = _connect(path)
        except BaseException:
            self._writer.close()
            raise


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 67108864")
    except BaseException:
        connection.close()
        raise
    return connection


def _check_integrity(connection: sqlite3.Connection) -> None:
    (first,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if first != "ok":
        raise sqlite3.DatabaseError(first)


def _create_tables(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise DataUnusableError(f"{path} was written by a newer broker: upgrade, or use another directory.")
    if version == 0:
        connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")


def _set_aside(path: Path, reason: str) -> None:
    """Rename a damaged file and its companions, so that nothing is lost that somebody could still rescue."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    for suffix in ("-wal", "-shm", ""):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    logger.error("%s is damaged (%s): it was set aside as %s, the broker starts empty", path, reason, aside)


def _chunks(ids: Sequence[int]) -> Iterable[Sequence[int]]:
    return (ids[start : start + _IDS_PER_SELECT] for start in range(0, len(ids), _IDS_PER_SELECT))
