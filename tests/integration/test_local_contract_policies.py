"""One contract for our broker and Google's emulator, part 3: exactly once, dead letters, retries, order."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from google.api_core.exceptions import GoogleAPICallError, InvalidArgument, NotFound, OutOfRange
from google.cloud import pubsub_v1
from google.cloud.pubsub_v1.subscriber.exceptions import AcknowledgeError, AcknowledgeStatus
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.pubsub_v1 import types
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from google.rpc.error_details_pb2 import ErrorInfo
from pubsub_client import LIMIT_SECONDS, PubSub, texts


def stale_ids(error: GoogleAPICallError) -> dict[str, str]:
    """Return what an error says of ack ids, as Google's client reads it."""
    (info,) = error.details
    assert isinstance(info, ErrorInfo)
    assert (info.reason, info.domain) == ("EXACTLY_ONCE_ACKID_FAILURE", "pubsub.googleapis.com")
    return dict(info.metadata)


class TestExactlyOnce:
    @pytest.fixture
    def subscription(self, pubsub: PubSub) -> str:
        return pubsub.setup(enable_exactly_once_delivery=True)

    def test_a_message_that_was_given_back_cannot_be_acknowledged_by_its_old_id(
        self, pubsub: PubSub, subscription: str
    ) -> None:
        pubsub.publish("one")
        (first,) = pubsub.pull(subscription)
        pubsub.modify(subscription, first, seconds=0)
        with pytest.raises(InvalidArgument) as refused:
            pubsub.acknowledge(subscription, first)
        assert stale_ids(refused.value) == {first.ack_id: "PERMANENT_FAILURE_INVALID_ACK_ID"}
        (second,) = pubsub.pull(subscription)
        pubsub.acknowledge(subscription, second)
        assert pubsub.ready(subscription) == []

    def test_acknowledging_twice_is_refused(self, pubsub: PubSub, subscription: str) -> None:
        pubsub.publish("one")
        received = pubsub.pull(subscription)
        pubsub.acknowledge(subscription, *received)
        with pytest.raises(InvalidArgument):
            pubsub.acknowledge(subscription, *received)
        with pytest.raises(InvalidArgument):
            pubsub.modify(subscription, *received, seconds=20)

    def test_the_good_ids_of_a_refused_request_are_carried_out(self, pubsub: PubSub, subscription: str) -> None:
        pubsub.publish("old", "new")
        old, new = pubsub.pull(subscription, 2)
        pubsub.acknowledge(subscription, old)
        with pytest.raises(InvalidArgument) as refused:
            pubsub.acknowledge(subscription, old, new)
        assert stale_ids(refused.value).keys() == {old.ack_id}
        with pytest.raises(InvalidArgument) as refused:
            pubsub.acknowledge(subscription, new)
        assert stale_ids(refused.value).keys() == {new.ack_id}

    def test_the_latest_id_of_a_redelivered_message_is_the_only_good_one(
        self, pubsub: PubSub, subscription: str
    ) -> None:
        pubsub.publish("one")
        (first,) = pubsub.pull(subscription)
        pubsub.modify(subscription, first, seconds=1)
        (second,) = pubsub.pull(subscription)
        with pytest.raises(InvalidArgument):
            pubsub.modify(subscription, first, seconds=20)
        pubsub.modify(subscription, second, seconds=20)
        pubsub.acknowledge(subscription, second)

    def test_googles_own_client_is_told_which_acknowledgement_failed(self, pubsub: PubSub, subscription: str) -> None:
        received: list[Any] = []
        some = threading.Event()

        def receive(message: Any) -> None:
            received.append(message)
            some.set()

        subscriber = pubsub_v1.SubscriberClient(transport=SubscriberGrpcTransport(channel=pubsub.channel))
        pulling = subscriber.subscribe(subscription, receive)
        pubsub.publish("one")
        assert some.wait(LIMIT_SECONDS)
        assert received[0].ack_with_response().result(LIMIT_SECONDS) is AcknowledgeStatus.SUCCESS
        with pytest.raises(AcknowledgeError) as refused:
            received[0].ack_with_response().result(LIMIT_SECONDS)
        assert refused.value.error_code is AcknowledgeStatus.INVALID_ACK_ID
        pulling.cancel()
        pulling.result(LIMIT_SECONDS)


