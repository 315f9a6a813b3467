"""The transport's contract with kombu on both servers, part 3: leases, and the processes that hold them."""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Iterator

import pytest
from kombu import Queue
from kombu.message import Message
from pubsub_client import AFTER_A_KILL_SECONDS, PubSub
from studio import wait_for
from test_pubsub_bench import GPU, LIMIT, Broker, Taker


@pytest.fixture
def broker(pubsub: PubSub) -> Iterator[Broker]:
    """A project of its own on each server."""
    with Broker(pubsub) as found:
        yield found


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
        assert broker.taker(GPU).bodies(1, AFTER_A_KILL_SECONDS) == ["a"]

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
        # Its streams would stay open for a quarter of an hour.
        assert time.monotonic() - began < 20

    def test_forked_children_publish_while_the_parent_consumes(self, broker: Broker) -> None:
        code = """
            connection = Connection(URL, transport_options=FAST)
            got = []
            connection.Consumer(Queue("gpu"), on_message=lambda message: got.append(message) or message.ack()).consume()
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
