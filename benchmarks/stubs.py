"""Bare gRPC stubs of Pub/Sub's methods: Google's protobuf types, and none of the client library around them."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any, NamedTuple

import grpc
from google.pubsub_v1 import types

#: Seconds within which a stream brings its next message.
LIMIT_SECONDS = 60.0
#: Seconds that a server gets to end a stream.
_END_SECONDS = 10.0
_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))

PublishRequest = types.PublishRequest.pb()
PublishResponse = types.PublishResponse.pb()
PubsubMessage = types.PubsubMessage.pb()
PullRequest = types.PullRequest.pb()
PullResponse = types.PullResponse.pb()
ReceivedMessage = types.ReceivedMessage.pb()
AcknowledgeRequest = types.AcknowledgeRequest.pb()
StreamingPullRequest = types.StreamingPullRequest.pb()
StreamingPullResponse = types.StreamingPullResponse.pb()
Topic = types.Topic.pb()
Subscription = types.Subscription.pb()


class Arrival(NamedTuple):
    """One response of a stream: when it came, and what is to be acknowledged."""

    at: float
    ack_ids: list[str]


class Stubs:
    """The methods of one server; requests and responses are protobuf messages."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self.publish = self._unary("Publisher/Publish", PublishRequest, PublishResponse)
        self.create_topic = self._unary("Publisher/CreateTopic", Topic, Topic)
        self.create_subscription = self._unary("Subscriber/CreateSubscription", Subscription, Subscription)
        self.pull = self._unary("Subscriber/Pull", PullRequest, PullResponse)
        # The response is empty, so any type reads it.
        self.acknowledge = self._unary("Subscriber/Acknowledge", AcknowledgeRequest, Topic)

    def stream(self, subscription: str, *, outstanding: int = 0) -> Stream:
        """Open a StreamingPull on which at most so many messages (0: any number) are unacknowledged."""
        first = StreamingPullRequest(
            subscription=subscription, stream_ack_deadline_seconds=600, max_outstanding_messages=outstanding
        )
        start = self._channel.stream_stream(
            "/google.pubsub.v1.Subscriber/StreamingPull",
            request_serializer=StreamingPullRequest.SerializeToString,
            response_deserializer=StreamingPullResponse.FromString,
        )
        return Stream(start, first)

    def _unary(self, method: str, request: Any, response: Any) -> Any:
        return self._channel.unary_unary(
            f"/google.pubsub.v1.{method}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )


class Stream:
    """A StreamingPull that notes what comes, and when; it acknowledges on the stream if it is told to."""

    def __init__(self, start: Any, first: Any) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._requests.put(first)
        self._arrivals: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        self._call = start(iter(self._requests.get, None))
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def next(self) -> Arrival:
        """Wait for the next response."""
        return self._arrivals.get(timeout=LIMIT_SECONDS)

    def acknowledge(self, ack_ids: list[str]) -> None:
        """Acknowledge on the stream, without waiting."""
        self._requests.put(StreamingPullRequest(ack_ids=ack_ids))

    def close(self) -> None:
        """Say that there is no more to come, and let the server end; the emulator feeds a cancelled stream on."""
        self._requests.put(None)
        self._thread.join(_END_SECONDS)
        self._call.cancel()

    def _read(self) -> None:
        try:
            for response in self._call:
                self._arrivals.put(Arrival(time.monotonic(), [each.ack_id for each in response.received_messages]))
        except grpc.RpcError as exc:
            if exc.code() is not grpc.StatusCode.CANCELLED:
                raise


def connect(address: str) -> grpc.Channel:
    """Open a channel that takes responses of any size."""
    return grpc.insecure_channel(address, options=_OPTIONS)
