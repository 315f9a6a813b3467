"""A process that uses Google's client library and nothing else: what no transport can beat, see `calls`."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from calls import serve
from google.api_core.exceptions import AlreadyExists
from google.protobuf.timestamp_pb2 import Timestamp
from google.pubsub_v1 import PublisherClient, SubscriberClient, types
from google.pubsub_v1.services.publisher.transports.grpc import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports.grpc import SubscriberGrpcTransport

#: As many bytes as a Celery message of a small task has.
_DATA = b"x" * 930
_TOPIC = "projects/bench-floor/topics/floor"
_SUBSCRIPTION = "projects/bench-floor/subscriptions/floor"
#: Seconds within which a message comes back on a stream.
_LIMIT_SECONDS = 30.0

_Request = type(types.PublishRequest.pb(types.PublishRequest()))
_Message = type(types.PubsubMessage.pb(types.PubsubMessage()))
_Response = type(types.PublishResponse.pb(types.PublishResponse()))
_Pull = type(types.StreamingPullRequest.pb(types.StreamingPullRequest()))
_Pulled = type(types.StreamingPullResponse.pb(types.StreamingPullResponse()))


class Floors:
    """One topic and one subscription, reached in the ways that are compared."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._publisher = PublisherClient(transport=PublisherGrpcTransport(channel=self._channel))
        self._subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=self._channel))
        self._stub = self._channel.unary_unary(
            "/google.pubsub.v1.Publisher/Publish",
            request_serializer=_Request.SerializeToString,
            response_deserializer=_Response.FromString,
        )
        try:
            self._publisher.create_topic(name=_TOPIC)
            self._subscriber.create_subscription(name=_SUBSCRIPTION, topic=_TOPIC)
        except AlreadyExists:
            self.purge()
        self._stream: Stream | None = None

    def unary(self, count: int) -> float:
        """Publish one after the other by the client's unary call."""
        return _timed(count, lambda: self._publish(1))

    def stub(self, count: int) -> float:
        """Publish one after the other by a bare stub."""
        return _timed(count, lambda: self._stub(_Request(topic=_TOPIC, messages=[_Message(data=_DATA)])))

    def batches(self, count: int, size: int) -> float:
        """Publish in batches by the client's unary call."""
        return _timed(count // size, lambda: self._publish(size))

    def latency(self) -> float:
        """Publish one message by the stub, and return the seconds until a bare stream has brought it."""
        self._stream = self._stream or Stream(self._channel)
        began = time.monotonic()
        self._stub(_Request(topic=_TOPIC, messages=[_Message(data=_DATA)]))
        return self._stream.next_at() - began

    def purge(self) -> None:
        """Drop what was published."""
        now = Timestamp()
        now.GetCurrentTime()
        self._subscriber.seek({"subscription": _SUBSCRIPTION, "time": now})

    def topics(self, project: str) -> list[str]:
        """List the topics of a project."""
        return [topic.name for topic in self._publisher.list_topics(project=f"projects/{project}")]

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._channel.close()

    def _publish(self, size: int) -> None:
        self._publisher.publish(topic=_TOPIC, messages=[types.PubsubMessage(data=_DATA) for _ in range(size)])


class Stream:
    """A bare StreamingPull that acknowledges what it brings and notes when it came."""

    def __init__(self, channel: Any) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._requests.put(_Pull(subscription=_SUBSCRIPTION, stream_ack_deadline_seconds=60))
        self._times: queue.SimpleQueue[float] = queue.SimpleQueue()
        start = channel.stream_stream(
            "/google.pubsub.v1.Subscriber/StreamingPull",
            request_serializer=_Pull.SerializeToString,
            response_deserializer=_Pulled.FromString,
        )
        self._call = start(iter(self._requests.get, None))
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def next_at(self) -> float:
        """Wait for the next message and return when it came."""
        return self._times.get(timeout=_LIMIT_SECONDS)

    def close(self) -> None:
        self._requests.put(None)
        self._thread.join(_LIMIT_SECONDS)

    def _read(self) -> None:
        for ack_ids in self._batches():
            self._requests.put(_Pull(ack_ids=ack_ids))

    def _batches(self) -> Iterator[list[str]]:
        for response in self._call:
            now = time.monotonic()
            for _ in response.received_messages:
                self._times.put(now)
            yield [message.ack_id for message in response.received_messages]


def _timed(times: int, call: Callable[[], object]) -> float:
    began = time.monotonic()
    for _ in range(times):
        call()
    return time.monotonic() - began


def main() -> None:
    floors = Floors(os.environ["BENCH_SERVER"])
    names = ("unary", "stub", "batches", "latency", "topics", "purge")
    try:
        serve({name: getattr(floors, name) for name in names})
    finally:
        floors.close()


if __name__ == "__main__":
    main()
