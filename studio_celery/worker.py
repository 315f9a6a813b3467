"""What makes a Celery worker a studio worker, whichever command starts it.

A bootstep starts the supervisor before anything is consumed, so that what a former worker left running is adopted
whether or not the broker is in reach by then. Signals, under `celery worker` too:

- SIGTERM: takes nothing more, finishes what runs.
- a second SIGTERM, SIGINT (Ctrl-C), SIGQUIT: leaves experiments running, gives their messages back, exits 0.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.exceptions import Reject
from celery.signals import celeryd_init, worker_process_init, worker_shutdown
from celery.worker import state

from studio_celery.celery import app
from studio_celery.errors import StudioError

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
    from studio_celery.gpus import Cards
    from studio_celery.runtimes import make_runtime
    from studio_celery.supervisor.places import concurrency_of

    try:
        services = app.services
        services.store.check()
        make_runtime(services.settings).check()
        conf.worker_concurrency = concurrency_of(
            services.settings, Cards(services.settings.gpus, services.settings.home)
        )
    except StudioError as exc:
        raise SystemExit(f"The worker cannot start: {exc}") from exc


class Quiet(logging.Filter):
    """Drops Celery's traceback of a message that goes back to the queue: the supervisor has told it in one line."""

    def filter(self, record: logging.LogRecord) -> bool:
        """False for what was raised only to give the message back."""
        return not (record.exc_info and isinstance(record.exc_info[1], Reject))


class Supervision(bootsteps.StartStopStep):
    """Starts the supervisor where tasks run: in this process, or in each child of a prefork pool."""

    requires = frozenset({"celery.worker.components:Pool"})

    def start(self, worker: Any) -> None:
        """Adopt and begin the heartbeat; from now on signals mean what this module says."""
        if worker.pool_cls.__module__.endswith("prefork"):
            logger.warning(
                "Experiments run under -P prefork, but only -P threads (the default) adopts them after SIGTERM."
            )
            return
        logging.getLogger("celery.app.trace").addFilter(Quiet())
        app.services.supervisor.places.concurrency = worker.concurrency
        _begin(tuple(worker.app.amqp.queues.consume_from))
        _install_signals()
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


def _install_signals() -> None:
    asked: list[int] = []

    def finish(number: int, frame: Any) -> None:
        asked.append(number)
        if len(asked) > 1 or os.environ.get(DETACH_ON_STOP):
            _detach()
        else:
            _say("finishing what runs; again to leave it running without this worker")
        state.should_stop = 0

    def leave(number: int, frame: Any) -> None:
        _detach()
        state.should_stop = 0

    _handle(signal.SIGTERM, finish)
    _handle(signal.SIGINT, leave)
    _handle(signal.SIGQUIT, leave)


def _handle(number: signal.Signals, handler: Callable[[int, Any], None]) -> None:
    signal.signal(number, handler)


def _detach() -> None:
    running = app.services.supervisor.detach()
    _say(f"stopping; {', '.join(running)} runs on and is adopted by the next worker" if running else "stopping")


def _say(text: str) -> None:
    """Print from a signal handler, where logging could deadlock."""
    os.write(2, f"worker: {text}\n".encode())
