"""A message that was set aside, with the reason; and how it travels. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from transports.pubsub.server.messages import Outgoing, Received

#: Longest value of an attribute in Pub/Sub, in bytes.
_VALUE_BYTES = 1024


@dataclass(frozen=True)
class DeadLetter:
    """One message that cannot be delivered."""

    queue: str
    #: Its id, when it was first published.
    message_id: str
    #: When that was, in seconds since 1970.
    published_at: float
    #: Why it was set aside, in words.
    reason: str
    #: Its bytes, as they were published.
    data: bytes

    @classmethod
    def of(cls, queue: str, received: Received, reason: str) -> DeadLetter:
        return cls(queue, received.message_id, received.published_at, reason, received.data)

    def to_message(self) -> Outgoing:
        """Return what is published to the dead-letter topic: the same bytes; the rest are attributes."""
        return Outgoing(
            self.data,
            {
                "queue": self.queue,
                "message_id": self.message_id,
                "published_at": repr(self.published_at),
                "reason": self.reason.encode("utf-8")[:_VALUE_BYTES].decode("utf-8", "ignore"),
            },
        )

    @classmethod
    def from_message(cls, received: Received) -> DeadLetter:
        given = received.attributes
        return cls(
            queue=given.get("queue", ""),
            message_id=given.get("message_id", received.message_id),
            published_at=float(given.get("published_at") or received.published_at),
            reason=given.get("reason", "not said"),
            data=received.data,
        )
