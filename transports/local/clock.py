"""The time that publishing and leases go by: it never goes back, whatever the machine's clock does."""

from __future__ import annotations

import time


class Clock:
    """Microseconds since 1970, by the machine's clock as long as that goes forward, else by the time that has passed.

    A broker that starts takes up the time that the last one wrote down.
    """

    def __init__(self, least_us: int = 0) -> None:
        """Begin at ``least_us``, or later if the machine's clock says so."""
        self._then_us = max(now_us(), least_us)
        self._then_ns = time.monotonic_ns()

    def now_us(self) -> int:
        """Return the time, never earlier than before."""
        passed_ns = time.monotonic_ns()
        self._then_us = max(now_us(), self._then_us + (passed_ns - self._then_ns) // 1000)
        self._then_ns = passed_ns
        return self._then_us


def now_us() -> int:
    """Return the machine's time in microseconds since 1970."""
    return time.time_ns() // 1000
