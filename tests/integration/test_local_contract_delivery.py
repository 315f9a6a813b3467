"""One contract for our broker and Google's emulator, part 2: leases, pulls, streams, seeking, Google's own client."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.api_core.exceptions import InvalidArgument, NotFound
from google.cloud import pubsub_v1
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from pubsub_client import LIMIT_SECONDS, PubSub, texts
from studio import wait_for


def in_time(pull: grpc.Future) -> grpc.Future | None:
    """Return a pull that was answered; None if the client's time was up first."""
    error = pull.exception()
    return None if error is not None and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else pull


class TestLeases:
    def test_an_acknowledged_message_is_gone_and_its_neighbour_is_not(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        pubsub.publish("done", "again")
        done, again = pubsub.pull(subscription, 2)
        pubsub.acknowledge(subscription, done)
        pubsub.modify(subscription, again, seconds=0)
        assert pubsub.ready(subscription) == ["again"]

    def test_an_acknowledgement_is_for_its_own_subscription(self, pubsub: PubSub) -> None:
        pubsub.setup("first", "second")
        pubsub.publish("one")
        pubsub.acknowledge(pubsub.subscription("first"), *pubsub.pull(pubsub.subscription("first")))
        assert pubsub.ready(pubsub.subscription("second")) == ["one"]

    def test_a_message_given_back_comes_at_once_with_another_ack_id(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        pubsub.publish("one")
        (first,) = pubsub.pull(subscription)
        pubsub.modify(subscription, first, seconds=0)
        (second,) = pubsub.pull(subscription)
        assert second.message.message_id == first.message.message_id
        assert second.ack_id != first.ack_id

    def test_a_leased_message_is_hidden(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        pubsub.publish("one")
        pubsub.pull(subscription)
        assert pubsub.ready(subscription) == []

    def test_a_lease_that_runs_out_makes_the_message_come_again(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        pubsub.publish("one")
        (first,) = pubsub.pull(subscription)
        pubsub.modify(subscription, first, seconds=1)
        (second,) = pubsub.pull(subscription)
        assert second.message.message_id == first.message.message_id
        assert second.ack_id != first.ack_id

    def test_a_renewed_lease_outlives_one_that_was_not(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        pubsub.publish("kept", "lost")
        received = pubsub.pull(subscription, 2)
        pubsub.modify(subscription, *received, seconds=1)
        pubsub.modify(subscription, received[0], seconds=600)
        assert texts(pubsub.pull(subscription)) == ["lost"]
        assert pubsub.ready(subscription) == []

    def test_a_redelivered_message_can_be_acknowledged_by_its_new_id(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        pubsub.publish("one")
        pubsub.modify(subscription, *pubsub.pull(subscription), seconds=0)
        (second,) = pubsub.pull(subscription)
        pubsub.acknowledge(subscription, second)
        pubsub.modify(subscription, second, seconds=0)
        assert pubsub.ready(subscription) == []

    def test_acknowledging_twice_is_fine(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        pubsub.publish("one")
        (received,) = pubsub.pull(subscription)
        pubsub.acknowledge(subscription, received)
        pubsub.acknowledge(subscription, received, received)

    @pytest.mark.parametrize("ack_ids", [[], ["nonsense"]])
    def test_what_is_no_ack_id_is_refused(self, pubsub: PubSub, ack_ids: list[str]) -> None:
        path = pubsub.setup()
        with pytest.raises(InvalidArgument):
            pubsub.subscriber.acknowledge(subscription=path, ack_ids=ack_ids)
        with pytest.raises(InvalidArgument):
            pubsub.subscriber.modify_ack_deadline(subscription=path, ack_ids=ack_ids, ack_deadline_seconds=10)

    def test_an_ack_id_of_another_subscription_is_refused(self, pubsub: PubSub) -> None:
        pubsub.setup("first", "second")
        pubsub.publish("one")
        received = pubsub.pull(pubsub.subscription("first"))
        with pytest.raises(InvalidArgument):
            pubsub.acknowledge(pubsub.subscription("second"), *received)

    def test_a_good_ack_id_beside_a_bad_one_is_not_lost(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        pubsub.publish("one")
        (received,) = pubsub.pull(subscription)
        with pytest.raises(InvalidArgument):
            pubsub.subscriber.acknowledge(subscription=subscription, ack_ids=[received.ack_id, "nonsense"])
        pubsub.acknowledge(subscription, received)
        pubsub.modify(subscription, received, seconds=0)
        assert pubsub.ready(subscription) == []

    def test_a_negative_deadline_is_refused(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        pubsub.publish("one")
        received = pubsub.pull(subscription)
        with pytest.raises(InvalidArgument):
            pubsub.modify(subscription, *received, seconds=-1)


class TestPulling:
    def test_a_pull_waits_for_a_message(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        pull = pubsub.start_pull(subscription)
        pubsub.publish("one")
        assert texts(pull.result().received_messages) == ["one"]

    def test_a_pull_gets_no_more_than_it_asks_for(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        pubsub.publish("one", "two", "three")
        assert texts(pubsub.pull(subscription, 2)) == ["one", "two"]
        assert texts(pubsub.pull(subscription)) == ["three"]

    def test_a_pull_of_nothing_is_refused(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        with pytest.raises(InvalidArgument):
            pubsub.subscriber.pull(subscription=subscription, max_messages=0)

    def test_a_pull_that_finds_nothing_ends_empty(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        # The server answers a moment before the client's time is up: where that is too short for a busy machine, again.
        answer = wait_for("an answer", lambda: in_time(pubsub.start_pull(subscription, seconds=2)))
        assert list(answer.result().received_messages) == []

    def test_a_cancelled_pull_leaves_nothing_leased(self, pubsub: PubSub, request: pytest.FixtureRequest) -> None:
        # The emulator may lease to pulls that were cancelled before it got to them: only their deadline frees that.
        emulated = request.node.callspec.params["pubsub"] == "emulator_pubsub"
        subscription = pubsub.setup(ack_deadline_seconds=10 if emulated else 600)
        pulls = [pubsub.start_pull(subscription) for _ in range(2 if emulated else 5)]
        pubsub.subscriber.get_subscription(subscription=subscription)
        for pull in pulls:
            pull.cancel()
        pubsub.subscriber.get_subscription(subscription=subscription)
        pubsub.publish("one")
        assert texts(pubsub.pull(subscription)) == ["one"]


class TestStreams:
    def test_what_is_there_and_what_comes_is_delivered(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        pubsub.publish("there")
        with pubsub.stream(subscription) as stream:
            assert texts(stream.take()) == ["there"]
            pubsub.publish("comes")
            assert texts(stream.take()) == ["comes"]

    def test_a_message_can_be_acknowledged_on_the_stream_or_beside_it(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        pubsub.publish("one", "two", "three")
        with pubsub.stream(subscription) as stream:
            one, two, three = stream.take(3)
            pubsub.acknowledge(subscription, two)
            stream.send(ack_ids=[one.ack_id], modify_deadline_ack_ids=[three.ack_id], modify_deadline_seconds=[0])
            (again,) = stream.take()
            assert texts([again]) == ["three"]
            pubsub.modify(subscription, one, two, again, seconds=0)
            assert texts(stream.take()) == ["three"]

    def test_what_a_stream_delivered_stays_leased_when_it_ends(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        pubsub.publish("one")
        # Not for long: the emulator gives a message now and then to a stream that has just ended.
        with pubsub.stream(subscription, stream_ack_deadline_seconds=20) as stream:
            received = stream.take()
        assert pubsub.ready(subscription) == []
        pubsub.modify(subscription, *received, seconds=0)
        assert texts(pubsub.pull(subscription)) == ["one"]

    def test_the_streams_own_deadline_counts(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup(ack_deadline_seconds=600)
        pubsub.publish("one")
        with pubsub.stream(subscription, stream_ack_deadline_seconds=10) as stream:
            assert texts(stream.take(2)) == ["one", "one"]

    def test_a_heartbeat_is_nothing_more(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        with pubsub.stream(subscription) as stream:
            stream.send()
            pubsub.publish("one")
            assert texts(stream.take()) == ["one"]

    def test_a_stream_ends_when_the_client_closes_its_end(self, pubsub: PubSub) -> None:
        with pubsub.stream(pubsub.setup()) as stream:
            stream.half_close()
            assert stream.end() is None

    @pytest.mark.parametrize(
        "fields",
        [
            {"stream_ack_deadline_seconds": 9},
            {"stream_ack_deadline_seconds": 601},
            {"modify_deadline_ack_ids": ["1.1.1"]},
            {"ack_ids": ["nonsense"]},
        ],
    )
    def test_a_wrong_first_request_is_refused(self, pubsub: PubSub, fields: dict[str, Any]) -> None:
        with pubsub.stream(pubsub.setup(), **fields) as stream:
            assert isinstance(stream.end(), InvalidArgument)

    def test_a_second_request_that_names_a_subscription_is_refused(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        with pubsub.stream(subscription) as stream:
            stream.send(subscription=subscription)
            assert isinstance(stream.end(), InvalidArgument)

    def test_a_stream_of_a_missing_subscription_is_not_found(self, pubsub: PubSub) -> None:
        with pubsub.stream(pubsub.subscription()) as stream:
            assert isinstance(stream.end(), NotFound)

    def test_deleting_the_subscription_ends_its_streams(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        pubsub.publish("one")
        with pubsub.stream(subscription) as stream:
            stream.take()
            pubsub.subscriber.delete_subscription(subscription=subscription)
            assert isinstance(stream.end(), NotFound)

    def test_many_messages_go_to_several_streams_once_each(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        with pubsub.stream(subscription) as one, pubsub.stream(subscription, join=one):
            bodies = [str(number) for number in range(200)]
            pubsub.publish(*bodies)
            assert sorted(texts(one.take(len(bodies)))) == sorted(bodies)


class TestSeeking:
    def test_a_seek_drops_what_was_published_until_then(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        pubsub.publish("leased", "ready")
        received = pubsub.pull(subscription)
        pubsub.subscriber.seek(request={"subscription": subscription, "time": datetime.now(UTC)})
        pubsub.publish("later")
        pubsub.modify(subscription, *received, seconds=0)
        assert pubsub.ready(subscription) == ["later"]

    def test_a_seek_leaves_other_subscriptions_alone(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup("first", "second")
        pubsub.publish("one")
        pubsub.subscriber.seek(request={"subscription": subscription, "time": datetime.now(UTC)})
        assert pubsub.ready(pubsub.subscription("second")) == ["one"]

    def test_a_seek_to_nowhere_is_refused(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        with pytest.raises(InvalidArgument):
            pubsub.subscriber.seek(request={"subscription": subscription})


class TestGooglesOwnClient:
    def test_it_publishes_and_subscribes(self, pubsub: PubSub) -> None:
        subscription = pubsub.setup()
        publisher = pubsub_v1.PublisherClient(transport=PublisherGrpcTransport(channel=pubsub.channel))
        subscriber = pubsub_v1.SubscriberClient(transport=SubscriberGrpcTransport(channel=pubsub.channel))
        bodies = {str(number) for number in range(50)}
        seen: set[str] = set()
        everything = threading.Event()

        def receive(message: Any) -> None:
            message.ack()
            seen.add(message.data.decode())
            if seen == bodies:
                everything.set()

        pulling = subscriber.subscribe(subscription, receive)
        for future in [publisher.publish(pubsub.topic(), body.encode()) for body in bodies]:
            future.result(LIMIT_SECONDS)
        assert everything.wait(LIMIT_SECONDS), f"only {len(seen)} of {len(bodies)} came"
        pulling.cancel()
        pulling.result(LIMIT_SECONDS)
        publisher.stop()
