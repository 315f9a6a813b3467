"""Exactly-once delivery on both servers: only the last ack id of a message is valid, and a lost one is told."""

from __future__ import annotations

import logging
import queue
from collections.abc import Iterator

import pytest
from kombu import Queue
from kombu.message import Message
from pubsub_client import PubSub
from studio import wait_for
from test_pubsub_bench import GPU, LIMIT, Broker, Taker

from transports.errors import LeasesRefused
from transports.pubsub.options import Options
from transports.pubsub.server.client import Client
from transports.pubsub.server.url import parse


@pytest.fixture
def broker(pubsub: PubSub) -> Iterator[Broker]:
    """A project of its own on each server."""
    with Broker(pubsub) as found:
        yield found


class Losses:
    """What `on_lease_lost` was called with."""

    def __init__(self) -> None:
        self._told: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.options = {"exactly_once": True, "on_lease_lost": self._told.put, "renew_fraction": 1 / 3}

    def next(self) -> str:
        return self._told.get(timeout=LIMIT)

    @property
    def empty(self) -> bool:
        return self._told.empty()


@pytest.fixture
def losses() -> Losses:
    return Losses()


@pytest.fixture
def taker(broker: Broker, losses: Losses) -> Taker:
    """A consumer of a queue with exactly-once delivery, with one message on its way."""
    found = broker.taker(GPU, options=losses.options)
    broker.publish("x")
    return found


def steal(broker: Broker, taker: Taker, message: Message) -> str:
    """Have a message delivered to somebody else, as if its lease had run out; return the other's ack id.

    Its first renewal, which comes by itself, is over then, and the next one is far away.
    """
    wait_for("its first renewal", lambda: message.lease.expires_at > message.lease.taken_at + 30)
    taker.consumer.cancel()
    wait_for("the end of its stream", lambda: not taker.channel.link.client.calls.streams)
    name = broker.pubsub.subscription("celery-gpu")
    broker.pubsub.subscriber.modify_ack_deadline(
        subscription=name, ack_ids=[message.lease.ack_id], ack_deadline_seconds=0
    )
    (received,) = broker.pubsub.pull(name)
    broker.pubsub.modify(name, received, seconds=600)
    assert received.message.message_id == message.lease.message_id
    return received.ack_id


class TestSubscriptions:
    def test_the_option_makes_lasting_queues_so_and_temporary_ones_not(self, broker: Broker) -> None:
        connection = broker.connect(exactly_once=True)
        channel = connection.channel()
        for declared in (GPU, Queue("jobs", max_priority=1), Queue("reply", auto_delete=True)):
            declared(channel).declare()
        channel.basic_consume("reply", True, print)
        listed = broker.pubsub.subscriber.list_subscriptions(project=broker.pubsub.project)
        found = {each.name.rpartition("/")[2]: each.enable_exactly_once_delivery for each in listed}
        assert found == {"celery-gpu": True, "celery-jobs": True, "celery-priority~1~jobs": True, "celery-reply": False}

    def test_without_the_option_none_is(self, broker: Broker) -> None:
        broker.publish("x")
        path = broker.pubsub.subscription("celery-gpu")
        assert not broker.pubsub.subscriber.get_subscription(subscription=path).enable_exactly_once_delivery

    def test_leases_of_less_than_a_minute_are_never_asked_for(self, broker: Broker) -> None:
        """Pub/Sub does not promise to respect shorter ones."""
        with broker.through_proxy(exactly_once=True, lease_ceiling_seconds=600) as (proxy, connection):
            taker = Taker(connection, GPU)
            connection.Producer().publish("x", routing_key="gpu")
            (message,) = taker.take()
            calls = wait_for("a lease", lambda: proxy.calls("ModifyAckDeadline"))
            assert all((call.seconds or 0) >= 60 for call in calls)
            message.ack()


class TestLeases:
    def test_a_message_is_delivered_and_acknowledged_once(self, broker: Broker, taker: Taker, losses: Losses) -> None:
        assert taker.bodies(1) == ["x"]
        assert taker.channel.link.keeper.flush(LIMIT)
        assert not broker.waiting("celery-gpu")
        assert losses.empty

    def test_the_acknowledgement_of_a_lost_lease_is_told_and_the_message_stays_the_others(
        self, broker: Broker, taker: Taker, losses: Losses, caplog: pytest.LogCaptureFixture
    ) -> None:
        (message,) = taker.take()
        theirs = steal(broker, taker, message)
        with caplog.at_level(logging.ERROR, "transports"):
            message.ack()
            assert losses.next() == message.lease.message_id
        assert "its acknowledgement was refused" in caplog.text
        name = broker.pubsub.subscription("celery-gpu")
        broker.pubsub.subscriber.modify_ack_deadline(subscription=name, ack_ids=[theirs], ack_deadline_seconds=0)
        (again,) = broker.pubsub.pull(name)
        assert again.message.message_id == message.lease.message_id

    def test_of_many_acknowledgements_only_the_lost_one_is_told(
        self, broker: Broker, taker: Taker, losses: Losses
    ) -> None:
        broker.publish(*range(20))
        messages = taker.take(21)
        steal(broker, taker, messages[7])
        keeper = taker.channel.link.keeper
        messages[-1].ack(multiple=True)
        assert keeper.flush(LIMIT)
        assert losses.next() == messages[7].lease.message_id
        assert losses.empty
        assert not broker.waiting("celery-gpu")

    def test_a_lost_lease_is_noticed_when_it_is_renewed(self, broker: Broker, losses: Losses) -> None:
        options = {**losses.options, "renew_fraction": 0.01}
        taker = broker.taker(GPU, options=options)
        broker.publish("x")
        (message,) = taker.take()
        steal(broker, taker, message)
        assert losses.next() == message.lease.message_id
        assert message.lease.lost

    def test_giving_back_a_lost_lease_harms_nobody(self, broker: Broker, taker: Taker) -> None:
        (message,) = taker.take()
        steal(broker, taker, message)
        message.requeue()
        assert taker.channel.link.keeper.flush(LIMIT)
        assert not broker.waiting("celery-gpu")

    def test_surplus_and_deferred_messages_come_back(self, broker: Broker, losses: Losses) -> None:
        broker.publish("a", "b", "c")
        taker = broker.taker(GPU, options=losses.options, prefetch=1)
        (first,) = taker.take()
        first.defer(2)
        assert sorted(taker.bodies(3)) == ["a", "b", "c"]
        assert losses.empty


def test_of_many_stale_ack_ids_each_is_told(pubsub: PubSub) -> None:
    subscription = pubsub.setup(enable_exactly_once_delivery=True)
    pubsub.publish(*map(str, range(1000)))
    ack_ids = [each.ack_id for each in pubsub.pull(subscription, 1000)]
    project = pubsub.project.rpartition("/")[2]
    client = Client(parse(f"pubsub://{pubsub.address}/{project}", environ={}), Options(rpc_timeout_seconds=LIMIT))
    try:
        client.acknowledge("subscription", ack_ids)
        with pytest.raises(LeasesRefused) as caught:
            client.acknowledge("subscription", ack_ids)
        assert caught.value.lost == set(ack_ids)
    finally:
        client.close()
