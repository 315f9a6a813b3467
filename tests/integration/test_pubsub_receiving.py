"""The transport's contract with kombu on both servers, part 2: receiving and settling."""

from __future__ import annotations

import gc
import logging
import socket
import threading
from collections.abc import Iterator

import pytest
from kombu import Queue
from pubsub_client import PubSub
from studio import wait_for
from test_pubsub_bench import GPU, LIMIT, Broker

from transports.errors import QueueNotFound


@pytest.fixture
def broker(pubsub: PubSub) -> Iterator[Broker]:
    """A project of its own on each server."""
    with Broker(pubsub) as found:
        yield found


class TestReceiving:
    def test_two_consumers_share(self, broker: Broker) -> None:
        one, two = broker.taker(GPU, prefetch=1), broker.taker(GPU, prefetch=1)
        broker.publish("a", "b")
        assert sorted(each.payload for each in [*one.take(), *two.take()]) == ["a", "b"]

    def test_prefetch_is_exact_over_three_queues(self, broker: Broker) -> None:
        for name in ("one", "two", "three"):
            broker.publish(f"{name} 1", f"{name} 2", queue=name)
        taker = broker.taker(*(Queue(name) for name in ("one", "two", "three")), prefetch=1)
        (kept,) = taker.take()  # before anybody else asks, who might get all
        other = broker.taker(*(Queue(name) for name in ("one", "two", "three")))
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
        message = broker.connect(get_timeout_seconds=LIMIT).channel().basic_get("gpu")
        assert message is not None
        message.ack()
        assert broker.connect(get_timeout_seconds=5).channel().basic_get("gpu", no_ack=True) is None

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
        assert "was set aside: it is not a kombu message" in record.message
        (letter,) = broker.pubsub.pull(broker.pubsub.subscription("celery-dead~gpu"))
        assert letter.message.data == b"poison"

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
        broker.publish("b")
        first.defer(6)
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
