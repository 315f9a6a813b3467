"""Which priorities a queue tells apart. Pure.

Pub/Sub has no priorities, so each step is a topic and a subscription of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

#: Most steps that an ``x-max-priority`` is divided into.
_STEPS = 4


def steps(max_priority: int, configured: tuple[int, ...]) -> tuple[int, ...]:
    """Return the steps of a lasting queue, from its ``x-max-priority`` (0: none) and the transport's option."""
    if configured:
        return configured
    width = math.ceil((max_priority + 1) / _STEPS)
    return tuple(range(0, max_priority + 1, width)) if max_priority > 0 else (0,)


def step(priority: int, known: Iterable[int]) -> int:
    """Return the highest step that is not above a message's priority."""
    return max((each for each in known if each <= priority), default=0)
