"""The Docker engine is killed or stopped in each phase of an attempt, with and without live restore."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from attempt_faults import Scene, assert_finished
from docker_engine import IMAGE
from own_engine import OwnEngine, own_engine

pytestmark = pytest.mark.docker

#: An engine takes its real time to stop, whatever the worker's constants are.
SETTLE_SECONDS = 10.0

#: What an engine has to do with; containers are slow, so each once.
PHASES = ("claimed", "preparing", "running", "uploading", "ending")


@pytest.fixture
def engine() -> Iterator[OwnEngine]:
    """One that nobody else uses."""
    with own_engine() as made:
        yield made


def test_the_engine_ends_in_each_phase(
    engine: OwnEngine, tmp_path: Path, local_broker_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With live restore nothing is lost; without, what ran is lost and runs again: never has the script failed."""
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    settings = {"runtime": "docker", "image": IMAGE, "engine_settle_seconds": SETTLE_SECONDS}
    with Scene(tmp_path / "scene", local_broker_address, **settings) as scene:
        scene.worker()
        for how, live_restore in itertools.product(("killed", "stopped"), (False, True)):
            engine.set_live_restore(live_restore)
            ids = scene.held(PHASES)
            engine.end(how)
            scene.release(ids.values())
            ids["waiting"] = scene.submit()
            engine.start()
            outcomes = scene.ends(ids.values())
            assert_finished(outcomes.values())
            assert_finished([outcomes[ids["running"]]], *(["ended"] if live_restore else ["lost", "ended"]))
            assert_finished([outcomes[ids["uploading"]], outcomes[ids["ending"]]], "ended")
        scene.leaves_nothing()
