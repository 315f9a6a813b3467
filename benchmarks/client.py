"""A process that uses one Pub/Sub server by bare stubs, see `calls`: the same client for every server."""

from __future__ import annotations

import os
import time
from collections import deque
from typing import Any

import grpc
from calls import serve
from stubs import (
    AcknowledgeRequest,
    PublishRequest,
    PubsubMessage,
    PullRequest,
    Stream,
    Stubs,
    Subscription,
    Topic,
    connect,
)

#: Bytes of a message, about those of a Celery message of a small task.
MESSAGE_BYTES = 1000
#: Messages that one request acknowledges when they come from a stream.
ACKS_AT_ONCE = 100
_TOPIC = "projects/bench/topics/bench"
_SUBSCRIPTION = "projects/bench/subscriptions/bench"
#: Long, so that no lease runs out while it is measured.
_ACK_DEADLINE_SECONDS = 600
_LARGEST_BATCH = 1000
#: Requests on their way at a time when a backlog is made.
_PIPELINE = 4


class Client:
    """One topic and one subscription, reached in the ways that are compared."""

    def __init__(self, address: str) -> None:
        self._channel = connect(address)
        self._stubs = Stubs(self._channel)
        self._taken: list[str] = []
        self._stream: Stream | None = None
        self._open: list[Stream] = []

    def create(self) -> None:
        """Create topic and subscription, unless they are there."""
        _unless_there(self._stubs.create_topic, Topic(name=_TOPIC))
        self._create_subscription(_SUBSCRIPTION)

    def publish(self, seconds: float, size: int, at_most: int) -> dict[str, float]:
        """Publish batches one after the other, each confirmed, for so long and until it is so many messages."""
        request = _batch(size)
        count, began = 0, time.monotonic()
        while (now := time.monotonic()) < began + seconds and count < at_most:
            self._stubs.publish(request)
            count += size
        return {"count": count, "began": began, "ended": now}

    def fill(self, count: int) -> float:
        """Publish many as fast as it goes; return the seconds."""
        began, pending = time.monotonic(), deque[Any]()
        for start in range(0, count, _LARGEST_BATCH):
            if len(pending) == _PIPELINE:
                pending.popleft().result()
            pending.append(self._stubs.publish.future(_batch(min(_LARGEST_BATCH, count - start))))
        while pending:
            pending.popleft().result()
        return time.monotonic() - began

    def deliver(self, count: int, outstanding: int) -> float:
        """Receive so many on a stream, acknowledge them in batches; return the seconds until the last is done."""
        began, received, pending = time.monotonic(), 0, list[str]()
        stream = self._stubs.stream(_SUBSCRIPTION, outstanding=outstanding)
        while received < count:
            ack_ids = stream.next().ack_ids
            received += len(ack_ids)
            pending += ack_ids
            while len(pending) >= ACKS_AT_ONCE or (pending and received >= count):
                self._acknowledge(pending[:ACKS_AT_ONCE])
                del pending[:ACKS_AT_ONCE]
        seconds = time.monotonic() - began
        stream.close()
        return seconds

    def take(self, count: int) -> int:
        """Pull so many, to be acknowledged by the next call; return how many are held."""
        while (missing := count - len(self._taken)) > 0:
            request = PullRequest(subscription=_SUBSCRIPTION, max_messages=min(missing, _LARGEST_BATCH))
            self._taken += [each.ack_id for each in self._stubs.pull(request).received_messages]
        return len(self._taken)

    def acknowledge(self, size: int) -> float:
        """Acknowledge what was taken, so many at a time, one request after the other; return the seconds."""
        began = time.monotonic()
        for start in range(0, len(self._taken), size):
            self._acknowledge(self._taken[start : start + size])
        self._taken.clear()
        return time.monotonic() - began

    def latency(self) -> float:
        """Publish one message and return the seconds until an open stream has brought it."""
        self._stream = self._stream or self._stubs.stream(_SUBSCRIPTION)
        began = time.monotonic()
        self._stubs.publish(_batch(1))
        arrival = self._stream.next()
        self._stream.acknowledge(arrival.ack_ids)
        return arrival.at - began

    def listen(self, streams: int, subscriptions: int) -> None:
        """Open streams on subscriptions without messages."""
        for number in range(subscriptions):
            self._create_subscription(f"{_SUBSCRIPTION}-{number}")
        for number in range(streams):
            self._open.append(self._stubs.stream(f"{_SUBSCRIPTION}-{number % subscriptions}"))

    def close(self) -> None:
        """End all streams."""
        for stream in (*self._open, *([self._stream] if self._stream else [])):
            stream.close()
        self._open, self._stream = [], None

    def _acknowledge(self, ack_ids: list[str]) -> None:
        self._stubs.acknowledge(AcknowledgeRequest(subscription=_SUBSCRIPTION, ack_ids=ack_ids))

    def _create_subscription(self, name: str) -> None:
        wanted = Subscription(name=name, topic=_TOPIC, ack_deadline_seconds=_ACK_DEADLINE_SECONDS)
        _unless_there(self._stubs.create_subscription, wanted)


def _batch(size: int) -> Any:
    return PublishRequest(topic=_TOPIC, messages=[PubsubMessage(data=b"x" * MESSAGE_BYTES)] * size)


def _unless_there(create: Any, wanted: Any) -> None:
    try:
        create(wanted)
    except grpc.RpcError as exc:
        if exc.code() is not grpc.StatusCode.ALREADY_EXISTS:
            raise


def main() -> None:
    client = Client(os.environ["BENCH_SERVER"])
    names = ("create", "publish", "fill", "deliver", "take", "acknowledge", "latency", "listen", "close")
    try:
        serve({name: getattr(client, name) for name in names})
    finally:
        client.close()


if __name__ == "__main__":
    main()
