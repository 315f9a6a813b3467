"""Seeks and snapshots beside publishing and acknowledging: memory and disk agree whatever the disk refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from local_tables import stored
from replay_bench import BATCH, LONG, SNAPSHOT, SUBSCRIPTION, TOPIC, Bench, Play, count_pieces, player

from transports.local import housekeeping
from transports.local.dispatch.backlog import PAGE_MESSAGES
from transports.local.errors import AlreadyExistsError, NotFoundError, UnavailableError
from transports.local.model import DELETED_TOPIC, Pending
from transports.local.storage.bundles import bits_by_bundle
from transports.local.storage.tables import Tables


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return player(tmp_path)


def refuse(monkeypatch: pytest.MonkeyPatch, name: str, times: int) -> None:
    """Have a change fail, so many times."""
    real, left = getattr(Tables, name), [times]

    def refusing(tables: Tables, *args: Any, **options: Any) -> object:
        left[0] -= 1
        if left[0] >= 0:
            tables._connection.execute("the disk refuses")
        return real(tables, *args, **options)

    monkeypatch.setattr(Tables, name, refusing)


async def eventually(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():
            await asyncio.sleep(0)


class TestASeekRefusedOnItsWay:
    @pytest.mark.parametrize("times", [1, 2, 4])
    def test_what_it_acknowledged_is_nobodys(self, play: Play, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.publish(3)
            await bench.handle(3)
            await bench.snapshot()
            await bench.engine.replays.seek_to_time(SUBSCRIPTION.name, 0)
            await bench.take(1)
            monkeypatch.setattr(housekeeping, "_FOLLOW_US", 20_000)
            refuse(monkeypatch, "set_floor", times)
            with pytest.raises(UnavailableError):
                await bench.engine.replays.seek_to_snapshot(SUBSCRIPTION.name, SNAPSHOT)
            await eventually(lambda: not bench.attached.dispatcher.backlog.changing)
            assert (bench.waiting(), bench.attached.leased, bench.attached.waiting) == (0, 0, 0)
            await bench.publish(1)
            await bench.handle(1)

        play(scenario)

    def test_who_waits_is_served_once_the_disk_is_well(self, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.publish(LONG)
            await bench.handle(LONG)
            monkeypatch.setattr(housekeeping, "_FOLLOW_US", 20_000)
            refuse(monkeypatch, "set_floor", 3)
            with pytest.raises(UnavailableError):
                await bench.engine.replays.seek_to_time(SUBSCRIPTION.name, 0)
            await bench.handle(LONG)
            assert bench.waiting() == 0

        play(scenario)

    def test_the_next_seek_ends_it_too(self, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.publish(3)
            await bench.handle(3)
            await bench.snapshot()
            await bench.engine.replays.seek_to_time(SUBSCRIPTION.name, 0)
            await bench.take(1)
            refuse(monkeypatch, "set_floor", 2)
            with pytest.raises(UnavailableError):
                await bench.engine.replays.seek_to_snapshot(SUBSCRIPTION.name, SNAPSHOT)
            await bench.engine.replays.seek_to_time(SUBSCRIPTION.name, 0)
            assert (bench.waiting(), bench.attached.leased) == (3, 0)
            await bench.handle(3)

        play(scenario)


def test_what_is_gone_from_the_disk_does_not_occupy_a_consumer(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        gone, _ = await bench.publish(2)
        found = [Pending(gone, 0, 0, bundle=gone)]
        bench.writer.submit(
            lambda tables: tables.settle(bench.attached.number, bits_by_bundle(found), keep=False, snapshot=None)
        ).result(30)
        await bench.handle(1)
        assert (bench.waiting(), bench.attached.leased) == (0, 0)

    play(scenario)


def test_who_waits_while_old_messages_are_dropped_is_served_afterwards(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        ids = await bench.publish(LONG)
        await bench.take(PAGE_MESSAGES)
        dropped = asyncio.ensure_future(bench.engine.replays.drop_until(bench.attached, ids[BATCH - 1]))
        await asyncio.sleep(0)
        assert bench.attached.dispatcher.backlog.changing
        assert len(await bench.take(1)) == 1
        await dropped

    play(scenario)


class TestASnapshotBeingMade:
    def test_what_is_acknowledged_meanwhile_is_not_in_it(self, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
        async def scenario(bench: Bench) -> None:
            count_pieces(monkeypatch, bench, "take_snapshot")
            await bench.publish(LONG)
            ack_ids = await bench.take(LONG)
            making = asyncio.ensure_future(bench.snapshot())
            await eventually(lambda: bench.pieces > 0)
            # The first piece has passed the one, not yet the other.
            assert await bench.engine.acknowledge(SUBSCRIPTION.name, [ack_ids[0], ack_ids[-1]]) == []
            assert bench.pieces < 4
            await making
            (known,) = bench.engine.catalog.all_snapshots()
            assert bench.kept(known.number) == LONG - 2
            assert await bench.engine.acknowledge(SUBSCRIPTION.name, ack_ids[1:2]) == []
            await bench.engine.replays.seek_to_snapshot(SUBSCRIPTION.name, SNAPSHOT)
            assert bench.waiting() == LONG - 2

        play(scenario)

    def test_its_end_does_not_wait_for_that_of_publishing(self, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.publish(LONG)
            count_pieces(monkeypatch, bench, "take_snapshot")
            making = asyncio.ensure_future(bench.snapshot())
            published = 0
            while not making.done() and published < 100:
                published += len(await bench.publish(1))
            await making
            assert bench.pieces == 5
            (known,) = bench.engine.catalog.all_snapshots()
            assert bench.kept(known.number) == LONG + published

        play(scenario)

    def test_a_seek_looks_at_nothing_that_is_published_meanwhile(
        self, play: Play, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.publish(LONG)
            await bench.snapshot()
            for name in ("bring_back", "drop_others"):
                count_pieces(monkeypatch, bench, name)
            seek = asyncio.ensure_future(bench.engine.replays.seek_to_snapshot(SUBSCRIPTION.name, SNAPSHOT))
            published = 0
            while not seek.done() and published < 100:
                published += len(await bench.publish(1))
            await seek
            assert bench.pieces == 10
            assert bench.waiting() == LONG + published

        play(scenario)

    def test_others_create_and_delete_meanwhile(self, play: Play) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.publish(LONG)
            making = asyncio.ensure_future(bench.snapshot())
            await bench.publish(1)
            with pytest.raises(AlreadyExistsError):
                await bench.snapshot()
            await bench.engine.administration.delete_topic(TOPIC.name)
            assert not making.done()
            await making
            (known,) = bench.engine.catalog.all_snapshots()
            assert known.settings.topic == DELETED_TOPIC
            stored = bench.database.contents()
            assert dict(stored.snapshots) == {known.number: known.settings}
            assert known.number not in stored.condemned

        play(scenario)

    def test_it_ends_with_its_subscription_and_leaves_nothing(self, play: Play) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.publish(LONG)
            making = asyncio.ensure_future(bench.snapshot())
            await bench.publish(1)
            await bench.engine.administration.delete_subscription(SUBSCRIPTION.name)
            with pytest.raises(NotFoundError):
                await making
            await eventually(lambda: not bench.database.contents().condemned)
            assert stored(bench.database) == []
            await bench.engine.administration.create_subscription(SUBSCRIPTION)
            await bench.snapshot()

        play(scenario)


class TestAStop:
    def test_it_does_not_wait_for_a_long_seek(self, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.publish(LONG)
            await bench.handle(LONG)
            count_pieces(monkeypatch, bench, "bring_back")
            seek = asyncio.ensure_future(bench.engine.replays.seek_to_time(SUBSCRIPTION.name, 0))
            await eventually(lambda: bench.pieces > 0)
            bench.engine.close()
            with pytest.raises(UnavailableError, match="stopping"):
                await seek
            assert bench.pieces < 4
            assert bench.waiting() >= 1

        play(scenario)

    def test_it_does_not_wait_for_a_long_snapshot(self, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
        async def scenario(bench: Bench) -> None:
            await bench.publish(LONG)
            count_pieces(monkeypatch, bench, "take_snapshot")
            making = asyncio.ensure_future(bench.snapshot())
            await eventually(lambda: bench.pieces > 0)
            bench.engine.close()
            with pytest.raises(UnavailableError, match="stopping"):
                await making
            assert bench.pieces < 4
            # The next broker sweeps it.
            assert len(bench.database.contents().condemned) == 1
            assert bench.database.contents().snapshots == {}

        play(scenario)
