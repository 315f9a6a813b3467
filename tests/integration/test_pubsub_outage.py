"""A server that goes away, comes back, or says no."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.pubsub_v1.types import pubsub as types
from kombu import Connection, Queue
from ports import kept_port
from pubsub_servers import broker_process
from studio import wait_for

import transports  # noqa: F401  registers the scheme
from transports.errors import ConnectionFailed, NotAuthenticated, PermissionMissing, ServerUnavailable
from transports.pubsub.link import links

GPU = Queue("gpu")
FAST = {"lease_floor_seconds": 4.0, "ack_deadline_seconds": 10, "retry_ceiling_seconds": 0.5}


@pytest.fixture(autouse=True)
def no_links_left() -> Iterator[None]:
    yield
    links.close()


@pytest.fixture
def port() -> Iterator[int]:
    with kept_port() as found:
        yield found


@pytest.fixture
def connection(port: int) -> Iterator[Connection]:
    with Connection(f"pubsub://127.0.0.1:{port}/test", transport_options=FAST) as found:
        yield found


class TestOutage:
    def test_a_publish_without_server_fails_within_its_time(self, tmp_path: Path, port: int) -> None:
        options = {**FAST, "publish_timeout_seconds": 4.0}
        with Connection(f"pubsub://127.0.0.1:{port}/test", transport_options=options) as connection:
            with broker_process(tmp_path, port=port):
                producer = connection.Producer()
                producer.publish("x", routing_key="gpu", declare=[GPU])
            began = time.monotonic()
            with pytest.raises(ServerUnavailable, match="start it or check the URL"):
                producer.publish("y", routing_key="gpu")
            assert 3 < time.monotonic() - began < 30

    def test_a_publish_outlives_a_short_outage(self, tmp_path: Path, port: int, connection: Connection) -> None:
        with broker_process(tmp_path, port=port):
            producer = connection.Producer()
            producer.publish("x", routing_key="gpu", declare=[GPU])
        with ThreadPoolExecutor() as pool:
            publishing = pool.submit(producer.publish, "y", routing_key="gpu")
            with broker_process(tmp_path, port=port):
                publishing.result(90)

    def test_consumer_and_acknowledgement_outlive_an_outage(
        self, tmp_path: Path, port: int, connection: Connection
    ) -> None:
        got: list[Any] = []
        with broker_process(tmp_path, port=port) as server:
            connection.Producer().publish("held", routing_key="gpu", declare=[GPU])
            connection.Consumer(GPU, on_message=got.append).consume()
            connection.drain_events(timeout=60)
            server.kill()
            got[0].ack()
        with broker_process(tmp_path, port=port):
            with Connection(connection.hostname, transport_options=FAST) as another:
                another.Producer().publish("later", routing_key="gpu")
            connection.drain_events(timeout=60)
            assert [message.payload for message in got] == ["held", "later"]
            got[1].ack()
            connection.release()
            with Connection(connection.hostname, transport_options=FAST) as another:
                another.Consumer(GPU, on_message=got.append).consume()
                with pytest.raises(TimeoutError):
                    another.drain_events(timeout=5)

    def test_a_lease_that_could_not_be_renewed_is_told(
        self, tmp_path: Path, port: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        lost: list[str] = []
        got: list[Any] = []
        options = {**FAST, "on_lease_lost": lost.append, "rpc_timeout_seconds": 1}
        url = f"pubsub://127.0.0.1:{port}/test"
        with Connection(url, transport_options=options) as connection, caplog.at_level(logging.WARNING, "transports"):
            with broker_process(tmp_path, port=port) as server:
                connection.Producer().publish("held", routing_key="gpu", declare=[GPU])
                connection.Consumer(GPU, on_message=got.append).consume()
                connection.drain_events(timeout=60)
                server.kill()
            assert wait_for("the loss", lambda: lost) == [got[0].lease.message_id]
            assert "was lost" in caplog.text
            links.close()

    def test_ending_without_server_takes_no_longer_than_it_may(
        self, tmp_path: Path, port: int, connection: Connection
    ) -> None:
        got: list[Any] = []
        with broker_process(tmp_path, port=port) as server:
            connection.Producer().publish("held", routing_key="gpu", declare=[GPU])
            connection.Consumer(GPU, on_message=got.append).consume()
            connection.drain_events(timeout=60)
            server.kill()
            got[0].ack()
        began = time.monotonic()
        connection.release()
        links.close()
        # Two seconds for each; a call is repeated for a minute.
        assert time.monotonic() - began < 30


class Refusing(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A server on which a key may do some things and not others."""

    def __init__(self, *allowed: str, code: grpc.StatusCode = grpc.StatusCode.PERMISSION_DENIED) -> None:
        self.allowed = allowed
        self.code = code
        self.published: list[types.PublishRequest] = []

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        method = details.method.rpartition("/")[2]
        if method == "StreamingPull":
            return grpc.stream_stream_rpc_method_handler(self._refuse)
        if method == "Publish" and method in self.allowed:
            return grpc.unary_unary_rpc_method_handler(
                self._publish,
                request_deserializer=types.PublishRequest.deserialize,
                response_serializer=types.PublishResponse.serialize,
            )
        return grpc.unary_unary_rpc_method_handler(self._refuse)

    def _publish(self, request: types.PublishRequest, context: grpc.ServicerContext) -> types.PublishResponse:
        self.published.append(request)
        return types.PublishResponse(message_ids=["1"])

    def _refuse(self, request: Any, context: grpc.ServicerContext) -> None:
        context.abort(self.code, "not with this key")


