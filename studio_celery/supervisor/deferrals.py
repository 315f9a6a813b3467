"""What this worker cannot run now: for how long it is put off, and the note of it for the person who waits."""

from __future__ import annotations

import logging
import random

from studio_celery.errors import StoreError
from studio_celery.settings import Settings
from studio_celery.supervisor.outcome import Deferred
from studio_celery.supervisor.pulse import Pulse

logger = logging.getLogger(__name__)


class Deferrals:
    """Delays that double each time, for each experiment."""

    def __init__(self, settings: Settings, pulse: Pulse) -> None:
        self._settings = settings
        self._pulse = pulse
        self._times: dict[str, int] = {}

    def defer(self, experiment_id: str, why: str) -> Deferred:
        """Put it off, and say why in this worker's heartbeat."""
        times = self._times.get(experiment_id, 0)
        self._times[experiment_id] = times + 1
        self._pulse.note(experiment_id, why)
        try:
            self._pulse.beat()
        except StoreError as exc:
            logger.warning("The reason is not noted now: %s", exc)
        delay = min(self._settings.defer_ceiling_seconds, self._settings.defer_seconds * 2**times)
        logger.info("Experiment %s does not run here now: %s.", experiment_id, why.rstrip("."))
        return Deferred(delay * random.uniform(0.8, 1.2), why)

    def forget(self, experiment_id: str) -> None:
        """It runs here, or it has ended."""
        self._times.pop(experiment_id, None)
        self._pulse.note(experiment_id, None)
