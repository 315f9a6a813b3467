"""Publishing many messages at once, on both servers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fault_rules import Answer
from grpc import StatusCode
from kombu import Exchange, Queue
from pubsub_client import PubSub
from test_pubsub_bench import GPU, LIMIT, Broker

from transports import bulk
from transports.errors import ChannelFailed, NotConfirmed, PermissionMissing, QueueNotFound


@pytest.fixture
def broker(pubsub: PubSub) -> Iterator[Broker]:
    """A project of its own on each server."""
    with Broker(pubsub) as found:
        yield found


@pytest.fixture
def producer(broker: Broker) -> Any:
    """A producer whose queue is there."""
    found = broker.connect().Producer()
    GPU(found.channel).declare()
    return found


class TestConfirming:
    def test_thousands_are_there_when_the_block_ends(self, broker: Broker, producer: Any) -> None:
        with bulk():
            for number in range(3000):
                producer.publish(number, routing_key="gpu")
        found = {received.message.data for received in broker.pubsub.pull(_name(broker, "gpu"), 3000)}
        assert len(found) == 3000

    def test_their_order_is_kept_and_bytes_divide_them_too(self, local_pubsub: PubSub) -> None:
        """Google promises no order without ordering keys, and the emulator keeps none."""
        with Broker(local_pubsub) as broker:
            producer = broker.connect().Producer()
            with bulk():
                for number in range(600):
                    # Every fiftieth is large: batches are cut at their bytes and at their number.
                    producer.publish(
                        [number, "x" * (500_000 if number % 50 == 0 else 1)], routing_key="gpu", declare=[GPU]
                    )
            assert [json.loads(body)[0] for body in broker.waiting("celery-gpu")] == list(range(600))

    def test_several_queues_and_broadcasts_get_theirs(self, broker: Broker) -> None:
        news = Exchange("news", type="fanout")
        takers = {name: broker.taker(Queue(name)) for name in ("one", "two")}
        hearer = broker.taker(Queue("hearer", news, auto_delete=True))
        producer = broker.connect().Producer()
        with bulk():
            for number in range(4):
                producer.publish(number, routing_key="one" if number % 2 else "two")
            producer.publish("news", exchange=news)
            assert hearer.bodies(1) == ["news"]
        assert sorted(takers["one"].bodies(2)) == [1, 3]
        assert sorted(takers["two"].bodies(2)) == [0, 2]

    def test_a_bulk_in_a_bulk_is_confirmed_by_the_outer_one(self, broker: Broker, producer: Any) -> None:
        with bulk():
            with bulk():
                producer.publish("inner", routing_key="gpu")
            assert not broker.waiting("celery-gpu")
            producer.publish("outer", routing_key="gpu")
        assert sorted(broker.taker(GPU).bodies(2)) == ["inner", "outer"]

    def test_an_empty_bulk_does_nothing(self) -> None:
        with bulk():
            pass

    def test_another_thread_publishes_for_itself(self, broker: Broker, producer: Any) -> None:
        with bulk():
            thread = threading.Thread(target=broker.publish, args=("at once",))
            thread.start()
            thread.join()
            assert broker.taker(GPU).bodies(1) == ["at once"]

    def test_celery_tasks_of_several_connections_go_together(self, broker: Broker) -> None:
        first, second = broker.connect().Producer(), broker.connect().Producer()
        with bulk():
            for producer in (first, second):
                producer.publish("x", routing_key="gpu", declare=[GPU], retry=True)
        assert broker.taker(GPU).bodies(2) == ["x", "x"]


class TestErrors:
    def test_an_error_in_the_block_comes_out_and_what_was_published_is_there(
        self, broker: Broker, producer: Any
    ) -> None:
        def publish() -> None:
            with bulk():
                producer.publish("x", routing_key="gpu")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            publish()
        assert broker.taker(GPU).bodies(1) == ["x"]

    def test_what_has_no_queue_is_counted_and_the_others_arrive(self, broker: Broker, producer: Any) -> None:
        def publish() -> None:
            with bulk():
                for number in range(300):
                    producer.publish(number, routing_key="gpu")
                    producer.publish(number, routing_key="nobody")

        with pytest.raises(NotConfirmed) as caught:
            publish()
        assert caught.value.count == 300
        assert isinstance(caught.value.__cause__, QueueNotFound)
        assert len(broker.waiting("celery-gpu")) == 300

    def test_one_that_is_too_large_takes_no_neighbour_along(self, broker: Broker, producer: Any) -> None:
        def publish() -> None:
            with bulk():
                for body in ("small", "x" * 10_000_000, "small too"):
                    producer.publish(body, routing_key="gpu")

        with pytest.raises(NotConfirmed, match="store what is large") as caught:
            publish()
        assert caught.value.count == 1
        assert isinstance(caught.value.__cause__, ChannelFailed)
        assert sorted(broker.taker(GPU).bodies(2)) == ["small", "small too"]

    def test_a_server_that_fails_for_a_moment_is_asked_again(self, broker: Broker) -> None:
        broker.publish("first")
        with broker.through_proxy() as (proxy, connection):
            proxy.rule("Publish", Answer(StatusCode.UNAVAILABLE), times=2)
            with bulk():
                connection.Producer().publish("second", routing_key="gpu")
            assert len(proxy.calls("Publish")) == 3
        assert sorted(broker.taker(GPU).bodies(2)) == ["first", "second"]

    def test_a_key_that_may_not_publish_is_told_at_the_end(self, broker: Broker) -> None:
        broker.publish("first")

        def publish() -> None:
            with bulk():
                connection.Producer().publish("x", routing_key="gpu")

        with broker.through_proxy() as (proxy, connection):
            proxy.only("subscriber")
            with pytest.raises(NotConfirmed, match=r"pubsub\.topics\.publish") as caught:
                publish()
        assert isinstance(caught.value.__cause__, PermissionMissing)

    def test_what_was_not_confirmed_can_be_published_again(self, broker: Broker, producer: Any) -> None:
        broker.pubsub.subscriber.delete_subscription(subscription=_name(broker, "gpu"))
        broker.pubsub.publisher.delete_topic(topic=broker.pubsub.topic("celery-gpu"))
        with bulk():
            producer.publish("x", routing_key="gpu")
        assert broker.taker(GPU).bodies(1) == ["x"]


class TestForks:
    @pytest.mark.parametrize("leaves", ["os._exit(0)", "sys.exit(0)"])
    def test_a_child_sends_its_own_messages_and_never_its_parents(self, broker: Broker, leaves: str) -> None:
        code = f"""
            from transports import bulk
            producer = Connection(URL, transport_options=FAST).Producer()
            producer.publish("before", routing_key="gpu", declare=[Queue("gpu")])
            with bulk():
                producer.publish("parent", routing_key="gpu")
                child = os.fork()
                if child == 0:
                    with Connection(URL, transport_options=FAST) as connection:
                        connection.Producer().publish("child at once", routing_key="gpu")
                        with bulk():
                            connection.Producer().publish("child in bulk", routing_key="gpu")
                    {leaves}
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
                producer.publish("parent again", routing_key="gpu")
        """
        with broker.run(code) as process:
            assert process.wait(LIMIT) == 0
        taker = broker.taker(GPU)
        expected = ["before", "child at once", "child in bulk", "parent", "parent again"]
        assert sorted(taker.bodies(5)) == expected
        assert taker.gets_nothing()


def _name(broker: Broker, queue: str) -> str:
    return broker.pubsub.subscription(f"celery-{queue}")
