"""One contract for our broker and Google's emulator, part 1: topics, subscriptions, publishing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.api_core.exceptions import AlreadyExists, InvalidArgument, NotFound
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from pubsub_client import PubSub, texts


class TestTopics:
    def test_a_topic_is_created_found_listed_and_deleted(self, pubsub: PubSub) -> None:
        path = pubsub.topic()
        assert pubsub.publisher.create_topic(name=path).name == path
        assert pubsub.publisher.get_topic(topic=path).name == path
        assert [each.name for each in pubsub.publisher.list_topics(project=pubsub.project)] == [path]
        pubsub.publisher.delete_topic(topic=path)
        assert list(pubsub.publisher.list_topics(project=pubsub.project)) == []

    def test_a_long_list_comes_in_pages(self, pubsub: PubSub) -> None:
        for name in ("aaa", "bbb", "ccc", "ddd", "eee"):
            pubsub.publisher.create_topic(name=pubsub.topic(name))
        pager = pubsub.publisher.list_topics(request={"project": pubsub.project, "page_size": 2})
        assert [len(page.topics) for page in pager.pages] == [2, 2, 1]

    def test_creating_a_topic_twice_is_refused(self, pubsub: PubSub) -> None:
        pubsub.publisher.create_topic(name=pubsub.topic())
        with pytest.raises(AlreadyExists):
            pubsub.publisher.create_topic(name=pubsub.topic())

    @pytest.mark.parametrize("name", ["ab", "1abc", "googabc", "a/bc", "a bc", "äbc", "a" * 256])
    def test_a_name_outside_the_rules_is_refused(self, pubsub: PubSub, name: str) -> None:
        with pytest.raises(InvalidArgument):
            pubsub.publisher.create_topic(name=pubsub.topic(name))

    @pytest.mark.parametrize("name", ["abc", "A-_.~+%9", "a" * 255])
    def test_a_name_within_the_rules_is_taken(self, pubsub: PubSub, name: str) -> None:
        assert pubsub.publisher.create_topic(name=pubsub.topic(name)).name == pubsub.topic(name)

    def test_what_is_missing_is_not_found(self, pubsub: PubSub) -> None:
        for call in (pubsub.publisher.get_topic, pubsub.publisher.delete_topic):
            with pytest.raises(NotFound):
                call(topic=pubsub.topic())
        with pytest.raises(NotFound):
            pubsub.publish("lost")

    def test_deleting_a_topic_leaves_its_subscriptions_and_their_messages(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        pubsub.publish("one")
        pubsub.publisher.delete_topic(topic=pubsub.topic())
        assert pubsub.subscriber.get_subscription(subscription=subscription).topic == "_deleted-topic_"
        assert texts(pubsub.pull(subscription)) == ["one"]

    def test_a_topic_created_anew_has_no_old_subscriptions(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        pubsub.publisher.delete_topic(topic=pubsub.topic())
        pubsub.publisher.create_topic(name=pubsub.topic())
        pubsub.publish("new")
        assert pubsub.ready(subscription) == []


class TestSubscriptions:
    def test_a_subscription_is_created_found_listed_and_deleted(self, pubsub: PubSub) -> None:
        path = pubsub.setup(ack_deadline_seconds=77)
        found = pubsub.subscriber.get_subscription(subscription=path)
        assert (found.name, found.topic, found.ack_deadline_seconds) == (path, pubsub.topic(), 77)
        assert [each.name for each in pubsub.subscriber.list_subscriptions(project=pubsub.project)] == [path]
        assert list(pubsub.publisher.list_topic_subscriptions(topic=pubsub.topic())) == [path]
        pubsub.subscriber.delete_subscription(subscription=path)
        with pytest.raises(NotFound):
            pubsub.subscriber.get_subscription(subscription=path)

    def test_what_is_left_open_has_the_services_defaults(self, pubsub: PubSub) -> None:
        path = pubsub.setup(ack_deadline_seconds=0)
        found = pubsub.subscriber.get_subscription(subscription=path)
        assert found.ack_deadline_seconds == 10
        assert found.message_retention_duration == timedelta(days=7)

    def test_creating_a_subscription_twice_is_refused(self, pubsub: PubSub) -> None:
        pubsub.setup()
        with pytest.raises(AlreadyExists):
            pubsub.setup()

    def test_a_subscription_of_a_missing_topic_is_refused(self, pubsub: PubSub) -> None:
        with pytest.raises(NotFound):
            pubsub.subscriber.create_subscription(name=pubsub.subscription(), topic=pubsub.topic())

    @pytest.mark.parametrize(
        "fields", [{"ack_deadline_seconds": 601}, {"message_retention_duration": Duration(seconds=599)}]
    )
    def test_settings_out_of_range_are_refused(self, pubsub: PubSub, fields: dict[str, Any]) -> None:
        with pytest.raises(InvalidArgument):
            pubsub.setup(**fields)

    def test_an_expiration_of_never_is_kept(self, pubsub: PubSub) -> None:
        path = pubsub.setup(expiration_policy={})
        found = pubsub.subscriber.get_subscription(subscription=path)
        assert "expiration_policy" in found
        assert "ttl" not in found.expiration_policy

    def test_deadline_and_retention_can_be_changed(self, pubsub: PubSub) -> None:
        path = pubsub.setup()
        pubsub.subscriber.update_subscription(
            subscription={
                "name": path,
                "ack_deadline_seconds": 33,
                "message_retention_duration": Duration(seconds=1200),
            },
            update_mask=FieldMask(paths=["ack_deadline_seconds", "message_retention_duration"]),
        )
        found = pubsub.subscriber.get_subscription(subscription=path)
        assert found.ack_deadline_seconds == 33
        assert found.message_retention_duration == timedelta(minutes=20)

    @pytest.mark.parametrize("paths", [[], ["filter"], ["topic"], ["nonsense"]])
    def test_an_update_of_nothing_or_of_what_cannot_change_is_refused(self, pubsub: PubSub, paths: list[str]) -> None:
        path = pubsub.setup()
        with pytest.raises(InvalidArgument):
            pubsub.subscriber.update_subscription(
                subscription={"name": path, "topic": pubsub.topic("other")}, update_mask=FieldMask(paths=paths)
            )

    def test_every_call_on_a_missing_subscription_is_not_found(self, pubsub: PubSub) -> None:
        path, client = pubsub.subscription(), pubsub.subscriber
        calls: list[Callable[[], Any]] = [
            lambda: client.get_subscription(subscription=path),
            lambda: client.delete_subscription(subscription=path),
            lambda: client.pull(subscription=path, max_messages=1),
            lambda: client.acknowledge(subscription=path, ack_ids=["1.1.1"]),
            lambda: client.modify_ack_deadline(subscription=path, ack_ids=["1.1.1"], ack_deadline_seconds=10),
            lambda: client.seek(request={"subscription": path, "time": datetime.now(UTC)}),
        ]
        for call in calls:
            with pytest.raises(NotFound):
                call()


class TestPublishing:
    def test_a_message_arrives_as_it_was_published(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        before = datetime.now(UTC)
        sent = {"data": bytes(range(256)), "attributes": {"key": "välue", "empty": ""}, "ordering_key": "order"}
        ids = pubsub.publisher.publish(topic=pubsub.topic(), messages=[sent]).message_ids
        (received,) = pubsub.pull(subscription)
        message = received.message
        assert (message.data, dict(message.attributes), message.ordering_key) == tuple(sent.values())
        assert [message.message_id] == list(ids)
        assert before - timedelta(seconds=1) <= message.publish_time <= datetime.now(UTC) + timedelta(seconds=1)

    def test_attributes_alone_are_a_message(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        pubsub.publisher.publish(topic=pubsub.topic(), messages=[{"attributes": {"only": "this"}}])
        (received,) = pubsub.pull(subscription)
        assert dict(received.message.attributes) == {"only": "this"}

    @pytest.mark.parametrize("messages", [[], [{}], [{"ordering_key": "key"}], [{"data": b"x"}] * 1001])
    def test_nothing_or_too_much_is_refused(self, pubsub: PubSub, messages: list[dict[str, Any]]) -> None:
        pubsub.setup()
        with pytest.raises(InvalidArgument):
            pubsub.publisher.publish(topic=pubsub.topic(), messages=messages)

    def test_a_request_with_an_empty_message_publishes_none(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        with pytest.raises(InvalidArgument):
            pubsub.publisher.publish(topic=pubsub.topic(), messages=[{"data": b"good"}, {}])
        assert pubsub.ready(subscription) == []

    def test_a_message_of_ten_million_bytes_passes(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        pubsub.publisher.publish(topic=pubsub.topic(), messages=[{"data": b"x" * 10_000_000}])
        (received,) = pubsub.pull(subscription)
        assert len(received.message.data) == 10_000_000

    def test_every_subscription_of_that_moment_gets_a_copy(self, pubsub: PubSub) -> None:
        first = pubsub.setup("first", "second")
        pubsub.publish("one")
        pubsub.setup("late")
        pubsub.publish("two")
        assert pubsub.ready(first) == ["one", "two"]
        assert pubsub.ready(pubsub.subscription("second")) == ["one", "two"]
        assert pubsub.ready(pubsub.subscription("late")) == ["two"]

    def test_the_oldest_message_comes_first(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        bodies = [str(number) for number in range(20)]
        for body in bodies:
            pubsub.publish(body)
        assert [texts(pubsub.pull(subscription))[0] for _ in bodies] == bodies

    def test_ids_are_never_used_twice(self, pubsub: PubSub) -> None:
        pubsub.setup()
        with ThreadPoolExecutor(8) as pool:
            ids = [each for ids in pool.map(lambda number: pubsub.publish(str(number), "x"), range(50)) for each in ids]
        assert len(set(ids)) == 100
