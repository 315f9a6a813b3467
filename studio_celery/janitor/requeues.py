"""Messages that have waited half the time for which a broker keeps them: sent again before they are lost.

The whole store is walked through now and then, a portion in each round. Of what is too young to have waited so long
only the marker is seen, and what has ended is read once on this host. Of all workers one sends a message again: who
created the object of that turn. A worker whose key may not publish to a queue leaves that queue to the others.

How long a queue keeps messages is asked of the broker. One that keeps them until they are taken cannot say, and nothing
is sent again there, unless `STUDIO_MESSAGE_RETENTION_SECONDS` is set: copies would add up.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator

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

#: Journals that one round reads from the store, at most; those that are copied on this host do not count.
PORTION = 500

#: Part of the retention after which a walk begins again: what is due is found at 9/16 of it, and the time of one walk.
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
        #: Seconds, by queue, as they were found during the latest walk; inf where messages are kept until taken.
        self._retentions: dict[str, float] = {}
        #: Queues to which this worker may not publish.
        self._refused: set[str] = set()

    def send(self) -> None:
        """Go on with the walk, or begin one if it is time."""
        now = self._store.now()
        if self._walk is None and now < self._next_at:
            return
        walk, self._walk = self._walk or self._begin(now), None  # an error ends it
        try:
            self._walk = self._go_on(walk, now)
        except Exception:
            self._next_at = 0.0
            raise

    def _go_on(self, walk: Iterator[Found], now: float) -> Iterator[Found] | None:
        """Look at a portion; the rest of the walk, None if that was all."""
        read = 0
        for found in walk:
            self._look(found, now)
            read += found.journal is not None
            if read == PORTION:
                return walk
        return None

    def _retention_seconds(self, queue: str) -> float:
        """Asked once for each walk."""
        if queue not in self._retentions:
            known, given = self._broker.retention_seconds(queue), self._settings.message_retention_seconds
            self._retentions[queue] = min(known or math.inf, given or math.inf)
        return self._retentions[queue]

    def _begin(self, now: float) -> Iterator[Found]:
        """What was recorded so long ago that its message may be due in a queue of this worker, or one seen before."""
        queues = {*self._broker.consumed, *self._retentions}
        self._retentions.clear()
        retention = min(map(self._retention_seconds, queues), default=math.inf)
        self._next_at = now + retention * WALK_FRACTION
        if math.isinf(retention):
            logger.info("The broker keeps messages until they are taken, so no worker queues anything again.")
            return iter(())
        old = (marker for marker in self._store.markers() if now - marker.modified >= retention * REQUEUE_FRACTION)
        return self._catalog.all(old)

    def _read(self, journal: Journal) -> State:
        journal.refresh()
        return settle(journal, self._store, self._settings, self._worker_id)

    def _look(self, found: Found, now: float) -> None:
        experiment = found.state.experiment
        if found.journal is None or experiment is None or experiment.queue in self._refused:
            return
        due = requeue_due_at(found.state, self._retention_seconds(experiment.queue))
        if due is None or now < due:
            return
        turn = found.state.queued_seq
        if not self._store.take_turn(found.id, turn, turn_seconds=self._settings.submission_limit_seconds):
            return
        try:
            self._requeue(found, turn, format_duration(now - found.state.queued_stored_at))
        except MayNotPublish as exc:
            self._refused.add(experiment.queue)
            logger.info("What waits in queue %s is queued again by other workers only: %s", experiment.queue, exc)
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
