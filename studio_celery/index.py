"""A copy, on this host, of the journals that have ended, so that lists read only those that have not.

`STUDIO_HOME/cache/index-<store>.sqlite3`. Nothing follows an end but `removed`, and what was removed has no marker by
which a list would find it; so a copy is right for as long as the marker is the one that it was made with. Any number of
processes share the file. It is a cache: a damaged one is made anew, one that cannot be used is done without.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from studio_celery.experiment import NewerSchema
from studio_celery.journal import Entry
from studio_celery.locks import try_lock
from studio_celery.store import Item

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Version of the tables; a file of another one is made anew.
_VERSION = 1

#: How long to wait for another process that writes, seconds.
_BUSY_SECONDS = 5.0

#: Journals that are kept, the latest; about 2 KB each.
ROWS = 200_000

#: Journals that one question may name.
TOGETHER = 500

#: `marked` is the date of the marker by which a list finds the experiment.
_TABLES = (
    "CREATE TABLE IF NOT EXISTS journals (id TEXT PRIMARY KEY, marked REAL NOT NULL, entries TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS by_age ON journals (marked)",
)
_PRUNE = "DELETE FROM journals WHERE marked <= (SELECT marked FROM journals ORDER BY marked DESC LIMIT 1 OFFSET ?)"


class Index:
    """The copy for one store, below one `STUDIO_HOME`."""

    def __init__(self, home: Path, store_url: str, *, rows: int = ROWS) -> None:
        digest = hashlib.sha256(store_url.encode()).hexdigest()[:16]
        self.path = home / "cache" / f"index-{digest}.sqlite3"
        self._lock = self.path.with_suffix(".lock")
        self._rows = rows

    def find(self, markers: Sequence[Item]) -> dict[str, list[Entry]]:
        """The journals that are known, by id; at most `TOGETHER` markers."""
        if not markers or not self.path.exists():
            return {}
        marks = ",".join("?" * len(markers))
        query = f"SELECT id, marked, entries FROM journals WHERE id IN ({marks})"
        dates = {marker.key: marker.modified for marker in markers}

        def read(database: sqlite3.Connection) -> dict[str, list[Entry]]:
            rows = database.execute(query, list(dates)).fetchall()
            found = {key: _entries(text) for key, marked, text in rows if marked == dates[key]}
            return {key: entries for key, entries in found.items() if entries is not None}

        return self._use(read) or {}

    def keep(self, journals: Iterable[tuple[Item, Sequence[Entry]]]) -> None:
        """Copy journals that have ended."""
        rows = [(marker.key, marker.modified, _text(entries)) for marker, entries in journals]

        def write(database: sqlite3.Connection) -> None:
            with database:
                database.executemany("INSERT OR REPLACE INTO journals VALUES (?, ?, ?)", rows)
                # Ids sort by the time of submission.
                oldest = "SELECT id FROM journals ORDER BY id DESC LIMIT 1 OFFSET ?"
                database.execute(f"DELETE FROM journals WHERE id <= ({oldest})", (self._rows,))

        if rows:
            self._use(write)

    def forget(self, experiment_id: str) -> None:
        """Drop one: it was removed."""

        def write(database: sqlite3.Connection) -> None:
            with database:
                database.execute("DELETE FROM journals WHERE id = ?", (experiment_id,))

        if self.path.exists():
            self._use(write)

    def _use(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """Do something with the file, made anew if it is damaged; None if it cannot be used now."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                return self._try(work)
            except (sqlite3.OperationalError, OSError):
                raise
            except sqlite3.DatabaseError as exc:
                logger.warning("The list index %s is damaged (%s): it is made anew.", self.path, exc)
                self._discard()
                return self._try(work)
        except (sqlite3.Error, OSError) as exc:
            logger.info("The list index %s cannot be used now (%s): the store itself is read.", self.path, exc)
            return None

    def _try(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        lock = try_lock(self._lock, shared=True)
        if lock is None:  # it is being made anew
            return None
        with lock:
            is_new = not self.path.exists()
            with closing(sqlite3.connect(self.path, timeout=_BUSY_SECONDS)) as database:
                if is_new:
                    self.path.chmod(0o600)  # the values of scripts' variables are in journals
                _prepare(database)
                return work(database)

    def _discard(self) -> None:
        lock = try_lock(self._lock)
        if lock is None:
            return
        with lock:
            for path in (self.path, Path(f"{self.path}-journal")):
                path.unlink(missing_ok=True)


def _prepare(database: sqlite3.Connection) -> None:
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version not in (0, _VERSION):
        raise sqlite3.DatabaseError(f"it has version {version} and not {_VERSION}")
    if version == 0:
        with database:
            for statement in _TABLES:
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {_VERSION}")


def _text(entries: Sequence[Entry]) -> str:
    return json.dumps([[entry.to_dict(), entry.stored_at] for entry in entries], separators=(",", ":"))


def _entries(text: str) -> list[Entry] | None:
    """A journal; None if a newer version copied it, which may share this file."""
    try:
        return [Entry.from_dict(data, stored_at=stored_at) for data, stored_at in json.loads(text)]
    except NewerSchema:
        return None
    except (ValueError, KeyError, TypeError) as exc:
        raise sqlite3.DatabaseError(f"it holds what is no journal: {exc}") from exc
