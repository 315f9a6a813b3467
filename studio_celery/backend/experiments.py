"""What Celery is told about an experiment, derived from its journal and never written."""

from __future__ import annotations

import math
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from celery import states

from studio_celery.errors import ExperimentFailed
from studio_celery.experiment import Attempt, Status
from studio_celery.journal import Kind, State
from studio_celery.overdue import settle
from studio_celery.record import to_record
from studio_celery.settings import Settings
from studio_celery.store import Journal, Store
from studio_celery.submission.request import EXPERIMENT_TASK

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

#: What can be an experiment's id; other task ids are not looked for among experiments.
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")

#: Journals kept in memory, so that looking again costs one request.
JOURNALS = 2000

#: Who records an end that is due, as the journal has it.
BY = "result backend"

#: Bytes at the end of a failed script's output in which its traceback is looked for.
TAIL_BYTES = 32 * 1024

_TRACEBACK = b"Traceback (most recent call last):"


@dataclass
class _Known:
    """A journal that was looked at; one thread at a time."""

    journal: Journal
    lock: threading.Lock = field(default_factory=threading.Lock)
    #: When it is looked again whether an end is due, seconds of `time.monotonic`.
    settles_at: float = 0.0


class Experiments:
    """The experiments of one store, read; for one process, any number of threads."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._journals: OrderedDict[str, _Known] = OrderedDict()
        self._lock = threading.Lock()

    def knows(self, task_id: str) -> bool:
        """Whether this id was found to be an experiment's before; asks nobody."""
        return task_id in self._journals

    def look(self, task_id: str) -> State | None:
        """The state now, with the end that was due if one was; None if there is no such experiment."""
        if not _ID.fullmatch(task_id):
            return None
        known = self._journals.get(task_id) or _Known(self._store.journal(task_id))
        with known.lock:
            known.journal.refresh()
            state = self._settled(known)
        if state.experiment is None:
            return None
        with self._lock:
            self._journals.setdefault(task_id, known)
            self._journals.move_to_end(task_id)
            while len(self._journals) > JOURNALS:
                self._journals.popitem(last=False)
        return state

    def _settled(self, known: _Known) -> State:
        """Who waits for a result is somebody who looks: what nobody else ends, ends here."""
        if time.monotonic() >= known.settles_at and not known.journal.state.status.terminal:
            known.settles_at = time.monotonic() + self._settings.heartbeat_seconds
            settle(known.journal, self._store, self._settings, BY)
        return known.journal.state

    def settled_at(self, task_id: str) -> float:
        """When it ended, seconds since 1970 on the store's clock; inf if it has not, -inf if there is none."""
        state = self.look(task_id)
        if state is None:
            return -math.inf
        entries = self._store.journal(task_id)
        entries.refresh()
        end = next(entry for entry in reversed(entries.entries) if entry.kind is not Kind.REMOVED)
        return end.stored_at if state.status.terminal else math.inf

    def meta(self, state: State, kept: Mapping[str, Any]) -> dict[str, Any]:
        """What Celery calls the task's meta; `kept` is what Celery itself knows: children, parent, group."""
        experiment = state.experiment
        assert experiment is not None
        status = STATES[state.status]
        record = to_record(state)
        failed = status in states.EXCEPTION_STATES
        return {
            "task_id": experiment.id,
            "status": status,
            "result": _failure(state, record) if failed else {**record, **self._progress(state)},
            "traceback": self._traceback(state) if state.status is Status.FAILED else None,
            "date_done": state.finished_at,
            "name": EXPERIMENT_TASK,
            "args": [experiment.script, list(experiment.args)],
            "kwargs": {},
            "worker": state.attempts[-1].worker if state.attempts else None,
            "retries": max(0, len(state.attempts) - 1),
            "queue": experiment.queue,
            "children": kept.get("children") or [],
            **{name: kept[name] for name in ("parent_id", "group_id") if kept.get(name)},
        }

    def _progress(self, state: State) -> dict[str, Any]:
        """What only somebody who watches wants to know; nothing once it has ended."""
        live = state.live
        if state.experiment is None or live is None:
            return {}
        beat = self._store.heartbeat_status(state.experiment.id, live.number)
        return {"attempt": live.number, "worker": live.worker, "phase": beat.get("phase", state.status.value)}

    def _traceback(self, state: State) -> str | None:
        """The last Python traceback at the end of a failed script's output, if it left one."""
        if state.experiment is None or not state.attempts or state.exit_code is None:
            return None
        tail = self._tail(state.experiment.id, state.attempts[-1])
        begin = tail.rfind(_TRACEBACK)
        return None if begin < 0 else tail[begin:].decode("utf-8", "replace").rstrip()

    def _tail(self, experiment_id: str, attempt: Attempt) -> bytes:
        reader = self._store.log_reader(experiment_id, attempt)
        offset, tail = max(0, reader.stored(attempt) - TAIL_BYTES), b""
        while piece := reader.read(attempt, offset + len(tail)):
            tail += piece
        return tail


def _failure(state: State, record: Mapping[str, Any]) -> ExperimentFailed:
    assert state.experiment is not None
    return ExperimentFailed(state.experiment.id, state.reason or state.status.value, state.exit_code, record)
