"""Who gets what: consumers that wait, on a real event loop."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest
from backlog_bench import Shelf

from transports.local.dispatch.backlog import Backlog, Policy
from transports.local.dispatch.delivery import Consumer, Dispatcher
from transports.local.errors import UnavailableError
from transports.local.model import Draft, Pending
from transports.local.storage.bundles import bundled


class Bench:
    """A dispatcher and what it reported."""

    def __init__(self) -> None:
        self.delivered_ids: list[int] = []
        self.returned_ids: list[int] = []
        self.dead_ids: list[int] = []
        self.extensions: list[tuple[int, float]] = []
        self.consumers_when_awaited: list[int] = []
        backlog = Backlog(Shelf(), first_token=1)
        self.dispatcher = Dispatcher(backlog, tokens=itertools.count(1), observer=self)

    def awaited(self) -> None:
        self.consumers_when_awaited.append(self.dispatcher.consumers)

    def delivered(self, batch: Sequence[Pending], seconds: float) -> None:
        self.delivered_ids += [each.message_id for each in batch]

    def extended(self, leases: Sequence[tuple[Pending, float]]) -> None:
        self.extensions += [(each.message_id, seconds) for each, seconds in leases]

    def returned(self, messages: Sequence[Pending]) -> None:
        self.returned_ids += [each.message_id for each in messages]

    def died(self, messages: Sequence[Pending]) -> None:
        self.dead_ids += [each.message_id for each in messages]

    def publish(self, *ids: int, size: int = 10) -> None:
        found = [bundle for each in ids for bundle in bundled(each, 1, [Draft(b"x" * size)])]
        self.dispatcher.add([(each, each.whole) for each in found], ordered=False)

    async def next_ids(self, consumer: Consumer) -> list[int]:
        async with asyncio.timeout(30):
            return [each.message_id for each in await self.dispatcher.next_batch(consumer)]


def consumer(max_messages: int = 0, ack_deadline_seconds: int = 600) -> Consumer:
    return Consumer(ack_deadline_seconds=ack_deadline_seconds, max_messages=max_messages)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(main)


def test_waiting_consumers_share_what_comes() -> None:
    async def main() -> None:
        bench = Bench()
        waiting = [asyncio.ensure_future(bench.next_ids(consumer())) for _ in range(3)]
        await asyncio.sleep(0)
        bench.publish(1, 2, 3, 4, 5, 6)
        assert await asyncio.gather(*waiting) == [[1, 2], [3, 4], [5, 6]]
        assert bench.consumers_when_awaited == [1, 2, 3], "what is on its way to them is asked for as they come"

    run(main())


def test_a_consumer_without_room_does_not_lessen_the_share_of_others() -> None:
    async def main() -> None:
        bench = Bench()
        full = consumer(max_messages=1)
        bench.publish(1)
        assert await bench.next_ids(full) == [1]
        waiting = asyncio.ensure_future(bench.next_ids(full))
        await asyncio.sleep(0)
        bench.publish(2, 3, 4)
        assert await bench.next_ids(consumer()) == [2, 3, 4]
        bench.dispatcher.backlog.settle(1, 1)
        bench.publish(5)
        assert await waiting == [5]

    run(main())


def test_a_cancelled_consumer_gives_back_what_it_was_just_handed() -> None:
    async def main() -> None:
        bench = Bench()
        waiting = asyncio.ensure_future(bench.next_ids(consumer()))
        await asyncio.sleep(0)
        bench.publish(1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await bench.next_ids(consumer()) == [1]

    run(main())


def test_a_lease_that_runs_out_wakes_a_waiting_consumer() -> None:
    async def main() -> None:
        bench = Bench()
        bench.publish(1)
        await bench.next_ids(consumer(ack_deadline_seconds=0))
        assert await bench.next_ids(consumer()) == [1]
        assert bench.delivered_ids == [1, 1]
        assert bench.returned_ids == [1]

    run(main())


def test_a_delay_that_is_over_wakes_a_waiting_consumer() -> None:
    async def main() -> None:
        bench = Bench()
        bench.dispatcher.backlog.policy = Policy(min_delay_seconds=0.05, max_delay_seconds=1)
        bench.publish(1)
        assert await bench.next_ids(consumer()) == [1]
        bench.dispatcher.extend(1, 1, 0)
        assert bench.dispatcher.backlog.next_deadline() is not None
        assert await bench.next_ids(consumer()) == [1]

    run(main())


def test_a_dead_message_is_reported_and_goes_to_nobody() -> None:
    async def main() -> None:
        bench = Bench()
        bench.dispatcher.backlog.policy = Policy(max_attempts=1)
        bench.publish(1, 2)
        assert await bench.next_ids(consumer(max_messages=1)) == [1]
        bench.dispatcher.extend(1, 1, 0)
        assert await bench.next_ids(consumer()) == [2]
        assert bench.dead_ids == [1]

    run(main())


def test_a_consumer_that_was_cancelled_a_moment_ago_gets_nothing() -> None:
    async def main() -> None:
        bench = Bench()
        waiting = asyncio.ensure_future(bench.next_ids(consumer()))
        await asyncio.sleep(0)
        waiting.cancel()
        bench.publish(1)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await bench.next_ids(consumer()) == [1]

    run(main())


def test_closing_ends_those_who_wait_and_those_who_come() -> None:
    async def main() -> None:
        bench = Bench()
        waiting = asyncio.ensure_future(bench.next_ids(consumer()))
        await asyncio.sleep(0)
        bench.dispatcher.close(UnavailableError("stopping"))
        with pytest.raises(UnavailableError):
            await waiting
        with pytest.raises(UnavailableError):
            await bench.next_ids(consumer())

    run(main())


def test_nothing_is_scheduled_while_nothing_can_happen() -> None:
    async def main() -> None:
        bench = Bench()
        waiting = asyncio.ensure_future(bench.next_ids(consumer()))
        await asyncio.sleep(0)
        assert bench.dispatcher._timer is None
        waiting.cancel()

    run(main())


def test_a_large_backlog_comes_in_batches_of_bounded_size() -> None:
    async def main() -> None:
        bench = Bench()
        bench.publish(*range(1, 11), size=400_000)
        assert await bench.next_ids(consumer()) == [1, 2]

    run(main())


def test_extensions_are_reported_once_and_for_what_is_still_leased() -> None:
    async def main() -> None:
        bench = Bench()
        bench.publish(1, 2, 3)
        batch = await bench.dispatcher.next_batch(consumer())
        for each in batch:
            assert bench.dispatcher.extend(each.message_id, each.token, 100)
            assert bench.dispatcher.extend(each.message_id, each.token, 300)
        bench.dispatcher.backlog.settle(1, batch[0].token)
        bench.dispatcher.extend(2, batch[1].token, 0)
        assert bench.extensions == []
        bench.dispatcher.close(UnavailableError("stopping"))
        assert bench.extensions == [(3, pytest.approx(300, abs=60))]

    run(main())