@contextmanager
def serving(handler: Refusing) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"pubsub://127.0.0.1:{port}/test"
    finally:
        server.stop(None).wait()


class TestRefusal:
    def test_a_key_that_may_only_publish_publishes_and_is_warned_once(self, caplog: pytest.LogCaptureFixture) -> None:
        handler = Refusing("Publish")
        with caplog.at_level(logging.WARNING, "transports"), serving(handler) as url, Connection(url) as connection:
            for queue in ("one", "two"):
                connection.Producer().publish("x", routing_key=queue, declare=[Queue(queue)])
        assert [request.topic for request in handler.published] == [
            "projects/test/topics/celery-one",
            "projects/test/topics/celery-two",
        ]
        said = [record.message for record in caplog.records]
        assert len(said) == 1
        assert "pubsub.topics.create on the project and pubsub.subscriptions.create" in said[0]

    def test_a_key_that_may_not_publish_is_told(self) -> None:
        said = r"pubsub\.topics\.publish"
        with serving(Refusing()) as url, Connection(url) as connection, pytest.raises(PermissionMissing, match=said):
            connection.Producer().publish("x", routing_key="gpu")

    def test_a_key_that_may_not_read_is_told_where_messages_are_consumed(self) -> None:
        with serving(Refusing()) as url, Connection(url) as connection:
            connection.channel().basic_consume("gpu", True, print)
            with pytest.raises(PermissionMissing, match=r"pubsub\.subscriptions\.consume"):
                connection.drain_events(timeout=60)

    def test_a_revoked_key_is_told_on_connecting(self) -> None:
        handler = Refusing(code=grpc.StatusCode.UNAUTHENTICATED)
        with serving(handler) as url, Connection(url) as connection, pytest.raises(NotAuthenticated):
            connection.connect()

    def test_a_key_revoked_later_is_a_connection_error_where_messages_are_consumed(self) -> None:
        handler = Refusing()
        with serving(handler) as url, Connection(url) as connection:
            connection.connect()
            handler.code = grpc.StatusCode.UNAUTHENTICATED
            connection.channel().basic_consume("gpu", True, print)
            with pytest.raises(ConnectionFailed):
                connection.drain_events(timeout=60)


def test_a_server_that_never_answers_is_given_up_in_time() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"pubsub://127.0.0.1:{silent.getsockname()[1]}/test"
        with Connection(url, transport_options={"connect_timeout_seconds": 1}) as connection:
            began = time.monotonic()
            with pytest.raises(ServerUnavailable):
                connection.connect()
            assert time.monotonic() - began < 30
