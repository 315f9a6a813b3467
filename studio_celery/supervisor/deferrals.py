"""What this worker cannot run now: for how long it is put off, and the note of it for the person who waits."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from studio_celery.errors import StoreError
from studio_celery.settings import Settings
from studio_celery.supervisor.outcome import Deferred

logger = logging.getLogger(__name__)

#: What has not come back for so many of the longest delays is somebody else's by now, and forgotten.
DELAYS_REMEMBERED = 3


@dataclass(frozen=True)
class Note:
    """Why an experiment was put off, how often in a row, and when the last time."""

    why: str
    times: int
    at: float


class Deferrals:
    """Delays that double each time, for each experiment. Every method may be called from any thread."""

    def __init__(self, settings: Settings, tell: Callable[[], object]) -> None:
        """`tell` writes this worker's heartbeat, which shows the notes."""
        self._settings = settings
        self._tell = tell
        self._notes: dict[str, Note] = {}
        self._lock = threading.Lock()

    def defer(self, experiment_id: str, why: str) -> Deferred:
        """Put it off, and say why in this worker's heartbeat."""
        with self._lock:
            former = self._notes.get(experiment_id)
            times = former.times if former else 0
            self._notes[experiment_id] = Note(why, times + 1, time.monotonic())
        try:
            self._tell()
        except StoreError as exc:
            logger.warning("The reason is not noted now: %s", exc)
        delay = min(self._settings.defer_ceiling_seconds, self._settings.defer_seconds * 2.0 ** min(times, 30))
        logger.info("Experiment %s does not run here now: %s.", experiment_id, why.rstrip("."))
        return Deferred(delay * random.uniform(0.8, 1.2), why)

    def forget(self, experiment_id: str) -> None:
        """It runs here, or it has ended."""
        with self._lock:
            self._notes.pop(experiment_id, None)

    def notes(self) -> dict[str, str]:
        """Why each of them cannot run here, by id; what went elsewhere is not among them any more."""
        oldest = time.monotonic() - DELAYS_REMEMBERED * self._settings.defer_ceiling_seconds
        with self._lock:
            self._notes = {key: note for key, note in self._notes.items() if note.at >= oldest}
            return {key: note.why for key, note in self._notes.items()}
