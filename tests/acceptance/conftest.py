"""Studios for acceptance tests, one for each runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from docker_engine import IMAGE, need_engine, need_image
from processes import Studio


@pytest.fixture
def process_studio(tmp_path: Path) -> Iterator[Studio]:
    """A studio whose workers run plain processes."""
    studio = Studio(tmp_path, runtime="process", gpus="none")
    yield studio
    studio.close()


@pytest.fixture
def docker_studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Studio]:
    """A studio whose workers run containers."""
    monkeypatch.setenv("DOCKER_HOST", need_engine())
    need_image()
    studio = Studio(tmp_path, runtime="docker", image=IMAGE, gpus="none")
    yield studio
    studio.close()


@pytest.fixture(params=["process", pytest.param("docker", marks=pytest.mark.docker)])
def studio(request: pytest.FixtureRequest) -> Studio:
    """Each runtime in turn."""
    found: Studio = request.getfixturevalue(f"{request.param}_studio")
    return found
