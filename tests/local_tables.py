"""Rows for tests of the local broker's tables: messages, who waits for them, who keeps them."""

from __future__ import annotations

from collections.abc import Sequence

from transports.local.database import Database
from transports.local.model import DeadLetterPolicy, RetryPolicy, Snapshot, StoredMessage, Subscription, Topic
from transports.local.tables import Tables

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


def add(tables: Tables, *ids: int, backlogs: Sequence[int] = (), kept: Sequence[int] = (), key: str = "") -> None:
    """Store messages that these subscriptions wait for, and these keepers keep."""
    tables.add_messages(messages(*ids))
    tables.add_to_backlogs((number, each, key) for each in ids for number in backlogs)
    tables.keep((number, each) for each in ids for number in kept)


def waiting(database: Database, number: int) -> list[int]:
    return [each.message_id for each in database.page(number, after=0, until=10**9, at_most=10**6)]
