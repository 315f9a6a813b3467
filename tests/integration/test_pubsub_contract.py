"""The transport's contract with kombu, on our broker and on Google's emulator."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from kombu import Connection, Consumer, Exchange, Queue
from kombu.exceptions import InconsistencyError
from kombu.message import Message
from pubsub_client import PubSub
from studio import wait_for

import transports  # noqa: F401  registers the scheme
from transports.errors import BadName, ChannelFailed, QueueNotFound
from transports.pubsub.link import links

#: All times at a twentieth.
FAST = {"lease_floor_seconds": 2.25, "lease_ceiling_seconds": 30.0, "ack_deadline_seconds": 10}
#: Seconds for what must come. The emulator goes on delivering to a process that was killed, 10 s at a time.
LIMIT = 60.0
#: Seconds without a message after which none is on its way.
SILENCE = 1.0


class Taker:
    """Consumes queues on a channel of its own, and keeps what it is given."""

    def __init__(self, connection: Connection, *queues: Queue, prefetch: int = 0, no_ack: bool = False) -> None:
        self.connection = connection
        self.channel = connection.channel()
        self.messages: list[Message] = []
        self.channel.basic_qos(0, prefetch, False)
        self.consumer = Consumer(self.channel, list(queues), on_message=self.messages.append, no_ack=no_ack)
        self.consumer.consume()

    def take(self, count: int = 1, seconds: float = LIMIT) -> list[Message]:
        """Wait until so many more have come, and return them."""
        before = len(self.messages)
        while len(self.messages) < before + count:
            self.connection.drain_events(timeout=seconds)
        return self.messages[before:]

    def bodies(self, count: int) -> list[Any]:
        """Take so many, acknowledge them, and return what they say."""
        found = []
        for _ in range(count):
            (message,) = self.take()
            message.ack()
            found.append(message.payload)
        return found

    def gets_nothing(self, seconds: float = SILENCE) -> bool:
        before = len(self.messages)
        with suppress(socket.timeout):
            self.connection.drain_events(timeout=seconds)
        return len(self.messages) == before


class Broker:
    """A project of its own on one server, and connections to it that are closed at the end."""

    def __init__(self, pubsub: PubSub) -> None:
        self.pubsub = pubsub
        self.url = f"pubsub://{pubsub.address}/{pubsub.project.removeprefix('projects/')}"
        self._connections: list[Connection] = []

    def connect(self, query: str = "", **options: Any) -> Connection:
        connection = Connection(self.url + query, transport_options={**FAST, **options})
        self._connections.append(connection)
        connection.connect()
        return connection

    def taker(self, *queues: Queue, **how: Any) -> Taker:
        return Taker(self.connect(), *queues, **how)

    def publish(self, *bodies: Any, queue: str = "gpu") -> None:
        with Connection(self.url, transport_options=FAST) as connection:
            for body in bodies:
                connection.Producer().publish(body, routing_key=queue, declare=[Queue(queue)])

    def run(self, code: str) -> subprocess.Popen[str]:
        """Start a Python process that knows the URL."""
        head = f"import os, sys, time, transports; from kombu import *; URL = {self.url!r}; FAST = {FAST!r}\n"
        command = [sys.executable, "-c", head + textwrap.dedent(code)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def close(self) -> None:
        for connection in self._connections:
            connection.release()
        links.close()


@pytest.fixture
def broker(pubsub: PubSub) -> Iterator[Broker]:
    found = Broker(pubsub)
    yield found
    found.close()


GPU = Queue("gpu")


class TestPublishing:
    @pytest.mark.parametrize("body", ["plain", "ünïcode ✓", {"a": [1, None]}, b"\x00\xff\xfe", b""])
    def test_a_body_arrives_as_it_was(self, broker: Broker, body: Any) -> None:
        broker.publish(body)
        (message,) = broker.taker(GPU).take()
        assert message.payload == body

    def test_a_large_binary_body_arrives(self, broker: Broker) -> None:
        body = os.urandom(3_000_000)
        broker.publish(body)
        assert broker.taker(GPU).bodies(1) == [body]

    def test_a_process_that_publishes_and_ends_at_once_loses_nothing(self, broker: Broker) -> None:
        code = """
            producer = Connection(URL).Producer()
            for number in range(5):
                producer.publish(number, routing_key="gpu", declare=[Queue("gpu")])
            os._exit(0)
        """
        with broker.run(code) as process:
            assert process.wait(LIMIT) == 0
        assert sorted(broker.taker(GPU).bodies(5)) == [0, 1, 2, 3, 4]

    def test_publishing_to_a_missing_queue_raises(self, broker: Broker) -> None:
        with pytest.raises(QueueNotFound) as caught:
            broker.connect().Producer().publish("x", routing_key="nobody", retry=True)
        assert isinstance(caught.value, InconsistencyError)

    def test_a_broadcast_that_nobody_hears_is_dropped(self, broker: Broker) -> None:
        exchange = Exchange("news", type="fanout")
        broker.connect().Producer().publish("x", exchange=exchange, declare=[exchange])

    def test_a_message_that_is_too_large_is_refused(self, broker: Broker) -> None:
        with pytest.raises(ChannelFailed, match="store what is large"):
            broker.publish("x" * 10_000_000)

    def test_a_queue_that_cannot_be_named_is_refused(self, broker: Broker) -> None:
        with pytest.raises(BadName):
            broker.publish("x", queue="q" * 300)

    def test_a_queue_that_was_deleted_meanwhile_is_made_again(self, broker: Broker) -> None:
        connection = broker.connect()
        producer = connection.Producer()
        producer.publish("lost", routing_key="gpu", declare=[GPU])
        broker.pubsub.subscriber.delete_subscription(subscription=broker.pubsub.subscription("celery-gpu"))
        broker.pubsub.publisher.delete_topic(topic=broker.pubsub.topic("celery-gpu"))
        producer.publish("kept", routing_key="gpu")
        assert broker.taker(GPU).bodies(1) == ["kept"]

    def test_a_deleted_topic_whose_subscription_lives_on_is_said_and_no_message_vanishes(self, broker: Broker) -> None:
        connection = broker.connect()
        producer = connection.Producer()
        producer.publish("old", routing_key="gpu", declare=[GPU])
        broker.pubsub.publisher.delete_topic(topic=broker.pubsub.topic("celery-gpu"))
        with pytest.raises(ChannelFailed, match="read it empty"):
            producer.publish("new", routing_key="gpu")
        assert broker.taker(GPU).bodies(1) == ["old"]

    def test_many_threads_publish_on_one_connection_each(self, broker: Broker) -> None:
        threads = [threading.Thread(target=broker.publish, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(broker.taker(GPU).bodies(8)) == list(range(8))


class TestRoutes:
    def test_a_queue_gets_what_its_own_exchange_and_the_default_one_get(self, broker: Broker) -> None:
        queue = Queue("gpu", Exchange("gpu"), routing_key="gpu")
        taker = broker.taker(queue)
        producer = broker.connect().Producer()
        producer.publish("by exchange", exchange="gpu", routing_key="gpu")
        producer.publish("by default", routing_key="gpu")
        assert sorted(taker.bodies(2)) == ["by default", "by exchange"]
        assert taker.gets_nothing()

    def test_two_queues_of_one_route_get_a_copy_each(self, broker: Broker) -> None:
        exchange = Exchange("jobs")
        one, two = (broker.taker(Queue(name, exchange, routing_key="train")) for name in ("one", "two"))
        broker.connect().Producer().publish("x", exchange=exchange, routing_key="train")
        assert (one.bodies(1), two.bodies(1)) == (["x"], ["x"])
        assert one.gets_nothing()
        assert two.gets_nothing()

    def test_a_queue_of_two_routes_gets_both(self, broker: Broker) -> None:
        exchange = Exchange("jobs")
        taker = broker.taker(Queue("both", exchange, routing_key="a"))
        Queue("both", exchange, routing_key="b", channel=taker.channel).declare()
        producer = broker.connect().Producer()
        producer.publish("a", exchange=exchange, routing_key="a")
        producer.publish("b", exchange=exchange, routing_key="b")
        assert sorted(taker.bodies(2)) == ["a", "b"]

    def test_another_key_is_another_route(self, broker: Broker) -> None:
        exchange = Exchange("jobs")
        taker = broker.taker(Queue("one", exchange, routing_key="a"))
        with pytest.raises(QueueNotFound):
            broker.connect().Producer().publish("x", exchange=exchange, routing_key="b")
        assert taker.gets_nothing()

    def test_a_broadcast_reaches_every_queue(self, broker: Broker) -> None:
        exchange = Exchange("news", type="fanout")
        takers = [broker.taker(Queue(name, exchange, auto_delete=True)) for name in ("one", "two")]
        broker.connect().Producer().publish("x", exchange=exchange, declare=[exchange])
        assert [taker.bodies(1) for taker in takers] == [["x"], ["x"]]

    def test_prefixes_keep_applications_apart(self, broker: Broker) -> None:
        mine, theirs = (Taker(broker.connect(f"?prefix={name}-"), GPU) for name in ("mine", "theirs"))
        broker.connect("?prefix=mine-").Producer().publish("x", routing_key="gpu")
        assert mine.bodies(1) == ["x"]
        assert theirs.gets_nothing()

    def test_projects_keep_applications_apart(self, broker: Broker) -> None:
        taker = broker.taker(GPU)
        with Connection(f"{broker.url}-other", transport_options=FAST) as other:
            other.Producer().publish("x", routing_key="gpu", declare=[GPU])
            assert taker.gets_nothing()
            assert Taker(other, GPU).bodies(1) == ["x"]

    def test_strange_names_work(self, broker: Broker) -> None:
        queue = Queue("a/b ~ü%", Exchange("ex change/ü"), routing_key="k:1")
        taker = broker.taker(queue)
        broker.connect().Producer().publish("x", exchange="ex change/ü", routing_key="k:1")
        assert taker.bodies(1) == ["x"]

    def test_looking_for_a_missing_queue_raises_and_for_one_that_is_there_does_not(self, broker: Broker) -> None:
        channel = broker.connect().channel()
        with pytest.raises(QueueNotFound, match="'gpu' does not exist"):
            channel.queue_declare("gpu", passive=True)
        channel.queue_declare("gpu")
        assert channel.queue_declare("gpu", passive=True).queue == "gpu"

    def test_temporary_queues_go_with_their_channel(self, broker: Broker) -> None:
        topics = {each.name for each in broker.pubsub.publisher.list_topics(project=broker.pubsub.project)}
        connection = broker.connect()
        first, second = connection.channel(), connection.channel()
        for channel in (first, second):
            Queue("reply", Exchange("replies"), routing_key="me", auto_delete=True, channel=channel).declare()
        first.close()
        assert channel.queue_declare("reply", passive=True).queue == "reply"
        second.close()
        assert {each.name for each in broker.pubsub.publisher.list_topics(project=broker.pubsub.project)} == topics
        assert not list(broker.pubsub.subscriber.list_subscriptions(project=broker.pubsub.project))

    def test_purging_drops_what_waits(self, broker: Broker) -> None:
        broker.publish("a", "b")
        channel = broker.connect().channel()
        assert channel.queue_purge("gpu") == 0
        broker.publish("c")
        assert broker.taker(GPU).bodies(1) == ["c"]

    def test_deleting_a_queue_deletes_topic_and_subscription(self, broker: Broker) -> None:
        broker.publish("a")
        broker.connect().channel().queue_delete("gpu")
        assert not list(broker.pubsub.publisher.list_topics(project=broker.pubsub.project))
        with pytest.raises(QueueNotFound):
            broker.connect().Producer().publish("x", routing_key="gpu")


class TestReceiving:
    def test_two_consumers_share(self, broker: Broker) -> None:
        one, two = broker.taker(GPU, prefetch=1), broker.taker(GPU, prefetch=1)
        broker.publish("a", "b")
        assert sorted(each.payload for each in [*one.take(), *two.take()]) == ["a", "b"]

    def test_prefetch_is_exact_over_three_queues(self, broker: Broker) -> None:
        for name in ("one", "two", "three"):
            broker.publish(f"{name} 1", f"{name} 2", queue=name)
        taker = broker.taker(*(Queue(name) for name in ("one", "two", "three")), prefetch=1)
        other = broker.taker(*(Queue(name) for name in ("one", "two", "three")))
        (kept,) = taker.take()
        assert taker.gets_nothing()
        others = other.take(5)
        assert len({each.payload for each in [kept, *others]}) == 6
        kept.ack()

    def test_a_settled_message_makes_room(self, broker: Broker) -> None:
        broker.publish("a", "b", "c")
        taker = broker.taker(GPU, prefetch=2)
        first, _ = taker.take(2)
        assert taker.gets_nothing()
        first.ack()
        taker.take(1)

    def test_draining_with_no_time_returns_at_once(self, broker: Broker) -> None:
        taker = broker.taker(GPU)
        with pytest.raises(socket.timeout):
            taker.connection.drain_events(timeout=0)

    def test_draining_without_limit_waits_for_a_message(self, broker: Broker) -> None:
        taker = broker.taker(GPU)
        publisher = threading.Timer(0.3, broker.publish, ("late",))
        publisher.start()
        taker.connection.drain_events(timeout=None)
        publisher.join()
        assert [each.payload for each in taker.messages] == ["late"]

    def test_getting_one_message(self, broker: Broker) -> None:
        broker.publish("a")
        channel = broker.connect(get_timeout_seconds=5).channel()
        message = channel.basic_get("gpu")
        assert message is not None
        message.ack()
        assert channel.basic_get("gpu", no_ack=True) is None

    def test_consumers_without_acknowledgement_never_see_it_again(self, broker: Broker) -> None:
        broker.publish("a", "b")
        taker = broker.taker(GPU, no_ack=True, prefetch=1)
        assert sorted(each.payload for each in taker.take(2)) == ["a", "b"]
        taker.connection.release()
        assert broker.taker(GPU).gets_nothing(5)

    def test_what_nobody_can_read_does_not_disturb_its_neighbours(
        self, broker: Broker, caplog: pytest.LogCaptureFixture
    ) -> None:
        broker.publish("a")
        broker.pubsub.publish("poison", topic="celery-gpu")
        broker.publish("b")
        with caplog.at_level(logging.ERROR, "transports"):
            taker = broker.taker(GPU, prefetch=1)
            assert sorted(taker.bodies(2)) == ["a", "b"]
            assert taker.gets_nothing(5)
        (record,) = caplog.records
        assert "is not a kombu message" in record.message
        assert "poison" in record.message

    def test_what_was_not_dispatched_is_given_back_when_the_consumer_is_cancelled(self, broker: Broker) -> None:
        broker.publish("a", "b", "c")
        taker = broker.taker(GPU, prefetch=3)
        wait_for("the messages", lambda: len(taker.channel.session.inbox) == 3)
        taker.consumer.cancel()
        assert taker.gets_nothing()
        assert sorted(broker.taker(GPU).bodies(3)) == ["a", "b", "c"]

    def test_a_subscription_that_is_deleted_is_made_again(self, broker: Broker) -> None:
        taker = broker.taker(GPU)
        broker.pubsub.subscriber.delete_subscription(subscription=broker.pubsub.subscription("celery-gpu"))
        wait_for("the new subscription", lambda: taker.channel.link.topology.has_queue("gpu"))
        broker.publish("x")
        assert taker.bodies(1) == ["x"]

    def test_consuming_a_queue_that_is_missing_and_not_ours_raises(self, broker: Broker) -> None:
        connection = broker.connect()
        connection.channel().basic_consume("nobody", True, print)
        with pytest.raises(QueueNotFound, match="does not exist"):
            connection.drain_events(timeout=LIMIT)


class TestSettling:
    def test_a_rejected_message_is_gone(self, broker: Broker) -> None:
        broker.publish("a")
        taker = broker.taker(GPU)
        taker.take()[0].reject()
        taker.connection.release()
        assert broker.taker(GPU).gets_nothing(5)

    def test_a_requeued_message_returns_at_once_and_once(self, broker: Broker) -> None:
        broker.publish("a")
        taker = broker.taker(GPU)
        first = taker.take()[0]
        first.requeue()
        (second,) = taker.take()
        assert second.lease.message_id == first.lease.message_id
        second.ack()
        assert taker.gets_nothing(5)

    def test_recovering_gives_everything_back(self, broker: Broker) -> None:
        broker.publish("a", "b")
        taker = broker.taker(GPU, prefetch=2)
        taker.take(2)
        taker.channel.basic_recover(requeue=True)
        assert sorted(taker.bodies(2)) == ["a", "b"]

    def test_several_are_acknowledged_with_the_last(self, broker: Broker) -> None:
        broker.publish("a", "b", "c")
        taker = broker.taker(GPU, prefetch=3)
        messages = taker.take(3)
        messages[1].ack(multiple=True)
        taker.connection.release()
        del messages[:2]
        gc.collect()
        messages[0].requeue()
        assert len(broker.taker(GPU).bodies(1)) == 1

    def test_a_second_settlement_is_refused(self, broker: Broker) -> None:
        broker.publish("a")
        (message,) = broker.taker(GPU).take()
        message.ack()
        for again in (message.ack, message.requeue, message.reject, lambda: message.defer(1)):
            with pytest.raises(message.MessageStateError):
                again()

    def test_a_message_is_acknowledged_after_its_connection_was_closed(self, broker: Broker) -> None:
        broker.publish("a")
        taker = broker.taker(GPU)
        (message,) = taker.take()
        taker.connection.release()
        message.ack()
        assert broker.taker(GPU).gets_nothing(5)

    def test_a_message_is_acknowledged_from_any_thread(self, broker: Broker) -> None:
        broker.publish("a")
        taker = broker.taker(GPU)
        (message,) = taker.take()
        thread = threading.Thread(target=message.ack)
        thread.start()
        thread.join()
        taker.connection.release()
        assert broker.taker(GPU).gets_nothing(5)

    def test_a_deferred_message_frees_its_slot_and_returns_later(self, broker: Broker) -> None:
        broker.publish("a")
        taker = broker.taker(GPU, prefetch=1)
        (first,) = taker.take()
        first.defer(4)
        broker.publish("b")
        assert taker.bodies(1) == ["b"]
        assert taker.gets_nothing()
        assert taker.bodies(1) == ["a"]

    def test_a_deferred_message_is_given_back_when_the_process_ends(self, broker: Broker) -> None:
        broker.publish("a")
        code = """
            with Connection(URL, transport_options=FAST) as connection:
                connection.Consumer(Queue("gpu"), on_message=lambda message: message.defer(600)).consume()
                connection.drain_events(timeout=30)
        """
        with broker.run(code) as process:
            assert process.wait(LIMIT) == 0
        assert broker.taker(GPU).bodies(1) == ["a"]


class TestLeases:
    def test_a_lease_is_kept_for_as_long_as_it_takes(self, broker: Broker) -> None:
        broker.publish("a")
        taker, other = broker.taker(GPU), broker.taker(GPU)
        message = _taken(taker, other)
        assert taker.gets_nothing(7)
        assert other.gets_nothing(7)
        message.ack()

    def test_neither_a_new_declaration_nor_a_closed_channel_ends_a_lease(self, broker: Broker) -> None:
        broker.publish("a")
        taker = broker.taker(GPU)
        taker.connection.default_channel.close()
        (message,) = taker.take()
        with broker.connect() as another:
            GPU(another.channel()).declare()
        taker.connection.release()
        other = broker.taker(GPU)
        assert other.gets_nothing(8)
        message.ack()
        assert other.gets_nothing()

    def test_a_message_that_nobody_refers_to_is_given_back_after_its_channel_closed(self, broker: Broker) -> None:
        broker.publish("a")
        taker = broker.taker(GPU)
        taker.take()
        taker.connection.release()
        taker.messages.clear()
        gc.collect()
        assert broker.taker(GPU).bodies(1) == ["a"]

    def test_a_message_of_an_open_channel_is_kept_although_nobody_refers_to_it(self, broker: Broker) -> None:
        broker.publish("a")
        taker = broker.taker(GPU)
        tag = taker.take()[0].delivery_tag
        taker.messages.clear()
        gc.collect()
        assert broker.taker(GPU).gets_nothing(5)
        taker.channel.basic_ack(tag)

    def test_closing_twice_is_once(self, broker: Broker) -> None:
        broker.publish("a")
        taker, other = broker.taker(GPU), broker.taker(Queue("other"))
        (message,) = taker.take()
        other.channel.close()
        other.channel.close()
        other.connection.release()
        other.connection.release()
        assert broker.taker(GPU).gets_nothing(5)
        message.ack()

    def test_what_a_killed_process_held_is_redelivered(self, broker: Broker) -> None:
        broker.publish("a")
        code = """
            connection = Connection(URL, transport_options=FAST)
            connection.Consumer(Queue("gpu"), on_message=lambda message: print(message.payload, flush=True)).consume()
            while True:
                connection.drain_events()
        """
        with broker.run(code) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "a\n"
            process.send_signal(signal.SIGKILL)
        assert broker.taker(GPU).bodies(1) == ["a"]

    def test_what_an_ended_process_held_is_redelivered_at_once(self, broker: Broker) -> None:
        broker.publish("a", "b")
        code = """
            connection = Connection(URL, transport_options={**FAST, "lease_floor_seconds": 600})
            held = []
            connection.Consumer(Queue("gpu"), on_message=held.append).consume()
            while len(held) < 2:
                connection.drain_events(timeout=30)
        """
        with broker.run(code) as process:
            assert process.wait(LIMIT) == 0
        assert sorted(broker.taker(GPU).bodies(2)) == ["a", "b"]


class TestProcesses:
    def test_a_process_with_open_streams_ends_quickly(self, broker: Broker) -> None:
        code = """
            connection = Connection(URL, transport_options=FAST)
            connection.Consumer([Queue("one"), Queue("two")], on_message=print).consume()
            try:
                connection.drain_events(timeout=1)
            except TimeoutError:
                print(time.monotonic())
        """
        with broker.run(code) as process:
            assert process.stdout is not None
            began = float(process.stdout.readline())
            assert process.wait(LIMIT) == 0
        assert time.monotonic() - began < 5

    def test_forked_children_publish_while_the_parent_consumes(self, broker: Broker) -> None:
        code = """
            connection = Connection(URL, transport_options=FAST)
            got = []
            consumer = connection.Consumer(Queue("gpu"), on_message=lambda message: (got.append(message), message.ack()))
            consumer.consume()
            for number in range(10):
                if os.fork() == 0:
                    with Connection(URL, transport_options=FAST) as child:
                        child.Producer().publish(number, routing_key="gpu")
                    os._exit(0)
            while len(got) < 10:
                connection.drain_events(timeout=30)
            print(sorted({message.payload for message in got}), [os.wait()[1] for _ in range(10)])
        """
        with broker.run(code) as process:
            assert process.stdout is not None
            assert process.stdout.read() == f"{list(range(10))} {[0] * 10}\n"
            assert process.wait(LIMIT) == 0


def _taken(*takers: Taker) -> Message:
    """The one message that one of several takers gets."""

    def first() -> Message | None:
        for taker in takers:
            if not taker.gets_nothing(0.1):
                return taker.messages[0]
        return None

    return wait_for("a message", first)
