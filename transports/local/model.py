"""What the broker keeps: topics, subscriptions, messages, and what it hands to a consumer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: The topic of a subscription whose topic was deleted.
DELETED_TOPIC = "_deleted-topic_"


@dataclass(frozen=True, slots=True)
class Topic:
    """A named place to publish to; ``name`` is ``projects/P/topics/T``."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subscription:
    """A backlog of one topic's messages; ``name`` is ``projects/P/subscriptions/S``."""

    name: str
    topic: str
    ack_deadline_seconds: int
    retention_seconds: int
    #: Seconds without use after which Google would delete it; None is never. Stored, not acted on.
    expiration_seconds: int | None
    exactly_once: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as it lies on disk: ``payload`` is the serialized ``PubsubMessage`` without id and time."""

    id: int
    published_us: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Pending:
    """A message that a subscription still has to deliver or see acknowledged; ``token`` names its last delivery."""

    message_id: int
    published_us: int
    size: int
    token: int = 0


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery of one message."""

    ack_id: str
    message: StoredMessage
