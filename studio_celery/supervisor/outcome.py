"""What becomes of one delivery of an experiment's message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ended:
    """The experiment has ended: its record."""

    record: Mapping[str, Any]


@dataclass(frozen=True)
class Deferred:
    """Not here, or not now: the message should come again after so many seconds."""

    seconds: float
    why: str
