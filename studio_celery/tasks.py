"""`run_experiment`: hands a delivery to the supervisor, and an experiment to the queue. Nothing is decided here."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from celery import Task
from celery.exceptions import Reject
from celery.worker.state import revoked as revoked_tasks

from studio_celery.backend import StoreBackend
from studio_celery.celery import app
from studio_celery.control import stop
from studio_celery.errors import ExperimentFailed, StoreError, UnknownExperiment
from studio_celery.experiment import new_id
from studio_celery.submission.request import EXPERIMENT_TASK, lifetime_of, make_request, split_options
from studio_celery.worker.rejected import set_aside
from transports.defer import DeferrableRequest, defer

logger = logging.getLogger(__name__)

#: What a message carries; everything else is in the store.
MESSAGE_FIELDS = frozenset({"id", "store", "digest"})


class ExperimentRequest(DeferrableRequest):
    """A delivery that Celery cannot throw away: revoking it is stopping the experiment, and the journal says so."""

    def revoked(self) -> bool:
        """Never: what was revoked is stopped, and then handled like any other that has ended."""
        if self.id in revoked_tasks:
            stop(self.task.app, [self.id])
        return False

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """Stop the experiment; its owner sees it at the next heartbeat."""
        self.task.app.control.stop_soon([self.id])

    def _success_was_stored(self) -> bool:
        """Never: the journal has its end before chords and chains are told, so a lost child is delivered again."""
        return False


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
def run_experiment(self: Any, *args: Any, **message: Any) -> dict[str, Any]:
    """Look after one experiment until it has ended; its record. A failed one raises `ExperimentFailed`.

    `message` is `{id, store, digest}`; anything else is set aside, and so is what names no experiment.
    """
    from studio_celery.supervisor import Deferred, Detached

    services = self.app.services
    try:
        outcome = services.supervisor.handle(*_parse(args, message))
    except Detached:
        raise Reject("the worker is stopping; the experiment runs on", requeue=True) from None
    except UnknownExperiment as exc:
        _set_aside(self, str(exc))
        raise
    except Exception:
        # Acknowledged it would be lost.
        logger.exception("Experiment %s is deferred.", message.get("id"))
        defer(self, services.settings.defer_seconds)
    if isinstance(outcome, Deferred):
        defer(self, outcome.seconds)
    _leave_out_what_was_called(self)
    return _result(dict(outcome.record))


def _parse(args: tuple[Any, ...], message: Mapping[str, Any]) -> tuple[str, str, str]:
    """(id, store, digest) of a message."""
    if args or message.keys() != MESSAGE_FIELDS or not all(isinstance(value, str) for value in message.values()):
        raise UnknownExperiment(
            f"The message names no experiment: it must carry {', '.join(sorted(MESSAGE_FIELDS))} as text and no more."
        )
    return message["id"], message["store"], message["digest"]


def _leave_out_what_was_called(task: Any) -> None:
    """Call no link a second time, and send no chain on again, when one more message of an experiment comes."""
    if not (task.request.callbacks or task.request.chain) or not isinstance(task.backend, StoreBackend):
        return
    try:
        called = task.backend.called(task.request)
    except StoreError as exc:
        raise Reject(f"the worker is stopping: {exc}", requeue=True) from exc
    if called:
        task.request.update(callbacks=None, chain=None, children=called)


def _script_and_args(args: Sequence[Any]) -> tuple[str, tuple[str, ...]]:
    """`("train.py", ["--lr", "0.1"])` as it was called."""
    if args and (len(args) == 3 or not isinstance(args[0], str | os.PathLike)):
        args = args[1:]  # in a chain the record of the one before comes first, after a chord the list of all
    wrong_list = len(args) == 2 and isinstance(args[1], str | bytes)
    if not 1 <= len(args) <= 2 or wrong_list:
        raise TypeError(f"run_experiment() takes a script and a list of arguments, not {tuple(args)!r}")
    return str(args[0]), tuple(map(str, args[1])) if len(args) == 2 else ()


def _set_aside(task: Any, reason: str) -> None:
    """Keep a message that names no experiment where a person can look at it, or put it off until that can be."""
    request, services = task.request, task.app.services
    facts = {"reason": reason, "task": request.task, "args": request.args, "kwargs": request.kwargs}
    try:
        set_aside(services.store, (request.delivery_info or {}).get("routing_key"), request.id, facts)
    except StoreError as exc:
        logger.error("A message cannot be used (%s) nor set aside, it is tried again: %s", reason, exc)
        defer(task, services.settings.defer_seconds)


def _result(record: dict[str, Any]) -> dict[str, Any]:
    if record["status"] != "finished":
        raise ExperimentFailed(record["id"], record["reason"] or record["status"], record["exit_code"], record)
    return record
