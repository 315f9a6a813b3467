"""Batches of numbered messages for tests of the local broker's engine: published, taken, acknowledged, all gone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from local_bench import SUBSCRIPTION, TOPIC, Bench
from local_tables import stored

from transports.local.dispatch.delivery import Consumer
from transports.local.model import Delivery, Draft
from transports.local.wire import request_type

OTHER = replace(SUBSCRIPTION, name="projects/p/subscriptions/other")


def draft(number: int, *, key: str = "", size: int = 0) -> Draft:
    """Return a message that says its number, in its data and, ``parity``, in an attribute."""
    attributes = {"parity": "odd" if number % 2 else "even"}
    message = request_type("PubsubMessage")(data=b"%d-" % number + b"x" * size, attributes=attributes, ordering_key=key)
    return Draft(message.SerializeToString(), attributes, key)


def number_of(delivery: Delivery) -> int:
    data: bytes = request_type("PubsubMessage").FromString(delivery.message.payload).data
    return int(data.split(b"-")[0])


async def publish(bench: Bench, drafts: Sequence[Draft]) -> list[int]:
    ids = await bench.engine.publish(TOPIC.name, drafts)
    await bench.engine.followed()
    return ids


async def take(bench: Bench, count: int, name: str = SUBSCRIPTION.name, seconds: int = 600) -> list[Delivery]:
    """Lease so many messages, in as few batches as there are."""
    found: list[Delivery] = []
    attached = bench.engine.catalog.subscription(name)
    while len(found) < count:
        consumer = Consumer(ack_deadline_seconds=seconds, max_messages=count - len(found))
        async with asyncio.timeout(30):
            found += await bench.engine.deliveries(attached, consumer)
    return found


async def acknowledge(bench: Bench, deliveries: Sequence[Delivery], name: str = SUBSCRIPTION.name) -> None:
    assert await bench.engine.acknowledge(name, [each.ack_id for each in deliveries]) == []
    await bench.engine.followed()


def nothing_left(bench: Bench) -> None:
    """See that memory and disk agree that nobody waits for anything, and that nothing lies there for nobody."""
    for attached in bench.engine.catalog.everything():
        assert len(attached.dispatcher.backlog) == bench.database.tally(attached.number).total == 0
    assert stored(bench.database) == []
    for table in ("bundles", "backlog", "deliveries", "kept"):
        assert bench.database._reader.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def sizes(bench: Bench) -> list[int]:
    """Return how many messages each bundle has that is on disk."""
    rows = bench.database._reader.execute("SELECT last - first + 1 FROM bundles ORDER BY first").fetchall()
    return [count for (count,) in rows]
