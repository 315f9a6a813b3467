"""The files of a database: opened, looked over, and set aside if they cannot be used."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from transports.local.errors import DataUnusableError
from transports.local.storage.entries import first_head
from transports.local.storage.segments import Segments
from transports.local.storage.tables import SCHEMA, SCHEMA_VERSION

logger = logging.getLogger(__name__)

#: Bytes of a file up to which all of it is checked at the start; beyond, messages are checked as they are read.
_CHECKED_BYTES = 64 * 1024 * 1024
#: Bytes of a page of a new file: twice SQLite's own, as a bundle is some of them, each with calls of the kernel.
_PAGE_BYTES = 8192
#: KiB of pages that each connection keeps in memory.
_CACHE_KIB = 16_000
#: Tables without which nothing works; they are small, and checked at every start.
_SMALL_TABLES = ("counters", "redo", "topics", "subscriptions", "snapshots", "condemned")


def connect(path: Path) -> sqlite3.Connection:
    """Open a database, whose commits are synced unless it is told otherwise; any thread may use the connection."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
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


def open_segments(path: Path, identity: int, done: int, ends: Mapping[int, int]) -> Segments:
    """Find a database's redo log; what was another's, or does not go on where the tables end, is set aside.

    ``ends`` are the segments that the tables refer to, with the highest offset in each. Raises what SQLite would for
    damage if one is not there, or not all of it.
    """
    segments = Segments(path)
    for number, end in ends.items():
        needed = segments.path(number)
        if not needed.exists() or needed.stat().st_size <= end:
            raise sqlite3.DatabaseError(f"{needed.name} is not there or too short")
    for number in segments.numbers:
        owner, entry = first_head(segments.path(number)) or (identity, 0)
        if number not in ends and (owner != identity or entry > done + 1):
            _set_aside_foreign(segments.path(number))
    return Segments(path)


def check_integrity(connection: sqlite3.Connection, path: Path) -> None:
    """Raise what SQLite would for damage: found anywhere in a small file, else where it would stop the broker."""
    known = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    parts = [f"({name})" for name in _SMALL_TABLES if name in known]
    if path.stat().st_size <= _CHECKED_BYTES or not parts:
        parts = ["(1)"]
    for part in parts:
        (first,) = connection.execute(f"PRAGMA quick_check{part}").fetchone()
        if first != "ok":
            raise sqlite3.DatabaseError(first)


def create_tables(connection: sqlite3.Connection, path: Path) -> None:
    """Create what a new file has; refuse one of another form with ``DataUnusableError``."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise DataUnusableError(f"{path} was written by a newer broker: upgrade, or use another directory.")
    if 0 < version < SCHEMA_VERSION:
        raise DataUnusableError(f"{path} was written by an older broker: use another directory.")
    if version == 0:
        connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")


def set_aside(path: Path, reason: str) -> None:
    """Rename a damaged file and its companions, so that nothing is lost that somebody could still rescue."""
    aside = path.with_name(f"{path.name}.damaged-{_stamp()}")
    segments = Segments(path)
    parts = [path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", "")]
    for part in (*map(segments.path, segments.numbers), *parts):
        if part.exists():
            part.rename(part.with_name(aside.name + part.name.removeprefix(path.name)))
    logger.error("%s is damaged (%s): it was set aside as %s, the broker starts empty", path, reason, aside)


def _set_aside_foreign(path: Path) -> None:
    aside = path.with_name(f"{path.name}.foreign-{_stamp()}")
    path.rename(aside)
    logger.error("%s is not that of this database, or of its past: it was set aside as %s", path, aside)


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
