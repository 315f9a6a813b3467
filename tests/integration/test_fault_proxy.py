"""The proxies between a client and a server do what tests ask them to, and nothing else; shown on the local broker."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from cut_proxy import CutProxy
from fault_proxy import FaultProxy
from fault_rules import Answer, Delay, LoseAnswer, Swallow
from google.api_core.exceptions import GoogleAPICallError
from google.iam.v1 import iam_policy_pb2
from google.pubsub_v1 import types
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc import StatusCode
from pubsub_client import PubSub, Stream, texts
from studio import wait_for

#: Seconds after which a client of these tests gives a call up that is never answered.
SHORT = 0.5


@pytest.fixture
def proxy(local_broker_address: str) -> Iterator[FaultProxy]:
    with FaultProxy(local_broker_address) as found:
        yield found


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[PubSub]:
    """A client behind the proxy."""
    with PubSub(proxy.address) as found:
        yield found


@pytest.fixture
def subscription(client: PubSub) -> str:
    return client.setup()


def refusal(call: Callable[[], Any]) -> grpc.RpcError:
    """The gRPC error that a call of Google's client ends with."""
    with pytest.raises(GoogleAPICallError) as caught:
        call()
    return caught.value.errors[0]


def publish(client: PubSub, body: str = "x", topic: str = "topic", seconds: float = 30) -> None:
    """Publish once: Google's client would try again."""
    message = types.PubsubMessage(data=body.encode())
    client.publisher.publish(topic=client.topic(topic), messages=[message], retry=None, timeout=seconds)


class TestPassing:
    def test_what_no_rule_is_about_passes(self, client: PubSub, subscription: str) -> None:
        client.publish("a", "b")
        received = client.pull(subscription, 2)
        client.acknowledge(subscription, *received)
        assert texts(received) == ["a", "b"]

    def test_a_stream_passes_both_ways(self, client: PubSub, subscription: str) -> None:
        with client.stream(subscription) as stream:
            client.publish("a", "b")
            first, second = stream.take(2)
            stream.send(ack_ids=[first.ack_id], modify_deadline_ack_ids=[second.ack_id], modify_deadline_seconds=[0])
            (again,) = stream.take()
            assert again.message.message_id == second.message.message_id
            stream.half_close()
            assert stream.end() is None

    def test_a_refusal_of_the_server_passes(self, client: PubSub) -> None:
        error = refusal(lambda: publish(client, topic="missing"))
        assert error.code() is StatusCode.NOT_FOUND
        assert "missing" in error.details()

    def test_metadata_passes_both_ways(self, local_broker_address: str) -> None:
        details = ("grpc-status-details-bin", lost_ack_id("7"))
        with FaultProxy(local_broker_address) as inner, FaultProxy(inner.address) as outer:
            inner.rule("Publish", Answer(StatusCode.FAILED_PRECONDITION, "no", trailing=(details,)))
            with PubSub(outer.address) as client:
                topic = client.topic()
                call = client.channel.unary_unary(
                    "/google.pubsub.v1.Publisher/Publish", request_serializer=types.PublishRequest.serialize
                )
                routing = ("x-goog-request-params", f"topic={topic}")
                with pytest.raises(grpc.RpcError) as caught:
                    call(types.PublishRequest(topic=topic), metadata=[routing], timeout=30)
            assert details in list(caught.value.trailing_metadata())
            (seen,) = inner.calls("Publish")
            assert seen.metadata["x-goog-request-params"] == f"topic={topic}"

    def test_trailing_metadata_of_streams_passes(self, local_broker_address: str) -> None:
        details = ("grpc-status-details-bin", lost_ack_id("7"))
        with FaultProxy(local_broker_address) as inner, FaultProxy(inner.address) as outer:
            inner.rule("StreamingPull", Answer(StatusCode.FAILED_PRECONDITION, "no", trailing=(details,)))
            with PubSub(outer.address) as client, client.stream(client.subscription()) as stream:
                end = stream.end()
        assert isinstance(end, GoogleAPICallError)
        assert end.metadata == {"7": "PERMANENT_FAILURE_INVALID_ACK_ID"}

    def test_a_deadline_and_a_cancellation_pass(self, proxy: FaultProxy, client: PubSub, subscription: str) -> None:
        pull = client.start_pull(subscription, seconds=SHORT)
        assert pull.code() in (StatusCode.OK, StatusCode.DEADLINE_EXCEEDED)
        pull = client.start_pull(subscription)
        wait_for("the second pull", lambda: len(proxy.calls("Pull")) == 2)
        pull.cancel()
        wait_for("the end of both at the proxy", lambda: all(call.code for call in proxy.calls("Pull")))
        client.publish("a")
        assert texts(client.pull(subscription)) == ["a"]


