"""One contract for our broker and Google's emulator, part 4: seeking back, snapshots, topics that retain."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.api_core.exceptions import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.pubsub_v1 import types
from pubsub_client import PubSub


def ago(minutes: float) -> datetime:
    return datetime.now(UTC) - timedelta(minutes=minutes)


def seek(pubsub: PubSub, subscription: str, **target: Any) -> None:
    pubsub.subscriber.seek(request={"subscription": subscription, **target})


def handle(pubsub: PubSub, subscription: str, count: int) -> list[types.ReceivedMessage]:
    """Pull messages and acknowledge them."""
    received = pubsub.pull(subscription, count)
    pubsub.acknowledge(subscription, *received)
    return received


class TestSeekingBack:
    def test_what_was_acknowledged_comes_back(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup(retain_acked_messages=True)
        pubsub.publish("one", "two")
        handle(pubsub, subscription, 2)
        seek(pubsub, subscription, time=ago(5))
        assert pubsub.ready(subscription) == ["one", "two"]

    def test_it_is_what_was_published_at_that_time_or_later(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup(retain_acked_messages=True)
        for body in ("one", "two", "three"):
            pubsub.publish(body)
            time.sleep(0.002)  # not a wait: the emulator tells times of publishing apart by milliseconds
        _, two, _ = handle(pubsub, subscription, 3)
        seek(pubsub, subscription, time=two.message.publish_time)
        assert pubsub.ready(subscription) == ["two", "three"]

    def test_without_retention_nothing_comes_back(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        pubsub.publish("one", "two")
        handle(pubsub, subscription, 1)
        seek(pubsub, subscription, time=ago(5))
        assert "one" not in pubsub.ready(subscription)

    def test_retention_can_be_switched_on_and_off(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        for wanted in (True, False):
            pubsub.subscriber.update_subscription(
                subscription={"name": subscription, "retain_acked_messages": wanted},
                update_mask=FieldMask(paths=["retain_acked_messages"]),
            )
            assert pubsub.subscriber.get_subscription(subscription=subscription).retain_acked_messages == wanted
            pubsub.publish("one")
            handle(pubsub, subscription, 1)
        seek(pubsub, subscription, time=ago(5))
        assert pubsub.ready(subscription) in ([], ["one"])


class TestSnapshots:
    def snapshot(self, pubsub: PubSub, subscription: str, name: str = "snapshot") -> types.Snapshot:
        return pubsub.subscriber.create_snapshot(name=self.path(pubsub, name), subscription=subscription)

    def path(self, pubsub: PubSub, name: str = "snapshot") -> str:
        return f"{pubsub.project}/snapshots/{name}"

    def test_one_is_created_found_listed_and_deleted(self, pubsub: PubSub) -> None:
        created = self.snapshot(pubsub, pubsub.setup())
        assert (created.name, created.topic) == (self.path(pubsub), pubsub.topic())
        assert timedelta(days=6, hours=23) < created.expire_time - datetime.now(UTC) < timedelta(days=7, minutes=1)
        assert pubsub.subscriber.get_snapshot(snapshot=created.name) == created
        assert list(pubsub.subscriber.list_snapshots(project=pubsub.project)) == [created]
        assert list(pubsub.publisher.list_topic_snapshots(topic=pubsub.topic())) == [created.name]
        pubsub.subscriber.delete_snapshot(snapshot=created.name)
        with pytest.raises(NotFound):
            pubsub.subscriber.get_snapshot(snapshot=created.name)
        with pytest.raises(NotFound):
            pubsub.subscriber.delete_snapshot(snapshot=created.name)

    def test_seeking_to_one_restores_what_was_not_acknowledged(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        pubsub.publish("done")
        handle(pubsub, subscription, 1)
        pubsub.publish("open")
        snapshot = self.snapshot(pubsub, subscription)
        pubsub.publish("later")
        handle(pubsub, subscription, 2)
        seek(pubsub, subscription, snapshot=snapshot.name)
        assert pubsub.ready(subscription) == ["open", "later"]
        seek(pubsub, subscription, snapshot=snapshot.name)
        assert pubsub.ready(subscription) == ["open", "later"]

    def test_another_subscription_of_the_topic_can_seek_to_it(self, pubsub: PubSub) -> None:
        first = pubsub.setup("first", "second")
        second = pubsub.subscription("second")
        pubsub.publish("one", "two")
        (one,) = pubsub.pull(first)
        pubsub.acknowledge(first, one)
        snapshot = self.snapshot(pubsub, first)
        seek(pubsub, second, snapshot=snapshot.name)
        assert pubsub.ready(second) == ["two"]

    def test_one_of_another_topic_is_refused(self, pubsub: PubSub) -> None:
        snapshot = self.snapshot(pubsub, pubsub.setup())
        other = pubsub.setup("other", topic="other")
        with pytest.raises(FailedPrecondition):
            seek(pubsub, other, snapshot=snapshot.name)

    def test_what_is_missing_or_there_already_is_refused(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        with pytest.raises(NotFound):
            seek(pubsub, subscription, snapshot=self.path(pubsub))
        with pytest.raises(NotFound):
            self.snapshot(pubsub, pubsub.subscription("missing"))
        self.snapshot(pubsub, subscription)
        with pytest.raises(AlreadyExists):
            self.snapshot(pubsub, subscription)


class TestTopicsThatRetain:
    def create(self, pubsub: PubSub, seconds: int = 1200) -> types.Topic:
        request = {"name": pubsub.topic(), "message_retention_duration": Duration(seconds=seconds)}
        return pubsub.publisher.create_topic(request=request)

    def test_a_new_subscription_can_seek_to_before_it_was_there(self, pubsub: PubSub) -> None:
        self.create(pubsub)
        pubsub.publish("early")
        subscription = pubsub.setup()
        pubsub.publish("late")
        seek(pubsub, subscription, time=ago(5))
        assert pubsub.ready(subscription) == ["early", "late"]

    def test_what_a_subscription_acknowledged_comes_back(self, pubsub: PubSub) -> None:
        self.create(pubsub)
        subscription = pubsub.setup()
        pubsub.publish("one")
        handle(pubsub, subscription, 1)
        seek(pubsub, subscription, time=ago(5))
        assert pubsub.ready(subscription) == ["one"]

    def test_the_retention_is_shown_and_can_be_changed(self, pubsub: PubSub) -> None:
        assert self.create(pubsub).message_retention_duration == timedelta(seconds=1200)
        topic = {"name": pubsub.topic(), "message_retention_duration": Duration(seconds=1300)}
        pubsub.publisher.update_topic(topic=topic, update_mask=FieldMask(paths=["message_retention_duration"]))
        found = pubsub.publisher.get_topic(topic=pubsub.topic())
        assert found.message_retention_duration == timedelta(seconds=1300)

    @pytest.mark.parametrize("seconds", [599, 31 * 86400 + 1])
    def test_a_retention_out_of_range_is_refused(self, pubsub: PubSub, seconds: int) -> None:
        with pytest.raises(InvalidArgument):
            self.create(pubsub, seconds)

    @pytest.mark.parametrize("paths", [[], ["name"], ["nonsense"]])
    def test_an_update_of_nothing_or_of_what_cannot_change_is_refused(self, pubsub: PubSub, paths: list[str]) -> None:
        self.create(pubsub)
        with pytest.raises(InvalidArgument):
            pubsub.publisher.update_topic(topic={"name": pubsub.topic()}, update_mask=FieldMask(paths=paths))
