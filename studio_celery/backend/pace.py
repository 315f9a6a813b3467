"""How often a waiting caller looks: soon at first, then after a tenth of the time already waited."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from celery.exceptions import TimeoutError

#: Pauses between two looks, seconds.
FLOOR_SECONDS = 0.05
CEILING_SECONDS = 5.0

#: Part of the time already waited that may pass before the next look.
FRACTION = 0.1

#: What Celery passes as `interval` when the caller said nothing.
CELERY_INTERVAL = 0.5


class Pace:
    """One wait: its pauses and its deadline."""

    def __init__(self, options: Mapping[str, Any], timeout: float | None, interval: float | None) -> None:
        """`timeout` in seconds or None; an `interval` other than Celery's default is the longest pause."""
        ceiling = float(options.get("poll_ceiling_seconds", CEILING_SECONDS))
        self._ceiling = ceiling if interval in (None, CELERY_INTERVAL) else max(0.001, float(interval or 0))
        self._floor = min(self._ceiling, float(options.get("poll_floor_seconds", FLOOR_SECONDS)))
        self._timeout = timeout
        self._began = time.monotonic()

    def pause(self) -> None:
        """Sleep until the next look, never past the deadline; `TimeoutError` if that is over."""
        waited = time.monotonic() - self._began
        if self._timeout is not None and waited >= self._timeout:
            raise TimeoutError(f"The operation timed out after {self._timeout:g} s.")
        nap = min(self._ceiling, max(self._floor, waited * FRACTION))
        time.sleep(nap if self._timeout is None else min(nap, self._timeout - waited))
