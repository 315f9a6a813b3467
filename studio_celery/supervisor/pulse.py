"""The worker's own heartbeat: `workers/<id>.json`, with what it runs and what it cannot take and why."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from studio_celery.errors import StoreError
from studio_celery.experiment import utc_now
from studio_celery.store import Store
from studio_celery.supervisor.identity import Identity

logger = logging.getLogger(__name__)

#: After a gap of so many intervals a worker was away itself, and cannot tell how long others were silent.
BEATS_MISSED = 3


class Pulse:
    """Writes the worker's heartbeat; the time of the latest is `now` on the store's clock."""

    def __init__(
        self, store: Store, identity: Identity, facts: Callable[[], Mapping[str, Any]], interval_seconds: float
    ) -> None:
        self._store = store
        self._identity = identity
        self._facts = facts
        self._interval = interval_seconds
        self._started_at = utc_now()
        #: Since when this worker has beaten without a gap, store's clock: what was before, it does not know.
        self.steady_since = 0.0
        self._latest = 0.0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def beat(self) -> float:
        """Write now; the store's time."""
        facts = {**self._facts(), "started_at": self._started_at, "at": utc_now()}
        now = self._store.write_worker(self._identity.id, facts)
        if not self._latest:
            self.steady_since = now
        elif now - self._latest > BEATS_MISSED * self._interval:
            logger.warning("This worker was away from the store, or stood still, for %.0f s.", now - self._latest)
            self.steady_since = now
        self._latest = now
        return now

    def start(self) -> None:
        """Beat now and from now on, in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="worker-heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and take the worker off the list."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        try:
            self._store.forget_worker(self._identity.id)
        except StoreError as exc:
            logger.warning("This worker stays on the list: %s", exc)

    def _run(self) -> None:
        """Outermost loop of a thread: whatever goes wrong once must not end the heartbeats."""
        while True:
            try:
                self.beat()
            except StoreError as exc:
                logger.warning("Worker heartbeat: %s", exc)
            except Exception:
                logger.exception("Worker heartbeat")
            if self._over.wait(self._interval):
                return
