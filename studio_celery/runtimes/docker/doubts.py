"""Ends that may be the engine's doing: an engine that is told to stop kills its containers, and answers meanwhile.

So a container that was killed, and not by us, is not taken for ended by itself before the engine has been up for a
while since. An engine that stops is gone by then, and the next one is another run.
"""

from __future__ import annotations

import threading
import time

from studio_celery.runtimes.contract import Exit
from studio_celery.runtimes.directory import Ending
from studio_celery.runtimes.docker import verdict


class Doubts:
    """By containers; may be used from any thread."""

    def __init__(self, settle_seconds: float) -> None:
        """`settle_seconds`: longer than an engine takes to stop."""
        self._settle_seconds = settle_seconds
        self._lock = threading.Lock()
        self._ours: set[str] = set()
        self._since: dict[str, float] = {}

    def about(self, container: str, exit: Exit, ending: Ending | None) -> bool:
        """Whether this end, which the engine just told, may still turn out to be the engine's."""
        if exit.lost or exit.out_of_memory or not verdict.killed(exit, ending):
            return False
        with self._lock:
            since = self._since.setdefault(container, time.monotonic())
            return container not in self._ours and time.monotonic() - since < self._settle_seconds

    def kill(self, container: str) -> None:
        """Record that we end it ourselves."""
        with self._lock:
            self._ours.add(container)

    def forget(self, container: str) -> None:
        """It was removed."""
        with self._lock:
            self._ours.discard(container)
            self._since.pop(container, None)
