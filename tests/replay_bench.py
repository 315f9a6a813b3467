"""A broker's engine with one subscription: what tests of seeks and snapshots share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from local_bench import started

from transports.local.catalog import Attached
from transports.local.dispatch.delivery import Consumer
from transports.local.engine import Engine
from transports.local.housekeeping import PIECE_MESSAGES
from transports.local.model import Draft, Snapshot, Subscription, Topic
from transports.local.storage.bundles import Part
from transports.local.storage.database import Database
from transports.local.storage.tables import Tables
from transports.local.storage.writer import Writer

TOPIC = Topic("projects/p/topics/topic")
SUBSCRIPTION = Subscription("projects/p/subscriptions/one", TOPIC.name, 600, 600, None, retain_acked=True)
SNAPSHOT = "projects/p/snapshots/one"
#: Messages of a backlog that takes several pieces.
LONG = 3 * PIECE_MESSAGES + 1
#: Most messages in one request, which is a bundle; a piece is some of them.
BATCH = 100


class Bench:
    """An engine with one subscription."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path / "broker.db")
        self.writer = Writer(self.database)
        self.engine = Engine(self.database, self.writer)
        self.pieces = 0

    @property
    def attached(self) -> Attached:
        return self.engine.catalog.subscription(SUBSCRIPTION.name)

    async def publish(self, count: int) -> list[int]:
        ids: list[int] = []
        while len(ids) < count:
            ids += await self.engine.publish(TOPIC.name, [Draft(b"x")] * min(BATCH, count - len(ids)))
        await self.engine.followed()
        return ids

    async def take(self, count: int) -> list[str]:
        """Lease so many messages; return their ack ids."""
        ack_ids: list[str] = []
        while len(ack_ids) < count:
            consumer = Consumer(ack_deadline_seconds=600, max_messages=count - len(ack_ids))
            async with asyncio.timeout(30):
                ack_ids += [each.ack_id for each in await self.engine.deliveries(self.attached, consumer)]
        return ack_ids

    async def handle(self, count: int) -> None:
        assert await self.engine.acknowledge(SUBSCRIPTION.name, await self.take(count)) == []
        await self.engine.followed()

    async def snapshot(self) -> None:
        await self.engine.replays.create_snapshot(Snapshot(SNAPSHOT, "", 0), SUBSCRIPTION.name)

    def waiting(self) -> int:
        """Count what would be delivered, in memory and on disk, which must agree."""
        in_memory = len(self.attached.dispatcher.backlog)
        assert self.database.tally(self.attached.number).total == in_memory
        return in_memory

    def kept(self, number: int) -> int:
        """Count what is kept for somebody."""
        rows = self.database._reader.execute("SELECT first, last, members FROM kept WHERE keeper = ?", (number,))
        return sum(Part.read(*row).total for row in rows.fetchall())

    async def while_the_writer_waits(self, *works: Coroutine[Any, Any, object]) -> list[object]:
        """Have works share one transaction, and a last change fail it."""
        waits, go_on = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def wait(tables: Tables) -> None:
            loop.call_soon_threadsafe(waits.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(30)

        def fail(tables: Tables) -> None:
            tables._connection.execute("the disk refuses")

        self.writer.submit(wait)
        await waits.wait()
        tasks = [asyncio.ensure_future(each) for each in works]
        await asyncio.sleep(0.05)
        self.writer.submit(fail)
        go_on.set()
        return await asyncio.gather(*tasks, return_exceptions=True)


Scenario = Callable[[Bench], Coroutine[Any, Any, None]]
Play = Callable[[Scenario], None]


def player(path: Path) -> Play:
    """Return a function that runs a scenario on a topic with one subscription."""

    async def main(scenario: Scenario) -> None:
        bench = Bench(path)
        async with started(bench.database, bench.writer, bench.engine):
            await bench.engine.administration.create_topic(TOPIC)
            await bench.engine.administration.create_subscription(SUBSCRIPTION)
            await scenario(bench)

    return lambda scenario: asyncio.run(main(scenario))


def count_pieces(monkeypatch: pytest.MonkeyPatch, bench: Bench, name: str) -> None:
    """Count how often a piece of a long change is carried out."""
    real = getattr(Tables, name)

    def counted(tables: Tables, *args: object, **options: object) -> object:
        bench.pieces += 1
        return real(tables, *args, **options)

    monkeypatch.setattr(Tables, name, counted)
