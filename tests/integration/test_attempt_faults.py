"""Each fault once, in each phase of an attempt, at a twentieth of the time constants. Many rounds: `make torture`.

After each fault: exactly one end in the journal, the whole output of one attempt and nothing of others, no message, no
process, no container, no directory left. `attempt_faults.Scene.outcome` and `leaves_nothing` are that proof.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from attempt_faults import Scene, assert_finished
from docker_engine import IMAGE, need_engine, need_image
from faulty_store import Chance, Fault, Faults
from ports import kept_port
from pubsub_servers import broker_process
from studio import TWENTIETH, wait_for

from studio_celery.experiment import Status
from transports.local import statistics

#: Phases in which the attempt has something that runs, so that whoever finds it may go on with it.
BEGUN = ("starting", "running", "uploading", "ending")

#: Where another host listens that must not take over: longer than a busy machine keeps a heartbeat from its store.
PATIENCE_SECONDS = 10.0


@pytest.fixture
def scene(tmp_path: Path, local_broker_address: str) -> Iterator[Scene]:
    """Workers that run processes."""
    with Scene(tmp_path / "scene", local_broker_address, runtime="process") as made:
        yield made


@pytest.fixture
def docker_scene(tmp_path: Path, local_broker_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """Workers that run containers."""
    monkeypatch.setenv("DOCKER_HOST", need_engine())
    need_image()
    with Scene(tmp_path / "scene", local_broker_address, runtime="docker", image=IMAGE) as made:
        yield made


@pytest.fixture(params=["process", pytest.param("docker", marks=pytest.mark.docker)])
def either(request: pytest.FixtureRequest) -> Scene:
    """Each runtime in turn."""
    found: Scene = request.getfixturevalue("scene" if request.param == "process" else "docker_scene")
    return found


def test_a_worker_killed_in_each_phase(either: Scene) -> None:
    scene = either
    worker = scene.worker()
    ids = scene.held()
    scene.kill(worker)
    scene.worker()
    outcomes = scene.ends(ids.values())
    assert_finished(outcomes.values())
    assert_finished((outcomes[ids[phase]] for phase in BEGUN), "ended")
    assert_finished((outcomes[ids[phase]] for phase in ("claimed", "preparing")), "lost", "ended")
    scene.leaves_nothing()


def test_a_broker_killed_in_each_phase(tmp_path: Path) -> None:
    """What ends while there is none is acknowledged when there is one again, or delivered again and acknowledged."""
    data = tmp_path / "broker"
    with (
        kept_port() as port,
        broker_process(data, port=port) as broker,
        Scene(tmp_path / "scene", broker.address, runtime="process") as scene,
    ):
        scene.worker()
        ids = scene.held()
        broker.kill()
        scene.release(ids.values())
        outcomes = scene.ends(ids.values())
        with broker_process(data, port=port):
            assert_finished(outcomes.values(), "ended")
            later = scene.submit()
            assert_finished(scene.ends([later]).values())
            scene.leaves_nothing()


def test_what_waits_and_runs_outlives_broker_and_worker_killed_together(tmp_path: Path) -> None:
    data = tmp_path / "broker"
    with (
        kept_port() as port,
        broker_process(data, port=port) as broker,
        Scene(tmp_path / "scene", broker.address, runtime="process") as scene,
    ):
        worker = scene.worker()
        ids = scene.held()
        broker.kill()
        scene.kill(worker)
        with broker_process(data, port=port):
            scene.worker()
            outcomes = scene.ends(ids.values())
            assert_finished(outcomes.values())
            scene.leaves_nothing()


def test_the_shim_killed_while_the_script_runs(scene: Scene) -> None:
    scene.worker()
    ids = scene.held(("starting", "running"))
    for handle in scene.handles():
        os.kill(int(handle.ref), signal.SIGKILL)
    scene.release(ids.values())
    outcomes = scene.ends(ids.values())
    assert_finished(outcomes.values(), "lost", "ended")
    scene.leaves_nothing()


@pytest.mark.docker
def test_containers_killed_and_removed_in_each_phase(docker_scene: Scene) -> None:
    """Killed by somebody, it is the script's own end, as the engine was up; removed, nobody knows how it ended."""
    scene = docker_scene
    scene.worker()
    killed = scene.held(("starting", "running", "uploading"))
    harm(scene, "docker", "kill")
    scene.release(killed.values())
    outcomes = scene.ends(killed.values())
    for phase in ("starting", "running"):
        state = outcomes[killed[phase]].state
        assert (state.status, state.reason) == (Status.FAILED, "killed by signal 9"), phase
    assert_finished([outcomes[killed["uploading"]]], "ended")
    removed = scene.held(BEGUN)
    harm(scene, "docker", "rm", "--force")
    scene.release(removed.values())
    outcomes = scene.ends(removed.values())
    assert_finished((outcomes[removed[phase]] for phase in ("starting", "running")), "lost", "ended")
    assert_finished((outcomes[removed[phase]] for phase in ("uploading", "ending")), "ended")
    scene.leaves_nothing()


