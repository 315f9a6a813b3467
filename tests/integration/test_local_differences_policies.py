"""Where our broker and Google's emulator differ, part 2: filters, detaching, replays, order, exactly once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from google.api_core.exceptions import FailedPrecondition, InvalidArgument, MethodNotImplemented
from google.protobuf.duration_pb2 import Duration
from google.pubsub_v1 import types
from pubsub_client import PubSub


class TestFilters:
    """The emulator takes any filter, and delivers everything."""

    def publish(self, server: PubSub, *attributes: dict[str, str]) -> None:
        server.publisher.publish(
            topic=server.topic(),
            messages=[{"data": str(number).encode(), "attributes": each} for number, each in enumerate(attributes)],
        )

    def test_only_what_passes_is_delivered(self, local_pubsub: PubSub) -> None:
        subscription = local_pubsub.setup(filter='attributes.a = "b" OR hasPrefix(attributes.c, "d")')
        self.publish(local_pubsub, {"a": "b"}, {"a": "x"}, {"c": "de"}, {})
        assert local_pubsub.ready(subscription) == ["0", "2"]
        assert local_pubsub.subscriber.get_subscription(subscription=subscription).filter.startswith("attributes.a")

    def test_a_replay_passes_it_too(self, local_pubsub: PubSub) -> None:
        request = {"name": local_pubsub.topic(), "message_retention_duration": Duration(seconds=1200)}
        local_pubsub.publisher.create_topic(request=request)
        self.publish(local_pubsub, {"a": "b"}, {"a": "x"})
        subscription = local_pubsub.setup(filter='attributes.a = "x"')
        local_pubsub.subscriber.seek(
            request={"subscription": subscription, "time": datetime.now(UTC) - timedelta(minutes=5)}
        )
        assert local_pubsub.ready(subscription) == ["1"]

    @pytest.mark.parametrize("expression", ["nonsense", "attributes:a AND attributes:b OR attributes:c", "x" * 257])
    def test_one_that_is_not_of_the_language_is_refused(self, local_pubsub: PubSub, expression: str) -> None:
        with pytest.raises(InvalidArgument):
            local_pubsub.setup(filter=expression)

    @pytest.mark.emulator
    def test_the_emulator_delivers_everything(self, emulator_pubsub: PubSub) -> None:
        subscription = emulator_pubsub.setup(filter='attributes.a = "b"')
        self.publish(emulator_pubsub, {"a": "x"})
        assert emulator_pubsub.ready(subscription) == ["0"]


class TestDetaching:
    """The emulator does not implement it."""

    def test_a_detached_subscription_has_nothing_gets_nothing_and_serves_nobody(self, local_pubsub: PubSub) -> None:
        subscription = local_pubsub.setup()
        local_pubsub.publish("one")
        with local_pubsub.stream(local_pubsub.setup("other")) as stream:
            for name in (subscription, local_pubsub.subscription("other")):
                local_pubsub.publisher.detach_subscription(request={"subscription": name})
            assert isinstance(stream.end(), FailedPrecondition)
        local_pubsub.publish("two")
        with pytest.raises(FailedPrecondition):
            local_pubsub.pull(subscription)
        assert local_pubsub.subscriber.get_subscription(subscription=subscription).detached
        assert list(local_pubsub.publisher.list_topic_subscriptions(topic=local_pubsub.topic())) == []

    @pytest.mark.emulator
    def test_the_emulator_does_not_implement_it(self, emulator_pubsub: PubSub) -> None:
        subscription = emulator_pubsub.setup()
        with pytest.raises(MethodNotImplemented):
            emulator_pubsub.publisher.detach_subscription(request={"subscription": subscription})


class TestSeekingBack:
    def test_what_a_seek_acknowledged_comes_back_with_a_seek(self, local_pubsub: PubSub) -> None:
        subscription = local_pubsub.setup(retain_acked_messages=True)
        self.drop_and_seek_back(local_pubsub, subscription)
        assert local_pubsub.ready(subscription) == ["one"]

    @pytest.mark.emulator
    def test_not_so_with_the_emulator(self, emulator_pubsub: PubSub) -> None:
        subscription = emulator_pubsub.setup(retain_acked_messages=True)
        self.drop_and_seek_back(emulator_pubsub, subscription)
        assert emulator_pubsub.ready(subscription) == []

    def test_a_new_subscription_of_a_topic_that_retains_begins_empty(self, local_pubsub: PubSub) -> None:
        assert self.subscribe_late(local_pubsub) == []

    @pytest.mark.emulator
    def test_with_the_emulator_it_begins_with_what_is_retained(self, emulator_pubsub: PubSub) -> None:
        assert self.subscribe_late(emulator_pubsub) == ["early"]

    def drop_and_seek_back(self, server: PubSub, subscription: str) -> None:
        server.publish("one")
        for time in (datetime.now(UTC), datetime.now(UTC) - timedelta(minutes=5)):
            server.subscriber.seek(request={"subscription": subscription, "time": time})

    def subscribe_late(self, server: PubSub) -> list[str]:
        request = {"name": server.topic(), "message_retention_duration": Duration(seconds=1200)}
        server.publisher.create_topic(request=request)
        server.publish("early")
        return server.ready(server.setup())


class TestOrder:
    """Of a key, giving back a message gives back those after it; the emulator waits until they are settled."""

    def test_giving_back_a_message_gives_back_those_after_it(self, local_pubsub: PubSub) -> None:
        subscription, received = self.nack_the_second(local_pubsub)
        assert local_pubsub.ready(subscription) == []
        local_pubsub.acknowledge(subscription, received[0])
        assert local_pubsub.ready(subscription) == ["two", "three"]

    @pytest.mark.emulator
    def test_the_emulator_waits_for_those_after_it(self, emulator_pubsub: PubSub) -> None:
        subscription, received = self.nack_the_second(emulator_pubsub)
        emulator_pubsub.acknowledge(subscription, received[0])
        assert emulator_pubsub.ready(subscription) == []

    def nack_the_second(self, server: PubSub) -> tuple[str, list[types.ReceivedMessage]]:
        subscription = server.setup(enable_message_ordering=True)
        messages = [{"data": body, "ordering_key": "key"} for body in (b"one", b"two", b"three")]
        server.publisher.publish(topic=server.topic(), messages=messages)
        received = server.pull(subscription, 3)
        server.modify(subscription, received[1], seconds=0)
        return subscription, received


class TestExactlyOnce:
    def test_a_lease_that_ran_out_cannot_be_taken_up_again(self, local_pubsub: PubSub) -> None:
        """The emulator takes the acknowledgement until somebody pulls the message."""
        subscription = local_pubsub.setup(enable_exactly_once_delivery=True)
        local_pubsub.publish("one")
        first = local_pubsub.pull(subscription)
        local_pubsub.modify(subscription, *first, seconds=1)
        (second,) = local_pubsub.pull(subscription)
        local_pubsub.modify(subscription, second, seconds=0)
        for received in (*first, second):
            with pytest.raises(InvalidArgument, match="acknowledgement ids"):
                local_pubsub.acknowledge(subscription, received)

    def test_a_stream_says_how_it_delivers_and_which_acknowledgements_it_took(self, local_pubsub: PubSub) -> None:
        subscription = local_pubsub.setup(enable_exactly_once_delivery=True, enable_message_ordering=True)
        local_pubsub.publish("one", "two")
        one, two = local_pubsub.pull(subscription, 2)
        local_pubsub.acknowledge(subscription, one)
        first = types.StreamingPullRequest(
            subscription=subscription,
            stream_ack_deadline_seconds=60,
            ack_ids=[one.ack_id, two.ack_id],
            modify_deadline_ack_ids=[one.ack_id],
            modify_deadline_seconds=[0],
        )
        closing = threading.Event()

        def requests() -> Iterator[types.StreamingPullRequest]:
            yield first
            closing.wait()

        call = local_pubsub.subscriber.streaming_pull(requests())
        answer = next(iter(call))
        call.cancel()
        closing.set()
        assert list(answer.acknowledge_confirmation.ack_ids) == [two.ack_id]
        assert list(answer.acknowledge_confirmation.invalid_ack_ids) == [one.ack_id]
        assert list(answer.modify_ack_deadline_confirmation.invalid_ack_ids) == [one.ack_id]
        assert answer.subscription_properties.exactly_once_delivery_enabled
        assert answer.subscription_properties.message_ordering_enabled
