"""What is read of the tables in which messages lie, by any connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transports.local.model import Pending, StoredMessage
from transports.local.storage.bundles import BUNDLE_MESSAGES, Bundle, Part, bits_by_bundle, read_sizes
from transports.local.storage.records import Record, Records
from transports.local.storage.segments import Segments

_BUNDLE = "SELECT * FROM bundles WHERE first = ?"
_WAITING = """
SELECT members, bundles.* FROM backlog JOIN bundles ON bundles.first = backlog.first
WHERE backlog.keeper = ? AND backlog.first = ?
"""
_COLUMNS = "backlog.first, backlog.last, members, backlog.ordering_key, published_us, sizes, records"
#: A backlog with all that is known of its messages, the rest of the statement to follow.
_ROWS = f"""
SELECT {_COLUMNS} FROM backlog JOIN bundles ON bundles.first = backlog.first
LEFT JOIN deliveries ON deliveries.keeper = backlog.keeper AND deliveries.first = backlog.first
WHERE backlog.keeper = ?
"""
#: What of it was delivered; first of all the deliveries, which are few.
_DELIVERED = f"""
SELECT {_COLUMNS} FROM deliveries CROSS JOIN backlog USING (keeper, first) JOIN bundles USING (first)
WHERE deliveries.keeper = ? AND deliveries.first > ? ORDER BY deliveries.first
"""
#: One search of the index for each, and not a step for each bundle.
_SEGMENTS = """
WITH RECURSIVE found (segment) AS (
    SELECT min(segment) FROM bundles WHERE segment IS NOT NULL
    UNION ALL
    SELECT (SELECT min(segment) FROM bundles WHERE segment > found.segment) FROM found WHERE segment IS NOT NULL
)
SELECT segment FROM found WHERE segment IS NOT NULL
"""
#: The highest id there can be.
_LAST = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Tally:
    """A subscription's backlog at one moment: how many messages, and an id above which there is none."""

    total: int
    newest: int


def select_bundle(connection: sqlite3.Connection, segments: Segments, first: int) -> Bundle | None:
    """Read a bundle, if it is there; ``OSError`` if its payload cannot be read."""
    row = connection.execute(_BUNDLE, (first,)).fetchone()
    return None if row is None else Bundle.read(row, segments)


def messages(
    connection: sqlite3.Connection, segments: Segments, subscription: int, wanted: Iterable[Pending]
) -> list[StoredMessage]:
    """Read messages of a backlog, in the order of their ids; those that are gone from it are left out."""
    found: list[StoredMessage] = []
    for first, bits in sorted(bits_by_bundle(wanted).items()):
        row = connection.execute(_WAITING, (subscription, first)).fetchone()
        if row is not None:
            bundle = Bundle.read(row[1:], segments)
            there = Part.read(bundle.first, bundle.last, row[0])
            found.extend(bundle.messages(there._replace(bits=there.bits & bits).ids()))
    return found


def needed_segments(connection: sqlite3.Connection) -> set[int]:
    """Return the segments of the redo log that the tables refer to."""
    return {number for (number,) in connection.execute(_SEGMENTS)}


def ends_of_segments(connection: sqlite3.Connection) -> dict[int, int]:
    """Return the segments that the tables refer to, and the highest offset in each."""
    sql = "SELECT segment, max(offset) FROM bundles WHERE segment IS NOT NULL GROUP BY segment"
    return dict(connection.execute(sql))


def tally(connection: sqlite3.Connection, subscription: int) -> Tally:
    """Count what lies above a subscription's floor."""
    total, newest = connection.execute(
        "SELECT coalesce(sum(waiting), 0), coalesce(max(last), 0) FROM backlog WHERE keeper = ?1"
        " AND first > (SELECT floor FROM subscriptions WHERE id = ?1)",
        (subscription,),
    ).fetchone()
    return Tally(int(total), int(newest))


def last_before(connection: sqlite3.Connection, published_us: int) -> int:
    """Return the highest id that was published earlier, or one below the lowest; ids are in the order of time."""
    lowest, highest = connection.execute(
        "SELECT coalesce((SELECT min(first) FROM bundles), 1),"
        " coalesce((SELECT last FROM bundles ORDER BY first DESC LIMIT 1), 0)"
    ).fetchone()
    low, high = int(lowest), int(highest) + 1
    while low < high:
        middle = (low + high) // 2
        row = connection.execute(
            "SELECT last, published_us FROM bundles WHERE first >= ? ORDER BY first LIMIT 1", (middle,)
        ).fetchone()
        if row is None or row[1] >= published_us:
            high = middle
        else:
            low = int(row[0]) + 1
    return low - 1


def page(connection: sqlite3.Connection, subscription: int, *, after: int, until: int, at_most: int) -> list[Pending]:
    """Read a part of a backlog in the order of ids."""
    # The index knows the first ids of bundles only.
    sql = f"{_ROWS} AND backlog.first > ? AND backlog.first <= ? AND backlog.last > ? ORDER BY backlog.first"
    rows = connection.execute(sql, (subscription, after - BUNDLE_MESSAGES, until, after))
    return _some(rows, range(after + 1, until + 1), at_most)


def page_of_key(
    connection: sqlite3.Connection, subscription: int, key: str, *, since: int, until: int, at_most: int
) -> list[Pending]:
    """Read a part of what a backlog has of one ordering key, in the order of ids."""
    sql = (
        f"{_ROWS} AND backlog.ordering_key = ? AND backlog.ordering_key <> ''"
        " AND backlog.first >= ? AND backlog.first <= ? ORDER BY backlog.first"
    )
    rows = connection.execute(sql, (subscription, key, since, until))
    return _some(rows, range(since, until + 1), at_most)


def leased(connection: sqlite3.Connection, subscription: int, floor: int) -> list[tuple[Pending, int]]:
    """Read what is leased to somebody; until when, in microseconds since 1970."""
    rows = connection.execute(_DELIVERED, (subscription, floor))
    found = (each for row in rows for each in _pending(row, range(floor + 1, _LAST + 1)))
    return [(pending, record.leased_us) for pending, record in found if record.leased_us]


def _some(rows: Iterable[Sequence[Any]], ids: range, at_most: int) -> list[Pending]:
    """Return the first messages of some rows."""
    found: list[Pending] = []
    for row in rows:
        found.extend(pending for pending, _ in _pending(row, ids))
        if len(found) >= at_most:
            break
    return found[:at_most]


def _pending(row: Sequence[Any], ids: range) -> Iterator[tuple[Pending, Record]]:
    """Give those messages of a row that are within a range of ids."""
    first, last, members, key, published_us, stored_sizes, stored = row
    sizes, records = read_sizes(stored_sizes), None if stored is None else Records(first, last, stored)
    for each in Part.read(first, last, members).within(ids).ids():
        record = records[each] if records is not None else Record()
        yield Pending(each, published_us, sizes[each - first], key, record.token, record.attempts, first), record
