"""A scene for faults: experiments that are each held in another phase, and the proof of what must hold after any fault.

Broker, workers, runtimes and store are real. A worker of this scene stands still in the phases that
`attempt_faults_worker` names, so that one fault hits attempts in all phases at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

from attempt_faults_worker import PHASES
from celery import Celery
from processes import Studio
from remains import containers_of, processes_of
from studio import read_log, submit, wait_for

import transports  # noqa: F401  registers the scheme
from studio_celery.experiment import Status
from studio_celery.journal import Entry, Kind, State
from studio_celery.runtimes import make_runtime
from studio_celery.settings import load
from studio_celery.store import Store
from studio_celery.submission.request import EXPERIMENT_TASK
from transports.local import statistics
from transports.pubsub.link import links

WORKER = Path(__file__).with_name("attempt_faults_worker.py")

#: Lines that the script prints, each with its attempt and its number.
LINES = 300

#: Time after which a message is held for as long as its worker wants, and no longer for the server's own 10 s.
LEASED_SECONDS = 0.8

#: Entries after which nothing follows.
ENDS = (Kind.FINISHED, Kind.FAILED, Kind.STOPPED, Kind.EXPIRED)

#: Prints numbered lines; in the middle it waits, if told so, until there is a file `go` in its HOME. Leaves two
#: artifacts. Where it sees the scene, it holds a lock, and notes if another attempt on the same host holds it, too.
SCRIPT = """
import fcntl, os, pathlib, sys, time
waits, lines, pause = sys.argv[1] == "wait", int(sys.argv[2]), float(sys.argv[3])
attempt, gate = os.environ["STUDIO_ATTEMPT"], os.environ["HOME"] + "/go"
here = pathlib.Path(os.path.abspath("../../../../../alive"))
if here.is_dir():
    lock = (here / os.environ["STUDIO_EXPERIMENT"]).open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        (here / (os.environ["STUDIO_EXPERIMENT"] + ".two")).touch()
for n in range(lines):
    print(attempt, n, flush=True)
    time.sleep(pause)
    while waits and n == lines // 2 and not os.path.exists(gate):
        time.sleep(0.02)
for name in ("first", "second"):
    pathlib.Path(os.environ["STUDIO_ARTIFACTS"], name).write_text(attempt)
