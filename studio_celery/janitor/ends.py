"""Experiments that end because nobody did anything: submissions that did not complete, lifetimes that ran out.

Each experiment's journal is read when it is first seen, and again when something is due; most are read once. A process
that starts looks back for two days only. What is older is settled by whoever looks at it: a list, a page, a worker
that its message reaches.
"""

from __future__ import annotations

import logging
from itertools import takewhile

from studio_celery.errors import StudioError
from studio_celery.experiment import NewerSchema
from studio_celery.overdue import due_at, settle
from studio_celery.settings import Settings
from studio_celery.store import Item, Store

logger = logging.getLogger(__name__)

#: How far back a janitor that starts looks, seconds: more than one night without any worker.
LOOK_BACK_SECONDS = 2 * 86400.0

#: How far back later rounds look: clocks of submitters, by which markers are sorted, differ. Seconds.
OVERLAP_SECONDS = 2 * 3600.0


class Ends:
    """What is due when, in one store."""

    def __init__(self, store: Store, settings: Settings, worker_id: str) -> None:
        self._store = store
        self._settings = settings
        self._worker_id = worker_id
        #: When something may be due, by id; store's clock.
        self._due: dict[str, float] = {}
        self._seen: dict[str, float] = {}
        self._look_back_seconds = LOOK_BACK_SECONDS

    def record(self) -> None:
        """Append the ends that are due now."""
        now = self._store.now()
        for marker in self._new(now):
            self._due[marker.key] = now  # until its journal was read
            self._seen[marker.key] = marker.modified
        self._look_back_seconds = OVERLAP_SECONDS
        self._seen = {key: at for key, at in self._seen.items() if now - at <= LOOK_BACK_SECONDS}
        for experiment_id in [key for key, at in self._due.items() if now >= at]:
            try:
                self._settle(experiment_id, now)
            except NewerSchema:
                del self._due[experiment_id]
            except StudioError as exc:
                logger.warning("Whether an end of %s is due cannot be told: %s", experiment_id, exc)

    def _new(self, now: float) -> list[Item]:
        """Markers that were not seen before, from the latest back to where this process has been."""
        recent = takewhile(lambda marker: now - marker.modified <= self._look_back_seconds, self._store.markers())
        return [marker for marker in recent if marker.key not in self._seen]

    def _settle(self, experiment_id: str, now: float) -> None:
        journal = self._store.journal(experiment_id)
        journal.refresh()
        due = due_at(settle(journal, self._store, self._settings, self._worker_id, lambda: now), self._settings)
        if due is None:
            self._due.pop(experiment_id, None)
        else:
            self._due[experiment_id] = due
