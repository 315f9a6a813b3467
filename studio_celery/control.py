"""Celery's `revoke`, of an experiment: the same thing as `studio stop`, with and without `terminate`.

Who revokes records the stop, so that it needs neither a broker that answers nor a worker that listens. A worker that
hears of it records it, too: whoever revoked may have been another program, which knows of no store.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from typing import Any

from celery.app.control import Control
from celery.utils.functional import maybe_list
from kombu.exceptions import OperationalError

from studio_celery.errors import StudioError

logger = logging.getLogger(__name__)

#: Who stopped it, as the journal has it.
REVOKE = "revoke"


class StudioControl(Control):
    """Remote control that knows experiments."""

    def __init__(self, app: Any = None) -> None:
        super().__init__(app)
        self._lock = threading.Lock()
        self._to_stop: dict[str, None] = {}
        self._stopping = False

    def revoke(self, task_id: Any, *args: Any, **kwargs: Any) -> Any:
        """Stop those of the tasks that are experiments, then tell all workers as Celery does."""
        ids = [str(each) for each in maybe_list(task_id) or []]
        stopped = stop(self.app, ids)
        try:
            return super().revoke(task_id, *args, **kwargs)
        except OperationalError as exc:
            if stopped < len(ids):
                raise
            logger.warning("The stop is recorded, and its owner finds it there; no worker could be told: %s", exc)
            return None

    def stop_soon(self, ids: Iterable[str]) -> None:
        """Record stops as `stop` does, in one thread for all: a worker's main loop waits for no store."""
        with self._lock:
            self._to_stop.update(dict.fromkeys(ids))
            if self._to_stop and not self._stopping:
                self._stopping = True
                threading.Thread(target=self._stop_all, name="revoke", daemon=True).start()

    def _stop_all(self) -> None:
        """Outermost loop of a thread, which ends when there is no more to stop."""
        while (task_id := self._next()) is not None:
            try:
                stop(self.app, [task_id])
            except Exception:
                logger.exception("%s was revoked and cannot be stopped in order.", task_id)

    def _next(self) -> str | None:
        with self._lock:
            task_id = next(iter(self._to_stop), None)
            if task_id is None:
                self._stopping = False
            else:
                del self._to_stop[task_id]
        return task_id


def stop(app: Any, ids: Iterable[str]) -> int:
    """Record a stop for those that are experiments; how many are, and wait or run no more unasked."""
    stopped = 0
    for task_id in ids:
        try:
            stopped += app.services.client.stop_task(task_id, by=REVOKE)
        except StudioError as exc:
            logger.warning("Whether %s is an experiment, to be stopped, cannot be told: %s", task_id, exc)
    return stopped
