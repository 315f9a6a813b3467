"""Which experiments this process has in hand: one thread for each, however many deliveries there are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Charge:
    """Counted under a lock: several deliveries of one experiment may come at once."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._lock = threading.Lock()

    def __contains__(self, experiment_id: str) -> bool:
        """Whether some thread of this process has it in hand."""
        with self._lock:
            return experiment_id in self._ids

    @contextmanager
    def take(self, experiment_id: str) -> Iterator[bool]:
        """Whether this thread has it in hand while the context lasts; False if another one has."""
        with self._lock:
            ours = experiment_id not in self._ids
            self._ids.add(experiment_id)
        try:
            yield ours
        finally:
            if ours:
                with self._lock:
                    self._ids.discard(experiment_id)
