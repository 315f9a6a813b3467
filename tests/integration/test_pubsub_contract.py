"""What kombu's users do with any broker, on both servers: queues, simple queues, mixins, pools, bodies."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Iterator
from queue import Empty
from typing import Any

import pytest
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.exceptions import OperationalError
from kombu.message import Message
from kombu.mixins import ConsumerProducerMixin
from kombu.pools import connections, producers, reset
from ports import kept_port
from pubsub_client import PubSub
from studio import wait_for
from test_pubsub_bench import FAST, GPU, LIMIT, Broker

from transports.errors import ServerUnavailable


@pytest.fixture
def broker(pubsub: PubSub) -> Iterator[Broker]:
    """A project of its own on each server."""
    with Broker(pubsub) as found:
        yield found


class TestBodies:
    @pytest.mark.parametrize("compression", ["zlib", "bzip2"])
    def test_what_was_compressed_arrives_as_it_was(self, broker: Broker, compression: str) -> None:
        body = {"text": "ä" * 10_000, "numbers": list(range(1000))}
        broker.publish(body, compression=compression)
        (message,) = broker.taker(GPU).take()
        assert message.headers["compression"] == "application/x-" + {"zlib": "gzip", "bzip2": "bz2"}[compression]
        assert message.payload == body

    def test_a_pickled_object_arrives_as_it_was(self, broker: Broker) -> None:
        body = {1: (2, {3}), "bytes": os.urandom(1000)}
        broker.publish(body, serializer="pickle")
        (message,) = broker.taker(GPU).take()
        message.accept = {"application/x-python-serialize"}
        assert message.payload == body
        assert isinstance(message.body, bytes)

    def test_bytes_of_a_type_that_kombu_does_not_know_arrive_as_they_were(self, broker: Broker) -> None:
        body = b"\x82\xa1a\x01\xa1b\xc0\x00\xff"
        broker.publish(body, content_type="application/x-msgpack", content_encoding="binary")
        (message,) = broker.taker(GPU).take()
        assert (message.body, message.content_type) == (body, "application/x-msgpack")

    def test_compressed_bytes_with_zeros_in_them_arrive(self, broker: Broker) -> None:
        body = pickle.dumps([b"\0" * 100_000, os.urandom(100)])
        broker.publish(body, compression="zlib")
        assert broker.taker(GPU).bodies(1) == [body]

    def test_headers_and_properties_arrive(self, broker: Broker) -> None:
        broker.publish("x", headers={"n": 1, "ü": None}, correlation_id="c", reply_to="r", priority=3, expiration=600)
        (message,) = broker.taker(GPU).take()
        assert message.headers == {"n": 1, "ü": None}
        expected = {"correlation_id": "c", "reply_to": "r", "priority": 3, "expiration": "600000", "delivery_mode": 2}
        assert {name: message.properties[name] for name in expected} == expected
        assert message.delivery_info["routing_key"] == "gpu"
        assert message.delivery_info["redelivered"] is False


class TestSimpleQueues:
    def test_messages_come_in_and_out(self, broker: Broker) -> None:
        with broker.connect().SimpleQueue("simple") as queue:
            queue.put({"n": 1}, headers={"h": "x"})
            message = queue.get(timeout=LIMIT)
            assert (message.payload, message.headers["h"]) == ({"n": 1}, "x")
            message.ack()
            with pytest.raises(Empty):
                queue.get(timeout=0.5)

    def test_one_is_got_without_waiting(self, broker: Broker) -> None:
        with broker.connect().SimpleQueue("simple", no_ack=True) as queue:
            with pytest.raises(Empty):
                queue.get(block=False)
            queue.put("x", compression="zlib")
            assert wait_for("the message", lambda: _got(queue)).payload == "x"

    def test_what_was_cleared_is_gone(self, broker: Broker) -> None:
        with broker.connect().SimpleQueue("simple") as queue:
            queue.put("old")
            queue.clear()
            queue.put("new")
            assert queue.get(timeout=LIMIT).payload == "new"

    def test_a_buffer_lives_as_long_as_its_connection(self, broker: Broker) -> None:
        with broker.connect() as connection, connection.SimpleBuffer("buffer") as queue:
            queue.put("x")
            assert queue.get(timeout=LIMIT).payload == "x"
        assert not list(broker.pubsub.subscriber.list_subscriptions(project=broker.pubsub.project))


class Worker(ConsumerProducerMixin):
    """Doubles numbers, and answers to whom it is told."""

    def __init__(self, connection: Connection, count: int) -> None:
        self.connection = connection
        self._left = count

    def get_consumers(self, consumer: Any, channel: Any) -> list[Consumer]:
        return [consumer([GPU], on_message=self.double, prefetch_count=1)]

    def double(self, message: Message) -> None:
        self.producer.publish(2 * message.payload, routing_key=message.properties["reply_to"], retry=True)
        message.ack()
        self._left -= 1
        self.should_stop = not self._left


class TestMixinsAndPools:
    def test_a_consumer_mixin_takes_and_answers(self, broker: Broker) -> None:
        replies = broker.taker(Queue("replies", exclusive=True))
        broker.publish(1, 2, 3, reply_to="replies")
        Worker(broker.connect(), 3).run(timeout=LIMIT)
        assert sorted(replies.bodies(3)) == [2, 4, 6]

    def test_producers_of_a_pool_share_a_link(self, broker: Broker) -> None:
        connection = Connection(broker.url, transport_options=FAST)
        try:
            for number in range(3):
                with producers[connection].acquire(block=True, timeout=LIMIT) as producer:
                    producer.publish(number, routing_key="gpu", declare=[GPU])
            with connections[connection].acquire(block=True, timeout=LIMIT) as pooled:
                assert pooled.connected
        finally:
            reset()
        assert sorted(broker.taker(GPU).bodies(3)) == [0, 1, 2]


class TestFailingConnections:
    @pytest.fixture
    def nowhere(self) -> Iterator[Connection]:
        options = {**FAST, "publish_timeout_seconds": 0.3}
        with kept_port() as port, Connection(f"pubsub://127.0.0.1:{port}/test", transport_options=options) as found:
            yield found

    def test_connecting_fails(self, nowhere: Connection) -> None:
        with pytest.raises(ServerUnavailable):
            nowhere.connect()
        assert not nowhere.connected

    def test_retries_are_made_and_end(self, nowhere: Connection) -> None:
        errors: list[Exception] = []
        with pytest.raises(OperationalError):
            nowhere.ensure_connection(
                errback=lambda exc, interval: errors.append(exc), max_retries=2, interval_start=0.05, interval_step=0
            )
        assert [type(exc) for exc in errors] == [ServerUnavailable] * 2

    def test_a_producer_gives_up_after_its_retries(self, nowhere: Connection) -> None:
        with pytest.raises(OperationalError):
            Producer(nowhere, auto_declare=False).publish(
                "x", routing_key="gpu", retry=True, retry_policy={"max_retries": 1, "interval_start": 0.05}
            )

    def test_a_consumer_whose_channel_was_closed_goes_on_with_another(self, broker: Broker) -> None:
        connection = broker.connect()
        got: list[Any] = []
        consumer = Consumer(connection.channel(), [GPU], on_message=lambda each: got.append(each.payload) or each.ack())
        consumer.consume()
        consumer.channel.close()
        consumer.revive(connection.channel())
        consumer.consume()
        broker.publish("a")
        connection.drain_events(timeout=LIMIT)
        assert got == ["a"]

    def test_a_second_url_is_used_when_the_first_does_not_answer(self, broker: Broker) -> None:
        with (
            kept_port() as port,
            Connection(f"pubsub://127.0.0.1:{port}/test;{broker.url}", transport_options=FAST) as connection,
        ):
            connection.ensure_connection(max_retries=3, interval_start=0.05)
            connection.Producer().publish("x", routing_key="gpu", declare=[GPU])
        assert broker.taker(GPU).bodies(1) == ["x"]

    def test_waiting_without_any_message_ends_in_time(self, broker: Broker) -> None:
        connection = broker.connect()
        connection.Consumer(Queue("gpu", Exchange("gpu")), on_message=print).consume()
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=0.2)


def _got(queue: Any) -> Message | None:
    try:
        message: Message = queue.get(block=False)
    except Empty:
        return None
    return message
