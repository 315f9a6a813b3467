"""Floods: frames that cost us work and bring a client nothing are endured in moderation."""

from __future__ import annotations

import time
from collections.abc import Callable

from transports.local.http2.errors import ConnectionFault, ErrorCode

#: Such frames that a connection may send at once, and per second in the long run; a client that gives up a thousand
#: calls at a time, or pings with each message, stays below.
BURST = 4000
PER_SECOND = 1000.0


class Patience:
    """Counts pings, settings, empty and unknown frames of one connection, or its resets."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left = float(BURST)
        self._seen = clock()
        self._work = 0

    def spend(self, frames: int = 1, *, work: int = 0) -> None:
        """Count frames that do nothing; ``work`` is how many so far did something, each of which makes up for one.

        So a client may ping with each frame of an answer, as many do that measure how fast the line is.

        Raises:
            ConnectionFault: They are too many.
        """
        self._left = min(self._left + work - self._work, BURST) - frames
        self._work = work
        if self._left >= 0:
            return
        now = self._clock()
        self._left = min(self._left + (now - self._seen) * PER_SECOND, BURST)
        self._seen = now
        if self._left < 0:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a flood of frames that do nothing")
