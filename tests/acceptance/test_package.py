"""The package as a stranger installs it: a wheel that holds everything, in an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import uv

ROOT = Path(__file__).parents[2]
PACKAGES = ("studio_celery", "transports")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    # Among them all that other tests write into while it is copied.
    ignored = shutil.ignore_patterns(
        ".git", ".venv", ".demo", ".hypothesis", "tests", "build", "*.egg-info", "__pycache__", ".*_cache"
    )
    shutil.copytree(ROOT, source, ignore=ignored)
    built = subprocess.run(
        [uv.find_uv_bin(), "build", "--wheel", "--out-dir", folder, source], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        there = {name for name in archive.namelist() if name.split("/")[0] in PACKAGES}
    expected = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert there == expected


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_the_commands_work_where_only_the_package_is_installed(wheel: Path, version: str, tmp_path: Path) -> None:
    python = interpreter(version)
    home = tmp_path / "environment"
    for command in (["venv", "--python", python, home], ["pip", "install", "--python", home / "bin/python", wheel]):
        done = subprocess.run([uv.find_uv_bin(), *command], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    environ = {"PATH": f"{home}/bin:{os.environ['PATH']}", "HOME": str(tmp_path), "STUDIO_HOME": str(tmp_path / "home")}
    for argv in (["studio", "--version"], ["studio-runner", "--help"], ["studio-start-remote-worker", "--help"]):
        done = subprocess.run(argv, capture_output=True, text=True, env=environ, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    listed = subprocess.run(["studio", "ls", "--json"], capture_output=True, text=True, env=environ, cwd=tmp_path)
    assert listed.stdout.strip() == "[]", listed.stderr


def _of_pyenv(version: str) -> str | None:
    """A Python that pyenv holds without having it on the PATH."""
    if shutil.which("pyenv") is None:
        return None
    done = subprocess.run(["pyenv", "prefix", version], capture_output=True, text=True)
    return f"{done.stdout.strip()}/bin/python" if done.returncode == 0 else None


def interpreter(version: str) -> str:
    """A Python of that version that really runs, or a skip: not every machine has all of them."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    for found in (shutil.which(f"python{version}"), _of_pyenv(version)):
        if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
            return found
    pytest.skip(f"there is no Python {version} on this machine")