class TestRules:
    @pytest.mark.parametrize(
        "code",
        [
            StatusCode.PERMISSION_DENIED,
            StatusCode.UNAVAILABLE,
            StatusCode.UNAUTHENTICATED,
            StatusCode.RESOURCE_EXHAUSTED,
            StatusCode.NOT_FOUND,
            StatusCode.ABORTED,
        ],
    )
    def test_a_status_is_answered_instead_of_the_server(
        self, code: StatusCode, proxy: FaultProxy, client: PubSub, subscription: str
    ) -> None:
        proxy.rule("Publish", Answer(code, "because"), times=1)
        error = refusal(lambda: publish(client, "refused"))
        publish(client, "stored")
        assert (error.code(), error.details()) == (code, "because")
        assert client.ready(subscription) == ["stored"]

    def test_a_rule_is_for_its_resource_and_until_its_end(
        self, proxy: FaultProxy, client: PubSub, subscription: str
    ) -> None:
        client.setup("other", topic="other")
        rule = proxy.rule("Publish", Answer(StatusCode.ABORTED), resource="*/other")
        publish(client)
        assert refusal(lambda: publish(client, topic="other")).code() is StatusCode.ABORTED
        rule.end()
        publish(client, topic="other")

    def test_a_rule_for_all_methods_spares_none(self, proxy: FaultProxy, client: PubSub, subscription: str) -> None:
        proxy.rule("*", Answer(StatusCode.UNAVAILABLE))
        assert refusal(lambda: publish(client)).code() is StatusCode.UNAVAILABLE
        with client.stream(subscription) as stream:
            assert isinstance(stream.end(), GoogleAPICallError)
        proxy.clear()
        publish(client)

    def test_a_delay_delays(self, proxy: FaultProxy, client: PubSub, subscription: str) -> None:
        proxy.rule("Publish", Delay(SHORT))
        began = time.monotonic()
        publish(client)
        assert SHORT <= time.monotonic() - began < SHORT + 20

    def test_who_goes_during_a_delay_is_not_forwarded(
        self, proxy: FaultProxy, client: PubSub, subscription: str
    ) -> None:
        rule = proxy.rule("Publish", Delay(60))
        assert refusal(lambda: publish(client, seconds=SHORT)).code() is StatusCode.DEADLINE_EXCEEDED
        rule.end()
        publish(client, "later")
        assert client.ready(subscription) == ["later"]

    def test_an_answer_that_is_lost_was_carried_out(self, proxy: FaultProxy, client: PubSub, subscription: str) -> None:
        proxy.rule("Publish", LoseAnswer(), times=1)
        assert refusal(lambda: publish(client, "a")).code() is StatusCode.UNAVAILABLE
        assert client.ready(subscription) == ["a"]

    def test_a_swallowed_call_reaches_nobody(self, proxy: FaultProxy, client: PubSub, subscription: str) -> None:
        proxy.rule("Publish", Swallow(), times=1)
        assert refusal(lambda: publish(client, seconds=SHORT)).code() is StatusCode.DEADLINE_EXCEEDED
        publish(client, "b")
        assert client.ready(subscription) == ["b"]


class TestStreams:
    @pytest.mark.parametrize("code", [StatusCode.OK, StatusCode.UNAVAILABLE, StatusCode.PERMISSION_DENIED])
    def test_open_streams_end_with_the_status(
        self, code: StatusCode, proxy: FaultProxy, client: PubSub, subscription: str
    ) -> None:
        with client.stream(subscription) as stream:
            wait_for("the stream", proxy.streams)
            assert proxy.end_streams(code) == 1
            end = stream.end()
        assert (end is None) == (code is StatusCode.OK)
        assert end is None or (isinstance(end, GoogleAPICallError) and end.errors[0].code() is code)
        wait_for("the end of the stream at the proxy", lambda: not proxy.streams())

    def test_a_silent_stream_stays_up_and_keeps_nothing_from_others(
        self, proxy: FaultProxy, client: PubSub, subscription: str
    ) -> None:
        with client.stream(subscription) as deaf:
            wait_for("the stream", proxy.streams)
            proxy.silence_streams(resource=subscription)
            with client.stream(subscription) as other:
                client.publish("a", "b", "c")
                assert texts(other.take(3)) == ["a", "b", "c"]
            deaf.send()
            assert deaf.waiting == 0
            wait_for("the end of the other stream", lambda: len(proxy.streams()) == 1)
            assert proxy.end_streams() == 1
            assert deaf.end() is None

    def test_a_swallowed_stream_is_silent_from_the_start(
        self, proxy: FaultProxy, client: PubSub, subscription: str
    ) -> None:
        proxy.rule("StreamingPull", Swallow(), times=1)
        with client.stream(subscription) as deaf, client.stream(subscription) as other:
            wait_for("both streams", lambda: len(proxy.streams()) == 2)
            client.publish("a", "b")
            total = [*_drained(deaf, other, count=2)]
        assert sorted(total) == ["a", "b"]

    def test_a_client_that_leaves_a_silent_stream_is_let_go(
        self, proxy: FaultProxy, client: PubSub, subscription: str
    ) -> None:
        with client.stream(subscription):
            wait_for("the stream", proxy.streams)
            proxy.silence_streams()
        wait_for("the end of the stream at the proxy", lambda: not proxy.streams())


