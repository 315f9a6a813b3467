"""What a worker does with what others left on this host: adopt it, or stop what nobody wants.

It looks at its start, and again from time to time: the engine may have been away, and another worker of this host may
have died since whose message went elsewhere.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from studio_celery.errors import RuntimeFailure, StudioError
from studio_celery.journal import Adopt, Leave, PutDown, decide_found
from studio_celery.runtimes.contract import Handle
from studio_celery.supervisor.ledger import Detached
from studio_celery.supervisor.premises import remove_directory

if TYPE_CHECKING:
    from studio_celery.supervisor.supervisor import Supervisor

logger = logging.getLogger(__name__)


class TakeOver:
    """A thread that looks, and one for each attempt that it found."""

    def __init__(self, supervisor: Supervisor, interval_seconds: float) -> None:
        self._supervisor = supervisor
        self._interval = interval_seconds
        self._over = threading.Event()
        self._looking = threading.Thread(target=self._keep_looking, name="takeover", daemon=True)
        self._threads: dict[tuple[str, int], threading.Thread] = {}
        #: Attempts that were over, and still here, when they were last looked at.
        self._lingering: set[tuple[str, int]] = set()

    def start(self) -> None:
        """Look now, and from now on."""
        self._look()
        self._looking.start()

    def wait(self) -> None:
        """Look no more; until all that was adopted has ended or was detached."""
        self._over.set()
        if self._looking.is_alive():
            self._looking.join()
        for thread in self._threads.values():
            thread.join()

    def _keep_looking(self) -> None:
        """Outermost loop of a thread."""
        while not self._over.wait(self._interval):
            try:
                self._look()
            except Exception:
                logger.exception("What is on this host cannot be found out now.")

    def _look(self) -> None:
        self._threads = {key: thread for key, thread in self._threads.items() if thread.is_alive()}
        try:
            handles = self._supervisor.runtime.find()
        except RuntimeFailure as exc:
            logger.warning("Nothing can be adopted now: %s", exc)
            return
        self._lingering &= {(handle.experiment_id, handle.attempt) for handle in handles}
        for handle in handles:
            key = handle.experiment_id, handle.attempt
            if key not in self._threads and handle.experiment_id not in self._supervisor.charge:
                name = f"adopt-{handle.experiment_id}"
                self._threads[key] = threading.Thread(target=self._run, args=(handle,), name=name, daemon=True)
                self._threads[key].start()

    def _run(self, handle: Handle) -> None:
        """Outermost loop of a thread."""
        try:
            self._adopt_or_stop(handle)
        except Detached:
            logger.info("Experiment %s runs on without this worker.", handle.experiment_id)
        except StudioError as exc:
            logger.warning("Attempt %d of %s is not adopted now: %s", handle.attempt, handle.experiment_id, exc)
        except Exception:
            logger.exception("Attempt %d of %s could not be adopted.", handle.attempt, handle.experiment_id)

    def _adopt_or_stop(self, handle: Handle) -> None:
        supervisor = self._supervisor
        journal = supervisor.store.journal(handle.experiment_id)
        state, key = journal.refresh(), (handle.experiment_id, handle.attempt)
        seen = supervisor.lookout.observe_found(state, handle, lingers=key in self._lingering)
        match decide_found(state, handle.attempt, seen):
            case Adopt():
                with supervisor.charge.take(handle.experiment_id) as sole:
                    if sole:
                        supervisor.adopt(journal)
            case PutDown():
                self._put_down(handle)
            case Leave() if state.live is None or state.live.number != handle.attempt:
                self._lingering.add(key)

    def _put_down(self, handle: Handle) -> None:
        supervisor = self._supervisor
        logger.info("Attempt %d of %s is no longer wanted: stopped.", handle.attempt, handle.experiment_id)
        supervisor.runtime.stop(handle, supervisor.settings.stop_grace_seconds)
        supervisor.runtime.remove(handle)
        remove_directory(handle.directory)
