"""Whether this worker can run anything now: engine, disk, a host that stays up. Whether it ever can run this one.

A worker that cannot takes no more messages from its queues, and says why; it looks again from time to time, and goes on
taking as soon as it can.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable

from studio_celery.errors import RuntimeFailure
from studio_celery.experiment import Experiment
from studio_celery.gpus import Cards
from studio_celery.runtimes import host
from studio_celery.runtimes.contract import Runtime
from studio_celery.settings import Settings
from studio_celery.units import format_bytes

logger = logging.getLogger(__name__)

#: Told why the worker is to take nothing more, or with None that it may again.
OnChange = Callable[[str | None], None]


class Fitness:
    """Of one worker process. Every method may be called from any thread."""

    def __init__(self, runtime: Runtime, cards: Cards, settings: Settings) -> None:
        self._runtime = runtime
        self._cards = cards
        self._settings = settings
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        #: Set by whoever can stop taking messages.
        self.on_change: OnChange | None = None
        #: Why it takes nothing now.
        self.why: str | None = None

    def refuses(self, experiment: Experiment) -> str | None:
        """Why this worker never runs it, in words for the person who waits."""
        wanted, there = experiment.resources.gpus, len(self._cards.ids)
        refusal = self._runtime.refuses(experiment.resources)
        if refusal is None and wanted > there:
            return f"needs {wanted} cards, this worker has {there}"
        return refusal

    def check(self) -> str | None:
        """Why nothing can be run here now, if so."""
        if host.closes():
            return "this host is going down, or has only begun to come up (/run/nologin)"
        try:
            self._runtime.check()
            free = shutil.disk_usage(self._settings.home).free
        except RuntimeFailure as exc:
            return str(exc)
        except OSError as exc:
            return f"The disk of STUDIO_HOME cannot be used ({exc.strerror}): check {self._settings.home}."
        if free < self._settings.disk_reserve_bytes:
            return (
                f"The disk of STUDIO_HOME has {format_bytes(free)} left, less than STUDIO_DISK_RESERVE_BYTES "
                f"({format_bytes(self._settings.disk_reserve_bytes)}): make room."
            )
        return None

    def look(self) -> tuple[str | None, bool]:
        """Check, and take no more messages if nothing can be run; why, and whether that is so from now on."""
        why = self.check()
        with self._lock:
            begins = why is not None and self.why is None and self.on_change is not None
            if begins:
                self._change(why)
                self._thread = threading.Thread(target=self._recover, name="fitness", daemon=True)
                self._thread.start()
        return why, begins

    def close(self) -> None:
        """Look no more."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(self._settings.leave_seconds)  # an engine may take its time to answer

    def _recover(self) -> None:
        """Outermost loop of a thread, until something can be run again."""
        while not self._over.wait(self._settings.defer_seconds):
            try:
                why = self.check()
            except Exception:
                logger.exception("Whether anything can be run here cannot be told.")
                continue
            if why is None:
                with self._lock:
                    self._change(None)
                return

    def _change(self, why: str | None) -> None:
        self.why = why
        if why:
            logger.error("This worker takes nothing more for now: %s", why)
        else:
            logger.info("This worker takes experiments again.")
        if self.on_change is not None:
            self.on_change(why)
