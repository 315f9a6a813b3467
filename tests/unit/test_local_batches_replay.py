"""Batches that were partly handled, over seeks, snapshots, retention and restarts: the rest comes, once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from batch_bench import acknowledge, draft, nothing_left, number_of, publish, take
from local_bench import SUBSCRIPTION, eventually, run, running, set_up
from local_tables import stored

from transports.local.clock import now_us
from transports.local.errors import RequestError
from transports.local.model import DeadLetterPolicy, Snapshot
from transports.local.storage.bundles import BUNDLE_MESSAGES
from transports.local.storage.tables import Tables


class TestReplay:
    def test_a_part_that_was_acknowledged_comes_back_with_its_attempts_anew(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            policy = DeadLetterPolicy("projects/p/topics/dead", 5)
            async with set_up(tmp_path, retain_acked=True, dead_letter=policy) as bench:
                await publish(bench, [draft(each) for each in range(200)])
                for _ in range(2):
                    found = await take(bench, 200)
                    bench.engine.modify_ack_deadline(SUBSCRIPTION.name, [each.ack_id for each in found], 0)
                found = await take(bench, 200)
                assert {each.attempt for each in found} == {3}
                await acknowledge(bench, found[::2])
                bench.engine.modify_ack_deadline(SUBSCRIPTION.name, [each.ack_id for each in found[1::2]], 0)
                await bench.engine.replays.seek_to_time(SUBSCRIPTION.name, 0)
                again = await take(bench, 200)
                assert [number_of(each) for each in again] == list(range(200))
                assert [each.attempt for each in again] == [1, 4] * 100
                await acknowledge(bench, again)
                await bench.engine.replays.seek_to_time(SUBSCRIPTION.name, now_us() + 1_000_000)
                assert len(bench.attached.dispatcher.backlog) == 0

        run(scenario())

    def test_what_was_held_at_a_seek_is_not_delivered_twice_and_can_be_acknowledged(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with set_up(tmp_path, retain_acked=True) as bench:
                await publish(bench, [draft(each) for each in range(200)])
                found = await take(bench, 150)
                await acknowledge(bench, found[:100])
                await bench.engine.replays.seek_to_time(SUBSCRIPTION.name, 0)
                again = await take(bench, 150)
                assert [number_of(each) for each in again] == [*range(100), *range(150, 200)]
                await acknowledge(bench, found[100:])
                await acknowledge(bench, again)
                assert bench.database.tally(bench.attached.number).total == 0

        run(scenario())

    def test_a_snapshot_of_a_part_brings_back_that_part_and_what_came_later(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with set_up(tmp_path) as bench:
                await publish(bench, [draft(each) for each in range(200)])
                found = await take(bench, 200)
                await acknowledge(bench, found[::3])
                snapshot = Snapshot("projects/p/snapshots/one", "", 0)
                await bench.engine.replays.create_snapshot(snapshot, SUBSCRIPTION.name)
                await publish(bench, [draft(each) for each in range(200, 400)])
                later = await take(bench, 200)
                await acknowledge(bench, [*found[1::3], *later[::2]])
                await bench.engine.replays.seek_to_snapshot(SUBSCRIPTION.name, snapshot.name)
                expected = [each for each in range(400) if each >= 200 or each % 3]
                again = await take(bench, len(expected))
                assert [number_of(each) for each in again] == expected
                await acknowledge(bench, again)
                await bench.engine.replays.delete_snapshot(snapshot.name)
                await eventually(lambda: not stored(bench.database))
                nothing_left(bench)

        run(scenario())

    def test_retention_drops_a_bundle_partly_handled_and_not_the_next(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with set_up(tmp_path) as bench:
                ids = await publish(bench, [draft(each) for each in range(BUNDLE_MESSAGES + 10)])
                found = await take(bench, 50)
                await acknowledge(bench, found[::2])
                bench.age(ids[0], 700)
                bench.look()
                await eventually(lambda: len(stored(bench.database)) == 10)
                left = await take(bench, 10)
                assert [each.message.id for each in left] == ids[BUNDLE_MESSAGES:]
                stale = [each.ack_id for each in found[1::2]]
                assert await bench.engine.acknowledge(SUBSCRIPTION.name, stale) == stale
                await acknowledge(bench, left)
                nothing_left(bench)

        run(scenario())


class TestRestart:
    @pytest.mark.parametrize("exactly_once", [False, True])
    def test_what_was_leased_stays_so_and_what_was_acknowledged_is_gone(
        self, tmp_path: Path, exactly_once: bool
    ) -> None:
        async def scenario() -> None:
            async with set_up(tmp_path, exactly_once=exactly_once) as bench:
                await publish(bench, [draft(each) for each in range(300)])
                held = await take(bench, 200)
                await acknowledge(bench, held[::4])
                given_back = held[1::4]
                bench.engine.modify_ack_deadline(SUBSCRIPTION.name, [each.ack_id for each in given_back], 0)
                await asyncio.sleep(0)
            held = [each for each in held if number_of(each) % 4 > 1]
            async with running(tmp_path) as bench:
                assert len(bench.attached.dispatcher.backlog) == 250
                found = await take(bench, 150)
                assert [number_of(each) for each in found] == [*range(1, 200, 4), *range(200, 300)]
                stale = [each.ack_id for each in given_back]
                assert await bench.engine.acknowledge(SUBSCRIPTION.name, stale) == stale
                await acknowledge(bench, held)
                await acknowledge(bench, found)
                nothing_left(bench)

        run(scenario())

    def test_attempts_of_a_part_are_counted_on(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            policy = DeadLetterPolicy("projects/p/topics/dead", 5)
            async with set_up(tmp_path, dead_letter=policy) as bench:
                await publish(bench, [draft(each) for each in range(200)])
                found = await take(bench, 100)
                bench.engine.modify_ack_deadline(SUBSCRIPTION.name, [each.ack_id for each in found], 0)
                await asyncio.sleep(0)
            async with running(tmp_path) as bench:
                found = await take(bench, 200)
                assert [number_of(each) for each in found] == list(range(200))
                assert [each.attempt for each in found] == [2] * 100 + [1] * 100

        run(scenario())

    def test_a_seek_that_a_restart_broke_off_leaves_a_part_to_be_delivered_once(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            async with set_up(tmp_path, retain_acked=True) as bench:
                await publish(bench, [draft(each) for each in range(2000)])
                found = await take(bench, 2000)
                await acknowledge(bench, found[::2])
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(Tables, "bring_back", _once(Tables.bring_back))
                    with pytest.raises(RequestError):
                        await bench.engine.replays.seek_to_time(SUBSCRIPTION.name, 0)
                back = len(bench.attached.dispatcher.backlog)
                assert 1000 < back < 2000
            async with running(tmp_path) as bench:
                assert len(bench.attached.dispatcher.backlog) == back
                await bench.engine.replays.seek_to_time(SUBSCRIPTION.name, 0)
                again = await take(bench, 1000)
                assert [number_of(each) for each in again] == list(range(0, 2000, 2))
                await acknowledge(bench, [*again, *found[1::2]])
                assert bench.database.tally(bench.attached.number).total == 0

        run(scenario())


def _once(method: Callable[..., int | None]) -> Callable[..., int | None]:
    """Have a disk carry out one piece of a long change, and refuse the second."""
    calls = iter(range(100))

    def piece(tables: Tables, *args: object, **options: object) -> int | None:
        if next(calls) == 1:
            tables._connection.execute("the disk refuses")
        return method(tables, *args, **options)

    return piece
