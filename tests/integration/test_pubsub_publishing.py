"""The transport's contract with kombu on both servers, part 1: publishing, and the ways to queues."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection, Exchange, Queue
from kombu.exceptions import InconsistencyError
from pubsub_client import PubSub
from test_pubsub_bench import FAST, GPU, LIMIT, Broker, Taker

from transports.errors import BadName, ChannelFailed, QueueNotFound


@pytest.fixture
def broker(pubsub: PubSub) -> Iterator[Broker]:
    """A project of its own on each server."""
    with Broker(pubsub) as found:
        yield found


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

    def test_a_forked_child_publishes_with_what_it_inherited(self, broker: Broker) -> None:
        code = """
            producer = Connection(URL).Producer()
            producer.publish("parent", routing_key="gpu", declare=[Queue("gpu")])
            child = os.fork()
            producer.publish("child" if child == 0 else "parent again", routing_key="gpu", retry=True)
            if child == 0:
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        """
        with broker.run(code) as process:
            assert process.wait(LIMIT) == 0
        assert sorted(broker.taker(GPU).bodies(3)) == ["child", "parent", "parent again"]

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
        for _ in range(2):
            with pytest.raises(ChannelFailed, match="pull what it holds"):
                producer.publish("new", routing_key="gpu")
        (old,) = broker.pubsub.pull(broker.pubsub.subscription("celery-gpu"))
        assert b'"old"' in old.message.data.replace(b"\\", b"")

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
        broker.connect().channel().queue_purge("gpu")
        broker.publish("c")
        assert broker.taker(GPU).bodies(1) == ["c"]

    def test_deleting_a_queue_deletes_topic_and_subscription(self, broker: Broker) -> None:
        broker.publish("a")
        broker.connect().channel().queue_delete("gpu")
        assert not list(broker.pubsub.publisher.list_topics(project=broker.pubsub.project))
        with pytest.raises(QueueNotFound):
            broker.connect().Producer().publish("x", routing_key="gpu")
