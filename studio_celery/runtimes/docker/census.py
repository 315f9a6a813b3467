"""Which containers run, by one listing for all who ask within a while: a worker looks after many at once."""

from __future__ import annotations

import threading
import time

from studio_celery.runtimes.docker import verdict
from studio_celery.runtimes.docker.engine import Engine
from studio_celery.runtimes.docker.silence import Silence


class Census:
    """Of the containers of one `STUDIO_HOME`; it may be asked from any thread."""

    def __init__(self, engine: Engine, label: str, valid_seconds: float) -> None:
        """`valid_seconds`: how old a listing may be, or the news that the engine did not answer."""
        self._engine = engine
        self._label = label
        self._valid_seconds = valid_seconds
        self._lock = threading.Lock()
        self._silence = Silence(valid_seconds)
        self._alive: frozenset[str] = frozenset()
        self._until = 0.0

    def runs(self, container: str) -> bool:
        """Whether a container ran a moment ago; one that did not has to be looked at by itself."""
        since = time.monotonic()
        with self._lock:
            if time.monotonic() >= self._until:
                self._silence.tell(since)
                began = time.monotonic()
                with self._silence.asking():
                    listed = self._engine.containers(self._label)
                self._alive = frozenset(each["Id"] for each in listed if each["State"] in verdict.ALIVE)
                self._until = began + self._valid_seconds
            return container in self._alive

    def forget(self) -> None:
        """Look anew for whoever asks next: something was stopped or removed."""
        with self._lock:
            self._until = 0.0
