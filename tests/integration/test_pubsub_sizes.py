"""How full a queue is: the local broker says it, Google's emulator does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kombu import Exchange, Queue
from pubsub_client import PubSub
from studio import wait_for
from test_pubsub_bench import GPU, Broker

from transports.errors import ChannelFailed, QueueNotFound

JOBS = Queue("gpu", Exchange("jobs"), routing_key="k", max_priority=10)


@pytest.fixture
def local(local_pubsub: PubSub) -> Iterator[Broker]:
    """A project of its own on the local broker."""
    with Broker(local_pubsub) as found:
        yield found


@pytest.fixture
def broker(pubsub: PubSub) -> Iterator[Broker]:
    """A project of its own on each server."""
    with Broker(pubsub) as found:
        yield found


class TestKnown:
    def test_waiting_messages_are_counted_over_all_ways_of_a_queue(self, local: Broker) -> None:
        connection = local.connect()
        producer = connection.Producer()
        for priority in (0, 3, 9):
            producer.publish(priority, routing_key="gpu", priority=priority, declare=[JOBS])
            producer.publish(priority, exchange="jobs", routing_key="k", priority=priority)
        declared = connection.channel().queue_declare("gpu", passive=True)
        assert (declared.queue, declared.message_count, declared.consumer_count) == ("gpu", 6, 0)

    def test_what_is_worked_on_does_not_wait(self, local: Broker) -> None:
        local.publish("a", "b", "c")
        taker = local.taker(GPU, prefetch=1)
        taker.take()
        channel = local.connect().channel()
        wait_for("two waiting", lambda: channel.queue_declare("gpu", passive=True).message_count == 2)

    def test_consumers_are_counted(self, local: Broker) -> None:
        takers = [local.taker(GPU) for _ in range(3)]
        channel = local.connect().channel()
        wait_for("three consumers", lambda: channel.queue_declare("gpu", passive=True).consumer_count == 3)
        assert takers

    def test_a_simple_queue_knows_its_size(self, local: Broker) -> None:
        with local.connect().SimpleQueue("simple") as queue:
            for number in range(3):
                queue.put(number)
            assert len(queue) == 3
            assert queue.clear() == 3
            assert queue.qsize() == 0

    def test_purging_says_how_many_were_dropped(self, local: Broker) -> None:
        local.publish("a", "b")
        assert local.connect().channel().queue_purge("gpu") == 2
        assert not local.waiting("celery-gpu")

    def test_a_queue_that_is_not_empty_is_kept(self, local: Broker) -> None:
        local.publish("a")
        channel = local.connect().channel()
        with pytest.raises(ChannelFailed, match="1 messages"):
            channel.queue_delete("gpu", if_empty=True)
        channel.queue_purge("gpu")
        channel.queue_delete("gpu", if_empty=True)
        with pytest.raises(QueueNotFound):
            channel.queue_declare("gpu", passive=True)

    def test_a_queue_that_is_used_is_kept(self, local: Broker) -> None:
        taker = local.taker(GPU)
        channel = local.connect().channel()
        wait_for("the consumer", lambda: channel.queue_declare("gpu", passive=True).consumer_count == 1)
        with pytest.raises(ChannelFailed, match="1 consumers"):
            channel.queue_delete("gpu", if_unused=True)
        taker.connection.release()
        wait_for("its end", lambda: channel.queue_declare("gpu", passive=True).consumer_count == 0)
        channel.queue_delete("gpu", if_unused=True)

    @pytest.mark.parametrize("queue", [GPU, JOBS], ids=["plain", "priorities"])
    def test_a_queue_whose_only_consumer_is_busy_is_used(self, local: Broker, queue: Queue) -> None:
        local.publish("a", queue=queue)
        taker = local.taker(queue, prefetch=1)
        (message,) = taker.take()
        channel = local.connect().channel()
        assert taker.gets_nothing()
        with pytest.raises(ChannelFailed, match="consumers"):
            channel.queue_delete("gpu", if_unused=True)
        message.ack()


class TestUnknown:
    @pytest.fixture
    def emulator(self, emulator_pubsub: PubSub) -> Iterator[Broker]:
        with Broker(emulator_pubsub) as found:
            yield found

    pytestmark = pytest.mark.emulator

    def test_a_size_that_is_not_known_is_given_as_such(self, emulator: Broker) -> None:
        emulator.publish("a")
        declared = emulator.connect().channel().queue_declare("gpu", passive=True)
        assert (declared.message_count, declared.consumer_count) == (-1, -1)

    @pytest.mark.parametrize("condition", ["if_empty", "if_unused"])
    def test_a_queue_is_not_deleted_on_a_condition_that_nobody_knows(self, emulator: Broker, condition: str) -> None:
        emulator.publish("a")
        channel = emulator.connect().channel()
        with pytest.raises(ChannelFailed, match=f"not known: delete it without {condition}"):
            channel.queue_delete("gpu", **{condition: True})
        assert emulator.waiting("celery-gpu") == ["a"]

    def test_purging_drops_and_counts_nothing(self, emulator: Broker) -> None:
        emulator.publish("a", "b")
        assert emulator.connect().channel().queue_purge("gpu") == 0
        assert not emulator.waiting("celery-gpu")


class TestPassive:
    def test_a_queue_of_which_one_way_is_missing_does_not_exist(self, broker: Broker) -> None:
        channel = broker.connect().channel()
        JOBS(channel).declare()
        assert channel.queue_declare("gpu", passive=True).queue == "gpu"
        path = broker.pubsub.subscription("celery-priority~9~gpu")
        broker.pubsub.subscriber.delete_subscription(subscription=path)
        with pytest.raises(QueueNotFound, match="'gpu' does not exist"):
            channel.queue_declare("gpu", passive=True)

    def test_looking_creates_nothing(self, broker: Broker) -> None:
        with pytest.raises(QueueNotFound):
            broker.connect().channel().queue_declare("gpu", passive=True)
        assert not list(broker.pubsub.publisher.list_topics(project=broker.pubsub.project))
