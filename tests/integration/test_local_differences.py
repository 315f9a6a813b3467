"""What only our broker does, and where it and Google's emulator differ: by name, so that nobody is surprised."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from google.api_core.exceptions import InvalidArgument
from google.iam.v1 import iam_policy_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.pubsub_v1 import types
from http2_client import DATA, RST_STREAM, Frame, RawClient
from pubsub_client import PubSub, texts

from transports.local import methods
from transports.local.http2.errors import ErrorCode


def settled(server: PubSub, subscription: str) -> None:
    """Return when the broker has done what was asked before: a request later than all of it was answered."""
    server.subscriber.get_subscription(subscription=subscription)


class TestFlowControl:
    def test_a_stream_holds_no_more_messages_than_it_asked_for(self, local_pubsub: PubSub) -> None:
        subscription = local_pubsub.setup()
        local_pubsub.publish(*"abcde")
        with local_pubsub.stream(subscription, max_outstanding_messages=2) as stream:
            held = stream.take(2)
            assert local_pubsub.ready(subscription) == ["c", "d", "e"]
            local_pubsub.publish("f", "g")
            local_pubsub.acknowledge(subscription, held[0])
            assert texts(stream.take()) == ["f"]
            assert local_pubsub.ready(subscription) == ["g"]

    def test_a_message_given_back_makes_room(self, local_pubsub: PubSub) -> None:
        subscription = local_pubsub.setup()
        local_pubsub.publish("one", "two")
        with local_pubsub.stream(subscription, max_outstanding_messages=1) as stream:
            (one,) = stream.take()
            local_pubsub.modify(subscription, one, seconds=0)
            assert texts(stream.take()) == ["one"]

    def test_a_lease_that_ran_out_makes_room(self, local_pubsub: PubSub) -> None:
        subscription = local_pubsub.setup()
        local_pubsub.publish("one")
        with local_pubsub.stream(subscription, max_outstanding_messages=1) as stream:
            local_pubsub.modify(subscription, *stream.take(), seconds=1)
            assert texts(stream.take()) == ["one"]

    def test_a_seek_makes_room(self, local_pubsub: PubSub) -> None:
        subscription = local_pubsub.setup()
        local_pubsub.publish("old")
        with local_pubsub.stream(subscription, max_outstanding_messages=1) as stream:
            stream.take()
            local_pubsub.subscriber.seek(request={"subscription": subscription, "time": datetime.now(UTC)})
            local_pubsub.publish("new")
            assert texts(stream.take()) == ["new"]

    def test_a_stream_holds_no_more_bytes_than_it_asked_for(self, local_pubsub: PubSub) -> None:
        subscription = local_pubsub.setup()
        local_pubsub.publish("x" * 600, "y" * 600)
        with local_pubsub.stream(subscription, max_outstanding_bytes=1000) as stream:
            (first,) = stream.take()
            settled(local_pubsub, subscription)
            assert stream.waiting == 0
            local_pubsub.acknowledge(subscription, first)
            assert texts(stream.take()) == ["y" * 600]

    def test_a_message_larger_than_the_limit_comes_alone(self, local_pubsub: PubSub) -> None:
        subscription = local_pubsub.setup()
        local_pubsub.publish("x" * 5000, "y")
        with local_pubsub.stream(subscription, max_outstanding_bytes=1000) as stream:
            (large,) = stream.take()
            assert local_pubsub.ready(subscription) == ["y"]
            local_pubsub.acknowledge(subscription, large)

    @pytest.mark.emulator
    def test_the_emulator_ignores_max_outstanding_messages(self, emulator_pubsub: PubSub) -> None:
        subscription = emulator_pubsub.setup()
        emulator_pubsub.publish(*"abcde")
        with emulator_pubsub.stream(subscription, max_outstanding_messages=2) as stream:
            assert len(stream.take(5)) == 5

    def test_what_a_stream_that_nobody_read_could_not_write_is_ready_at_once(self, local_pubsub: PubSub) -> None:
        subscription = local_pubsub.setup()
        local_pubsub.publish("x" * 8_000_000)
        first = types.StreamingPullRequest(subscription=subscription, stream_ack_deadline_seconds=600)
        # Google's client lets in the more the longer it is, whether or not anybody reads.
        with RawClient(local_pubsub.address) as client:
            client.ask(1, methods.STREAMING_PULL, types.StreamingPullRequest.serialize(first), ended=False)
            client.until(DATA, 1)
            client.send(Frame(RST_STREAM, 0, 1, ErrorCode.CANCEL.to_bytes(4, "big")))
            assert client.is_served()
        assert len(local_pubsub.pull(subscription)) == 1


class TestStaleAckIds:
    def test_the_ack_id_of_an_earlier_delivery_does_nothing(self, local_pubsub: PubSub) -> None:
        subscription = local_pubsub.setup()
        local_pubsub.publish("one")
        (first,) = local_pubsub.pull(subscription)
        local_pubsub.modify(subscription, first, seconds=0)
        (second,) = local_pubsub.pull(subscription)
        local_pubsub.modify(subscription, first, seconds=0)
        assert local_pubsub.ready(subscription) == []
        local_pubsub.acknowledge(subscription, first)
        local_pubsub.modify(subscription, second, seconds=0)
        assert local_pubsub.ready(subscription) == ["one"]

    def test_a_message_given_back_and_not_yet_redelivered_can_be_acknowledged(self, local_pubsub: PubSub) -> None:
        subscription = local_pubsub.setup()
        local_pubsub.publish("one")
        (first,) = local_pubsub.pull(subscription)
        local_pubsub.modify(subscription, first, seconds=0)
        local_pubsub.acknowledge(subscription, first)
        assert local_pubsub.ready(subscription) == []

    def test_the_ack_id_of_a_deleted_subscription_does_nothing_to_its_successor(self, local_pubsub: PubSub) -> None:
        subscription = local_pubsub.setup()
        local_pubsub.publish("old")
        old = local_pubsub.pull(subscription)
        local_pubsub.subscriber.delete_subscription(subscription=subscription)
        local_pubsub.setup()
        local_pubsub.publish("new")
        local_pubsub.acknowledge(subscription, *old)
        assert local_pubsub.ready(subscription) == ["new"]


class TestLimits:
    @pytest.mark.parametrize("seconds", [1, 9])
    def test_a_short_ack_deadline_is_refused_as_by_google_and_not_by_the_emulator(
        self, local_pubsub: PubSub, seconds: int
    ) -> None:
        with pytest.raises(InvalidArgument):
            local_pubsub.setup(ack_deadline_seconds=seconds)

    def test_an_extension_beyond_600_seconds_is_refused(self, local_pubsub: PubSub) -> None:
        subscription = local_pubsub.setup()
        local_pubsub.publish("one")
        with pytest.raises(InvalidArgument):
            local_pubsub.modify(subscription, *local_pubsub.pull(subscription), seconds=601)

    @pytest.mark.parametrize("sizes", [[10_000_001], [6_000_000, 6_000_000]])
    def test_more_than_ten_million_bytes_are_refused(self, local_pubsub: PubSub, sizes: list[int]) -> None:
        local_pubsub.setup()
        with pytest.raises(InvalidArgument):
            local_pubsub.publisher.publish(
                topic=local_pubsub.topic(), messages=[{"data": b"x" * size} for size in sizes]
            )

    @pytest.mark.parametrize(
        "attributes",
        [
            {"": "x"},
            {"googclient": "x"},
            {"x" * 257: "x"},
            {"x": "x" * 1025},
            {str(number): "x" for number in range(101)},
        ],
    )
    def test_attributes_outside_the_rules_are_refused(self, local_pubsub: PubSub, attributes: dict[str, str]) -> None:
        local_pubsub.setup()
        with pytest.raises(InvalidArgument):
            local_pubsub.publisher.publish(topic=local_pubsub.topic(), messages=[{"attributes": attributes}])

    def test_31_days_of_retention_are_taken_here(self, local_pubsub: PubSub) -> None:
        path = local_pubsub.setup(message_retention_duration=Duration(seconds=31 * 86400))
        assert local_pubsub.subscriber.get_subscription(subscription=path).message_retention_duration.days == 31

    @pytest.mark.emulator
    def test_31_days_of_retention_are_refused_by_the_emulator(self, emulator_pubsub: PubSub) -> None:
        with pytest.raises(InvalidArgument):
            emulator_pubsub.setup(message_retention_duration=Duration(seconds=31 * 86400))


class TestSettings:
    def test_expiration_labels_and_exactly_once_can_be_changed(self, local_pubsub: PubSub) -> None:
        path = local_pubsub.setup()
        local_pubsub.subscriber.update_subscription(
            subscription={
                "name": path,
                "expiration_policy": {},
                "labels": {"a": "b"},
                "enable_exactly_once_delivery": True,
            },
            update_mask=FieldMask(paths=["expiration_policy", "labels", "enable_exactly_once_delivery"]),
        )
        found = local_pubsub.subscriber.get_subscription(subscription=path)
        assert "ttl" not in found.expiration_policy
        assert (dict(found.labels), found.enable_exactly_once_delivery) == ({"a": "b"}, True)

    def test_the_labels_of_a_topic_can_be_changed(self, local_pubsub: PubSub) -> None:
        local_pubsub.setup()
        local_pubsub.publisher.update_topic(
            topic={"name": local_pubsub.topic(), "labels": {"a": "b"}}, update_mask=FieldMask(paths=["labels"])
        )
        assert dict(local_pubsub.publisher.get_topic(topic=local_pubsub.topic()).labels) == {"a": "b"}

    def test_whatever_permission_is_asked_for_is_there(self, local_pubsub: PubSub) -> None:
        asked = ["pubsub.topics.publish", "pubsub.topics.delete"]
        request = iam_policy_pb2.TestIamPermissionsRequest(resource=local_pubsub.topic(), permissions=asked)
        assert list(local_pubsub.publisher.test_iam_permissions(request=request).permissions) == asked

    def test_all_that_google_lets_one_change_of_a_subscription_can_be_changed(self, local_pubsub: PubSub) -> None:
        path = local_pubsub.setup()
        local_pubsub.publisher.create_topic(name=local_pubsub.topic("dead"))
        wanted = {
            "name": path,
            "ack_deadline_seconds": 20,
            "message_retention_duration": Duration(seconds=1000),
            "retain_acked_messages": True,
            "expiration_policy": {"ttl": Duration(seconds=100_000)},
            "enable_exactly_once_delivery": True,
            "dead_letter_policy": {"dead_letter_topic": local_pubsub.topic("dead"), "max_delivery_attempts": 6},
            "retry_policy": {"minimum_backoff": Duration(seconds=5), "maximum_backoff": Duration(seconds=50)},
            "labels": {"a": "b"},
        }
        paths = [each for each in wanted if each != "name"]
        changed = local_pubsub.subscriber.update_subscription(subscription=wanted, update_mask=FieldMask(paths=paths))
        assert changed == local_pubsub.subscriber.get_subscription(subscription=path)
        expected = types.Subscription({**wanted, "topic": local_pubsub.topic(), "push_config": {}, "state": "ACTIVE"})
        assert changed == expected

    @pytest.mark.parametrize(
        "labels", [{"A": "b"}, {"a": "B"}, {"1": "b"}, {"": "b"}, {"a" * 64: "b"}, {"a": "b" * 64}, {"a b": "c"}]
    )
    def test_labels_outside_the_rules_are_refused(self, local_pubsub: PubSub, labels: dict[str, str]) -> None:
        with pytest.raises(InvalidArgument):
            local_pubsub.publisher.create_topic(request={"name": local_pubsub.topic(), "labels": labels})

    def test_the_labels_of_a_snapshot_can_be_changed(self, local_pubsub: PubSub) -> None:
        name = f"{local_pubsub.project}/snapshots/snapshot"
        local_pubsub.subscriber.create_snapshot(name=name, subscription=local_pubsub.setup())
        local_pubsub.subscriber.update_snapshot(
            snapshot={"name": name, "labels": {"a": "b"}}, update_mask=FieldMask(paths=["labels"])
        )
        assert dict(local_pubsub.subscriber.get_snapshot(snapshot=name).labels) == {"a": "b"}
