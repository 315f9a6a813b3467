"""What the tests of the studio share: settings at a twentieth of their real times, workspaces, waiting."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from studio_celery import workspace
from studio_celery.experiment import Experiment, new_id, utc_now
from studio_celery.journal import Kind
from studio_celery.settings import Settings
from studio_celery.store import Store

T = TypeVar("T")

#: What a machine that is busy with tests needs as long as any other.
_AS_THEY_ARE = ("broker_silence_seconds", "connect_seconds", "leave_seconds", "pull_limit_seconds")
#: Every time constant of the program at a twentieth of its default.
TWENTIETH = {
    f.name: f.default / 20
    for f in dataclasses.fields(Settings)
    if f.name.endswith("_seconds") and f.default and f.name not in _AS_THEY_ARE
}


def environment(home: Path, **settings: Any) -> dict[str, str]:
    """Environment variables for real processes with those settings."""
    values = {"home": home, **TWENTIETH, **settings}
    return {f"STUDIO_{name.upper()}": str(value) for name, value in values.items()}


def quick_settings(home: Path, **changes: Any) -> Settings:
    """Settings of a test: a home of its own, the process runtime, quick clocks."""
    return dataclasses.replace(Settings(home=home, runtime="process", gpus="none"), **{**TWENTIETH, **changes})


def submit(store: Store, folder: Path, source: str, *args: str, **fields: Any) -> str:
    """Record an experiment whose script has this source, as `studio-runner` does but without a broker; its id."""
    root = folder / f"workspace-{new_id()}"
    root.mkdir(parents=True)
    (root / "script.py").write_text(source)
    target = folder / "archives"
    target.mkdir(exist_ok=True)
    archive = workspace.capture(root, limit_bytes=2**20, destination=target, script="script.py")
    store.put_blob(archive.sha256, archive.path)
    experiment = Experiment(
        id=new_id(),
        queue="q",
        script="script.py",
        args=args,
        workspace=archive.sha256,
        submitted_at=utc_now(),
        owner="alice",
        **fields,
    )
    store.submit(experiment, "alice").decide(Kind.QUEUED, "alice")
    return experiment.id


def read_log(store: Store, experiment_id: str, attempt: int = -1) -> bytes:
    """The whole stored output of an attempt."""
    state = store.journal(experiment_id).refresh()
    chosen = state.attempts[attempt]
    reader, data = store.log_reader(experiment_id, chosen), b""
    while piece := reader.read(chosen, len(data)):
        data += piece
    return data


def wait_for(what: str, condition: Callable[[], T | None], seconds: float = 60.0) -> T:
    """What the condition returns as soon as it is true; an error that says what was missing otherwise."""
    deadline = time.monotonic() + seconds
    pause = 0.01
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(pause)
        pause = min(0.25, pause * 1.5)
    raise AssertionError(f"{what} did not happen within {seconds:g} s")


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
