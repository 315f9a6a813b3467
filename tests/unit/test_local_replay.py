"""Seeks and snapshots of long backlogs: in pieces, beside other work, and on a disk that refuses."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from local_tables import stored
from replay_bench import LONG, SNAPSHOT, SUBSCRIPTION, Bench, Play, count_pieces, player

from transports.local.clock import now_us
from transports.local.dispatch.delivery import Consumer
from transports.local.errors import NotFoundError, UnavailableError
from transports.local.model import RetryPolicy
from transports.local.storage.tables import Tables


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return player(tmp_path)


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
            (old,), _ = await bench.publish(1), await bench.publish(1)
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
            published = bench.publish(1)
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
            await bench.publish(LONG)
            await bench.handle(LONG)
            seek = asyncio.ensure_future(bench.engine.replays.seek_to_time(SUBSCRIPTION.name, 0))
            await bench.publish(1)
            await bench.engine.administration.delete_subscription(SUBSCRIPTION.name)
            with pytest.raises(NotFoundError):
                await seek
            async with asyncio.timeout(30):
                while bench.database.contents().condemned:
                    await asyncio.sleep(0.01)
            assert stored(bench.database) == []

        play(scenario)