class TestDeadLetters:
    @pytest.fixture
    def subscription(self, pubsub: PubSub) -> str:
        """Give a subscription whose dead letters go to the topic ``dead``, which has a subscription too."""
        pubsub.setup("graveyard", topic="dead")
        policy = {"dead_letter_topic": pubsub.topic("dead"), "max_delivery_attempts": 5}
        return pubsub.setup(dead_letter_policy=policy)

    def refuse(self, pubsub: PubSub, subscription: str, times: int) -> list[int]:
        """Take a message and give it back, so often; return what the server said of attempts."""
        attempts = []
        for _ in range(times):
            (received,) = pubsub.pull(subscription)
            attempts.append(received.delivery_attempt)
            pubsub.modify(subscription, received, seconds=0)
        return attempts

    def test_a_message_is_forwarded_after_so_many_deliveries_in_vain(self, pubsub: PubSub, subscription: str) -> None:
        sent = {"data": b"body", "attributes": {"key": "value"}, "ordering_key": "order"}
        pubsub.publisher.publish(topic=pubsub.topic(), messages=[sent])
        assert self.refuse(pubsub, subscription, 5) == [1, 2, 3, 4, 5]
        assert pubsub.ready(subscription) == []
        (letter,) = pubsub.pull(pubsub.subscription("graveyard"))
        attributes = dict(letter.message.attributes)
        assert letter.message.data == b"body"
        assert attributes["key"] == "value"
        assert attributes["CloudPubSubDeadLetterSourceDeliveryCount"] == "5"
        assert attributes["CloudPubSubDeadLetterSourceSubscription"] == "subscription"
        assert f"projects/{attributes['CloudPubSubDeadLetterSourceSubscriptionProject']}" == pubsub.project
        assert attributes["CloudPubSubDeadLetterSourceTopicPublishTime"].endswith("Z")

    def test_a_message_that_was_handled_in_time_is_not(self, pubsub: PubSub, subscription: str) -> None:
        pubsub.publish("one")
        self.refuse(pubsub, subscription, 4)
        pubsub.acknowledge(subscription, *pubsub.pull(subscription))
        assert pubsub.ready(pubsub.subscription("graveyard")) == []

    def test_attempts_are_counted_only_where_somebody_wants_to_know(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        pubsub.publish("one")
        assert self.refuse(pubsub, subscription, 2) == [0, 0]

    @pytest.mark.parametrize("attempts", [4, 101])
    def test_too_few_or_too_many_attempts_are_refused(self, pubsub: PubSub, attempts: int) -> None:
        pubsub.publisher.create_topic(name=pubsub.topic("dead"))
        policy = {"dead_letter_topic": pubsub.topic("dead"), "max_delivery_attempts": attempts}
        with pytest.raises(OutOfRange):
            pubsub.setup(dead_letter_policy=policy)

    def test_a_policy_that_leaves_the_attempts_open_allows_five(self, pubsub: PubSub) -> None:
        pubsub.publisher.create_topic(name=pubsub.topic("dead"))
        path = pubsub.setup(dead_letter_policy={"dead_letter_topic": pubsub.topic("dead")})
        found = pubsub.subscriber.get_subscription(subscription=path)
        assert found.dead_letter_policy.max_delivery_attempts == 5

    @pytest.mark.parametrize("name", ["missing", ""])
    def test_a_missing_topic_is_refused(self, pubsub: PubSub, name: str) -> None:
        topic = pubsub.topic(name) if name else ""
        with pytest.raises(NotFound):
            pubsub.setup(dead_letter_policy={"dead_letter_topic": topic, "max_delivery_attempts": 5})

    def test_the_policy_can_be_changed_and_removed(self, pubsub: PubSub, subscription: str) -> None:
        def update(**fields: Any) -> types.Subscription:
            return pubsub.subscriber.update_subscription(
                subscription={"name": subscription, **fields}, update_mask=FieldMask(paths=["dead_letter_policy"])
            )

        policy = {"dead_letter_topic": pubsub.topic("dead"), "max_delivery_attempts": 7}
        assert update(dead_letter_policy=policy).dead_letter_policy.max_delivery_attempts == 7
        assert "dead_letter_policy" not in update()


class TestRetries:
    def test_a_message_given_back_comes_again_after_the_backoff(self, pubsub: PubSub) -> None:
        policy = {"minimum_backoff": Duration(seconds=1), "maximum_backoff": Duration(seconds=1)}
        subscription = pubsub.setup(retry_policy=policy)
        pubsub.publish("one")
        for _ in range(2):
            received = pubsub.pull(subscription)
            giving_back = time.monotonic()
            pubsub.modify(subscription, *received, seconds=0)
        came = pubsub.ready(subscription) or texts(pubsub.pull(subscription))
        assert time.monotonic() - giving_back > 0.9
        assert came == ["one"]

    @pytest.mark.parametrize(
        ("policy", "expected"),
        [
            ({}, (10, 600)),
            ({"minimum_backoff": Duration(seconds=3)}, (3, 600)),
            ({"maximum_backoff": Duration(seconds=30)}, (10, 30)),
        ],
    )
    def test_what_is_left_open_has_the_services_defaults(
        self, pubsub: PubSub, policy: dict[str, Any], expected: tuple[int, int]
    ) -> None:
        found = pubsub.subscriber.get_subscription(subscription=pubsub.setup(retry_policy=policy)).retry_policy
        assert (found.minimum_backoff.total_seconds(), found.maximum_backoff.total_seconds()) == expected

    @pytest.mark.parametrize(("low", "high"), [(601, 601), (1, 601), (20, 10)])
    def test_a_backoff_out_of_range_is_refused(self, pubsub: PubSub, low: int, high: int) -> None:
        with pytest.raises(InvalidArgument):
            pubsub.setup(
                retry_policy={"minimum_backoff": Duration(seconds=low), "maximum_backoff": Duration(seconds=high)}
            )


class TestOrder:
    @pytest.fixture
    def subscription(self, pubsub: PubSub) -> str:
        return pubsub.setup(enable_message_ordering=True)

    def publish(self, pubsub: PubSub, *keys_and_bodies: str) -> None:
        """Publish bodies such as ``A1``, whose first letter is the key; ``-`` is none."""
        messages = [
            {"data": body.encode(), "ordering_key": "" if body[0] == "-" else body[0]} for body in keys_and_bodies
        ]
        pubsub.publisher.publish(topic=pubsub.topic(), messages=messages)

    def take(self, pubsub: PubSub, subscription: str, count: int = 10) -> list[types.ReceivedMessage]:
        """Pull what is there."""
        return list(pubsub.start_pull(subscription, count, at_once=True).result().received_messages)

    def test_a_key_waits_until_its_batch_is_done_and_the_others_do_not(self, pubsub: PubSub, subscription: str) -> None:
        self.publish(pubsub, "A1", "A2", "B1", "A3", "-1")
        first = pubsub.pull(subscription)
        assert texts(first) == ["A1"]
        assert sorted(texts(pubsub.pull(subscription, 2))) == ["-1", "B1"]
        assert pubsub.ready(subscription) == []
        pubsub.acknowledge(subscription, *first)
        assert texts(pubsub.pull(subscription, 2)) == ["A2", "A3"]

    def test_a_batch_is_done_when_all_of_it_is(self, pubsub: PubSub, subscription: str) -> None:
        self.publish(pubsub, "A1", "A2", "A3")
        one, two = pubsub.pull(subscription, 2)
        pubsub.acknowledge(subscription, two)
        assert pubsub.ready(subscription) == []
        pubsub.acknowledge(subscription, one)
        assert texts(pubsub.pull(subscription)) == ["A3"]

    def test_what_comes_later_of_a_key_goes_to_the_stream_that_has_it(self, pubsub: PubSub, subscription: str) -> None:
        with pubsub.stream(subscription) as one:
            self.publish(pubsub, "A1")
            assert texts(one.take()) == ["A1"]
            with pubsub.stream(subscription) as two:
                for number in range(2, 10):
                    self.publish(pubsub, f"A{number}")
                assert texts(one.take(8)) == [f"A{number}" for number in range(2, 10)]
                assert two.waiting == 0

    def test_when_all_of_a_batch_comes_back_it_is_delivered_in_order(self, pubsub: PubSub, subscription: str) -> None:
        self.publish(pubsub, "A1", "A2", "A3")
        received = pubsub.pull(subscription, 3)
        pubsub.modify(subscription, *received, seconds=0)
        assert texts(pubsub.pull(subscription, 3)) == ["A1", "A2", "A3"]

    def test_without_it_keys_mean_nothing(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        self.publish(pubsub, "A1", "A2")
        pubsub.pull(subscription)
        assert texts(pubsub.pull(subscription)) == ["A2"]

    def test_it_can_be_seen_and_not_be_changed(self, pubsub: PubSub, subscription: str) -> None:
        assert pubsub.subscriber.get_subscription(subscription=subscription).enable_message_ordering
        with pytest.raises(InvalidArgument):
            pubsub.subscriber.update_subscription(
                subscription={"name": subscription}, update_mask=FieldMask(paths=["enable_message_ordering"])
            )
