"""What the broker does when nobody asks, and what it takes up after a restart: engines on real files."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from transports.local.catalog import Attached
from transports.local.database import Database
from transports.local.delivery import Consumer
from transports.local.engine import Engine
from transports.local.errors import FailedPreconditionError
from transports.local.ledger import now_us
from transports.local.model import DeadLetterPolicy, Delivery, Draft, Snapshot, Subscription, Topic
from transports.local.wire import request_type
from transports.local.writer import Writer

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
        return await self.engine.publish(TOPIC.name, [Draft(payload(body)) for body in bodies])

    async def take(self, name: str = SUBSCRIPTION.name) -> Delivery:
        """Wait for one message and lease it."""
        consumer = Consumer(ack_deadline_seconds=600, max_messages=1)
        async with asyncio.timeout(30):
            (delivery,) = await self.engine.deliveries(self.engine.catalog.subscription(name), consumer)
            return delivery

    async def settle(self, delivery: Delivery) -> None:
        await self.engine.acknowledge(SUBSCRIPTION.name, [delivery.ack_id])

    def age(self, message: int, seconds: int) -> None:
        """Have a message published so long ago."""
        published_us = now_us() - seconds * 1_000_000
        sql = "UPDATE messages SET published_us = ? WHERE id = ?"
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
    bench.writer.start()
    await bench.engine.start()
    try:
        yield bench
    finally:
        bench.engine.close()
        bench.writer.stop()
        bench.database.close()


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
    asyncio.run(main)


class TestRetention:
    def test_a_message_that_is_too_old_is_dropped_whether_leased_or_not(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with set_up(tmp_path) as bench:
                old, leased = await bench.publish(b"old", b"leased")
                await bench.take()
                (young,) = await bench.publish(b"young")
                bench.age(old, 601)
                bench.age(leased, 601)
                bench.look()
                await eventually(lambda: len(bench.attached.dispatcher.backlog) == 1)
                await eventually(lambda: [each.id for each in bench.database.messages([old, leased, young])] == [young])
                assert (await bench.take()).message.id == young

        run(main())

    def test_what_was_acknowledged_and_kept_is_dropped_too(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with set_up(tmp_path, retain_acked=True) as bench:
                (old,) = await bench.publish(b"old")
                await bench.settle(await bench.take())
                assert bench.database.messages([old])
                bench.age(old, 601)
                bench.look()
                await eventually(lambda: bench.database.messages([old]) == [])

        run(main())

    def test_what_a_topic_retains_is_dropped_in_time(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with set_up(tmp_path, topic=replace(TOPIC, retention_seconds=700)) as bench:
                old, young = await bench.publish(b"old", b"young")
                for _ in range(2):
                    await bench.settle(await bench.take())
                bench.age(old, 701)
                bench.look()
                await eventually(lambda: [each.id for each in bench.database.messages([old, young])] == [young])

        run(main())


class TestExpiration:
    def test_a_subscription_that_nobody_used_is_deleted(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with set_up(tmp_path) as bench:
                attached = bench.attached
                attached.used_us = now_us() - (DAY_SECONDS + 1) * 1_000_000
                bench.engine._housekeeper._started_us = 0
                bench.look()
                await eventually(lambda: not bench.engine.catalog.has(attached))

        run(main())

    @pytest.mark.parametrize("why", ["never", "used", "waited for", "just started"])
    def test_it_is_not_where_there_is_a_reason(self, tmp_path: Path, why: str) -> None:
        async def main() -> None:
            expiration = None if why == "never" else DAY_SECONDS
            async with set_up(tmp_path, expiration_seconds=expiration) as bench:
                bench.engine._housekeeper._started_us = now_us() if why == "just started" else 0
                bench.attached.used_us = now_us() if why == "used" else 0
                waiting = asyncio.ensure_future(bench.take()) if why == "waited for" else None
                await asyncio.sleep(0)
                bench.look()
                (message,) = await bench.publish(b"one")
                bench.age(message, 601)
                bench.look()
                await eventually(lambda: len(bench.attached.dispatcher.backlog) == 0)
                if waiting is not None:
                    waiting.cancel()

        run(main())

    def test_the_last_use_is_remembered_over_a_restart(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with set_up(tmp_path) as bench:
                used_us = bench.attached.used_us
            async with running(tmp_path) as bench:
                assert bench.attached.used_us == used_us > 0

        run(main())

    def test_a_snapshot_ends(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with set_up(tmp_path) as bench:
                replays, catalog = bench.engine.replays, bench.engine.catalog
                name = "projects/p/snapshots/one"
                await replays.create_snapshot(Snapshot(name, "", 0), SUBSCRIPTION.name)
                known = catalog.snapshot(name)
                known.settings = replace(known.settings, expires_us=now_us())
                bench.engine._housekeeper.watch_snapshot(known)
                await eventually(lambda: catalog.all_snapshots() == [])

        run(main())

    def test_a_snapshot_that_would_end_at_once_is_refused(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with set_up(tmp_path, retention_seconds=10 * DAY_SECONDS) as bench:
                (old,) = await bench.publish(b"old")
                bench.age(old, 7 * DAY_SECONDS - 3000)
                with pytest.raises(FailedPreconditionError, match="less than an hour"):
                    await bench.engine.replays.create_snapshot(
                        Snapshot("projects/p/snapshots/one", "", 0), SUBSCRIPTION.name
                    )

        run(main())


class TestAfterARestart:
    def test_what_was_leased_comes_again_after_a_moment(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with set_up(tmp_path) as bench:
                await bench.publish(b"leased", b"ready")
                await bench.take()
            async with running(tmp_path, grace_seconds=0.3) as bench:
                started = time.monotonic()
                assert (await bench.take()).message.payload == payload(b"ready")
                assert (await bench.take()).message.payload == payload(b"leased")
                assert time.monotonic() - started > 0.2

        run(main())

    def test_what_was_given_back_comes_at_once(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with set_up(tmp_path) as bench:
                await bench.publish(b"one")
                bench.engine.modify_ack_deadline(SUBSCRIPTION.name, [(await bench.take()).ack_id], 0)
                await asyncio.sleep(0)
            async with running(tmp_path, grace_seconds=600) as bench:
                assert (await bench.take()).message.payload == payload(b"one")

        run(main())

    def test_attempts_go_on_being_counted(self, tmp_path: Path) -> None:
        async def main() -> None:
            policy = DeadLetterPolicy(DEAD.name, 5)
            async with set_up(tmp_path, dead_letter=policy) as bench:
                await bench.publish(b"one")
                assert (await bench.take()).attempt == 1
            for attempt in (2, 3, 4, 5):
                async with running(tmp_path) as bench:
                    assert (await bench.take()).attempt == attempt
            async with running(tmp_path) as bench:
                assert b"one" in (await bench.take(GRAVEYARD.name)).message.payload

        run(main())

    def test_a_long_backlog_is_swept_to_its_end(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with set_up(tmp_path) as bench:
                ids = await bench.publish(*(b"x" for _ in range(1000)))
                ids += await bench.publish(*(b"x" for _ in range(1000)))
                await bench.engine.replays.seek_to_time(SUBSCRIPTION.name, now_us() + 1)
                assert len(bench.attached.dispatcher.backlog) == 0
            async with running(tmp_path) as bench:
                assert len(bench.attached.dispatcher.backlog) == 0
                await eventually(lambda: bench.database.messages(ids) == [])

        run(main())


class TestDeadLetters:
    def test_without_their_topic_they_are_delivered_again(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with set_up(tmp_path, dead_letter=DeadLetterPolicy(DEAD.name, 5)) as bench:
                await bench.engine.administration.delete_topic(DEAD.name)
                await bench.publish(b"one")
                for attempt in range(1, 8):
                    delivery = await bench.take()
                    assert delivery.attempt == attempt
                    bench.engine.modify_ack_deadline(SUBSCRIPTION.name, [delivery.ack_id], 0)

        run(main())

    def test_one_that_the_disk_refused_to_forward_is_delivered_again(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with set_up(tmp_path, dead_letter=DeadLetterPolicy(DEAD.name, 5)) as bench:
                await bench.publish(b"one")
                for _ in range(5):
                    delivery = await bench.take()
                    bench.database._writer.execute(f"PRAGMA query_only = {int(delivery.attempt == 5)}")
                    bench.engine.modify_ack_deadline(SUBSCRIPTION.name, [delivery.ack_id], 0)
                again = await bench.take()
                bench.database._writer.execute("PRAGMA query_only = 0")
                assert again.attempt == 6
                await bench.settle(again)

        run(main())
