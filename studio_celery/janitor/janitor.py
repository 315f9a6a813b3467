"""The thread that cleans up on a worker's host, at the worker's start and now and then."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from studio_celery.errors import StudioError
from studio_celery.janitor.attempts import Leftovers
from studio_celery.janitor.caches import Trimmer
from studio_celery.janitor.ends import Ends
from studio_celery.janitor.requeues import Requeues
from studio_celery.janitor.workers import Roll
from studio_celery.locks import try_lock

if TYPE_CHECKING:
    from studio_celery.submission.broker import Broker
    from studio_celery.supervisor import Supervisor

logger = logging.getLogger(__name__)

#: How long an orderly end of the worker waits for a round, seconds; nothing suffers if it is cut short.
STOP_SECONDS = 1.0


class Janitor:
    """Makes rounds beside a supervisor; of all janitors of a `STUDIO_HOME` one at a time, which saves work."""

    def __init__(self, supervisor: Supervisor, broker: Broker | None = None) -> None:
        """Without a broker nothing is queued again."""
        settings, store, identity = supervisor.settings, supervisor.store, supervisor.identity
        self._interval = settings.janitor_seconds
        self._lock = settings.home / "run" / "workers" / "janitor.lock"
        self._leftovers = Leftovers(store, supervisor.runtime, settings.home, identity, supervisor.charge)
        self._roll = Roll(store, settings.home, settings.forget_seconds)
        self._trimmer = Trimmer(settings.home, settings.cache_bytes)
        self._ends = Ends(store, settings, identity.id)
        self._requeues = Requeues(broker, store, settings, identity.id) if broker else None
        self._runtime = supervisor.runtime
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)

    def start(self) -> None:
        """Make a round now, and from now on, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Make no further round."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def make_round(self) -> None:
        """Clean up once. What cannot be done now is said, and is no reason to leave out the rest."""
        ours = try_lock(self._lock)
        if ours is None:
            return
        with ours:
            steps: tuple[Callable[[], None], ...] = (
                self._runtime.tidy,
                self._leftovers.clear,
                self._trimmer.trim,
                lambda: self._roll.call(self._leftovers.owners),
                self._ends.record,
                *([self._requeues.send] if self._requeues else ()),
            )
            for step in steps:
                if self._over.is_set():
                    return
                try:
                    step()
                except (StudioError, OSError) as exc:
                    logger.warning("Clean-up: %s It is tried again.", exc)

    def _run(self) -> None:
        """Outermost loop of a thread."""
        while True:
            try:
                self.make_round()
            except Exception:
                logger.exception("The janitor's round was cut short.")
            if self._over.wait(self._interval * random.uniform(0.9, 1.1)):
                return
