"""How full each subscription is: what a request for statistics is answered with."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from transports.local.catalog import Attached
from transports.local.engine import Engine
from transports.local.monitoring.counters import Counters


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """One subscription at one moment."""

    #: ``projects/P/subscriptions/S``.
    name: str
    #: ``projects/P/topics/T``, or ``_deleted-topic_``.
    topic: str
    #: Messages that would be delivered now if somebody asked.
    waiting: int
    #: Messages that a consumer holds, or held until his lease runs out.
    leased: int
    #: Seconds since the oldest of both was published; None if there is none.
    oldest_age_seconds: float | None
    #: Streams that are open, and pulls that wait.
    consumers: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        age = data["oldest_age_seconds"]
        return cls(
            name=str(data["name"]),
            topic=str(data["topic"]),
            waiting=int(data["waiting"]),
            leased=int(data["leased"]),
            oldest_age_seconds=None if age is None else float(age),
            consumers=int(data["consumers"]),
        )


def read(engine: Engine, counters: Counters, project: str = "") -> list[QueueStatistics]:
    """Return the statistics of a project's subscriptions by name, or of all (empty)."""
    found = engine.catalog.subscriptions(project) if project else engine.catalog.everything()
    return [_read_one(each, counters) for each in sorted(found, key=lambda each: each.settings.name)]


def _read_one(attached: Attached, counters: Counters) -> QueueStatistics:
    oldest_us = attached.oldest_published_us
    return QueueStatistics(
        name=attached.settings.name,
        topic=attached.settings.topic,
        waiting=attached.waiting,
        leased=attached.leased,
        oldest_age_seconds=None if oldest_us is None else max(0.0, time.time() - oldest_us / 1_000_000),
        # Not the dispatcher's, which leaves out a stream that is being written to.
        consumers=counters.consumers[attached.settings.name],
    )
