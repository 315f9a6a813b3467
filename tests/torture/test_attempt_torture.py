"""Attempts under the real time constants, with random faults at random moments, round after round.

In each round some experiments run on two workers of one host, and one after another is hit: a worker, what runs beside
the script, the broker, the engine, the network, the store. Then everything is there again, and the round is over when
all have ended and the proof of `attempt_faults` holds: one end, one whole output, nothing left.

Not part of `make test`: `make torture` runs it, `ATTEMPT_ROUNDS` times for each runtime, and writes the report.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path

import pytest
from attempt_faults import Scene, assert_finished
from attempt_faults_worker import PHASES
from cut_proxy import CutProxy
from docker_engine import IMAGE
from faulty_store import Chance, Faults
from own_engine import OwnEngine, own_engine
from ports import kept_port
from pubsub_servers import ServerProcess, broker_process

from studio_celery.settings import Settings

#: Rounds for each runtime.
ROUNDS = int(os.environ.get("ATTEMPT_ROUNDS", "4"))
#: Experiments of a round; as many places as they need.
EXPERIMENTS = 10
#: Faults of a round, one after another.
FAULTS = 6
#: How long a fault lasts, and the time between two, seconds.
LAST_SECONDS = (0.0, 2.0, 15.0)
PAUSE_SECONDS = (0.0, 12.0)
#: A round must be over by then: the longest lease or patience after the last fault, with the deferrals, and more.
LIMIT_SECONDS = 900.0

Record = Callable[[str, object], None]

#: The real time constants; the janitor is quick, so that a round need not wait for it.
REAL = {f.name: f.default for f in fields(Settings) if f.name.endswith("_seconds") and f.default} | {
    "janitor_seconds": 10.0
}


class Round:
    """All that can be hit, and the faults that hit it."""

    def __init__(self, scene: Scene, stack: ExitStack, chance: random.Random, *, data: Path, port: int) -> None:
        self.scene, self.chance = scene, chance
        self.faults: Counter[str] = Counter()
        self.store = Faults(scene.folder / "faults.json")
        self._stack, self._data, self._port = stack, data, port
        self._broker = self._start_broker()
        self.cable = stack.enter_context(CutProxy(f"127.0.0.1:{port}"))
        self.workers: list[subprocess.Popen[str]] = []
        self.engine: OwnEngine | None = None

    def _start_broker(self) -> ServerProcess:
        return self._stack.enter_context(broker_process(self._data, port=self._port))

    def start_worker(self) -> None:
        variables = {"STUDIO_BROKER_URL": self.scene.broker_at(self.cable.address), **self.store.variables()}
        self.workers.append(self.scene.worker(**variables))

    def hit(self) -> None:
        """One fault of those that there can be."""
        kinds = [self.kill_worker, self.kill_worker, self.kill_broker, self.cut, self.store_fails, self.store_away]
        kinds += [self.kill_runner, self.again] if self.engine is None else [self.end_engine, self.end_engine]
        kind = self.chance.choice(kinds)
        self.faults[kind.__name__] += 1
        kind(self.chance.choice(LAST_SECONDS))

    def kill_worker(self, seconds: float) -> None:
        self.scene.kill(self.workers.pop(self.chance.randrange(len(self.workers))))
        time.sleep(seconds)
        self.start_worker()

    def kill_broker(self, seconds: float) -> None:
        self._broker.kill()
        time.sleep(seconds)
        self._broker = self._start_broker()

    def cut(self, seconds: float) -> None:
        getattr(self.cable, self.chance.choice(["cut", "freeze", "forget"]))()
        time.sleep(seconds)
        self.cable.restore()

    def store_fails(self, seconds: float) -> None:
        """Calls fail, and answers get lost."""
        chance = Chance(seed=self.chance.randrange(2**32), error=0.1, lost=0.1, repeated=0.1, slow=0.1)
        self.store.set_chance(chance)
        time.sleep(seconds)
        self.store.heal()

    def store_away(self, seconds: float) -> None:
        self.store.cut(seconds)
        time.sleep(seconds)

    def again(self, seconds: float) -> None:
        """The same messages once more."""
        for one in self.chance.sample(self.ids, 3):
            self.scene.publish(one)

    def kill_runner(self, seconds: float) -> None:
        """The process beside a script; an attempt is lost."""
        handles = [handle for handle in self.scene.handles() if not (handle.directory / "io" / "exit.json").exists()]
        if handles:
            handle = self.chance.choice(handles)
            os.kill(int(handle.ref), signal.SIGKILL)

    def end_engine(self, seconds: float) -> None:
        assert self.engine is not None
        self.engine.set_live_restore(self.chance.random() < 0.5)
        self.engine.end(self.chance.choice(["killed", "stopped"]))
        time.sleep(seconds)
        self.engine.start()

    def run(self) -> None:
        """Everything, to the proof."""
        for _ in range(2):
            self.start_worker()
        self.ids = [self._submit() for _ in range(EXPERIMENTS)]
        for _ in range(FAULTS):
            time.sleep(self.chance.uniform(*PAUSE_SECONDS))
            self.hit()
        outcomes = self.scene.ends(self.ids, LIMIT_SECONDS)
        assert_finished(outcomes.values())
        self.scene.leaves_nothing(LIMIT_SECONDS)

    def _submit(self) -> str:
        """One that runs for up to a minute, with so many attempts that no round uses them up."""
        return self.scene.submit(lines=600, pause=self.chance.choice([0.0, 0.01, 0.1]), max_attempts=50)


@pytest.fixture(scope="module")
def engine() -> Iterator[OwnEngine]:
    """An engine to be ended."""
    with own_engine() as made:
        yield made


@contextmanager
def a_round(folder: Path, seed: int, **settings: object) -> Iterator[Round]:
    folder.mkdir()
    with kept_port() as port, ExitStack() as stack:
        scene = Scene(folder / "scene", f"127.0.0.1:{port}", **{**REAL, **settings})
        made = Round(scene, stack, random.Random(seed), data=folder / "broker", port=port)
        stack.enter_context(scene)
        yield made


def seed_of() -> int:
    return int(os.environ.get("TORTURE_SEED", random.SystemRandom().randrange(2**32)))


def test_random_faults_with_processes(tmp_path: Path, record_property: Record) -> None:
    run_rounds(tmp_path, record_property, None, runtime="process")


@pytest.mark.docker
def test_random_faults_with_containers(
    tmp_path: Path, engine: OwnEngine, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    run_rounds(tmp_path, record_property, engine, runtime="docker", image=IMAGE)


def run_rounds(folder: Path, record_property: Record, engine: OwnEngine | None, **settings: object) -> None:
    seed, faults, attempts = seed_of(), Counter[str](), 0
    record_property("seed", seed)
    for number in range(ROUNDS):
        with a_round(folder / str(number), seed + number, **settings) as made:
            made.engine = engine
            made.run()
            faults += made.faults
            attempts += sum(len(made.scene.outcome(one).state.attempts) for one in made.ids)
    record_property("rounds", ROUNDS)
    record_property("experiments", ROUNDS * EXPERIMENTS)
    record_property("attempts", attempts)
    record_property("faults", dict(faults))


@pytest.mark.parametrize("runtime", ["process", pytest.param("docker", marks=pytest.mark.docker)])
def test_a_worker_killed_in_each_phase_under_real_times(
    runtime: str, tmp_path: Path, local_broker_address: str, record_property: Record, request: pytest.FixtureRequest
) -> None:
    began = time.monotonic()
    if runtime == "docker":
        request.getfixturevalue("monkeypatch").setenv("DOCKER_HOST", request.getfixturevalue("engine").host)
    with Scene(tmp_path / "scene", local_broker_address, runtime=runtime, image=IMAGE, **REAL) as scene:
        worker = scene.worker()
        ids = scene.held(PHASES)
        scene.kill(worker)
        scene.worker()
        outcomes = scene.ends(ids.values(), LIMIT_SECONDS)
        assert_finished(outcomes.values())
        record_property("seconds to the last end", round(time.monotonic() - began, 1))
        scene.leaves_nothing(LIMIT_SECONDS)
