"""A process that uses Google's client library and nothing else: what no transport can beat, see `calls`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import grpc
from calls import serve
from google.api_core.exceptions import AlreadyExists
from google.protobuf.timestamp_pb2 import Timestamp
from google.pubsub_v1 import PublisherClient, SubscriberClient, types
from google.pubsub_v1.services.publisher.transports.grpc import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports.grpc import SubscriberGrpcTransport
from stubs import PublishRequest, PubsubMessage, Stream, Stubs

#: As many bytes as a Celery message of a small task has.
_DATA = b"x" * 930
_TOPIC = "projects/bench-floor/topics/floor"
_SUBSCRIPTION = "projects/bench-floor/subscriptions/floor"


class Floors:
    """One topic and one subscription, reached in the ways that are compared."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._publisher = PublisherClient(transport=PublisherGrpcTransport(channel=self._channel))
        self._subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=self._channel))
        self._stubs = Stubs(self._channel)
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
        return _timed(count, self._publish_bare)

    def batches(self, count: int, size: int) -> float:
        """Publish in batches by the client's unary call."""
        return _timed(count // size, lambda: self._publish(size))

    def latency(self) -> float:
        """Publish one message by the stub, and return the seconds until a bare stream has brought it."""
        self._stream = self._stream or self._stubs.stream(_SUBSCRIPTION)
        began = time.monotonic()
        self._publish_bare()
        arrival = self._stream.next()
        self._stream.acknowledge(arrival.ack_ids)
        return arrival.at - began

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

    def _publish_bare(self) -> None:
        self._stubs.publish(PublishRequest(topic=_TOPIC, messages=[PubsubMessage(data=_DATA)]))

    def _publish(self, size: int) -> None:
        self._publisher.publish(topic=_TOPIC, messages=[types.PubsubMessage(data=_DATA) for _ in range(size)])


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
