"""Journals for the tests of fold and decisions: one for each state that an experiment can be in."""

from __future__ import annotations

import dataclasses
from typing import Any

from studio_celery.experiment import Experiment
from studio_celery.journal import RETRY, Entry, Kind, State, fold, fold_all

EXPERIMENT = Experiment(id="e", queue="q", script="a.py", workspace="0" * 64)

#: Number of the entry that begins the first attempt below: the owner's epoch.
EPOCH = 3


def entry(kind: Kind, by: str = "w1", stored_at: float = 0.0, **data: Any) -> Entry:
    return Entry(kind=kind, by=by, at="2026-01-01T00:00:00.000Z", data=data, stored_at=stored_at)


def submitted(**changes: Any) -> Entry:
    return entry(Kind.SUBMITTED, experiment=dataclasses.replace(EXPERIMENT, **changes).to_dict())


def released(release_class: str = "engine", **data: Any) -> Entry:
    values = {"class": release_class, "reason": "r", "epoch": EPOCH, **data}
    return entry(Kind.RELEASED, **values)


QUEUED = entry(Kind.QUEUED)
CLAIMED = entry(Kind.CLAIMED, attempt=1, host="h")
STARTED = entry(Kind.STARTED, epoch=EPOCH)
LOST = entry(Kind.LOST, attempt=1, reason="r")
STOP_REQUESTED = entry(Kind.STOP_REQUESTED, by="alice")
ADOPTED = entry(Kind.ADOPTED, by="w2", attempt=1, host="h", log_offset=7)

_WAITING = [submitted(), QUEUED]
_PREPARING = [*_WAITING, CLAIMED]
_RUNNING = [*_PREPARING, STARTED]

#: A journal for each state, by the name of the state.
JOURNALS: dict[str, list[Entry]] = {
    "nothing": [],
    "submitting": [submitted()],
    "submitting, stop requested": [submitted(), STOP_REQUESTED],
    "waiting": _WAITING,
    "waiting, stop requested": [*_WAITING, STOP_REQUESTED],
    "preparing": _PREPARING,
    "preparing, stop requested": [*_PREPARING, STOP_REQUESTED],
    "preparing, adopted": [*_PREPARING, ADOPTED],
    "running": _RUNNING,
    "running, stop requested": [*_RUNNING, STOP_REQUESTED],
    "running, adopted": [*_RUNNING, ADOPTED],
    "lost": [*_RUNNING, LOST],
    "lost, stop requested": [*_RUNNING, STOP_REQUESTED, LOST],
    "released before the start": [*_PREPARING, released()],
    "released after the start": [*_RUNNING, released()],
    "to be tried again": [*_RUNNING, released(RETRY, exit_code=1)],
    "finished": [*_RUNNING, entry(Kind.FINISHED, epoch=EPOCH, exit_code=0)],
    "failed": [*_RUNNING, entry(Kind.FAILED, epoch=EPOCH, exit_code=1, reason="exit code 1")],
    "failed without an attempt": [submitted(), entry(Kind.FAILED, reason="submission did not complete")],
    "stopped": [*_WAITING, STOP_REQUESTED, entry(Kind.STOPPED, reason="stopped by alice")],
    "expired": [*_WAITING, entry(Kind.EXPIRED, reason="r")],
    "removed": [*_WAITING, entry(Kind.FAILED, reason="x"), entry(Kind.REMOVED)],
}


def state(*entries: Entry, **changes: Any) -> State:
    """What waits, with fields of the experiment changed, and then what follows."""
    return fold_all([submitted(**changes), QUEUED, *entries])


def failed_often(times: int) -> State:
    """An experiment whose script failed so many times and is tried again each time."""
    now = state(retries=times)
    for n in range(times):
        now = fold(now, entry(Kind.CLAIMED, attempt=n + 1, host="h"))
        now = fold(now, entry(Kind.STARTED, epoch=now.owner_epoch))
        now = fold(now, released(RETRY, exit_code=1, epoch=now.owner_epoch))
    return now


def released_early(times: int, hosts: int, seconds_apart: float = 1.0) -> State:
    """An experiment that workers on so many hosts, each another process, released in turn before its script started."""
    now = state()
    for n in range(times):
        worker = f"w{n}"
        now = fold(now, entry(Kind.CLAIMED, by=worker, attempt=n + 1, host=f"h{n % hosts}"))
        data = {"class": "engine", "reason": "engine: gone", "epoch": now.owner_epoch}
        now = fold(now, entry(Kind.RELEASED, by=worker, stored_at=n * seconds_apart, **data))
    return now
