"""Seeks and snapshots of long backlogs: in pieces, beside other work, and on a disk that refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from transports.local.catalog import Attached
from transports.local.database import Database
from transports.local.delivery import Consumer
from transports.local.engine import Engine
from transports.local.errors import NotFoundError, UnavailableError
from transports.local.housekeeping import PIECE_MESSAGES
from transports.local.ledger import now_us
from transports.local.model import Draft, RetryPolicy, Snapshot, Subscription, Topic
from transports.local.tables import Tables
from transports.local.writer import Writer

TOPIC = Topic("projects/p/topics/topic")
SUBSCRIPTION = Subscription("projects/p/subscriptions/one", TOPIC.name, 600, 600, None, retain_acked=True)
SNAPSHOT = "projects/p/snapshots/one"
#: Messages of a backlog that takes several pieces.
LONG = 3 * PIECE_MESSAGES + 1


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
            ids += await self.engine.publish(TOPIC.name, [Draft(b"x")] * min(1000, count - len(ids)))
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

    async def snapshot(self) -> None:
        await self.engine.replays.create_snapshot(Snapshot(SNAPSHOT, "", 0), SUBSCRIPTION.name)

    def waiting(self) -> int:
        """Count what would be delivered, in memory and on disk, which must agree."""
        in_memory = len(self.attached.dispatcher.backlog)
        assert self.database.tally(self.attached.number).total == in_memory
        return in_memory

    def kept(self, number: int) -> int:
        """Count what is kept for somebody."""
        sql = "SELECT count(*) FROM kept WHERE keeper = ?"
        (count,) = self.database._reader.execute(sql, (number,)).fetchone()
        return int(count)

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


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Give a function that runs a scenario on a topic with one subscription."""

    async def main(scenario: Scenario) -> None:
        bench = Bench(tmp_path)
        bench.writer.start()
        await bench.engine.start()
        try:
            await bench.engine.administration.create_topic(TOPIC)
            await bench.engine.administration.create_subscription(SUBSCRIPTION)
            await scenario(bench)
        finally:
            bench.engine.close()
            bench.writer.stop()
            bench.database.close()

    return lambda scenario: asyncio.run(main(scenario))


def count_pieces(monkeypatch: pytest.MonkeyPatch, bench: Bench, name: str) -> None:
    """Count how often a piece of a long change is carried out."""
    real = getattr(Tables, name)

    def counted(tables: Tables, *args: object, **options: object) -> object:
        bench.pieces += 1
        return real(tables, *args, **options)

    monkeypatch.setattr(Tables, name, counted)


