"""Benches for both runtimes, cleared away afterwards."""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker_engine import need_engine, need_image
from runtime_bench import SECRET, Bench

from studio_celery.runtimes.docker import DockerOptions, DockerRuntime
from studio_celery.runtimes.process import ProcessRuntime


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A directory with one package, `tiny` 1.0, that no index has."""
    directory = tmp_path / "wheels"
    directory.mkdir()
    files = {
        "tiny.py": "ANSWER = 42\n",
        "tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        "tiny-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [f"{name},sha256={_digest(text)},{len(text)}" for name, text in files.items()]
    files["tiny-1.0.dist-info/RECORD"] = "\n".join([*rows, "tiny-1.0.dist-info/RECORD,,", ""])
    with zipfile.ZipFile(directory / "tiny-1.0-py3-none-any.whl", "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return directory


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@pytest.fixture
def worker_variables(wheels: Path) -> dict[str, str]:
    """A worker's environment: its own packages, no index, a secret."""
    names = ("PATH", "HOME", "SSL_CERT_FILE")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return {**kept, "UV_FIND_LINKS": str(wheels), "UV_OFFLINE": "1", "GOOGLE_APPLICATION_CREDENTIALS": SECRET}


@pytest.fixture
def process_bench(tmp_path: Path, worker_variables: dict[str, str]) -> Iterator[Bench]:
    """Attempts as processes."""
    home = tmp_path / "home"
    bench = Bench(home, lambda: ProcessRuntime(home, worker_variables))
    yield bench
    bench.clear()


@pytest.fixture
def docker_bench(tmp_path: Path, worker_variables: dict[str, str]) -> Iterator[Bench]:
    """Attempts as containers."""
    image, home = need_image(), tmp_path / "home"
    home.mkdir()
    options = DockerOptions(home=home, image=image, host=need_engine(), variables=worker_variables, settle_seconds=0)
    bench = Bench(home, lambda: DockerRuntime(options))
    yield bench
    bench.clear()


@pytest.fixture(params=["process", pytest.param("docker", marks=pytest.mark.docker)])
def bench(request: pytest.FixtureRequest) -> Bench:
    """Each runtime in turn."""
    found: Bench = request.getfixturevalue(f"{request.param}_bench")
    return found
