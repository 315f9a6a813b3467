"""What the broker keeps: topics, subscriptions, snapshots, messages, and what it hands to a consumer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Self, overload

#: The topic of a subscription whose topic was deleted.
DELETED_TOPIC = "_deleted-topic_"


@dataclass(frozen=True, slots=True)
class Topic:
    """A named place to publish to; ``name`` is ``projects/P/topics/T``."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    #: Seconds for which messages can be replayed whoever acknowledged them; None is not at all.
    retention_seconds: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        return cls(**data)


@dataclass(frozen=True, slots=True)
class DeadLetterPolicy:
    """Where messages go that were delivered so often in vain."""

    topic: str
    max_attempts: int


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Seconds until a message comes again that was given back or whose lease ran out; they double each time."""

    min_seconds: float
    max_seconds: float


@dataclass(frozen=True, slots=True)
class Subscription:
    """A backlog of one topic's messages; ``name`` is ``projects/P/subscriptions/S``."""

    name: str
    topic: str
    ack_deadline_seconds: int
    retention_seconds: int
    #: Seconds without use after which it is deleted; None is never.
    expiration_seconds: int | None
    exactly_once: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    #: Keep acknowledged messages as long as others, so that a seek can bring them back.
    retain_acked: bool = False
    #: Deliver messages of one ordering key in the order in which they were published.
    ordered: bool = False
    #: An expression of the filter language; empty takes everything.
    filter: str = ""
    dead_letter: DeadLetterPolicy | None = None
    retry: RetryPolicy | None = None
    #: It gets no messages any more and has none.
    detached: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        dead_letter, retry = data["dead_letter"], data["retry"]
        nested = {
            "dead_letter": DeadLetterPolicy(**dead_letter) if dead_letter else None,
            "retry": RetryPolicy(**retry) if retry else None,
        }
        return cls(**{**data, **nested})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a subscription had not acknowledged at one moment; ``name`` is ``projects/P/snapshots/S``."""

    name: str
    topic: str
    #: When it ends, in microseconds since 1970.
    expires_us: int
    labels: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        return cls(**data)


class Draft(NamedTuple):
    """A message that is being published: ``payload`` is the serialized ``PubsubMessage`` without id and time."""

    payload: bytes
    attributes: Mapping[str, str] = MappingProxyType({})
    ordering_key: str = ""


class PlainDrafts(Sequence[Draft]):
    """Messages with data alone: each is made when somebody looks at it, and a batch takes only the payloads."""

    def __init__(self, payloads: Sequence[bytes]) -> None:
        self.payloads = payloads

    def __len__(self) -> int:
        return len(self.payloads)

    @overload
    def __getitem__(self, place: int) -> Draft: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Draft]: ...

    def __getitem__(self, place: int | slice) -> Draft | Sequence[Draft]:
        found = self.payloads[place]
        return Draft(found) if isinstance(found, bytes) else PlainDrafts(found)


class StoredMessage(NamedTuple):
    """A message as it lies on disk."""

    id: int
    published_us: int
    payload: bytes
    ordering_key: str = ""


class Pending(NamedTuple):
    """A message that a subscription still has to deliver or see acknowledged."""

    message_id: int
    published_us: int
    size: int
    ordering_key: str = ""
    #: Names its last delivery; 0 if there was none.
    token: int = 0
    #: How often it was delivered.
    attempts: int = 0
    #: First id of the bundle that it is stored in.
    bundle: int = 0


class Delivery(NamedTuple):
    """One delivery of one message; ``attempt`` is 0 where nobody counts."""

    ack_id: str
    message: StoredMessage
    attempt: int = 0
