"""Cards from the command line to the container, on a real engine whose hook writes down what it was asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker_engine import IMAGE, cards_directory, missing, need_engine, need_image
from processes import Studio
from studio import wait_for

from studio_celery.experiment import Status
from studio_celery.runtimes import make_runtime
from studio_celery.settings import load

pytestmark = pytest.mark.docker

SOURCE = (
    "import os, time\n"
    "print(os.environ['NVIDIA_VISIBLE_DEVICES'], flush=True)\n"
    "while not os.path.exists(os.environ['STUDIO_ARTIFACTS'] + '/stop'): time.sleep(0.05)\n"
)


@pytest.fixture
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Studio]:
    monkeypatch.setenv("DOCKER_HOST", need_engine())
    need_image()
    studio = Studio(tmp_path, runtime="docker", image=IMAGE, gpus="0,1")
    try:
        studio.broker()
        yield studio
    finally:
        studio.close()


@pytest.fixture
def records() -> Path:
    directory = cards_directory(need_engine())
    if directory is None:
        missing("the engine was not started by scripts/docker-engine, so it has no stand-in for NVIDIA's hook")
    assert directory is not None
    return directory


def test_each_experiment_gets_cards_of_its_own(studio: Studio, records: Path) -> None:
    studio.worker("q")
    script = studio.script(SOURCE)
    ids = [studio.submit("--queue", "q", "--gpus", "1", script) for _ in range(2)]
    for experiment in ids:
        wait_for(f"the start of {experiment}", lambda one=experiment: studio.status(one) is Status.RUNNING)
    handles = make_runtime(load(environ=studio.environ)).find()
    given = {handle.experiment_id: asked_for(records, handle.ref) for handle in handles}
    assert sorted(given.values()) == ["0", "1"]
    for handle in handles:
        (handle.directory / "artifacts" / "stop").touch()
    for experiment in ids:
        record = studio.ended(experiment)
        assert record["attempts"][0]["gpus"] == [given[experiment]]
        assert studio.log(experiment).decode().strip() == given[experiment]


def test_without_cards_none_is_visible_and_too_many_are_waited_for(studio: Studio) -> None:
    studio.worker("q")
    script = studio.script("import os; print(os.environ['NVIDIA_VISIBLE_DEVICES'])")
    many = studio.submit("--queue", "q", "--gpus", "8", script)
    none = studio.submit("--queue", "q", "--env", "NVIDIA_VISIBLE_DEVICES=all", script)
    assert studio.ended(none)["status"] == "finished"
    assert studio.log(none) == b"void\n"
    wait_for("the note", lambda: "needs 8 cards" in studio.show(many)["reason"])
    assert studio.show(many)["status"] == "waiting"


def asked_for(records: Path, container: str) -> str:
    """The cards that the engine asked the hook for."""
    config = json.loads((records / container / "config.json").read_text())
    name = "NVIDIA_VISIBLE_DEVICES="
    (value,) = {v.removeprefix(name) for v in config["process"]["env"] if v.startswith(name)}
    return str(value)
