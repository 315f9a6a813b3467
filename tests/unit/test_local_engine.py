"""The broker without a network, on a disk that refuses: what was not stored has not happened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from local_bench import eventually, started
from local_tables import refuse_to_write, stored

from transports.local.dispatch.delivery import Consumer
from transports.local.engine import Engine
from transports.local.errors import AlreadyExistsError, NotFoundError, UnavailableError
from transports.local.model import Delivery, Draft, Subscription, Topic
from transports.local.storage.database import Database
from transports.local.storage.writer import Writer

TOPIC = Topic("projects/p/topics/topic")
SUBSCRIPTION = Subscription("projects/p/subscriptions/one", TOPIC.name, 600, 600, None)


class Bench:
    """An engine, and a disk that a test can make refuse."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path / "broker.db")
        self.writer = Writer(self.database)
        self.engine = Engine(self.database, self.writer)

    def refuse_to_write(self, refuse: bool) -> None:
        refuse_to_write(self.database, refuse)

    async def take(self) -> Delivery:
        """Wait for one message and lease it."""
        consumer = Consumer(ack_deadline_seconds=600, max_messages=1)
        async with asyncio.timeout(30):
            attached = self.engine.catalog.subscription(SUBSCRIPTION.name)
            (delivery,) = await self.engine.deliveries(attached, consumer)
            return delivery

    async def take_body(self) -> bytes:
        return (await self.take()).message.payload


async def acknowledge_at_once(bench: Bench, *requests: list[str]) -> list[list[str] | BaseException]:
    """Acknowledge several times, in one turn of the loop; return for each the stale ack ids, or what was raised."""
    return await asyncio.gather(
        *(bench.engine.acknowledge(SUBSCRIPTION.name, each) for each in requests), return_exceptions=True
    )


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[Bench]:
    bench = Bench(path)
    async with started(bench.database, bench.writer, bench.engine):
        yield bench


Scenario = Callable[[Bench], Coroutine[Any, Any, None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Scenario], None]:
    """Give a function that runs a scenario on a topic with one subscription."""

    async def main(scenario: Scenario) -> None:
        async with running(tmp_path) as bench:
            await bench.engine.administration.create_topic(TOPIC)
            await bench.engine.administration.create_subscription(SUBSCRIPTION)
            await scenario(bench)

    return lambda scenario: asyncio.run(main(scenario))


