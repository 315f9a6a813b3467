"""`run_experiment`: hands a delivery to the supervisor, and an experiment to the queue. Nothing is decided here."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from celery import Task
from celery.exceptions import Reject
from celery.worker.state import revoked as revoked_tasks

from studio_celery.celery import app
from studio_celery.errors import ExperimentFailed, UnknownExperiment, UsageError
from studio_celery.experiment import new_id
from studio_celery.store import Store
from studio_celery.submission import EXPERIMENT_TASK, lifetime_of, make_request, split_options
from transports.defer import DeferrableRequest, defer

logger = logging.getLogger(__name__)

#: What a message carries; everything else is in the store.
MESSAGE_FIELDS = frozenset({"id", "store", "digest"})


class ExperimentRequest(DeferrableRequest):
    """A delivery that Celery cannot throw away: revoking it is stopping the experiment, and the journal says so."""

    def revoked(self) -> bool:
        """Never: what was revoked is stopped, and then handled like any other that has ended."""
        if self.id in revoked_tasks:
            self._stop()
        return False

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """Stop the experiment; its owner sees it at the next heartbeat."""
        self._stop()

    def _success_was_stored(self) -> bool:
        """Never: the journal has its end before chords and chains are told, so a lost child is delivered again."""
        return False

    def _stop(self) -> None:
        try:
            self.task.app.services.client.stop(self.id, by="revoke")
        except UsageError as exc:
            logger.info("Revoked: %s", exc)


class ExperimentTask(Task):
    """A task whose message outlives workers. What is fixed here holds whatever a `celeryconfig.py` says."""

    Request = "studio_celery.tasks:ExperimentRequest"
    #: Nothing is taken from the configuration: these defaults are part of the protocol.
    from_config = ()
    acks_late = True
    acks_on_failure_or_timeout = True
    reject_on_worker_lost = True
    ignore_result = False
    store_errors_even_if_ignored = True
    track_started = False
    time_limit = None
    soft_time_limit = None
    rate_limit = None
    serializer = "json"
    throws = (ExperimentFailed,)

    @classmethod
    def annotate(cls) -> None:
        """Take no annotations from the configuration."""

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        **options: Any,
    ) -> Any:
        """Submit `script` with `args` as a new experiment; the task's id is the experiment's.

        `kwargs` are fields of Experiment and Resources (`gpus=1`, `name="first"`, …) and Celery's own options
        (`queue`, `countdown`, …); anything else is a `TypeError`.
        """
        values = dict(kwargs or {})
        if values.keys() == MESSAGE_FIELDS:
            return super().apply_async((), values, task_id=task_id, **options)
        fields, more = split_options({**values, **options})
        services = self.app.services
        fields.setdefault("queue", services.settings.queue)
        expires = more.pop("expires", None)
        if expires is not None:
            fields["lifetime_seconds"] = lifetime_of(expires)
        request = make_request(task_id or new_id(), *_script_and_args(args or ()), **fields)
        services.client.submit(request, **more)
        return self.AsyncResult(request.id)


@app.task(base=ExperimentTask, bind=True, name=EXPERIMENT_TASK, max_retries=None)
def run_experiment(self: Any, id: str, store: str, digest: str) -> dict[str, Any]:
    """Look after one experiment until it has ended; its record. A failed one raises `ExperimentFailed`."""
    from studio_celery.supervisor import Deferred, Detached

    services = self.app.services
    try:
        outcome = services.supervisor.handle(id, store)
    except Detached:
        raise Reject("the worker is stopping; the experiment runs on", requeue=True) from None
    except UnknownExperiment as exc:
        _set_aside(services.store, self.request, str(exc))
        raise
    if isinstance(outcome, Deferred):
        defer(self, outcome.seconds)
    return _result(dict(outcome.record))


def _script_and_args(args: Sequence[Any]) -> tuple[str, tuple[str, ...]]:
    """`("train.py", ["--lr", "0.1"])` as it was called."""
    if args and (len(args) == 3 or not isinstance(args[0], str | os.PathLike)):
        args = args[1:]  # in a chain the record of the one before comes first, after a chord the list of all
    wrong_list = len(args) == 2 and isinstance(args[1], str | bytes)
    if not 1 <= len(args) <= 2 or wrong_list:
        raise TypeError(f"run_experiment() takes a script and a list of arguments, not {tuple(args)!r}")
    return str(args[0]), tuple(map(str, args[1])) if len(args) == 2 else ()


def _set_aside(store: Store, request: Any, reason: str) -> None:
    """Keep a message that names no experiment where a person can look at it."""
    queue = (request.delivery_info or {}).get("routing_key") or "unknown"
    store.reject(queue, request.id, {"reason": reason, "task": request.task, "kwargs": request.kwargs})


def _result(record: dict[str, Any]) -> dict[str, Any]:
    if record["status"] != "finished":
        raise ExperimentFailed(record["id"], record["reason"] or record["status"], record["exit_code"], record)
    return record
