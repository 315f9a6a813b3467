"""Celery's result backend over the store.

States and results of experiments are derived from their journals, so they are right whoever ran them; those of ordinary
tasks are kept under `celery/`.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from celery import states
from celery.backends.base import KeyValueStoreBackend

from studio_celery.errors import ExperimentFailed
from studio_celery.experiment import Status
from studio_celery.record import to_record
from studio_celery.store import Store
from studio_celery.store.keys import encode_name
from studio_celery.submission import EXPERIMENT_TASK

#: Celery's word for each of ours.
STATES = {
    Status.SUBMITTING: states.PENDING,
    Status.WAITING: states.PENDING,
    Status.PREPARING: states.STARTED,
    Status.RUNNING: states.STARTED,
    Status.FINISHED: states.SUCCESS,
    Status.FAILED: states.FAILURE,
    Status.EXPIRED: states.FAILURE,
    Status.STOPPED: states.REVOKED,
}


class StoreBackend(KeyValueStoreBackend):
    """`result_backend = "studio_celery.backend:StoreBackend"`, the default of this application."""

    @property
    def store(self) -> Store:
        """The store of this process."""
        store: Store = self.app.services.store
        return store

    def get(self, key: Any) -> bytes | None:
        """What is kept under a key of Celery's, or None."""
        with suppress(KeyError):
            return self.store.objects.get(_path(key))
        return None

    def mget(self, keys: Any) -> list[bytes | None]:
        """The same for several."""
        return [self.get(key) for key in keys]

    def set(self, key: Any, value: Any) -> None:
        """Keep a value, bytes or text."""
        self.store.objects.put(_path(key), value if isinstance(value, bytes) else value.encode())

    def delete(self, key: Any) -> None:
        """Forget a key."""
        self.store.objects.delete(_path(key))

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        meta: dict[str, Any] = super()._get_task_meta_for(task_id)
        unsure = meta["status"] in (states.PENDING, states.REVOKED)
        return (self._experiment_meta(task_id) if unsure else None) or meta

    def _experiment_meta(self, task_id: str) -> dict[str, Any] | None:
        state = self.store.journal(task_id).refresh()
        if state.experiment is None:
            return None
        record = to_record(state)
        status = STATES[state.status]
        failed = status in states.EXCEPTION_STATES
        return {
            "task_id": task_id,
            "status": status,
            "result": ExperimentFailed(task_id, state.reason, state.exit_code, record) if failed else record,
            "traceback": None,
            "children": [],
            "date_done": state.finished_at,
        }

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        if getattr(request, "task", None) == EXPERIMENT_TASK:
            return result
        return super()._store_result(task_id, result, state, traceback=traceback, request=request, **kwargs)


def _path(key: Any) -> str:
    return encode_name(f"celery/{key.decode() if isinstance(key, bytes) else key}")