class TestRecords:
    def test_calls_are_written_down(self, proxy: FaultProxy, client: PubSub, subscription: str) -> None:
        client.publish("a")
        (message,) = client.pull(subscription)
        client.modify(subscription, message, seconds=17)
        proxy.rule("Acknowledge", Answer(StatusCode.PERMISSION_DENIED), times=1)
        refusal(lambda: client.acknowledge(subscription, message))
        client.acknowledge(subscription, message)
        (modified,) = proxy.calls("ModifyAckDeadline")
        assert (modified.resource, modified.ack_ids, modified.seconds) == (subscription, (message.ack_id,), 17)
        codes = [call.code for call in proxy.calls("Acknowledge", resource=subscription)]
        assert codes == [StatusCode.PERMISSION_DENIED, StatusCode.OK]
        assert [call.ack_ids for call in proxy.calls("Acknowledge", code=StatusCode.OK)] == [(message.ack_id,)]
        (published,) = proxy.calls("Publish")
        assert published.resource == client.topic()
        assert published.at < modified.at
        assert {call.resource for call in proxy.calls("Create*")} == {client.topic(), subscription}


class TestRoles:
    def test_a_publisher_publishes_and_nothing_else(self, proxy: FaultProxy, client: PubSub, subscription: str) -> None:
        proxy.only("publisher")
        publish(client)
        for refused in (
            lambda: client.publisher.create_topic(name=client.topic("new")),
            lambda: client.publisher.get_topic(topic=client.topic()),
            lambda: client.subscriber.get_subscription(subscription=subscription),
            lambda: client.subscriber.pull(subscription=subscription, max_messages=1),
        ):
            assert refusal(refused).code() is StatusCode.PERMISSION_DENIED
        assert _permitted(client) == ["pubsub.topics.publish"]

    def test_a_subscriber_consumes_and_nothing_else(self, proxy: FaultProxy, client: PubSub, subscription: str) -> None:
        client.publish("a", "b")
        proxy.only("subscriber")
        with client.stream(subscription) as stream:
            first, second = stream.take(2)
        client.modify(subscription, first, seconds=0)
        client.acknowledge(subscription, second)
        client.acknowledge(subscription, *client.pull(subscription))
        client.subscriber.seek(request={"subscription": subscription, "time": {"seconds": 1}})
        for refused in (
            lambda: publish(client),
            lambda: client.subscriber.create_subscription(name=f"{subscription}-new", topic=client.topic()),
            lambda: client.subscriber.get_subscription(subscription=subscription),
            lambda: client.subscriber.delete_subscription(subscription=subscription),
        ):
            assert refusal(refused).code() is StatusCode.PERMISSION_DENIED
        assert _permitted(client) == ["pubsub.subscriptions.consume"]


