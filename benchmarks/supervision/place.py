"""What every measurement gets: workers of its own with real time constants, how much, and the board for the figures."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import count
from pathlib import Path

from board import Board
from calls import Child
from notes import Note, Notes

from studio_celery.settings import Settings
from studio_celery.store import Store
from supervision.borrowed import TWENTIETH, Studio, need_image, wait_for

#: The queue that all workers listen to.
QUEUE = "bench"
_HERE = Path(__file__).parents[1]
_REAL_TIMES = {each.name: each.default for each in fields(Settings) if each.name in TWENTIETH}
#: Read by worker and submitter from their working directory.
_CONFIG = f"studio_queue = {QUEUE!r}\ninclude = ('receipts',)\n"
#: Seconds until attempts are given up that do not start, or do not end.
_LIMIT_SECONDS = 300.0
_numbers = count(1)


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    #: Turns of starts; those before the first that counts warm everything up.
    starts: int
    warm_up: int
    idle_seconds: float
    #: Seconds over which the largest crowd is watched.
    crowd_seconds: float


QUICK = Scale(starts=5, warm_up=1, idle_seconds=30.0, crowd_seconds=15.0)
FULL = Scale(starts=15, warm_up=2, idle_seconds=300.0, crowd_seconds=60.0)


class Place:
    """A STUDIO_HOME with a worker, and what that worker notes."""

    def __init__(self, folder: Path, runtime: str) -> None:
        folder.mkdir()
        self.folder = folder
        self.notes = Notes(folder / "notes")
        # On a busy machine the first answer of a server may take long; nothing else depends on that limit.
        settings = {**_REAL_TIMES, "connect_seconds": 60}
        self.studio = Studio(folder, runtime=runtime, gpus="none", image=need_image(), **settings)
        self.studio.environ |= {
            "PYTHONPATH": str(_HERE),
            "BENCH_NOTES": str(self.notes.path),
            "BENCH_WORK": str(self.studio.work),
        }
        (self.studio.work / "celeryconfig.py").write_text(_CONFIG)
        self.pid = 0

    def start(self, *options: str, broker_url: str | None = None) -> None:
        """Start the worker, on a local broker of its own unless there is another one."""
        if broker_url is None:
            self.studio.broker()
        else:
            self.studio.environ["STUDIO_BROKER_URL"] = broker_url
        self.pid = self.studio.worker(QUEUE, *options).pid

    @property
    def store(self) -> Store:
        return self.studio.store

    def submitter(self) -> Child:
        """Return a process that submits, to be entered."""
        return Child(_HERE / "submitter.py", self.studio.environ, self.folder)

    def wait_until_started(self, experiment: str) -> None:
        """Wait until the journal says so."""
        journal = self.store.journal(experiment)
        wait_for("the start", lambda: any(a.started_at for a in journal.refresh().attempts), _LIMIT_SECONDS)

    def wait_until_ended(self, experiments: Sequence[str]) -> None:
        """Wait until all journals say so."""
        journals = [self.store.journal(each) for each in experiments]
        wait_for("the end", lambda: all(each.refresh().status.terminal for each in journals), _LIMIT_SECONDS)

    def store_calls(self) -> int:
        """Ask the worker how often it has used its store."""
        before = len(self.notes.read())
        os.kill(self.pid, signal.SIGUSR2)
        said = self.notes.wait("store calls", lambda found: len(_named(found[before:], "store-")) > 0, _LIMIT_SECONDS)
        return int(_named(said[before:], "store-")[0])

    def received_at(self, experiment: str) -> float:
        """Return when the worker received it, by the monotonic clock."""
        return self.notes.time_of(f"received-{experiment}", _LIMIT_SECONDS)


def _named(found: Sequence[Note], prefix: str) -> list[str]:
    return [note.name.removeprefix(prefix) for note in found if note.name.startswith(prefix)]


@dataclass(frozen=True)
class Bench:
    """Folders for places, how much, and where the figures go."""

    folder: Path
    scale: Scale
    board: Board

    @contextmanager
    def place(self, runtime: str) -> Iterator[Place]:
        """Make a new place; its processes are gone at the end."""
        place = Place(self.folder / f"place-{next(_numbers)}", runtime)
        try:
            yield place
        finally:
            place.studio.close()
