"""Who gets what: consumers that wait, on a real event loop."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from transports.local.backlog import Backlog
from transports.local.delivery import Consumer, Dispatcher
from transports.local.errors import UnavailableError
from transports.local.model import Pending

RETENTION_SECONDS = 600


class Bench:
    """A dispatcher and what it reported."""

    def __init__(self, *pending: Pending) -> None:
        self.dropped: list[int] = []
        self.delivered: list[int] = []
        self.something_dropped = asyncio.Event()
        backlog = Backlog(first_token=1)
        for each in pending:
            backlog.add(each)
        self.dispatcher = Dispatcher(
            backlog,
            tokens=itertools.count(1),
            on_delivered=lambda batch: self.delivered.extend(each.message_id for each in batch),
            on_dropped=self._drop,
            retention_seconds=RETENTION_SECONDS,
        )

    def _drop(self, ids: Sequence[int]) -> None:
        self.dropped += ids
        self.something_dropped.set()

    def publish(self, *ids: int, age_seconds: float = 0) -> None:
        published_us = time.time_ns() // 1000 - int(age_seconds * 1_000_000)
        self.dispatcher.add([Pending(each, published_us, 10) for each in ids])

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
        bench.dispatcher.settle(1, 1)
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
        assert bench.delivered == [1, 1]

    run(main())


def test_messages_older_than_the_retention_are_dropped_at_the_start() -> None:
    async def main() -> None:
        old = time.time_ns() // 1000 - (RETENTION_SECONDS + 1) * 1_000_000
        bench = Bench(Pending(1, old, 10), Pending(2, time.time_ns() // 1000, 10))
        assert bench.dropped == [1]
        assert await bench.next_ids(consumer()) == [2]

    run(main())


def test_messages_are_dropped_when_they_become_too_old() -> None:
    async def main() -> None:
        bench = Bench()
        bench.publish(1, age_seconds=RETENTION_SECONDS - 0.2)
        assert bench.dropped == []
        async with asyncio.timeout(30):
            await bench.something_dropped.wait()
        assert bench.dropped == [1]
        assert len(bench.dispatcher.backlog) == 0

    run(main())


def test_a_shorter_retention_counts_at_once() -> None:
    async def main() -> None:
        bench = Bench()
        bench.publish(1, age_seconds=500)
        bench.publish(2)
        bench.dispatcher.set_retention(400)
        assert bench.dropped == [1]

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
        now = time.time_ns() // 1000
        bench.dispatcher.add([Pending(number, now, 400_000) for number in range(10)])
        one: Sequence[int] = await bench.next_ids(consumer())
        assert list(one) == [0, 1]

    run(main())
