"""A project of its own on a Pub/Sub server, reached through Google's client library; for tests."""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import grpc
from google.api_core.exceptions import Cancelled, GoogleAPICallError
from google.pubsub_v1 import PublisherClient, SubscriberClient, types
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

#: Seconds after which a test gives up waiting for what must come.
LIMIT_SECONDS = 60.0
#: The same for what a killed process held: Google's emulator goes on delivering to it now and then, 10 s at a time,
#: and whose turn it is is chance.
AFTER_A_KILL_SECONDS = 300.0


class PubSub:
    """Both clients on one channel, and short forms of what tests do all the time."""

    def __init__(self, address: str, channel: grpc.Channel | None = None) -> None:
        """Connect, or use a channel that somebody else made and that is closed with this."""
        self.address = address
        self.project = f"projects/test-{uuid.uuid4().hex[:12]}"
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channel = channel or grpc.insecure_channel(address, options=options)
        self.publisher = PublisherClient(transport=PublisherGrpcTransport(channel=self.channel))
        self.subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=self.channel))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self.channel.close()

    def topic(self, name: str = "topic") -> str:
        return f"{self.project}/topics/{name}"

    def subscription(self, name: str = "subscription") -> str:
        return f"{self.project}/subscriptions/{name}"

    def setup(self, *names: str, topic: str = "topic", **fields: Any) -> str:
        """Create a topic, if need be, and subscriptions of it (usually one); return the first one's full name."""
        path = self.topic(topic)
        if path not in {each.name for each in self.publisher.list_topics(project=self.project)}:
            self.publisher.create_topic(name=path)
        fields.setdefault("ack_deadline_seconds", 600)
        for name in names or ("subscription",):
            self.subscriber.create_subscription(
                request={"name": self.subscription(name), "topic": path, **fields}, retry=None
            )
        return self.subscription(names[0] if names else "subscription")

    def publish(self, *bodies: str, topic: str = "topic") -> list[str]:
        """Publish and return the ids, once the server has confirmed."""
        messages = [types.PubsubMessage(data=body.encode()) for body in bodies]
        response = self.publisher.publish(topic=self.topic(topic), messages=messages, timeout=LIMIT_SECONDS)
        return list(response.message_ids)

    def pull(self, subscription: str, count: int = 1) -> list[types.ReceivedMessage]:
        """Pull until ``count`` messages have come."""
        received: list[types.ReceivedMessage] = []
        end = time.monotonic() + LIMIT_SECONDS
        while len(received) < count:
            assert time.monotonic() < end, f"only {len(received)} of {count} messages came: {received}"
            request = {"subscription": subscription, "max_messages": count - len(received)}
            received += self.subscriber.pull(request=request, timeout=LIMIT_SECONDS).received_messages
        return received

    def ready(self, subscription: str, at_most: int = 1000) -> list[str]:
        """Pull what is there, without waiting, and return the bodies; they stay leased."""
        bodies: list[str] = []
        while received := self.start_pull(subscription, at_most, at_once=True).result().received_messages:
            bodies += texts(received)
        return bodies

    def acknowledge(self, subscription: str, *received: types.ReceivedMessage) -> None:
        self.subscriber.acknowledge(subscription=subscription, ack_ids=[each.ack_id for each in received])

    def modify(self, subscription: str, *received: types.ReceivedMessage, seconds: int) -> None:
        ack_ids = [each.ack_id for each in received]
        self.subscriber.modify_ack_deadline(
            subscription=subscription, ack_ids=ack_ids, ack_deadline_seconds=seconds, retry=None
        )

    def start_pull(
        self, subscription: str, max_messages: int = 1, *, seconds: float = LIMIT_SECONDS, at_once: bool = False
    ) -> grpc.Future:
        """Begin a pull that can be cancelled, and with ``at_once`` does not wait (of which Google's client warns)."""
        pull = self.channel.unary_unary(
            "/google.pubsub.v1.Subscriber/Pull",
            request_serializer=types.PullRequest.serialize,
            response_deserializer=types.PullResponse.deserialize,
        )
        request = types.PullRequest(subscription=subscription, max_messages=max_messages, return_immediately=at_once)
        return pull.future(request, timeout=seconds)

    @contextmanager
    def stream(self, subscription: str, *, join: Stream | None = None, **fields: Any) -> Iterator[Stream]:
        """Open a StreamingPull; ``fields`` go into its first request. What it gets goes to ``join``, if given."""
        stream = Stream(self, types.StreamingPullRequest(subscription=subscription, **fields), join)
        try:
            yield stream
        finally:
            stream.close()


class Stream:
    """One StreamingPull whose messages a thread collects."""

    def __init__(self, server: PubSub, first: types.StreamingPullRequest, join: Stream | None = None) -> None:
        first.stream_ack_deadline_seconds = first.stream_ack_deadline_seconds or 600
        self._requests: queue.SimpleQueue[types.StreamingPullRequest | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[types.ReceivedMessage | Exception | None] = (
            join._events if join else queue.SimpleQueue()
        )
        self._requests.put(first)
        self._call = server.subscriber.streaming_pull(iter(self._requests.get, None), retry=None, timeout=None)
        self._thread = threading.Thread(target=self._collect, name="stream")
        self._thread.start()

    def send(self, **fields: Any) -> None:
        self._requests.put(types.StreamingPullRequest(**fields))

    def take(self, count: int = 1) -> list[types.ReceivedMessage]:
        """Wait for messages."""
        return [self._next_message() for _ in range(count)]

    def end(self) -> Exception | None:
        """Wait until the server ends the stream; return its error, None for none."""
        while not isinstance(event := self._events.get(timeout=LIMIT_SECONDS), Exception):
            if event is None:
                return None
        return event

    @property
    def waiting(self) -> int:
        """How many messages have come that no test took."""
        return self._events.qsize()

    def half_close(self) -> None:
        self._requests.put(None)

    def close(self) -> None:
        self.half_close()
        self._call.cancel()
        self._thread.join(LIMIT_SECONDS)

    def _next_message(self) -> types.ReceivedMessage:
        event = self._events.get(timeout=LIMIT_SECONDS)
        assert isinstance(event, types.ReceivedMessage), f"the stream ended: {event!r}"
        return event

    def _collect(self) -> None:
        try:
            for response in self._call:
                for each in response.received_messages:
                    self._events.put(each)
        except Cancelled:
            self._events.put(None)
        except GoogleAPICallError as exc:
            self._events.put(exc)
        else:
            self._events.put(None)


def texts(received: Sequence[types.ReceivedMessage]) -> list[str]:
    """Return the bodies of messages."""
    return [each.message.data.decode() for each in received]
