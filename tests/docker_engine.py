"""The Docker engine that tests use, and the image with Python in it. None is started here: `scripts/docker-engine`."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

import pytest

from studio_celery.errors import EngineUnavailable
from studio_celery.runtimes.docker.engine import Engine

#: Image that has `python3` and is made without a registry.
IMAGE = os.environ.get("STUDIO_TEST_IMAGE", "studio-python:debian")

SCRIPTS = Path(__file__).parent.parent / "scripts"


def missing(reason: str) -> None:
    """Skip the test for this reason; in CI nothing may be missing."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@functools.cache
def docker_host() -> str | None:
    """Address of the first engine that answers: named for tests, named for all, the default, the script's own."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    own = f"unix://{cache}/studio-celery/engine/docker.sock"
    named = [os.environ.get("STUDIO_TEST_DOCKER_HOST"), os.environ.get("DOCKER_HOST")]
    for host in (*named, "unix:///var/run/docker.sock", own):
        if host and _answers(host):
            return host
    return None


def need_engine() -> str:
    """The engine's address; without one the test is skipped, or fails in CI."""
    host = docker_host()
    if host is None:
        missing('no Docker engine answers: eval "$(scripts/docker-engine up)"')
    assert host is not None
    return host


@functools.cache
def image_problem(host: str) -> str | None:
    """Make the image if it is missing; why that is impossible, or None."""
    command = [str(SCRIPTS / "docker-image"), IMAGE]
    made = subprocess.run(command, env={**os.environ, "DOCKER_HOST": host}, capture_output=True, text=True)
    return None if made.returncode == 0 else made.stderr.strip().splitlines()[-1]


def need_image() -> str:
    """The image's name; where it cannot be made the test is skipped, or fails in CI."""
    problem = image_problem(need_engine())
    if problem is not None:
        missing(problem)
    return IMAGE


def cards_directory(host: str) -> Path | None:
    """Where the stand-in for NVIDIA's hook writes, if the engine is the script's."""
    directory = Path(host.removeprefix("unix://")).parent / "cards"
    return directory if directory.is_dir() and (directory.parent / "bin").is_dir() else None


def _answers(host: str) -> bool:
    try:
        Engine(host, os.environ).info()
    except EngineUnavailable:
        return False
    return True