class TestLongOnes:
    def test_a_seek_back_brings_everything_back_in_pieces(self, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.publish(LONG)
            await bench.handle(LONG)
            count_pieces(monkeypatch, bench, "bring_back")
            seek = asyncio.ensure_future(bench.engine.replays.seek_to_time(SUBSCRIPTION.name, 0))
            await bench.publish(1)
            await seek
            assert bench.pieces == 5
            assert bench.waiting() == LONG + 1
            await bench.handle(LONG + 1)
            assert bench.waiting() == 0

        play(scenario)

    def test_a_seek_to_a_snapshot_brings_back_and_drops_in_pieces(
        self, play: Play, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.publish(LONG)
            await bench.snapshot()
            await bench.handle(LONG)
            await bench.publish(LONG)
            count_pieces(monkeypatch, bench, "drop_others")
            await bench.engine.replays.seek_to_snapshot(SUBSCRIPTION.name, SNAPSHOT)
            assert bench.pieces == 8
            assert bench.waiting() == 2 * LONG
            # Of the other half nothing was in the snapshot.
            await bench.engine.replays.delete_snapshot(SNAPSHOT)
            await bench.engine.replays.seek_to_time(SUBSCRIPTION.name, now_us() + 1)
            await bench.snapshot()
            await bench.engine.replays.seek_to_time(SUBSCRIPTION.name, 0)
            assert bench.waiting() == 2 * LONG
            await bench.engine.replays.seek_to_snapshot(SUBSCRIPTION.name, SNAPSHOT)
            assert bench.waiting() == 0

        play(scenario)

    def test_others_are_served_between_the_pieces(self, play: Play) -> None:
        async def scenario(bench: Bench) -> None:
            other = replace(SUBSCRIPTION, name="projects/p/subscriptions/other", retain_acked=False)
            await bench.publish(LONG)
            await bench.handle(LONG)
            await bench.engine.administration.create_subscription(other)
            seek = asyncio.ensure_future(bench.engine.replays.seek_to_time(SUBSCRIPTION.name, 0))
            for _ in range(3):
                await bench.publish(1)
                assert not seek.done()
            await seek
            assert bench.waiting() == LONG + 3

        play(scenario)

    def test_what_is_kept_no_longer_is_swept_in_pieces_afterwards(
        self, play: Play, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.publish(LONG)
            await bench.handle(LONG)
            count_pieces(monkeypatch, bench, "sweep_kept")
            await bench.engine.administration.update_subscription(
                SUBSCRIPTION.name, lambda settings: replace(settings, retain_acked=False)
            )
            await bench.engine.replays.seek_to_time(SUBSCRIPTION.name, 0)
            assert bench.waiting() == 0
            async with asyncio.timeout(30):
                while bench.kept(bench.attached.number):
                    await asyncio.sleep(0.01)
            assert bench.pieces >= 4

        play(scenario)

    def test_what_waits_for_its_next_try_still_waits(self, play: Play) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.engine.administration.update_subscription(
                SUBSCRIPTION.name, lambda settings: replace(settings, retry=RetryPolicy(300, 600))
            )
            old, _ = await bench.publish(2)
            _, tried = await bench.take(2)
            bench.engine.modify_ack_deadline(SUBSCRIPTION.name, [tried], 0)
            await bench.engine.replays.drop_until(bench.attached, old)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await bench.engine.deliveries(bench.attached, Consumer(ack_deadline_seconds=600))
            bench.attached.dispatcher.backlog.lapse(asyncio.get_running_loop().time() + 301)
            await bench.handle(1)

        play(scenario)


class TestRefused:
    def test_a_seek_whose_commit_failed_changes_nothing(self, play: Play) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.publish(5)
            seek = bench.engine.replays.seek_to_time(SUBSCRIPTION.name, now_us() + 1)
            (result,) = await bench.while_the_writer_waits(seek)
            assert isinstance(result, UnavailableError)
            assert bench.waiting() == 5
            await bench.handle(5)

        play(scenario)

    @pytest.mark.parametrize("piece", [1, 2, 3])
    def test_one_that_failed_on_its_way_can_be_repeated(
        self, play: Play, monkeypatch: pytest.MonkeyPatch, piece: int
    ) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.publish(LONG)
            await bench.handle(LONG - 10)
            real = Tables.bring_back

            def fail(tables: Tables, *args: Any, **options: Any) -> int | None:
                bench.pieces += 1
                if bench.pieces == piece:
                    tables._connection.execute("the disk refuses")
                return real(tables, *args, **options)

            monkeypatch.setattr(Tables, "bring_back", fail)
            with pytest.raises(UnavailableError):
                await bench.engine.replays.seek_to_time(SUBSCRIPTION.name, 0)
            assert bench.waiting() >= 10
            await bench.engine.replays.seek_to_time(SUBSCRIPTION.name, 0)
            assert bench.waiting() == LONG
            await bench.handle(LONG)

        play(scenario)

    def test_a_snapshot_that_was_not_stored_keeps_nothing(self, play: Play) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.publish(1)
            published = bench.engine.publish(TOPIC.name, [Draft(b"x")])
            result, _ = await bench.while_the_writer_waits(bench.snapshot(), published)
            assert isinstance(result, UnavailableError)
            assert bench.engine.catalog.all_snapshots() == []
            await bench.snapshot()
            (known,) = bench.engine.catalog.all_snapshots()
            assert bench.kept(known.number) == 1
            assert sum(bench.kept(number) for number in range(known.number)) == 0

        play(scenario)

    def test_a_subscription_deleted_during_its_seek_leaves_nothing(self, play: Play) -> None:
        async def scenario(bench: Bench) -> None:
            ids = await bench.publish(LONG)
            await bench.handle(LONG)
            seek = asyncio.ensure_future(bench.engine.replays.seek_to_time(SUBSCRIPTION.name, 0))
            await bench.publish(1)
            await bench.engine.administration.delete_subscription(SUBSCRIPTION.name)
            with pytest.raises(NotFoundError):
                await seek
            async with asyncio.timeout(30):
                while bench.database.contents().condemned:
                    await asyncio.sleep(0.01)
            assert bench.database.messages(ids) == []

        play(scenario)
