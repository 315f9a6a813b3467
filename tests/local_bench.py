"""An engine of the local broker on a directory, without a network, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from transports.local import loops
from transports.local.catalog import Attached
from transports.local.clock import now_us
from transports.local.dispatch.delivery import Consumer
from transports.local.engine import Engine
from transports.local.model import Delivery, Draft, Subscription, Topic
from transports.local.storage.database import Database
from transports.local.storage.writer import Writer
from transports.local.wire import request_type

DAY_SECONDS = 86400
TOPIC = Topic("projects/p/topics/topic")
DEAD = Topic("projects/p/topics/dead")
SUBSCRIPTION = Subscription("projects/p/subscriptions/one", TOPIC.name, 600, 600, DAY_SECONDS)
GRAVEYARD = Subscription("projects/p/subscriptions/graveyard", DEAD.name, 600, 600, None)


def payload(body: bytes) -> bytes:
    """Return a message as it is stored."""
    data: bytes = request_type("PubsubMessage")(data=body).SerializeToString()
    return data


class Bench:
    """An engine on a directory."""

    def __init__(self, path: Path, grace_seconds: float) -> None:
        self.database = Database(path / "broker.db")
        self.writer = Writer(self.database)
        self.engine = Engine(self.database, self.writer, grace_seconds=grace_seconds)

    @property
    def attached(self) -> Attached:
        return self.engine.catalog.subscription(SUBSCRIPTION.name)

    async def publish(self, *bodies: bytes) -> list[int]:
        ids = await self.engine.publish(TOPIC.name, [Draft(payload(body)) for body in bodies])
        await self.engine.followed()
        return ids

    async def take(self, name: str = SUBSCRIPTION.name, seconds: int = 600) -> Delivery:
        """Wait for one message and lease it."""
        consumer = Consumer(ack_deadline_seconds=seconds, max_messages=1)
        async with asyncio.timeout(30):
            (delivery,) = await self.engine.deliveries(self.engine.catalog.subscription(name), consumer)
            return delivery

    async def settle(self, delivery: Delivery) -> None:
        await self.engine.acknowledge(SUBSCRIPTION.name, [delivery.ack_id])
        await self.engine.followed()

    def age(self, message: int, seconds: int) -> None:
        """Have a message published so long ago."""
        published_us = now_us() - seconds * 1_000_000
        sql = "UPDATE bundles SET published_us = ? WHERE first = ?"
        self.writer.submit(lambda tables: tables._connection.execute(sql, (published_us, message))).result(30)

    def look(self) -> None:
        """Have everything looked at that is due."""
        self.engine._housekeeper.watch(self.attached)
        self.engine._housekeeper.watch_topic(self.engine.catalog.topic(TOPIC.name))


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(path: Path, grace_seconds: float = 0.1) -> AsyncIterator[Bench]:
    bench = Bench(path, grace_seconds)
    async with started(bench.database, bench.writer, bench.engine):
        yield bench


@asynccontextmanager
async def started(database: Database, writer: Writer, engine: Engine) -> AsyncIterator[None]:
    """Have an engine at work, and take down in order what it stands on."""
    writer.start()
    await engine.start()
    try:
        yield
    finally:
        engine.close()
        writer.stop()
        database.close()


@asynccontextmanager
async def set_up(path: Path, topic: Topic = TOPIC, **changes: Any) -> AsyncIterator[Bench]:
    """Run an engine with a topic and a subscription of it, and where dead letters go."""
    async with running(path) as bench:
        for each in (topic, DEAD):
            await bench.engine.administration.create_topic(each)
        for settings in (replace(SUBSCRIPTION, **changes), GRAVEYARD):
            await bench.engine.administration.create_subscription(settings)
        yield bench


def run(main: Coroutine[Any, Any, None]) -> None:
    loops.run(main)
