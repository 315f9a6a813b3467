"""Rows for tests of the local broker's tables: messages, who waits for them, who keeps them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from transports.local.model import (
    DeadLetterPolicy,
    Draft,
    Pending,
    RetryPolicy,
    Snapshot,
    StoredMessage,
    Subscription,
    Topic,
)
from transports.local.storage.bundles import Bundle, bundled
from transports.local.storage.database import Database
from transports.local.storage.tables import Tables

TOPIC = Topic("projects/p/topics/topic", {"a": "b"}, 1200)
SUBSCRIPTION = Subscription(
    "projects/p/subscriptions/one",
    TOPIC.name,
    10,
    600,
    None,
    True,
    {"c": "d"},
    filter="attributes:a",
    dead_letter=DeadLetterPolicy(TOPIC.name, 7),
    retry=RetryPolicy(0.5, 20),
)
SNAPSHOT = Snapshot("projects/p/snapshots/one", TOPIC.name, 12345, {"e": "f"})


def messages(*ids: int) -> list[StoredMessage]:
    return [StoredMessage(each, each * 100, b"x" * each) for each in ids]


def bundles(*ids: int, key: str = "") -> list[Bundle]:
    """Return those messages, each as a bundle by itself."""
    return [bundle for each in ids for bundle in bundled(each, each * 100, [Draft(b"x" * each, {}, key)])]


def pending(*ids: int) -> list[Pending]:
    """Return them as their subscriptions see them."""
    return [Pending(each, each * 100, each, bundle=each) for each in ids]


def add(tables: Tables, *ids: int, backlogs: Sequence[int] = (), kept: Sequence[int] = (), key: str = "") -> None:
    """Store messages that these subscriptions wait for, and these keepers keep."""
    stored = bundles(*ids, key=key)
    tables.add_bundles(stored)
    tables.add_to_backlogs((number, each.whole, key) for each in stored for number in backlogs)
    tables.keep((number, each.whole) for each in stored for number in kept)


def stored(database: Database) -> list[int]:
    """Return the ids of all messages whose payload is on disk."""
    rows = database._reader.execute("SELECT * FROM bundles ORDER BY first").fetchall()
    found = [Bundle.read(row, database.segments) for row in rows]
    return [each.id for bundle in found for each in bundle.messages(bundle.whole.ids())]


def refuse_to_write(database: Database, refuse: bool) -> None:
    """Have the disk refuse what is written from now on, to the tables and to the redo log; or take it again."""
    database._writer.execute(f"PRAGMA query_only = {int(refuse)}")
    log = database.redo
    other = os.open(log._name, os.O_RDONLY if refuse else os.O_RDWR)
    os.dup2(other, log._file, inheritable=False)
    os.close(other)


def waiting(database: Database, number: int) -> list[int]:
    return [each.message_id for each in database.page(number, after=0, until=10**9, at_most=10**6)]
