"""The one door to SQLite: opening the file, transactions, and what is read from it."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transports.local.errors import BrokerError, DataUnusableError
from transports.local.model import Pending, Snapshot, StoredMessage, Subscription, Topic
from transports.local.tables import SCHEMA, SCHEMA_VERSION, Tables, Tally, last_before, tally

logger = logging.getLogger(__name__)

#: Most ids in one SELECT; SQLite's own limit on parameters is far higher.
_IDS_PER_SELECT = 500
#: Bytes of a file up to which all of it is checked at the start; beyond, messages are checked as they are read.
_CHECKED_BYTES = 64 * 1024 * 1024
#: KiB of pages that each connection keeps in memory.
_CACHE_KIB = 16_000
#: Tables without which nothing works; they are small, and checked at every start.
_SMALL_TABLES = ("counters", "topics", "subscriptions", "snapshots", "condemned")
_PENDING = """
SELECT backlog.message, published_us, length(payload), backlog.ordering_key, coalesce(token, 0), coalesce(attempts, 0)
FROM backlog JOIN messages ON messages.id = backlog.message
LEFT JOIN deliveries ON deliveries.keeper = backlog.keeper AND deliveries.message = backlog.message
WHERE backlog.keeper = ?
"""


class StorageError(BrokerError):
    """The disk refused to store or to read."""


@dataclass(frozen=True, slots=True)
class StoredSubscription:
    """A subscription as it lay on disk."""

    settings: Subscription
    #: Ids at or below count as acknowledged.
    floor: int
    #: When it was last known to be in use, in microseconds since 1970.
    used_us: int


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything but the messages, as it lay on disk at the start; by number."""

    topics: Mapping[int, Topic]
    subscriptions: Mapping[int, StoredSubscription]
    snapshots: Mapping[int, Snapshot]
    #: Whose messages were still being swept.
    condemned: Sequence[int]
    counters: Mapping[str, int]


