"""Acknowledgements under way: forged ones harm nobody, and they go on whoever stops waiting."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from batch_bench import draft, publish
from local_bench import DAY_SECONDS, SUBSCRIPTION, TOPIC, Bench, eventually, run, running, set_up

from transports.local.ackids import AckId
from transports.local.model import Snapshot
from transports.local.storage import debt, wanted


async def _left(path: Path, count: int) -> list[int]:
    """Leave messages on disk that an earlier broker has published; return their ids."""
    async with set_up(path) as bench:
        return await publish(bench, [draft(number) for number in range(count)])


def _forged(bench: Bench, message: int, token: int = 7) -> str:
    """Return an ack id that no broker gave out, as one of an earlier run might look."""
    return str(AckId(bench.attached.number, message, token))


def _remaining(bench: Bench) -> tuple[int, int]:
    """Return how many messages there are in memory and on disk."""
    return len(bench.attached.dispatcher.backlog), bench.database.tally(bench.attached.number).total


def test_two_messages_of_one_token_are_both_acknowledged(tmp_path: Path) -> None:
    async def main() -> None:
        one, two, *_ = await _left(tmp_path, 3)
        async with running(tmp_path) as bench:
            forged = [_forged(bench, one), _forged(bench, two)]
            assert await bench.engine.acknowledge(SUBSCRIPTION.name, forged) == []
            await bench.engine.followed()
            assert _remaining(bench) == (1, 1)

    run(main())


def test_two_requests_of_one_token_are_both_answered(tmp_path: Path) -> None:
    async def main() -> None:
        one, two, *_ = await _left(tmp_path, 3)
        async with running(tmp_path) as bench:
            asked = [bench.engine.acknowledge(SUBSCRIPTION.name, [_forged(bench, each)]) for each in (one, two)]
            assert await asyncio.gather(*asked) == [[], []]
            await bench.engine.followed()
            assert _remaining(bench) == (1, 1)

    run(main())


def test_one_named_twice_in_a_request_is_acknowledged_once_and_good(tmp_path: Path) -> None:
    async def main() -> None:
        async with set_up(tmp_path) as bench:
            await publish(bench, [draft(1), draft(2)])
            taken = await bench.take()
            assert await bench.engine.acknowledge(SUBSCRIPTION.name, [taken.ack_id] * 2) == []
            await bench.engine.followed()
            assert _remaining(bench) == (1, 1)

    run(main())


def test_only_with_exactly_once_delivery_it_is_synced_before_it_is_confirmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(folder: Path, *, exactly_once: bool) -> bool:
        folder.mkdir()
        async with set_up(folder, exactly_once=exactly_once) as bench:
            await publish(bench, [draft(1)])
            taken = await bench.take()
            await bench.engine.followed()
            assert not bench.database.redo.unsynced
            assert await bench.engine.acknowledge(SUBSCRIPTION.name, [taken.ack_id]) == []
            return bench.database.redo.unsynced

    monkeypatch.setattr(wanted, "SLOW_SECONDS", 60)
    assert asyncio.run(main(tmp_path / "at least once", exactly_once=False))
    assert not asyncio.run(main(tmp_path / "exactly once", exactly_once=True))


def test_one_that_waits_for_its_moment_is_carried_out_although_nobody_waits_for_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with set_up(tmp_path) as bench:
            await publish(bench, [draft(1)])
            taken = await bench.take()
            async with bench.attached.gate:
                asked = bench.engine.acknowledge(SUBSCRIPTION.name, [taken.ack_id])
                await asyncio.sleep(0)
                await bench.engine.followed()
                assert _remaining(bench) == (1, 1)
                asked.cancel()
            assert await bench.engine.acknowledge(SUBSCRIPTION.name, [taken.ack_id]) == []
            await bench.engine.followed()
            assert _remaining(bench) == (0, 0)

    run(main())


def test_a_snapshot_right_after_it_ends_as_late_as_one_of_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with set_up(tmp_path, retention_seconds=7 * DAY_SECONDS) as bench:
            (old,) = await publish(bench, [draft(1)])
            await bench.engine.followed()
            bench.age(old, 7 * DAY_SECONDS - 60)
            taken = await bench.take()
            await eventually(lambda: not bench.engine._ledger._commits._wanted)  # who has it is written down
            monkeypatch.setattr(debt, "FOLLOW_SECONDS", 3600)
            assert await bench.engine.acknowledge(SUBSCRIPTION.name, [taken.ack_id]) == []
            await bench.engine.replays.create_snapshot(
                Snapshot("projects/p/snapshots/s", TOPIC.name, 0), SUBSCRIPTION.name
            )

    run(main())
