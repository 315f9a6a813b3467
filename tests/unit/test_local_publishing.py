"""Numbering what is published: no id is given out twice, whatever happens between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from local_bench import payload
from local_tables import refuse_to_write

from transports.local import wire
from transports.local.dispatch.delivery import Consumer
from transports.local.engine import Engine
from transports.local.errors import UnavailableError
from transports.local.model import Delivery, Draft, Subscription, Topic
from transports.local.storage import debt
from transports.local.storage.database import Database
from transports.local.storage.writer import Writer
from transports.local.subscriber import SubscriberService

TOPIC = Topic("projects/p/topics/topic")
SUBSCRIPTION = Subscription("projects/p/subscriptions/one", TOPIC.name, 600, 600, None)


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[tuple[Engine, Database]]:
    """Run a broker without a network; what it leaves is what a killed one leaves, too."""
    database = Database(path / "broker.db")
    writer = Writer(database)
    writer.start()
    engine = Engine(database, writer)
    await engine.start()
    try:
        yield engine, database
    finally:
        engine.close()
        writer.stop()
        database.close()


def play(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(main())


async def setup(engine: Engine) -> None:
    await engine.administration.create_topic(TOPIC)
    await engine.administration.create_subscription(SUBSCRIPTION)


async def handle_all(engine: Engine) -> None:
    """Take and acknowledge what waits."""
    attached = engine.catalog.subscription(SUBSCRIPTION.name)
    await engine.followed()
    while attached.waiting:
        found = await engine.deliveries(attached, Consumer(ack_deadline_seconds=600))
        assert await engine.acknowledge(SUBSCRIPTION.name, [each.ack_id for each in found]) == []
        await engine.followed()


@pytest.mark.parametrize("count", [1, 1000])
def test_ids_grow_over_restarts_although_nothing_of_the_old_ones_is_left(tmp_path: Path, count: int) -> None:
    async def scenario() -> None:
        ids: list[int] = []
        for number in range(4):
            async with running(tmp_path) as (engine, database):
                if number == 0:
                    await setup(engine)
                for _ in range(3):
                    ids += await engine.publish(TOPIC.name, [Draft(b"x")] * count)
                await handle_all(engine)
                assert database.tally(engine.catalog.subscription(SUBSCRIPTION.name).number).total == 0
        assert ids == sorted(set(ids))

    play(scenario)


def test_an_id_that_was_taken_while_the_disk_refused_is_not_given_out_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (engine, database):
            await setup(engine)
            refuse_to_write(database, True)
            with pytest.raises(UnavailableError):
                await engine.publish(TOPIC.name, [Draft(b"x")])
            refuse_to_write(database, False)
            before = await engine.publish(TOPIC.name, [Draft(b"x")])
            await handle_all(engine)
        async with running(tmp_path) as (engine, _):
            assert await engine.publish(TOPIC.name, [Draft(b"x")]) > before

    play(scenario)


def test_a_publish_whose_request_has_gone_is_delivered_all_the_same(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (engine, _):
            await setup(engine)
            request = engine.publish(TOPIC.name, [Draft(b"x")])
            request.cancel()
            attached = engine.catalog.subscription(SUBSCRIPTION.name)
            (delivery,) = await engine.deliveries(attached, Consumer(ack_deadline_seconds=600))
            assert request.cancelled()
            engine.acknowledge(SUBSCRIPTION.name, [delivery.ack_id]).cancel()
        async with running(tmp_path) as (engine, _):
            assert len(engine.catalog.subscription(SUBSCRIPTION.name).dispatcher.backlog) == 0

    play(scenario)


def test_what_is_published_together_with_a_dead_letter_is_delivered(tmp_path: Path) -> None:
    """What is in company is stored in another way than the rest, and comes to memory in the same order."""

    async def scenario() -> None:
        async with running(tmp_path) as (engine, database):
            await setup(engine)
            letter = engine._publishing.publish(TOPIC.name, [Draft(b"letter")], lambda tables: None)
            ordinary = engine.publish(TOPIC.name, [Draft(b"ordinary")])
            ids = [*await letter, *await ordinary]
            attached = engine.catalog.subscription(SUBSCRIPTION.name)
            found = await engine.deliveries(attached, Consumer(ack_deadline_seconds=600))
            assert [each.message.id for each in found] == ids
            assert len(attached.dispatcher.backlog) == database.tally(attached.number).total == 2

    play(scenario)


def test_a_pull_that_does_not_wait_gets_what_was_confirmed_just_now(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (engine, _):
            await setup(engine)
            await engine.publish(TOPIC.name, [Draft(payload(bytes(10**6)))])
            request = wire.request_type("PullRequest")(
                subscription=SUBSCRIPTION.name, max_messages=1, return_immediately=True
            )
            response = await SubscriberService(engine).pull(request, 0)
            assert len(response.received_messages) == 1

    play(scenario)


@pytest.mark.parametrize("waits", [True, False])
def test_a_message_comes_at_once_to_who_waits_and_to_who_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (engine, _):
            await setup(engine)
            coming: Awaitable[list[Delivery]] = engine.deliveries(
                engine.catalog.subscription(SUBSCRIPTION.name), Consumer(ack_deadline_seconds=600)
            )
            if waits:
                coming = asyncio.ensure_future(coming)
                await asyncio.sleep(0)
            (number,) = await engine.publish(TOPIC.name, [Draft(payload(b"x"))])
            async with asyncio.timeout(30):
                (found,) = await coming
            assert found.message.id == number

    monkeypatch.setattr(debt, "FOLLOW_SECONDS", 3600)
    play(scenario)
