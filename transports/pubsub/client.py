"""The calls this transport makes to a Pub/Sub server: names go in without the project, plain data comes out.

Together with `wire` the one door to ``grpc`` and ``google``. Every call has a timeout of ours and ends with a result or
with an error from `transports.errors`. Nothing of gRPC exists before the first call, and a client is used only in the
process that made it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from transports.errors import (
    AlreadyExists,
    PermissionMissing,
    QueueNotFound,
    RequestRefused,
    ServerUnavailable,
    TimedOut,
)
from transports.pubsub.failures import failure
from transports.pubsub.gate import Gate
from transports.pubsub.options import Options
from transports.pubsub.stream import Received, Requests, Stream, received
from transports.pubsub.url import Address
from transports.pubsub.wire import Wire

#: Largest message Pub/Sub takes; refused here, because servers answer in many ways, or not at all.
MAX_MESSAGE_BYTES = 10_000_000
#: Seconds before a call is tried again; doubled each time.
_FIRST_PAUSE_SECONDS = 0.1
#: Seconds that a fork may be held up by calls that are under way.
_PARK_SECONDS = 5.0


@dataclass(frozen=True)
class SubscriptionSettings:
    """What a subscription is created with; an expiration of None means that it never expires."""

    ack_deadline_seconds: int
    retention_seconds: float
    expiration_seconds: float | None = None


class Client:
    """Calls to one server for one project."""

    def __init__(self, address: Address, options: Options) -> None:
        self.address = address
        self._options = options
        self._gate = Gate()
        self._lock = threading.Lock()
        self._open_wire: Wire | None = None
        self._streams: set[Stream] = set()

    def probe(self) -> None:
        """Make sure that the server answers and knows us; needs no permission."""
        from google.iam.v1.iam_policy_pb2 import TestIamPermissionsRequest

        topic = self._topic("connection-probe")
        request = TestIamPermissionsRequest(resource=topic, permissions=["pubsub.topics.publish"])
        try:
            self._call("test_iam_permissions", request, timeout_seconds=self._options.connect_timeout_seconds)
        except (PermissionMissing, QueueNotFound, RequestRefused):
            return

    def publish(self, topic: str, data: bytes, *, timeout_seconds: float) -> str:
        """Publish and return the message id: the server has stored the message."""
        if len(data) > MAX_MESSAGE_BYTES:
            raise RequestRefused(
                f"{topic}: a message of {len(data):,} bytes, and Pub/Sub takes {MAX_MESSAGE_BYTES:,}: "
                f"store what is large and send where it is"
            )
        request = {"topic": self._topic(topic), "messages": [{"data": data}]}
        answer = self._retried("publish", request, timeout_seconds=timeout_seconds)
        return str(answer.message_ids[0])

    def create_topic(self, topic: str) -> bool:
        """Return whether it was created now; False: it existed."""
        return self._created("create_topic", {"name": self._topic(topic)})

    def create_subscription(self, subscription: str, topic: str, settings: SubscriptionSettings) -> bool:
        """Return whether it was created now; False: it existed."""
        expires = settings.expiration_seconds
        request = {
            "name": self._subscription(subscription),
            "topic": self._topic(topic),
            "ack_deadline_seconds": settings.ack_deadline_seconds,
            "message_retention_duration": {"seconds": int(settings.retention_seconds)},
            "expiration_policy": {"ttl": {"seconds": int(expires)}} if expires else {},
        }
        return self._created("create_subscription", request)

    def has_subscription(self, subscription: str) -> bool:
        try:
            self._retried("get_subscription", {"subscription": self._subscription(subscription)})
        except QueueNotFound:
            return False
        return True

    def is_attached(self, subscription: str, topic: str) -> bool:
        """Say whether a subscription gets what is published to a topic of this name."""
        answer = self._retried("get_subscription", {"subscription": self._subscription(subscription)})
        return bool(answer.topic == self._topic(topic))

    def has_subscribers(self, topic: str) -> bool:
        request = {"topic": self._topic(topic), "page_size": 1}
        return bool(self._soon("list_topic_subscriptions", request).subscriptions)

    def delete_topic(self, topic: str) -> None:
        self._soon("delete_topic", {"topic": self._topic(topic)})

    def delete_subscription(self, subscription: str) -> None:
        self._soon("delete_subscription", {"subscription": self._subscription(subscription)})

    def acknowledge(self, subscription: str, ack_ids: Sequence[str]) -> None:
        self._call("acknowledge", {"subscription": self._subscription(subscription), "ack_ids": list(ack_ids)})

    def modify_ack_deadline(self, subscription: str, ack_ids: Sequence[str], seconds: int) -> None:
        """Lease messages for so many seconds from now; 0 gives them back."""
        request = {
            "subscription": self._subscription(subscription),
            "ack_ids": list(ack_ids),
            "ack_deadline_seconds": seconds,
        }
        self._call("modify_ack_deadline", request)

    def pull(self, subscription: str) -> Received | None:
        """Return one message, waiting `get_timeout_seconds` for it."""
        request = {"subscription": self._subscription(subscription), "max_messages": 1}
        try:
            answer = self._call("pull", request, timeout_seconds=self._options.get_timeout_seconds)
        except TimedOut:
            return None
        return next((received(message) for message in answer.received_messages), None)

    def seek_to_now(self, subscription: str) -> None:
        """Drop everything that is in a subscription."""
        now = {"seconds": int(time.time()), "nanos": int(time.time() % 1 * 1e9)}
        self._retried("seek", {"subscription": self._subscription(subscription), "time": now})

    def stream(self, subscription: str, *, client_id: str, max_messages: int) -> Stream:
        """Return a stream that brings at most so many messages; it opens when its batches are read."""
        options = self._options
        first = {
            "subscription": self._subscription(subscription),
            "stream_ack_deadline_seconds": options.stream_ack_deadline_seconds,
            "client_id": client_id,
            "max_outstanding_messages": max_messages,
        }
        requests = Requests(first, heartbeat_seconds=options.stream_heartbeat_seconds)
        return Stream(self._wire().stub("streaming_pull"), requests, grace_seconds=options.stream_grace_seconds)

    def read(self, stream: Stream, name: str) -> Iterator[list[Received]]:
        """Yield what a stream brings until it ends, which is regular: servers end streams now and then."""
        self._streams.add(stream)
        try:
            yield from stream.batches(self._guarded("streaming_pull", name))
        except ServerUnavailable:
            if not stream.finishing:
                raise
        finally:
            self._streams.discard(stream)

    def park(self) -> None:
        """Leave gRPC with all threads, and keep out until `unpark`: the process is about to fork."""
        self._gate.shut()
        for stream in list(self._streams):
            stream.finish()
        if not self._gate.wait_until_empty(_PARK_SECONDS):
            for stream in list(self._streams):
                stream.cancel()

    def unpark(self) -> None:
        self._gate.open()

    def close(self) -> None:
        """Cut off what is under way; a later call opens a new wire."""
        with self._lock:
            wire, self._open_wire = self._open_wire, None
        for stream in list(self._streams):
            stream.cancel()
        if wire is not None:
            wire.close()

    def _created(self, method: str, request: dict[str, Any]) -> bool:
        try:
            self._retried(method, request)
        except AlreadyExists:
            return False
        return True

    def _retried(self, method: str, request: Any, *, timeout_seconds: float | None = None) -> Any:
        """Call until it succeeds, is refused, or the time is up."""
        timeout_seconds = timeout_seconds or self._options.connect_timeout_seconds
        ends_at = time.monotonic() + timeout_seconds
        pause = _FIRST_PAUSE_SECONDS
        while True:
            left = max(0.05, ends_at - time.monotonic())
            try:
                return self._call(method, request, timeout_seconds=min(left, self._options.rpc_timeout_seconds))
            except ServerUnavailable:
                if time.monotonic() + pause > ends_at:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, self._options.retry_ceiling_seconds)

    def _soon(self, method: str, request: dict[str, Any]) -> Any:
        """Call once, in as little time as a process has that is about to end."""
        return self._call(method, request, timeout_seconds=self._options.shutdown_timeout_seconds)

    def _call(self, method: str, request: Any, *, timeout_seconds: float | None = None) -> Any:
        name = _resource(request)
        timeout_seconds = timeout_seconds or self._options.rpc_timeout_seconds
        stub = self._wire().stub(method)
        with self._guarded(method, name):
            return stub(request, timeout=timeout_seconds, metadata=_routing(name))

    @contextmanager
    def _guarded(self, method: str, name: str) -> Iterator[None]:
        """Stay in the gate, and turn errors of gRPC into ours."""
        import grpc

        with self._gate:
            try:
                yield
            except grpc.RpcError as exc:
                code, details = exc.code().name, exc.details() or ""
                raise failure(code, details, method=method, name=name, address=self.address) from exc
            except ValueError as exc:
                # gRPC's way to say that the channel was closed by another thread.
                raise ServerUnavailable(f"the connection to {self.address} was closed: connect again") from exc

    def _wire(self) -> Wire:
        # Two threads that make clients at once can hang: https://github.com/googleapis/python-pubsub/issues/1101
        with self._gate, self._lock:
            if self._open_wire is None:
                self._open_wire = Wire(self.address)
            return self._open_wire

    def _topic(self, name: str) -> str:
        return f"projects/{self._project()}/topics/{name}"

    def _subscription(self, name: str) -> str:
        return f"projects/{self._project()}/subscriptions/{name}"

    def _project(self) -> str:
        return self.address.project or self._wire().project


def _resource(request: Any) -> str:
    """Return the full name of the topic or subscription that a request is about."""
    if not isinstance(request, dict):
        return str(request.resource)
    return next(str(request[field]) for field in ("name", "subscription", "topic") if field in request)


def _routing(name: str) -> tuple[tuple[str, str], ...]:
    """Return the header by which Google routes a call."""
    field = "topic" if "/topics/" in name else "subscription"
    return (("x-goog-request-params", f"{field}={quote(name)}"),)