"""


@dataclass(frozen=True)
class Outcome:
    """What became of an experiment, as its journal tells it."""

    state: State
    entries: list[Entry]
    log: bytes
    #: The journal in one line, for messages of tests.
    told: str

    @property
    def attempts(self) -> tuple[str, ...]:
        """How each attempt ended."""
        return tuple(attempt.over or "alive" for attempt in self.state.attempts)


def assert_finished(outcomes: Iterable[Outcome], *attempts: str) -> None:
    """Each has finished, and its attempts ended as they are named, if any are."""
    wrong = [o.told for o in outcomes if o.state.status is not Status.FINISHED or attempts not in ((), o.attempts)]
    assert not wrong, wrong


class Scene:
    """One STUDIO_HOME on one host; several scenes may share a store and a broker's project, as several hosts do."""

    def __init__(self, folder: Path, broker: str, *, project: str = "", store: str = "", **settings: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.broker = folder, broker
        self.project = project or f"faults-{uuid.uuid4().hex[:12]}"
        self.holds, self.alive, temporary = folder / "holds", folder / "alive", folder / "tmp"
        for made in (self.holds, self.alive, temporary):
            made.mkdir()
        values = {"gpus": "none", "concurrency": 20, "janitor_seconds": 0.5, "forget_seconds": 8, **settings}
        self.studio = Studio(folder, store=store or folder / "home" / "store", **values)
        self.studio.environ.update(TMPDIR=str(temporary), HOLDS=str(self.holds), STUDIO_BROKER_URL=self.broker_at())
        self.store = Store(self.studio.environ["STUDIO_STORE"])
        self.app = Celery(broker=self.broker_at(), set_as_current=False)
        self._workers: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers:
            if worker.poll() is None:
                self.kill(worker)
        self.app.close()
        links.close()
        self.studio.close()

    def broker_at(self, address: str = "") -> str:
        """The URL of this scene's project, at another address if one is given, such as a proxy's."""
        return f"pubsub://{address or self.broker}/{self.project}"

    # -- workers ---------------------------------------------------------------------------------------------------

    def worker(self, **variables: str) -> subprocess.Popen[str]:
        """A worker that listens, and stands still where it is told to."""
        worker = self.studio.start("python", str(WORKER), "q", **variables)
        self._workers.append(worker)
        self.studio.wait_until_ready(worker)
        return worker

    def kill(self, worker: subprocess.Popen[str]) -> None:
        """SIGKILL, to its children, too."""
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()

    # -- experiments -----------------------------------------------------------------------------------------------

    def submit(self, phase: str = "", *, lines: int = LINES, pause: float = 0.0, **fields: Any) -> str:
        """Record an experiment, to be held in this phase, and publish its message."""
        waits = "wait" if phase in ("starting", "running") else "run"
        one = submit(self.store, self.folder, SCRIPT, waits, str(lines), str(pause), **fields)
        if phase:
            (self.holds / one).write_text(phase)
        self.publish(one)
        return one

    def publish(self, experiment: str) -> None:
        """Put its message on the queue, as a submitter does and as a broker may do again."""
        found = self.store.journal(experiment).refresh().experiment
        assert found is not None
        message = {"id": experiment, "store": self.store.url, "digest": found.digest()}
        self.app.send_task(EXPERIMENT_TASK, kwargs=message, task_id=experiment, queue="q")

    def held(self, phases: Iterable[str] = PHASES) -> dict[str, str]:
        """Experiments that have all reached their phases; ids by phase."""
        ids = {phase: self.submit(phase) for phase in phases}
        self.wait_until_held(ids)
        time.sleep(LEASED_SECONDS)
        return ids

    def wait_until_held(self, ids: dict[str, str]) -> None:
        """Wait until each is in its phase."""
        for phase, one in ids.items():
            wait_for(f"the phase {phase}", lambda one=one, phase=phase: self._is_held(one, phase))  # type: ignore[misc]

    def _is_held(self, one: str, phase: str) -> bool:
        if phase != "running":
            return (self.holds / one).with_suffix(".reached").exists()
        state = self.store.journal(one).refresh()
        return state.status is Status.RUNNING and state.live is not None and bool(read_log(self.store, one))

    def release(self, ids: Iterable[str]) -> None:
        """Let the worker go on where it was held with them; scripts wait until `ends`."""
        for one in ids:
            (self.holds / one).with_suffix(".go").touch()

    def open_gates(self) -> None:
        """Let every script go on that waits in the middle, in whichever attempt."""
        for folder in _found(self.studio.home, "run/*/*/home"):
            with suppress(FileNotFoundError):  # it was removed meanwhile
                Path(folder, "go").touch()

    def status(self, one: str) -> Status:
        """Its state as the journal has it."""
        return self.store.journal(one).refresh().status

    # -- the proof -------------------------------------------------------------------------------------------------

    def ends(self, ids: Iterable[str], seconds: float = 120.0, others: Iterable[Scene] = ()) -> dict[str, Outcome]:
        """What became of them, once all have ended; gates are opened here and in other scenes meanwhile."""
        chosen, others, deadline = list(ids), list(others), time.monotonic() + seconds
        while open_ones := [one for one in chosen if not self.status(one).terminal]:
            for scene in (self, *others):
                scene.open_gates()
            if time.monotonic() > deadline:
                raise AssertionError(f"no end within {seconds:g} s: {[self.tell(one) for one in open_ones]}")
            time.sleep(0.1)
        return {one: self.outcome(one) for one in chosen}

    def outcome(self, one: str) -> Outcome:
        """The end of one, after the proof that it is the only one and that one attempt's output is shown, whole."""
        journal = self.store.journal(one)
        state, entries = journal.refresh(), journal.entries
        told = self.tell(one)
        assert [entry.kind in ENDS for entry in entries] == [False] * (len(entries) - 1) + [True], told
        assert sum(entry.kind is Kind.CLAIMED for entry in entries) == len(state.attempts), told
        assert not list(self.alive.glob("*.two")), f"two attempts lived at the same time: {told}"
        found = Outcome(state, entries, read_log(self.store, one) if state.attempts else b"", told)
        if state.attempts:
            self._prove_output(found)
        return found

    def _prove_output(self, found: Outcome) -> None:
        """Lines of the last attempt only, none missing, none twice; all of them, and its artifacts, if it finished."""
        experiment, number = found.state.experiment, len(found.state.attempts)
        assert experiment is not None
        lines = found.log.decode().splitlines()
        total = int(experiment.args[1]) if found.state.status is Status.FINISHED else len(lines)
        assert lines == [f"{number} {n}" for n in range(total)], f"{found.told}: {lines[:3]} … {lines[-3:]}"
        if found.state.status is Status.FINISHED:
            kept = {item.key: self._artifact(experiment.id, number, item.key) for item in self._files(found)}
            assert kept == dict.fromkeys(("output/first", "output/second"), str(number)), found.told
            assert [dict(each) for each in found.state.artifacts] == [{"tag": "output", "files": 2, "bytes": 2}], (
                found.told
            )

    def _files(self, found: Outcome) -> list[Any]:
        assert found.state.experiment is not None
        return list(self.store.artifact_files(found.state.experiment.id, len(found.state.attempts)))

    def _artifact(self, one: str, attempt: int, key: str) -> str:
        return b"".join(self.store.artifact_stream(one, attempt, key)).decode()

    def leaves_nothing(self, seconds: float = 60.0) -> None:
        """Wait until no container, process, directory, temporary file and message is left."""
        try:
            wait_for("the end of clean-up", lambda: not self.left_behind(), seconds)
        except AssertionError as exc:
            raise AssertionError(f"left behind: {self.left_behind()}") from exc

    def left_behind(self) -> list[str]:
        """What of attempts is still here, and messages that nobody has acknowledged."""
        home = self.studio.home
        found = [*_found(home, "run/*-*-*-*-*"), *_found(home, "cache/*/*.partial")]
        found += [str(path) for path in (self.folder / "tmp").iterdir()]
        found += processes_of(self.studio) + containers_of(self.studio)
        for queue in statistics(self.broker, self.project):
            found += [f"{queue.waiting} + {queue.leased} messages"] if queue.waiting or queue.leased else []
        return found

    def tell(self, one: str) -> str:
        """The journal in one line, for messages of tests."""
        journal = self.store.journal(one)
        journal.refresh()
        words = [f"{entry.kind.value}{_reason(entry)}" for entry in journal.entries]
        return f"{one} ({', '.join(words)})"

    def handles(self) -> list[Any]:
        """What the runtime finds here."""
        return make_runtime(load(environ=self.studio.environ)).find()


def _reason(entry: Entry) -> str:
    reason = entry.data.get("reason")
    return f" [{reason}]" if reason else ""


def _found(home: Path, pattern: str) -> list[str]:
    """Paths that match; `Path.glob` fails where a directory goes away meanwhile."""
    return glob(f"{home}/{pattern}")  # noqa: PTH207
