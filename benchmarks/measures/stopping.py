"""How long a worker takes to end after SIGTERM."""

from __future__ import annotations

import time
from contextlib import ExitStack

from bench import Bench
from contenders import Contender
from figures import STOP_BUSY, STOP_IDLE

#: Seconds for which idle workers settle before they are told to end.
_SETTLE_SECONDS = 3.0
#: Seconds that the task takes, and into it when the worker is told to end.
_TASK_SECONDS = 3.0
_INTO_SECONDS = 1.0
_LIMIT_SECONDS = 60.0


def stopping(bench: Bench) -> None:
    """Idle workers from the signal to their exit, busy ones from the end of their task."""
    for _ in range(bench.scale.stop_turns):
        _idle(bench)
        for contender in bench.contenders:
            bench.board.add(STOP_BUSY, contender.name, _busy(bench, contender))


def _idle(bench: Bench) -> None:
    with ExitStack() as stack:
        workers = {each: stack.enter_context(bench.place(each).worker()) for each in bench.contenders}
        time.sleep(_SETTLE_SECONDS)
        for contender, worker in workers.items():
            asked_at = time.monotonic()
            bench.board.add(STOP_IDLE, contender.name, worker.stop() - asked_at)


def _busy(bench: Bench, contender: Contender) -> float:
    place = bench.place(contender)
    with place.worker() as worker, place.publisher() as publisher:
        publisher.ask("hold", name="task", seconds=_TASK_SECONDS)
        place.notes.time_of("begin-task", _LIMIT_SECONDS)
        time.sleep(_INTO_SECONDS)
        ended_at = worker.stop()
        return ended_at - place.notes.time_of("end-task", _LIMIT_SECONDS)
