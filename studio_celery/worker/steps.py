"""What makes a Celery worker a studio worker, whichever command starts it.

A bootstep starts the supervisor before anything is consumed, so that what a former worker left running is adopted
whether or not the broker is in reach by then. What signals mean, see `departure`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.exceptions import Reject
from celery.signals import celeryd_init, worker_process_init, worker_shutdown
from celery.worker import state

from studio_celery.celery import app
from studio_celery.errors import StudioError
from studio_celery.worker.departure import Departure
from studio_celery.worker.starting import starting

if TYPE_CHECKING:
    from studio_celery.supervisor import Supervisor

logger = logging.getLogger(__name__)

#: Set to leave experiments running at the first SIGTERM already (`--detach-on-stop`).
DETACH_ON_STOP = "STUDIO_DETACH_ON_STOP"

#: Set to exit after one experiment (`--single-run`).
SINGLE_RUN = "STUDIO_SINGLE_RUN"

#: Set to exit after so many seconds without an experiment (`--timeout`).
IDLE_SECONDS = "STUDIO_IDLE_SECONDS"

#: How often a worker with a limit looks whether it is reached, seconds.
LIMIT_INTERVAL = 0.5


@celeryd_init.connect(weak=False)
def preflight(sender: Any = None, conf: Any = None, options: Any = None, **_: Any) -> None:
    """Refuse to start a worker that could run nothing, in one sentence; settle how much it does at a time."""
    starting.hear()
    from studio_celery.gpus import Cards
    from studio_celery.runtimes import make_runtime
    from studio_celery.settings import make_home
    from studio_celery.supervisor.fitness import Fitness
    from studio_celery.supervisor.places import concurrency_of

    try:
        services = app.services
        services.store.check()
        make_home(services.settings.home)
        cards = Cards(services.settings.gpus, services.settings.home)
        conf.worker_concurrency = concurrency_of(services.settings, cards)
        why = Fitness(make_runtime(services.settings), cards, services.settings).check()
    except StudioError as exc:
        raise SystemExit(f"The worker cannot start: {exc}") from exc
    if why:
        raise SystemExit(f"The worker cannot start: {why}")


class Quiet(logging.Filter):
    """Drops Celery's traceback of a message that goes back to the queue: the supervisor has told it in one line."""

    def filter(self, record: logging.LogRecord) -> bool:
        """False for what was raised only to give the message back."""
        return not (record.exc_info and isinstance(record.exc_info[1], Reject))


class Intake:
    """Takes no more messages while the worker is not fit to run anything, and takes them again after that."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._queues: tuple[str, ...] = ()

    def __call__(self, why: str | None) -> None:
        """Close its queues, or open those again that were closed; done by the thread that receives messages."""
        consumer = self._worker.consumer
        if why:
            self._queues = tuple(self._worker.app.amqp.queues.consume_from)
        change = consumer.cancel_task_queue if why else consumer.add_task_queue
        for queue in self._queues:
            consumer.call_soon(change, queue)


class Supervision(bootsteps.StartStopStep):
    """Starts the supervisor where tasks run: in this process, or in each child of a prefork pool."""

    requires = frozenset({"celery.worker.components:Pool"})

    def start(self, worker: Any) -> None:
        """Adopt and begin the heartbeat; from now on signals mean what `departure` says."""
        if worker.pool_cls.__module__.endswith("prefork"):
            logger.warning(
                "Experiments run under -P prefork, but only -P threads (the default) adopts them after SIGTERM."
            )
            return
        logging.getLogger("celery.app.trace").addFilter(Quiet())
        app.services.supervisor.places.concurrency = worker.concurrency
        _listen_to_signals(app.services)
        app.services.supervisor.fitness.on_change = Intake(worker)
        _begin(tuple(worker.app.amqp.queues.consume_from))
        _limit(app.services.supervisor)

    def stop(self, worker: Any) -> None:
        """The pool is stopped by its own step; what was adopted is waited for in `worker_shutdown`."""


app.steps["worker"].add(Supervision)


@worker_process_init.connect(weak=False)
def begin_in_child(**_: Any) -> None:
    """A prefork child looks after its experiments itself."""
    _begin(())


def _begin(queues: tuple[str, ...]) -> None:
    supervisor = app.services.supervisor
    supervisor.queues = queues
    supervisor.start()
    app.services.janitor.start()


@worker_shutdown.connect(weak=False)
def end(**_: Any) -> None:
    """The last thing a worker does: free its lock."""
    if app.services.has_supervisor:
        app.services.janitor.stop()
        app.services.supervisor.close()


def _limit(supervisor: Supervisor) -> None:
    """Stop this worker after one experiment, or after a time without any, if that was asked for."""
    idle = float(os.environ.get(IDLE_SECONDS) or "inf")
    single = bool(os.environ.get(SINGLE_RUN))
    if single:
        supervisor.places.allowance = 1
    if not single and idle == float("inf"):
        return

    def watch() -> None:
        while not (single and supervisor.looked_after) and supervisor.idle_seconds < idle:
            time.sleep(LIMIT_INTERVAL)
        state.should_stop = 0

    threading.Thread(target=watch, name="worker-limit", daemon=True).start()


def _listen_to_signals(services: Any) -> None:
    departure = Departure(
        detach=services.supervisor.detach,
        stop_taking=lambda: setattr(state, "should_stop", 0),
        limit_seconds=services.settings.leave_seconds,
        detach_on_stop=bool(os.environ.get(DETACH_ON_STOP)),
    )
    departure.listen()
