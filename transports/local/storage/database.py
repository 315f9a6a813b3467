"""The one door to SQLite: opening the file, transactions, and what is read from it."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transports.local.errors import BrokerError, DataUnusableError
from transports.local.model import Pending, Snapshot, StoredMessage, Subscription, Topic
from transports.local.storage import files, operations, reading
from transports.local.storage.gathering import Gathering
from transports.local.storage.reading import Tally
from transports.local.storage.redo import RedoLog
from transports.local.storage.segments import Segments
from transports.local.storage.tables import Tables

logger = logging.getLogger(__name__)


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

    #: What was confirmed and the file may not have yet; belongs to the event loop.
    redo: RedoLog
    #: Its files, where payloads may lie.
    segments: Segments
    #: Whether the connection that writes syncs what it commits.
    _synced = True
    #: A sync may have failed, and with it that of earlier transactions, which the next one would not repeat.
    _doubtful = False

    def __init__(self, path: Path) -> None:
        """Open or create the file; set a damaged one aside and start anew."""
        try:
            self._open(path)
        except OSError as exc:
            raise DataUnusableError(f"Cannot use {path}: {exc.strerror}.") from exc
        except StorageError as exc:
            raise DataUnusableError(f"Cannot use {path}: {exc}") from exc
        except sqlite3.DatabaseError as exc:
            if isinstance(exc, sqlite3.OperationalError) or not path.exists():
                raise DataUnusableError(f"Cannot use {path}: {exc}.") from exc
            files.set_aside(path, str(exc))
            self._open(path)

    @contextmanager
    def transaction(self, *, synced: bool = True) -> Iterator[Tables]:
        """Commit all changes made inside, or none; raise ``StorageError`` if the disk refuses.

        One that is not ``synced`` outlives the process, and a crash of the machine once a later one is synced that
        changes something.
        """
        try:
            if self._doubtful:
                self._make_certain()
            if synced != self._synced:
                self._writer.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
                self._synced = synced
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield Tables(self._writer, self.segments)
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise
        except (sqlite3.Error, OSError) as exc:
            self._doubtful = self._doubtful or getattr(exc, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR
            raise StorageError(f"The broker cannot store: {exc}.") from exc

    def _make_certain(self) -> None:
        """Have all that was committed in the file itself, and synced there, so that nothing of it is needed again."""
        busy, _, _ = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise sqlite3.OperationalError("the file is being read")
        self._doubtful = False

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

    def messages(self, subscription: int, wanted: Iterable[Pending]) -> list[StoredMessage]:
        """Read messages of a backlog, in the order of their ids; those that are gone from it are left out."""
        with _reading():
            return reading.messages(self._reader, self.segments, subscription, wanted)

    def tally(self, subscription: int) -> Tally:
        """Count a subscription's backlog."""
        with _reading():
            return reading.tally(self._reader, subscription)

    def last_before(self, published_us: int) -> int:
        """Return the highest id that was published earlier, of those that the tables have."""
        with _reading():
            return reading.last_before(self._reader, published_us)

    def page(self, subscription: int, *, after: int, until: int, at_most: int) -> list[Pending]:
        """Read a part of a backlog in the order of ids."""
        with _reading():
            return reading.page(self._reader, subscription, after=after, until=until, at_most=at_most)

    def page_of_key(self, subscription: int, key: str, *, since: int, until: int, at_most: int) -> list[Pending]:
        """Read a part of what a backlog has of one ordering key, in the order of ids."""
        with _reading():
            return reading.page_of_key(self._reader, subscription, key, since=since, until=until, at_most=at_most)

    def leased(self, subscription: int, floor: int) -> list[tuple[Pending, int]]:
        """Read what was leased to somebody when the broker ended; until when, in microseconds since 1970."""
        with _reading():
            return reading.leased(self._reader, subscription, floor)

    def oldest_waiting_us(self, subscription: int, floor: int) -> int | None:
        """Return the publish time of a backlog's oldest message; None if there is none."""
        sql = "SELECT min(first) FROM backlog WHERE keeper = ? AND first > ?"
        return self._published_us(sql, (subscription, floor))

    def oldest_kept_us(self, keeper: int) -> int | None:
        """Return the publish time of the oldest message that is kept for a replay; None if there is none."""
        return self._published_us("SELECT min(first) FROM kept WHERE keeper = ?", (keeper,))

    def newest_published_us(self) -> int:
        """Return the publish time of the newest message; 0 if there is none."""
        return self._published_us("SELECT max(first) FROM bundles", ()) or 0

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
        self.redo.close()

    def _needed_segments(self) -> set[int]:
        with _reading():
            return reading.needed_segments(self._reader)

    def _published_us(self, sql: str, parameters: tuple[int, ...]) -> int | None:
        with _reading():
            row = self._reader.execute(f"SELECT published_us FROM bundles WHERE first = ({sql})", parameters).fetchone()
        return None if row is None else int(row[0])

    def _settings(self, table: str) -> list[tuple[int, dict[str, Any]]]:
        rows = self._reader.execute(f"SELECT id, settings FROM {table}").fetchall()
        return [(number, json.loads(settings)) for number, settings in rows]

    def _open(self, path: Path) -> None:
        # Messages are for nobody else on this machine; SQLite gives the file's mode to its companions.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        with ExitStack() as opened:
            self._writer = opened.enter_context(closing(files.connect(path)))
            files.check_integrity(self._writer, path)
            files.create_tables(self._writer, path)
            self._reader = opened.enter_context(closing(files.connect(path)))
            self._open_redo(path, opened)
            opened.pop_all()

    def _open_redo(self, path: Path, opened: ExitStack) -> None:
        """Open the redo log, and make the changes that were confirmed and that a crash has cost the tables."""
        identity, done = self._writer.execute("SELECT identity, done FROM redo").fetchone()
        ends = reading.ends_of_segments(self._writer)
        self.segments = files.open_segments(path, identity, done, ends)
        self.redo = opened.enter_context(closing(RedoLog(self.segments, identity, self._needed_segments)))
        entries = self.redo.read(done)
        # It may be that what the tables have was never synced, or that an entry was not: after a kill both are there
        # until the power is cut. So nothing happens to the log before a transaction is synced that has all of it.
        number = self.redo.last + 1
        with self.transaction() as tables:
            for each in entries:
                operations.read(each).apply(tables)
            Gathering(self.segments).gather_last(tables)
            tables.save_redone(number)
        if entries:
            logger.info("%d confirmed changes were taken from the redo log", len(entries))
        self.redo.begin_anew(number)


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as exc:
        raise StorageError(f"The broker cannot read: {exc}.") from exc