class TestCut:
    @pytest.fixture
    def cable(self, local_broker_address: str) -> Iterator[CutProxy]:
        with CutProxy(local_broker_address) as found:
            yield found

    @pytest.fixture
    def client(self, cable: CutProxy) -> Iterator[PubSub]:
        with PubSub(cable.address) as found:
            yield found

    def test_a_cut_resets_connections_and_refuses_new_ones(self, cable: CutProxy, client: PubSub) -> None:
        subscription = client.setup()
        host, port = cable.address.split(":")
        with client.stream(subscription) as stream, socket.create_connection((host, int(port))) as plain:
            wait_for("both connections", lambda: cable.connections == 2)
            cable.cut()
            with pytest.raises(ConnectionResetError):
                plain.makefile("rb").read()  # what the server had said before comes first
            end = stream.end()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((host, int(port)))
        assert isinstance(end, GoogleAPICallError)
        assert end.errors[0].code() is StatusCode.UNAVAILABLE

    def test_after_a_cut_the_same_client_goes_on(self, cable: CutProxy, client: PubSub) -> None:
        client.setup()
        cable.cut()
        assert refusal(lambda: publish(client)).code() is StatusCode.UNAVAILABLE
        cable.restore()
        client.publish("a")

    def test_a_frozen_network_swallows_calls_and_delivers_them_later(self, cable: CutProxy, client: PubSub) -> None:
        subscription = client.setup()
        cable.freeze()
        assert refusal(lambda: publish(client, seconds=SHORT)).code() is StatusCode.DEADLINE_EXCEEDED
        with ThreadPoolExecutor() as pool:
            publishing: Future[None] = pool.submit(publish, client, "a", seconds=60)
            with pytest.raises(TimeoutError):
                publishing.result(SHORT)
            assert cable.connections == 1
            cable.restore()
            publishing.result(60)
        assert client.ready(subscription)[-1] == "a"

    def test_a_frozen_network_accepts_connections_and_says_nothing(self, cable: CutProxy) -> None:
        cable.freeze()
        with PubSub(cable.address) as client:
            error = refusal(lambda: publish(client, seconds=SHORT))
        assert error.code() in (StatusCode.DEADLINE_EXCEEDED, StatusCode.UNAVAILABLE)
        wait_for("the connection that was accepted", lambda: cable.connections)

    def test_a_frozen_stream_brings_what_came_meanwhile_afterwards(
        self, cable: CutProxy, client: PubSub, local_broker_address: str
    ) -> None:
        subscription = client.setup()
        with client.stream(subscription) as stream, PubSub(local_broker_address) as direct:
            client.publish("before")
            stream.take()
            cable.freeze()
            direct.project = client.project
            direct.publish("meanwhile")
            assert wait_for("its lease", lambda: direct.ready(subscription) == [])
            assert stream.waiting == 0
            cable.restore()
            assert texts(stream.take()) == ["meanwhile"]

    def test_a_forgotten_connection_is_dead_for_its_client_and_gone_for_the_server(
        self, cable: CutProxy, client: PubSub
    ) -> None:
        subscription = client.setup()
        # gRPC lets channels to the same address share a connection.
        channel = grpc.insecure_channel(cable.address, options=[("grpc.use_local_subchannel_pool", 1)])
        with client.stream(subscription) as dead, PubSub(cable.address, channel) as another:
            client.publish("before")
            dead.take()
            cable.forget()
            assert refusal(lambda: publish(client, seconds=SHORT)).code() is StatusCode.DEADLINE_EXCEEDED
            another.project = client.project
            with another.stream(subscription) as alive:
                another.publish("a", "b")
                assert texts(alive.take(2)) == ["a", "b"]
            assert dead.waiting == 0

    def test_a_frozen_network_can_be_cut(self, cable: CutProxy, client: PubSub) -> None:
        subscription = client.setup()
        with client.stream(subscription) as stream:
            wait_for("the connection", lambda: cable.connections)
            cable.freeze()
            cable.cut()
            assert isinstance(stream.end(), GoogleAPICallError)
        cable.restore()
        client.publish("a")


def lost_ack_id(ack_id: str) -> bytes:
    """What a subscription with exactly-once delivery says about an ack id that is not the latest."""
    info = error_details_pb2.ErrorInfo(metadata={ack_id: "PERMANENT_FAILURE_INVALID_ACK_ID"})
    status = status_pb2.Status(code=code_pb2.FAILED_PRECONDITION, message="no")
    status.details.add().Pack(info)
    said: bytes = status.SerializeToString()
    return said


def _drained(*streams: Stream, count: int) -> list[str]:
    """The bodies that come on several streams."""
    found: list[str] = []

    def more() -> bool:
        for stream in streams:
            found.extend(texts(stream.take(stream.waiting)))
        return len(found) >= count

    wait_for(f"{count} messages", more)
    return found


def _permitted(client: PubSub) -> list[str]:
    """What a test of permissions says about the topic."""
    permissions = ["pubsub.topics.publish", "pubsub.subscriptions.consume", "pubsub.topics.create"]
    request = iam_policy_pb2.TestIamPermissionsRequest(resource=client.topic(), permissions=permissions)
    return list(client.publisher.test_iam_permissions(request=request).permissions)
