"""A worker that stands still in one phase of an attempt until the test lets it go on.

    HOLDS=DIRECTORY python attempt_faults_worker.py [arguments of studio-start-remote-worker]

`DIRECTORY/<experiment>` names the phase; when it is reached, `DIRECTORY/<experiment>.reached` appears, and the thread
waits for `DIRECTORY/<experiment>.go`. Heartbeats, leases and everything else go on meanwhile, as they do in a phase
that takes long.
"""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

#: Where a worker can be held, in order. In `running` the script itself waits.
PHASES = ("claimed", "preparing", "starting", "running", "uploading", "ending", "ended", "cleared")


def hold(experiment_id: str, phase: str) -> None:
    """Stand still here if this is the experiment's phase, once."""
    place = Path(os.environ["HOLDS"]) / experiment_id
    reached, go = place.with_suffix(".reached"), place.with_suffix(".go")
    if not place.exists() or place.read_text() != phase or reached.exists():
        return
    reached.touch()
    while not go.exists():
        time.sleep(0.02)


def install() -> None:
    """Put the holds into this process."""
    from studio_celery import tasks
    from studio_celery.store import Store
    from studio_celery.supervisor import attempt, ledger, preparation

    _before(preparation.Preparation, "run", lambda one, *_: hold(one.experiment.id, "claimed"))
    _before(attempt.AttemptRun, "_note_start", lambda one, *_: hold(one.experiment.id, "starting"))
    _before(attempt.AttemptRun, "_clear", lambda one, *_: hold(one.experiment.id, "ended"))
    _before(ledger.Ledger, "append", lambda one, verdict: hold(one._journal.experiment_id, "ending"))
    _before(tasks, "_result", lambda record: hold(record["id"], "cleared"))
    _hold_in_preparation(preparation.Preparation)
    _hold_between_artifacts(Store)


def _before(owner: Any, name: str, act: Any) -> None:
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        act(*args)
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def _hold_in_preparation(owner: Any) -> None:
    """Hold when the workspace is restored, before image and requirements."""
    original = owner.run

    def run(one: Any, *args: Any) -> Any:
        return original(dataclasses.replace(one, runtime=_Preparing(one.runtime)), *args)

    owner.run = run


class _Preparing:
    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime

    def prepare(self, launch: Any, *args: Any) -> None:
        hold(launch.experiment_id, "preparing")
        self._runtime.prepare(launch, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)


def _hold_between_artifacts(owner: Any) -> None:
    """Hold when the first file is stored."""
    kept: set[str] = set()

    def pause(store: Any, experiment_id: str, *_: Any) -> None:
        if experiment_id in kept:
            hold(experiment_id, "uploading")
        kept.add(experiment_id)

    _before(owner, "put_artifact", pause)


if __name__ == "__main__":
    install()
    from studio_celery.cli.worker import worker

    worker()
