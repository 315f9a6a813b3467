"""Messages as plain data: what goes to a Pub/Sub server, and what comes from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Outgoing:
    """A message to be published."""

    data: bytes
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """What it takes up in a request, a little more rather than less."""
        return len(self.data) + sum(len(key) + len(value) + 16 for key, value in self.attributes.items()) + 64


@dataclass(frozen=True)
class Received:
    """A message as the server delivered it."""

    message_id: str
    ack_id: str
    data: bytes
    #: How often it was delivered, where the server counts; else 0.
    delivery_attempt: int = 0
    #: When it was published, in seconds since 1970 by the server's clock: the same on every delivery.
    published_at: float = 0.0
    attributes: Mapping[str, str] = field(default_factory=dict)
