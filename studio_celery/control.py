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


def stop(app: Any, ids: Iterable[str]) -> int:
    """Record a stop for those that are experiments; how many are, and wait or run no more unasked."""
    stopped = 0
    for task_id in ids:
        try:
            stopped += app.services.client.stop_task(task_id, by=REVOKE)
        except StudioError as exc:
            logger.warning("Whether %s is an experiment, to be stopped, cannot be told: %s", task_id, exc)
    return stopped


def stop_soon(app: Any, ids: Iterable[str]) -> None:
    """The same in a thread of its own: a worker's main loop waits for no store."""
    threading.Thread(target=stop, args=(app, list(ids)), name="revoke", daemon=True).start()
