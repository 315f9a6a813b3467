"""Ways from publishers to queues, on both servers: topic exchanges, several bindings, unbinding, deleting."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from kombu import Exchange, Queue, binding
from pubsub_client import PubSub
from test_pubsub_bench import GPU, LIMIT, Broker, Taker

from transports.errors import ChannelFailed, QueueNotFound

TOPIC = Exchange("events", type="topic")
DIRECT = Exchange("jobs")


@pytest.fixture
def broker(pubsub: PubSub) -> Iterator[Broker]:
    """A project of its own on each server."""
    with Broker(pubsub) as found:
        yield found


def publish(broker: Broker, exchange: Exchange, *keys: str) -> None:
    """Publish each key to itself."""
    producer = broker.connect().Producer()
    for key in keys:
        producer.publish(key, exchange=exchange, routing_key=key, declare=[exchange])


@pytest.mark.parametrize("kind", ["fanout", "topic"])
def test_an_exchange_that_only_others_declared_is_found(broker: Broker, kind: str) -> None:
    taker = broker.taker(Queue("mine", Exchange("news", type=kind), routing_key="#"))
    stranger = broker.connect(prefetch_ceiling=999).Producer()  # other options: nothing is shared with the taker
    for body in ("a", "b"):
        stranger.publish(body, exchange="news", routing_key="mine")
    assert taker.bodies(2) == ["a", "b"]


class TestTopicExchanges:
    def test_each_queue_gets_what_its_pattern_matches(self, broker: Broker) -> None:
        patterns = {"all": "#", "tasks": "task.*", "ends": "#.failed", "one": "task.failed"}
        takers = {name: broker.taker(Queue(name, TOPIC, routing_key=each)) for name, each in patterns.items()}
        publish(broker, TOPIC, "task.failed", "task.sent", "worker.gpu.failed", "task")
        assert sorted(takers["all"].bodies(4)) == ["task", "task.failed", "task.sent", "worker.gpu.failed"]
        assert sorted(takers["tasks"].bodies(2)) == ["task.failed", "task.sent"]
        assert sorted(takers["ends"].bodies(2)) == ["task.failed", "worker.gpu.failed"]
        assert takers["one"].bodies(1) == ["task.failed"]
        assert all(taker.gets_nothing(0.3) for taker in takers.values())

    def test_several_patterns_of_a_queue_bring_one_copy(self, broker: Broker) -> None:
        queue = Queue("both", bindings=[binding(TOPIC, "task.*"), binding(TOPIC, "*.failed")])
        taker = broker.taker(queue)
        publish(broker, TOPIC, "task.failed", "worker.failed", "worker.sent")
        assert sorted(taker.bodies(2)) == ["task.failed", "worker.failed"]
        assert taker.gets_nothing()

    def test_a_pattern_that_was_unbound_brings_nothing_and_the_other_one_does(self, broker: Broker) -> None:
        queue = Queue("both", bindings=[binding(TOPIC, "a.*"), binding(TOPIC, "b.*")])
        taker = broker.taker(queue)
        taker.channel.queue_unbind("both", "events", "a.*")
        publish(broker, TOPIC, "a.1", "b.1")
        assert taker.bodies(1) == ["b.1"]
        assert taker.gets_nothing()

    def test_what_nobody_wants_takes_no_slot_and_does_not_come_back(self, broker: Broker) -> None:
        taker = broker.taker(Queue("few", TOPIC, routing_key="good"), prefetch=1)
        publish(broker, TOPIC, *["bad"] * 20, "good")
        assert taker.bodies(1) == ["good"]
        taker.connection.release()
        assert not broker.waiting("celery-topic~events~few")

    def test_a_message_without_any_queue_is_dropped(self, broker: Broker) -> None:
        publish(broker, TOPIC, "nobody.listens")

    def test_the_exchange_of_another_type_is_refused(self, broker: Broker) -> None:
        channel = broker.connect().channel()
        channel.exchange_declare("events", type="topic")
        with pytest.raises(ChannelFailed, match="declared as topic"):
            channel.exchange_declare("events", type="fanout")
        with pytest.raises(ChannelFailed, match="no headers exchanges"):
            channel.exchange_declare("other", type="headers")

    def test_an_exchange_is_known_where_it_was_declared(self, broker: Broker) -> None:
        channel = broker.connect().channel()
        with pytest.raises(QueueNotFound, match="was not declared"):
            channel.exchange_declare("events", passive=True)
        channel.exchange_declare("events", type="topic")
        channel.exchange_declare("events", passive=True)
        channel.exchange_delete("events")
        with pytest.raises(QueueNotFound):
            channel.exchange_declare("events", passive=True)


class TestBindings:
    def test_a_queue_of_three_exchanges_gets_from_all(self, broker: Broker) -> None:
        fanout = Exchange("news", type="fanout")
        queue = Queue("all", bindings=[binding(DIRECT, "k"), binding(TOPIC, "t.#"), binding(fanout)])
        taker = broker.taker(queue)
        publish(broker, DIRECT, "k")
        publish(broker, TOPIC, "t.1", "u.1")
        publish(broker, fanout, "f")
        broker.connect().Producer().publish("default", routing_key="all")
        assert sorted(taker.bodies(4)) == ["default", "f", "k", "t.1"]
        assert taker.gets_nothing()

    def test_a_binding_that_comes_while_consuming_brings_messages(self, broker: Broker) -> None:
        taker = broker.taker(GPU)
        GPU(taker.channel).bind_to(DIRECT, routing_key="later")
        publish(broker, DIRECT, "later")
        assert taker.bodies(1) == ["later"]

    def test_unbinding_while_consuming_ends_that_way_alone(self, broker: Broker) -> None:
        taker = broker.taker(Queue("gpu", bindings=[binding(DIRECT, "a"), binding(DIRECT, "b")]))
        taker.channel.queue_unbind("gpu", "jobs", "a")
        with pytest.raises(QueueNotFound):
            publish(broker, DIRECT, "a")
        assert taker.gets_nothing(2)
        publish(broker, DIRECT, "b")
        assert taker.bodies(1) == ["b"]

    def test_a_route_can_be_bound_again(self, broker: Broker) -> None:
        taker = broker.taker(Queue("gpu", DIRECT, routing_key="a"))
        taker.channel.queue_unbind("gpu", "jobs", "a")
        assert taker.gets_nothing(2)
        taker.channel.queue_bind("gpu", "jobs", "a")
        publish(broker, DIRECT, "a")
        assert taker.bodies(1) == ["a"]

    def test_the_way_by_its_own_name_cannot_be_unbound(self, broker: Broker) -> None:
        broker.publish("waits")
        taker = broker.taker(Queue("gpu", Exchange("gpu"), routing_key="gpu"))
        (message,) = taker.take()
        taker.channel.queue_unbind("gpu", "gpu", "gpu")
        message.requeue()
        assert taker.bodies(1) == ["waits"]

    def test_many_queues_on_one_key_get_one_copy_each(self, broker: Broker) -> None:
        takers = [broker.taker(Queue(f"q{number}", DIRECT, routing_key="k")) for number in range(4)]
        publish(broker, DIRECT, "k")
        assert [taker.bodies(1) for taker in takers] == [["k"]] * 4
        assert all(taker.gets_nothing(0.3) for taker in takers)

    def test_a_queue_without_a_name_gets_one(self, broker: Broker) -> None:
        connection = broker.connect()
        name = connection.channel().queue_declare(exclusive=True).queue
        taker = Taker(connection, Queue(name, exclusive=True))
        broker.connect().Producer().publish("x", routing_key=name)
        assert taker.bodies(1) == ["x"]


class TestDeleting:
    def test_a_deleted_queue_leaves_nothing_of_all_its_ways(self, broker: Broker) -> None:
        channel = broker.connect().channel()
        queue = Queue("gpu", bindings=[binding(DIRECT, "a"), binding(TOPIC, "#")], max_priority=10)
        queue(channel).declare()
        channel.queue_delete("gpu")
        assert not list(broker.pubsub.subscriber.list_subscriptions(project=broker.pubsub.project))

    def test_a_topic_that_another_queue_needs_stays(self, broker: Broker) -> None:
        one, two = (broker.taker(Queue(name, DIRECT, routing_key="k")) for name in ("one", "two"))
        one.consumer.cancel()
        one.channel.queue_delete("one")
        publish(broker, DIRECT, "k")
        assert two.bodies(1) == ["k"]

    def test_a_consumer_is_told_that_its_queue_was_deleted(self, broker: Broker) -> None:
        taker = broker.taker(GPU)
        taker.channel.queue_delete("gpu")
        with pytest.raises((QueueNotFound, socket.timeout)) as caught:
            taker.connection.drain_events(timeout=LIMIT)
        assert caught.type is QueueNotFound

    def test_purging_empties_every_way(self, broker: Broker) -> None:
        queue = Queue("gpu", bindings=[binding(DIRECT, "a"), binding(TOPIC, "#")], max_priority=10)
        connection = broker.connect()
        channel = connection.channel()
        queue(channel).declare()
        producer = connection.Producer()
        producer.publish("high", routing_key="gpu", priority=9)
        publish(broker, DIRECT, "a")
        publish(broker, TOPIC, "t")
        channel.queue_purge("gpu")
        assert Taker(broker.connect(), queue).gets_nothing(3)