def harm(scene: Scene, *command: str) -> None:
    """Do this to all containers; one that has ended cannot be killed."""
    for handle in scene.handles():
        subprocess.run([*command, handle.ref], check=False, capture_output=True)


def test_the_same_message_again_and_again_in_each_phase(tmp_path: Path, local_broker_address: str) -> None:
    """To the worker that has it, and to another one on what is, with a home of its own, another host."""
    settings = {"runtime": "process", "patience_floor_seconds": PATIENCE_SECONDS}
    with (
        Scene(tmp_path / "one", local_broker_address, **settings) as scene,
        Scene(
            tmp_path / "two", local_broker_address, project=scene.project, store=scene.store.url, **settings
        ) as other,
    ):
        scene.worker()
        ids = scene.held()
        other.worker()
        for one in ids.values():
            for _ in range(3):
                scene.publish(one)
        wait_for("deferrals", lambda: not waiting(scene))
        scene.release(ids.values())
        outcomes = scene.ends(ids.values(), others=[other])
        assert_finished(outcomes.values(), "ended")
        for one in ids.values():
            scene.publish(one)
        scene.leaves_nothing()
        other.leaves_nothing()


def waiting(scene: Scene) -> int:
    return sum(queue.waiting for queue in statistics(scene.broker, scene.project))


def test_every_entry_of_the_journal_meets_each_fault_of_the_store(scene: Scene) -> None:
    """Refused, answered with an error although it was written, written twice: each kind of entry, each once."""
    faults = Faults(scene.folder / "faults.json")
    for entry in ("queued", "claimed", "started", "adopted", "finished"):
        faults.add(Fault("error", method="create", holding=f'"kind": "{entry}"', times=1))
        faults.add(Fault("lost", method="create", holding=f'"kind": "{entry}"', times=1))
        faults.add(Fault("repeated", method="create", holding=f'"kind": "{entry}"', times=1))
    worker = scene.worker(**faults.variables())
    ids = [scene.submit("running") for _ in range(4)]
    for one in ids:
        scene.wait_until_held({"running": one})
    scene.kill(worker)
    scene.worker(**faults.variables())
    assert_finished(scene.ends(ids).values())
    met = Counter(hit.split()[0] for hit in faults.hits())
    assert min(met["error"], met["lost"], met["repeated"]) >= 4, met
    scene.leaves_nothing()


def test_a_store_that_fails_at_random(scene: Scene) -> None:
    faults = Faults(scene.folder / "faults.json")
    scene.worker(**faults.variables())
    faults.set_chance(Chance(seed=5, error=0.03, lost=0.03, repeated=0.03, slow=0.03))
    ids = [scene.submit() for _ in range(6)]
    outcomes = scene.ends(ids)
    assert_finished(outcomes.values())
    faults.heal()
    scene.leaves_nothing()
    assert len(faults.hits()) > 10


def test_a_store_that_is_away_in_each_phase(scene: Scene) -> None:
    """For longer than the patience; no other worker can see it either."""
    faults = Faults(scene.folder / "faults.json")
    scene.worker(**faults.variables())
    ids = scene.held()
    faults.cut(seconds=2 * TWENTIETH["patience_floor_seconds"])
    scene.release(ids.values())
    outcomes = scene.ends(ids.values())
    assert_finished(outcomes.values())
    assert_finished((outcomes[ids[phase]] for phase in (*BEGUN, "ended", "cleared")), "ended")
    scene.leaves_nothing()
