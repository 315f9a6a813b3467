"""A message in memory, the terms on which it is leased, and where the rest of its backlog is read from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, Self

from transports.local.model import Pending, Subscription


class State(Enum):
    """What a message waits for."""

    #: Somebody who takes it.
    READY = "ready"
    #: Others of its ordering key, which are out.
    PARKED = "parked"
    #: Its holder, or the end of his lease.
    LEASED = "leased"
    #: The end of the delay that the retry policy asks for.
    DELAYED = "delayed"
    #: Its forwarding to the dead-letter topic.
    DEAD = "dead"
    #: Nothing: it left memory.
    GONE = "gone"


class Holder(Protocol):
    """Somebody to whom messages are leased and who is told when one is his no longer."""

    def release(self, size: int) -> None:
        """Forget a message of ``size`` bytes."""


class Source(Protocol):
    """Where a backlog is read from that is not in memory."""

    def page(self, *, after: int, until: int, at_most: int) -> list[Pending]:
        """Return the first messages with ids in that range, the lower end excluded."""

    def oldest_published_us(self) -> int | None:
        """Return the publish time of the oldest message, in memory or not."""

    def page_of_key(self, key: str, *, since: int, until: int, at_most: int) -> list[Pending]:
        """Return the first messages of an ordering key with ids in that range, both ends included."""


@dataclass(slots=True)
class Entry:
    """A pending message in memory; ``due`` is when its lease or its delay ends, never without."""

    message_id: int
    published_us: int
    size: int
    ordering_key: str
    token: int
    attempts: int
    bundle: int
    state: State = State.GONE
    due: float = math.inf
    holder: Holder | None = None

    @classmethod
    def of(cls, pending: Pending) -> Self:
        return cls(*pending)

    def pending(self) -> Pending:
        return Pending(
            self.message_id,
            self.published_us,
            self.size,
            self.ordering_key,
            self.token,
            self.attempts,
            self.bundle,
        )


@dataclass(frozen=True, slots=True)
class Lease:
    """Terms on which messages are taken: until when, by whom, how many, how large."""

    deadline: float
    max_messages: int
    max_bytes: int
    #: Take a first message even if it is larger than ``max_bytes``.
    oversize: bool = False
    holder: Holder | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """What of a subscription's settings changes how its messages are delivered."""

    exactly_once: bool = False
    ordered: bool = False
    #: Deliveries after which a message is dead; 0 is never.
    max_attempts: int = 0
    #: Seconds until the first redelivery, and at most; they double each time.
    min_delay_seconds: float = 0.0
    max_delay_seconds: float = 0.0

    @classmethod
    def of(cls, settings: Subscription) -> Self:
        return cls(
            exactly_once=settings.exactly_once,
            ordered=settings.ordered,
            max_attempts=settings.dead_letter.max_attempts if settings.dead_letter else 0,
            min_delay_seconds=settings.retry.min_seconds if settings.retry else 0.0,
            max_delay_seconds=settings.retry.max_seconds if settings.retry else 0.0,
        )

    def is_worn_out(self, attempts: int) -> bool:
        return 0 < self.max_attempts <= attempts

    def delay_seconds(self, attempts: int) -> float:
        """Return how long a message waits that was delivered so often."""
        if self.max_delay_seconds <= 0:
            return 0.0
        # Google's default of a minimum of 0 still grows from something.
        first = self.min_delay_seconds or min(0.1, self.max_delay_seconds)
        return float(min(first * 2.0 ** min(attempts - 1, 30), self.max_delay_seconds))
