"""Messages that have waited half the time for which a broker keeps them: sent again before they are lost.

The whole store is walked through now and then, a portion in each round. Of what is too young to have waited so long
only the marker is seen, and what has ended is read once on this host. Of all workers one sends a message again: who
created the object of that turn. A worker whose key may not publish leaves it to the others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice

from studio_celery.catalog import Catalog, Found
from studio_celery.errors import CannotRequeue, MayNotPublish, MessageLost
from studio_celery.index import Index
from studio_celery.journal import REQUEUE_FRACTION, State, requeue_due_at
from studio_celery.overdue import settle
from studio_celery.settings import Settings
from studio_celery.store import Journal, Store
from studio_celery.submission.broker import Broker
from studio_celery.submission.requeuer import Requeuer
from studio_celery.units import format_duration

logger = logging.getLogger(__name__)

#: Experiments that one round looks at, at most.
PORTION = 500

#: Part of the retention after which a walk begins again: what is due is found at 9/16 of it at the latest.
WALK_FRACTION = 1 / 16


class Requeues:
    """Of one store and one broker."""

    def __init__(self, broker: Broker, store: Store, settings: Settings, worker_id: str) -> None:
        self._broker = broker
        self._store = store
        self._settings = settings
        self._worker_id = worker_id
        self._requeuer = Requeuer(broker, store, worker_id)
        self._catalog = Catalog(store, Index(settings.home, store.url), self._read)
        self._walk: Iterator[Found] | None = None
        self._next_at = 0.0
        self._may_publish = True

    def send(self) -> None:
        """Go on with the walk, or begin one if it is time."""
        now = self._store.now()
        if not self._may_publish or (self._walk is None and now < self._next_at):
            return
        retention = self._retention_seconds()
        if self._walk is None:
            self._walk = self._begin(now, retention)
            self._next_at = now + retention * WALK_FRACTION
        walk, self._walk = self._walk, None  # an error ends it
        try:
            portion = list(islice(walk, PORTION))
            for found in portion:
                self._look(found, now, retention)
        except MayNotPublish as exc:
            self._may_publish = False
            logger.info("What waits for long is queued again by other workers only: %s", exc)
        except Exception:
            self._next_at = 0.0
            raise
        else:
            self._walk = walk if len(portion) == PORTION else None

    def _retention_seconds(self) -> float:
        known = self._broker.retention_seconds
        return min(self._settings.message_retention_seconds, known or float("inf"))

    def _begin(self, now: float, retention: float) -> Iterator[Found]:
        """What was recorded so long ago that its message may be due."""
        old = (marker for marker in self._store.markers() if now - marker.modified >= retention * REQUEUE_FRACTION)
        return self._catalog.all(old)

    def _read(self, journal: Journal) -> State:
        journal.refresh()
        return settle(journal, self._store, self._settings, self._worker_id)

    def _look(self, found: Found, now: float, retention: float) -> None:
        due = requeue_due_at(found.state, retention)
        if due is None or now < due:
            return
        turn = found.state.queued_seq
        if not self._store.take_turn(found.id, turn, turn_seconds=self._settings.submission_limit_seconds):
            return
        try:
            self._requeue(found, turn, format_duration(now - found.state.queued_stored_at))
        finally:
            self._store.end_turn(found.id, turn)

    def _requeue(self, found: Found, turn: int, waited: str) -> None:
        journal = self._store.journal(found.id)
        if journal.refresh().queued_seq != turn:
            return  # somebody had the turn before
        try:
            self._requeuer.requeue(journal, f"requeued after {waited}")
        except CannotRequeue:
            logger.debug("Experiment %s has ended.", found.id)
        except MessageLost as exc:
            logger.warning("Experiment %s waits without a message: %s", found.id, exc)
        else:
            logger.info("Experiment %s was queued again: its message is %s old.", found.id, waited)