class Database:
    """One SQLite file with a connection that reads and one that writes; the latter belongs to the writer's thread."""

    def __init__(self, path: Path) -> None:
        """Open or create the file; set a damaged one aside and start anew."""
        try:
            self._open(path)
        except OSError as exc:
            raise DataUnusableError(f"Cannot use {path}: {exc.strerror}.") from exc
        except sqlite3.DatabaseError as exc:
            if isinstance(exc, sqlite3.OperationalError) or not path.exists():
                raise DataUnusableError(f"Cannot use {path}: {exc}.") from exc
            _set_aside(path, str(exc))
            self._open(path)

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

    def contents(self) -> Contents:
        """Read everything but the messages."""
        try:
            rows = self._reader.execute("SELECT id, settings, floor, used_us FROM subscriptions").fetchall()
            return Contents(
                topics={number: Topic.from_dict(each) for number, each in self._settings("topics")},
                subscriptions={
                    number: StoredSubscription(Subscription.from_dict(json.loads(settings)), floor, used_us)
                    for number, settings, floor, used_us in rows
                },
                snapshots={number: Snapshot.from_dict(each) for number, each in self._settings("snapshots")},
                condemned=[keeper for (keeper,) in self._reader.execute("SELECT keeper FROM condemned")],
                counters=dict(self._reader.execute("SELECT * FROM counters")),
            )
        except sqlite3.Error as exc:
            raise DataUnusableError(f"Cannot read what the broker had stored: {exc}.") from exc

    def messages(self, ids: Sequence[int]) -> list[StoredMessage]:
        """Read messages, in the order of their ids; ids that are gone are left out."""
        chunks = [ids[start : start + _IDS_PER_SELECT] for start in range(0, len(ids), _IDS_PER_SELECT)]
        return [StoredMessage(*row) for some in chunks for row in self._select(some)]

    def tally(self, subscription: int) -> Tally:
        """Count a subscription's backlog."""
        with _reading():
            return tally(self._reader, subscription)

    def last_before(self, published_us: int) -> int:
        """Return the highest id that was published earlier."""
        with _reading():
            return last_before(self._reader, published_us)

    def page(self, subscription: int, *, after: int, until: int, at_most: int) -> list[Pending]:
        """Read a part of a backlog in the order of ids."""
        sql = f"{_PENDING} AND backlog.message > ? AND backlog.message <= ? ORDER BY backlog.message LIMIT ?"
        return self._pending(sql, (subscription, after, until, at_most))

    def page_of_key(self, subscription: int, key: str, *, since: int, until: int, at_most: int) -> list[Pending]:
        """Read a part of what a backlog has of one ordering key, in the order of ids."""
        sql = (
            f"{_PENDING} AND backlog.ordering_key = ? AND backlog.ordering_key <> ''"
            " AND backlog.message >= ? AND backlog.message <= ? ORDER BY backlog.message LIMIT ?"
        )
        return self._pending(sql, (subscription, key, since, until, at_most))

    def leased(self, subscription: int, floor: int) -> list[tuple[Pending, int]]:
        """Read what was leased to somebody when the broker ended; until when, in microseconds since 1970."""
        sql = f"{_PENDING} AND backlog.message > ? AND leased <> 0 ORDER BY backlog.message"
        with _reading():
            ends = dict(
                self._reader.execute(
                    "SELECT message, leased FROM deliveries WHERE keeper = ? AND leased <> 0", (subscription,)
                )
            )
        return [(each, ends[each.message_id]) for each in self._pending(sql, (subscription, floor))]

    def oldest_waiting_us(self, subscription: int, floor: int) -> int | None:
        """Return the publish time of a backlog's oldest message; None if there is none."""
        sql = "SELECT min(message) FROM backlog WHERE keeper = ? AND message > ?"
        return self._published_us(sql, (subscription, floor))

    def oldest_kept_us(self, keeper: int) -> int | None:
        """Return the publish time of the oldest message that is kept for a replay; None if there is none."""
        return self._published_us("SELECT min(message) FROM kept WHERE keeper = ?", (keeper,))

    def newest_published_us(self) -> int:
        """Return the publish time of the newest message; 0 if there is none."""
        return self._published_us("SELECT max(id) FROM messages", ()) or 0

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    def _published_us(self, sql: str, parameters: tuple[int, ...]) -> int | None:
        with _reading():
            row = self._reader.execute(f"SELECT published_us FROM messages WHERE id = ({sql})", parameters).fetchone()
        return None if row is None else int(row[0])

    def _settings(self, table: str) -> list[tuple[int, dict[str, Any]]]:
        rows = self._reader.execute(f"SELECT id, settings FROM {table}").fetchall()
        return [(number, json.loads(settings)) for number, settings in rows]

    def _pending(self, sql: str, parameters: Iterable[object]) -> list[Pending]:
        with _reading():
            return [Pending(*row) for row in self._reader.execute(sql, tuple(parameters)).fetchall()]

    def _select(self, ids: Sequence[int]) -> list[tuple[int, int, bytes, str]]:
        marks = ", ".join("?" * len(ids))
        sql = f"SELECT id, published_us, payload, ordering_key FROM messages WHERE id IN ({marks}) ORDER BY id"
        with _reading():
            return self._reader.execute(sql, ids).fetchall()

    def _open(self, path: Path) -> None:
        # Messages are for nobody else on this machine; SQLite gives the file's mode to its companions.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._writer = _connect(path)
        try:
            _check_integrity(self._writer, path)
            _create_tables(self._writer, path)
            self._reader = _connect(path)
        except BaseException:
            self._writer.close()
            raise


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as exc:
        raise StorageError(f"The broker cannot read: {exc}.") from exc


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        # Some builds of SQLite overwrite what is deleted, which writes a page for each message that goes.
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    except BaseException:
        connection.close()
        raise
    return connection


def _check_integrity(connection: sqlite3.Connection, path: Path) -> None:
    """Look for damage: everywhere in a small file, in a large one where it would stop the broker."""
    known = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    parts = [f"({name})" for name in _SMALL_TABLES if name in known]
    if path.stat().st_size <= _CHECKED_BYTES or not parts:
        parts = ["(1)"]
    for part in parts:
        (first,) = connection.execute(f"PRAGMA quick_check{part}").fetchone()
        if first != "ok":
            raise sqlite3.DatabaseError(first)


def _create_tables(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise DataUnusableError(f"{path} was written by a newer broker: upgrade, or use another directory.")
    if 0 < version < SCHEMA_VERSION:
        raise DataUnusableError(f"{path} was written by an older broker: use another directory.")
    if version == 0:
        connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")


def _set_aside(path: Path, reason: str) -> None:
    """Rename a damaged file and its companions, so that nothing is lost that somebody could still rescue."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    for suffix in ("-wal", "-shm", ""):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    logger.error("%s is damaged (%s): it was set aside as %s, the broker starts empty", path, reason, aside)