def test_a_message_that_was_not_stored_is_not_delivered(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        bench.refuse_to_write(True)
        with pytest.raises(UnavailableError, match="cannot store"):
            await bench.engine.publish(TOPIC.name, [Draft(b"lost")])
        bench.refuse_to_write(False)
        await bench.engine.publish(TOPIC.name, [Draft(b"kept")])
        assert await bench.take_body() == b"kept"

    play(scenario)


def test_a_message_whose_acknowledgement_was_not_stored_comes_again_when_its_lease_ends(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.engine.publish(TOPIC.name, [Draft(b"one")])
        delivery = await bench.take()
        bench.refuse_to_write(True)
        with pytest.raises(UnavailableError):
            await bench.engine.acknowledge(SUBSCRIPTION.name, [delivery.ack_id])
        bench.refuse_to_write(False)
        attached = bench.engine.catalog.subscription(SUBSCRIPTION.name)
        assert (attached.waiting, attached.leased) == (0, 1)
        attached.dispatcher.backlog.lapse(asyncio.get_running_loop().time() + 601)
        again = await bench.take()
        assert again.message == delivery.message
        assert again.ack_id != delivery.ack_id

    play(scenario)


def test_an_acknowledgement_that_was_not_stored_can_be_repeated(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.engine.publish(TOPIC.name, [Draft(b"one")])
        delivery = await bench.take()
        bench.refuse_to_write(True)
        with pytest.raises(UnavailableError):
            await bench.engine.acknowledge(SUBSCRIPTION.name, [delivery.ack_id])
        bench.refuse_to_write(False)
        await bench.engine.acknowledge(SUBSCRIPTION.name, [delivery.ack_id])
        assert len(bench.engine.catalog.subscription(SUBSCRIPTION.name).dispatcher.backlog) == 0
        await bench.engine.followed()
        assert stored(bench.database) == []

    play(scenario)


@pytest.mark.parametrize("exactly_once", [False, True])
def test_who_acknowledges_what_is_on_its_way_to_the_disk_waits_for_it(tmp_path: Path, exactly_once: bool) -> None:
    async def main() -> None:
        async with running(tmp_path) as bench:
            await bench.engine.administration.create_topic(TOPIC)
            await bench.engine.administration.create_subscription(replace(SUBSCRIPTION, exactly_once=exactly_once))
            await bench.engine.publish(TOPIC.name, [Draft(b"one")])
            ack_id = (await bench.take()).ack_id
            bench.refuse_to_write(True)
            refused = await acknowledge_at_once(bench, [ack_id], [ack_id], [ack_id])
            assert [type(each) for each in refused] == [UnavailableError] * 3
            bench.refuse_to_write(False)
            assert await acknowledge_at_once(bench, [ack_id, ack_id], [ack_id]) == [[], []]
            assert await acknowledge_at_once(bench, [ack_id]) == [[ack_id]]
            assert bench.engine._settling._under_way == {}

    asyncio.run(main())


def test_one_who_does_not_wait_any_more_leaves_the_acknowledgement_to_the_other(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.engine.publish(TOPIC.name, [Draft(b"one")])
        delivery = await bench.take()
        # Both ask in one turn of the loop; the commit is made in the next.
        asked = [bench.engine.acknowledge(SUBSCRIPTION.name, [delivery.ack_id]) for _ in range(2)]
        asked[0].cancel()
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert found[1] == []
        await bench.engine.followed()
        assert stored(bench.database) == []

    play(scenario)


def test_a_seek_that_was_not_stored_drops_nothing(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.engine.publish(TOPIC.name, [Draft(b"one")])
        await bench.engine.followed()
        bench.refuse_to_write(True)
        with pytest.raises(UnavailableError):
            await bench.engine.replays.seek_to_time(SUBSCRIPTION.name, 2**60)
        assert await bench.take_body() == b"one"

    play(scenario)


def test_what_was_not_stored_was_not_created_changed_or_deleted(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        bench.refuse_to_write(True)
        other = Topic("projects/p/topics/other")
        for change in (
            bench.engine.administration.create_topic(other),
            bench.engine.administration.delete_topic(TOPIC.name),
            bench.engine.administration.delete_subscription(SUBSCRIPTION.name),
            bench.engine.administration.update_topic(TOPIC.name, lambda topic: replace(topic, labels={"a": "b"})),
        ):
            with pytest.raises(UnavailableError):
                await change
        with pytest.raises(NotFoundError):
            bench.engine.catalog.topic(other.name)
        assert bench.engine.catalog.topic(TOPIC.name).settings == TOPIC
        assert bench.engine.catalog.subscription(SUBSCRIPTION.name).settings == SUBSCRIPTION

    play(scenario)


def test_of_two_who_create_the_same_at_once_one_succeeds(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        topic = Topic("projects/p/topics/race")
        results = await asyncio.gather(
            *(bench.engine.administration.create_topic(topic) for _ in range(3)), return_exceptions=True
        )
        refused = [each for each in results if each != topic]
        assert len(refused) == 2
        assert all(isinstance(each, AlreadyExistsError) for each in refused)

    play(scenario)


def test_messages_for_a_subscription_deleted_meanwhile_leave_nothing_on_disk(play: Callable[[Scenario], None]) -> None:
    async def scenario(bench: Bench) -> None:
        await asyncio.gather(
            bench.engine.publish(TOPIC.name, [Draft(b"one")]),
            bench.engine.administration.delete_subscription(SUBSCRIPTION.name),
        )
        await eventually(lambda: list(bench.database.contents().condemned) == [])
        assert stored(bench.database) == []

    play(scenario)
