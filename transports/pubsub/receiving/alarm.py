"""Calls things at a given time: one thread per process and server, for messages that are due in a moment."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

logger = logging.getLogger(__name__)


class Alarm:
    """Runs from the first call that is asked for until `close`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls: list[tuple[float, int, Callable[[], object]]] = []
        self._order = count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def call_in(self, seconds: float, what: Callable[[], object]) -> None:
        """Have something called after so many seconds; it must not take long."""
        with self._changed:
            heappush(self._calls, (time.monotonic() + seconds, next(self._order), what))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pubsub-alarm", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Forget what was asked for."""
        with self._changed:
            self._closed = True
            self._calls.clear()
            self._changed.notify()

    def _run(self) -> None:
        while (what := self._next()) is not None:
            try:
                what()
            except Exception:
                logger.exception("delivering a message at its time failed")

    def _next(self) -> Callable[[], object] | None:
        with self._changed:
            while not self._closed:
                left = self._calls[0][0] - time.monotonic() if self._calls else None
                if left is not None and left <= 0:
                    return heappop(self._calls)[2]
                self._changed.wait(left)
        return None
