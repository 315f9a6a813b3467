"""Who is compared, and the place each measurement gives to one of them: a fresh namespace, notes, processes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import rivals
from calls import Child
from figures import OURS_EMULATOR, OURS_LOCAL, REDIS, RIVAL
from notes import Notes
from servers import Addresses
from workers import Worker

_HERE = Path(__file__).parent
#: The four priorities of the latency measurement, as Redis has them by default.
PRIORITY_STEPS = (0, 3, 6, 9)
_numbers = count(1)


@dataclass(frozen=True, eq=False)
class Contender:
    """A broker as Celery reaches it: ``{number}`` in the URL makes a namespace."""

    name: str
    url: str
    environ: Mapping[str, str] = field(default_factory=dict)
    #: Transport options of the measurement with priorities; None: it has no priorities.
    priorities: Mapping[str, object] | None = None
    #: Seconds it goes on working after a call has returned: what it sends then must not slow the next one's turn.
    settle_seconds: float = 0.0


def contenders(addresses: Addresses) -> tuple[Contender, ...]:
    """Return all four."""
    steps = {"priority_steps": list(PRIORITY_STEPS)}
    return (
        Contender(OURS_EMULATOR, f"pubsub://{addresses.emulator}/bench-{{number}}", priorities=steps),
        Contender(
            RIVAL,
            "gcpubsub://projects/bench-{number}",
            environ={"PUBSUB_EMULATOR_HOST": addresses.emulator},
            settle_seconds=0.5,
        ),
        Contender(OURS_LOCAL, f"pubsub://{addresses.local}/bench-{{number}}", priorities=steps),
        Contender(REDIS, f"redis://{addresses.redis}/{{number}}", priorities=steps),
    )


class Place:
    """A namespace of a contender's broker that nobody has used, and a folder with what its workers note."""

    def __init__(self, contender: Contender, folder: Path, *, options: Mapping[str, object] | None = None) -> None:
        self.contender = contender
        number = next(_numbers)
        self.folder = folder / f"place-{number}"
        self.folder.mkdir()
        self.notes = Notes(self.folder / "notes")
        self.environ = {
            **environment(contender.environ),
            "BENCH_BROKER": contender.url.format(number=number),
            "BENCH_NOTES": str(self.notes.path),
            "BENCH_OPTIONS": json.dumps(dict(options or {})),
        }

    @property
    def name(self) -> str:
        return self.contender.name

    @property
    def namespace(self) -> str:
        """Return what the URL ends with: a project, or the number of a database."""
        return self.environ["BENCH_BROKER"].rpartition("/")[2]

    def publisher(self) -> Child:
        return Child(_HERE / "publisher.py", self.environ, self.folder)

    @contextmanager
    def worker(self, *, queues: str = "celery") -> Iterator[Worker]:
        """Run a worker; it is killed at the end if it still runs."""
        worker = Worker(self.environ, self.folder, queues=queues)
        try:
            self.notes.wait(f"{self.name}: ready", lambda notes: any(n.name == worker.ready for n in notes), 60)
            yield worker
        finally:
            worker.kill()


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a child: this checkout, this folder and the rivals' packages are importable."""
    inherited = {name: value for name, value in os.environ.items() if name != "PUBSUB_EMULATOR_HOST"}
    path = [inherited.get("PYTHONPATH", ""), str(_HERE.parent), str(_HERE), str(rivals.FOLDER)]
    return {**inherited, "PYTHONPATH": os.pathsep.join(filter(None, path)), **more}
