"""Put a Celery task off without sleeping, without a new message and without counting as a failure.

    class Patient(celery.Task):
        Request = "transports.defer:DeferrableRequest"
        acks_late = True

    @app.task(bind=True, base=Patient)
    def train(self, name):
        if busy(name):
            defer(self, 60)

The message is neither acknowledged nor given back: its lease is set once to the delay and not renewed, so the broker
delivers the same message again, to any worker, when the delay is over. The worker's slot is free at once. On brokers
whose messages cannot do that the task is retried with a countdown, as often as it takes.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, NoReturn

from celery import Task
from celery.exceptions import Reject
from celery.worker.request import Request
from celery.worker.state import task_ready
from kombu.utils.imports import symbol_by_name

logger = logging.getLogger(__name__)


class Defer(Reject):
    """Raised by a task: deliver my message again after so many seconds (at most 600)."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"deferred for {seconds:g} s", requeue=True)
        self.seconds = seconds

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.seconds,)


class DeferrableRequest(Request):
    """A request that understands `Defer`; name it as the `Request` of a task class."""

    acknowledged: bool = False

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """Defer the message if the task asked for it; anything else goes Celery's way."""
        exc = getattr(exc_info.exception, "exc", exc_info.exception)
        if not isinstance(exc, Defer):
            super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)
            return
        task_ready(self)
        if self.acknowledged:
            logger.error("task %s cannot be deferred: set acks_late, it was acknowledged before it ran", self)
        elif not hasattr(self.message, "defer"):
            self.reject(requeue=True)
        else:
            self.message.defer(exc.seconds)
            self.acknowledged = True
            self.send_event("task-rejected", requeue=True)


def can_defer(task: Task) -> bool:
    """Say whether this task, on its application's broker, can be deferred."""
    with task.app.connection_for_read() as connection:
        implements = connection.get_transport_cls().implements
    request = symbol_by_name(task.Request)
    return bool(task.acks_late and implements.get("defer") and issubclass(request, DeferrableRequest))


def defer(task: Task, seconds: float) -> NoReturn:
    """End this run of a bound task, to be run again after so many seconds; never returns."""
    if can_defer(task):
        raise Defer(seconds)
    # None would mean the task's own maximum.
    raise task.retry(countdown=seconds, max_retries=sys.maxsize)
