"""What a worker does at its start with what former workers of this host left: adopt it, or stop what nobody wants."""

from __future__ import annotations

import logging
import shutil
import threading
from typing import TYPE_CHECKING

from studio_celery.errors import RuntimeFailure
from studio_celery.runtimes.contract import Handle
from studio_celery.supervisor.attempt import Detached

if TYPE_CHECKING:
    from studio_celery.supervisor.supervisor import Supervisor

logger = logging.getLogger(__name__)


class TakeOver:
    """One thread for each attempt that is found on this host."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Look once, now."""
        try:
            handles = self._supervisor.runtime.find()
        except RuntimeFailure as exc:
            logger.warning("Nothing can be adopted now: %s", exc)
            return
        for handle in handles:
            thread = threading.Thread(target=self._run, args=(handle,), name=f"adopt-{handle.experiment_id}")
            thread.daemon = True
            thread.start()
            self._threads.append(thread)

    def wait(self) -> None:
        """Until all that was adopted has ended or was detached."""
        for thread in self._threads:
            thread.join()

    def _run(self, handle: Handle) -> None:
        """Outermost loop of a thread."""
        try:
            self._adopt_or_stop(handle)
        except Detached:
            logger.info("Experiment %s runs on without this worker.", handle.experiment_id)
        except Exception:
            logger.exception("Attempt %d of %s could not be adopted.", handle.attempt, handle.experiment_id)

    def _adopt_or_stop(self, handle: Handle) -> None:
        supervisor = self._supervisor
        journal = supervisor.store.journal(handle.experiment_id)
        state = journal.refresh()
        if state.experiment is None:
            return  # it belongs to another store
        live = state.live
        if live is None or live.number != handle.attempt:
            self._put_down(handle)
        elif supervisor.identity.is_gone(live.worker, live.host):
            supervisor.adopt(journal)

    def _put_down(self, handle: Handle) -> None:
        """Stop and remove what is not its experiment's latest attempt, unless its own worker is about to do so."""
        supervisor = self._supervisor
        if supervisor.identity.is_gone(handle.worker, supervisor.identity.host):
            logger.info("Attempt %d of %s is no longer wanted: stopped.", handle.attempt, handle.experiment_id)
            supervisor.runtime.stop(handle, supervisor.settings.stop_grace_seconds)
            supervisor.runtime.remove(handle)
            shutil.rmtree(handle.directory, ignore_errors=True)
