"""What this transport asks of a Pub/Sub server: names go in without the project, plain data comes out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transports.errors import AlreadyExists, PermissionMissing, QueueNotFound, RequestRefused, TimedOut
from transports.pubsub.options import Options
from transports.pubsub.server.calls import Calls
from transports.pubsub.server.messages import Outgoing, Received
from transports.pubsub.server.stream import Requests, Stream, received
from transports.pubsub.server.url import Address

#: Largest message Pub/Sub takes; refused here, because servers answer in many ways, or not at all.
MAX_MESSAGE_BYTES = 10_000_000


@dataclass(frozen=True)
class SubscriptionSettings:
    """What a subscription is created with; an expiration of None means that it never expires."""

    ack_deadline_seconds: int
    retention_seconds: float
    expiration_seconds: float | None = None
    exactly_once: bool = False


class Client:
    """One project on one server."""

    def __init__(self, address: Address, options: Options) -> None:
        self.address = address
        self.calls = Calls(address, options)
        self._options = options

    def probe(self) -> None:
        """Make sure that the server answers and knows us; needs no permission."""
        try:
            self.calls.probe(self._topic("connection-probe"))
        except (PermissionMissing, QueueNotFound, RequestRefused):
            return

    def publish(self, topic: str, messages: Sequence[Outgoing], *, timeout_seconds: float) -> list[str]:
        """Publish and return the message ids: the server has stored the messages, all of them."""
        for message in messages:
            if len(message.data) > MAX_MESSAGE_BYTES:
                raise RequestRefused(
                    f"{topic}: a message of {len(message.data):,} bytes, and Pub/Sub takes {MAX_MESSAGE_BYTES:,}: "
                    f"store what is large and send where it is"
                )
        request = {
            "topic": self._topic(topic),
            "messages": [{"data": each.data, "attributes": each.attributes} for each in messages],
        }
        return list(self.calls.retried("Publish", request, timeout_seconds=timeout_seconds).message_ids)

    def create_topic(self, topic: str, labels: Mapping[str, str] | None = None) -> bool:
        """Return whether it was created now; False: it existed."""
        return self._created("CreateTopic", {"name": self._topic(topic), "labels": labels or {}})

    def create_subscription(self, subscription: str, topic: str, settings: SubscriptionSettings) -> bool:
        """Return whether it was created now; False: it existed."""
        expires = settings.expiration_seconds
        request = {
            "name": self._subscription(subscription),
            "topic": self._topic(topic),
            "ack_deadline_seconds": settings.ack_deadline_seconds,
            "message_retention_duration": {"seconds": int(settings.retention_seconds)},
            "expiration_policy": {"ttl": {"seconds": int(expires)}} if expires else {},
            "enable_exactly_once_delivery": settings.exactly_once,
        }
        return self._created("CreateSubscription", request)

    def has_subscription(self, subscription: str) -> bool:
        try:
            self.calls.retried("GetSubscription", {"subscription": self._subscription(subscription)})
        except QueueNotFound:
            return False
        return True

    def retention_seconds(self, subscription: str) -> float:
        """For how long the server keeps a message of a subscription."""
        answer = self.calls.retried("GetSubscription", {"subscription": self._subscription(subscription)})
        return float(answer.message_retention_duration.ToTimedelta().total_seconds())

    def is_attached(self, subscription: str, topic: str) -> bool:
        """Say whether a subscription gets what is published to a topic of this name."""
        answer = self.calls.retried("GetSubscription", {"subscription": self._subscription(subscription)})
        return bool(answer.topic == self._topic(topic))

    def has_subscribers(self, topic: str) -> bool:
        request = {"topic": self._topic(topic), "page_size": 1}
        return bool(self.calls.soon("ListTopicSubscriptions", request).subscriptions)

    def topics(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Yield the name and labels of every topic of the project."""
        page = ""
        while True:
            request = {"project": f"projects/{self.calls.project}", "page_size": 1000, "page_token": page}
            answer = self.calls.retried("ListTopics", request)
            yield from ((topic.name.rpartition("/")[2], dict(topic.labels)) for topic in answer.topics)
            page = answer.next_page_token
            if not page:
                return

    def delete_topic(self, topic: str) -> None:
        self.calls.soon("DeleteTopic", {"topic": self._topic(topic)})

    def delete_subscription(self, subscription: str) -> None:
        self.calls.soon("DeleteSubscription", {"subscription": self._subscription(subscription)})

    def acknowledge(self, subscription: str, ack_ids: Sequence[str]) -> None:
        self.calls.once("Acknowledge", {"subscription": self._subscription(subscription), "ack_ids": ack_ids})

    def modify_ack_deadline(self, subscription: str, ack_ids: Sequence[str], seconds: int) -> None:
        """Lease messages for so many seconds from now; 0 gives them back."""
        request = {
            "subscription": self._subscription(subscription),
            "ack_ids": ack_ids,
            "ack_deadline_seconds": seconds,
        }
        self.calls.once("ModifyAckDeadline", request)

    def pull(self, subscription: str, *, max_messages: int = 1, timeout_seconds: float | None = None) -> list[Received]:
        """Return messages, waiting for one of them at most so long, by default `get_timeout_seconds`."""
        request = {"subscription": self._subscription(subscription), "max_messages": max_messages}
        try:
            seconds = timeout_seconds or self._options.get_timeout_seconds
            answer = self.calls.once("Pull", request, timeout_seconds=seconds)
        except TimedOut:
            return []
        return [received(message) for message in answer.received_messages]

    def seek_to_now(self, subscription: str) -> None:
        """Drop everything that is in a subscription."""
        seconds, nanos = divmod(time.time_ns(), 10**9)
        now = {"seconds": seconds, "nanos": nanos}
        self.calls.retried("Seek", {"subscription": self._subscription(subscription), "time": now})

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
        start: Callable[[Requests], Any] = self.calls.wire().stub("StreamingPull")
        return Stream(start, requests, grace_seconds=options.stream_grace_seconds)

    def read(self, stream: Stream, name: str) -> Iterator[list[Received]]:
        """Yield what a stream brings until it ends."""
        yield from self.calls.read(stream, name)

    def close(self) -> None:
        self.calls.close()

    def _created(self, method: str, request: dict[str, Any]) -> bool:
        try:
            self.calls.retried(method, request)
        except AlreadyExists:
            return False
        return True

    def _topic(self, name: str) -> str:
        return f"projects/{self.calls.project}/topics/{name}"

    def _subscription(self, name: str) -> str:
        return f"projects/{self.calls.project}/subscriptions/{name}"
