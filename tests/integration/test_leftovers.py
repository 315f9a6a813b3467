"""Nothing of ours stays on a worker whatever an attempt ended by, and nothing that is not ours ever goes."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from docker_engine import need_engine, need_image
from studio import quick_settings, read_log, submit
from test_runtime_docker import docker

from studio_celery.experiment import new_id
from studio_celery.janitor import Janitor
from studio_celery.journal import Kind
from studio_celery.runtimes import make_runtime
from studio_celery.runtimes.docker import DockerOptions
from studio_celery.store import Store
from studio_celery.supervisor import Detached, Ended, Supervisor


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture(params=["process", pytest.param("docker", marks=pytest.mark.docker)])
def supervisor(
    request: pytest.FixtureRequest, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Supervisor]:
    """A worker of each runtime, with a directory of its own for temporary files, and packages from nowhere."""
    changes: dict[str, Any] = {"runtime": request.param}
    if request.param == "docker":
        monkeypatch.setenv("DOCKER_HOST", need_engine())
        changes["image"] = need_image()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("UV_OFFLINE", "1")
    settings = quick_settings(tmp_path / "home", **changes)
    one = Supervisor(store, make_runtime(settings), settings)
    yield one
    for handle in one.runtime.find():
        one.runtime.stop(handle, 0)
        one.runtime.remove(handle)
    with suppress(ValueError):  # the test closed it
        one.detach()
        one.close()


def record(supervisor: Supervisor, experiment: str) -> dict[str, Any]:
    result = supervisor.handle(experiment)
    assert isinstance(result, Ended), result
    return dict(result.record)


def left_behind(supervisor: Supervisor, tmp_path: Path) -> list[str]:
    """Everything on this host but the worker's locks and finished things in the cache."""
    home = supervisor.settings.home
    found = [path.name for path in (home / "run").iterdir() if path.name not in ("workers", "cards")]
    found += [str(path) for path in (home / "cache").glob("*/*.partial")]
    found += [path.name for path in (tmp_path / "tmp").iterdir()]
    found += [handle.ref for handle in supervisor.runtime.find()]
    if supervisor.runtime.name == "docker":
        label = f"label=studio.install={DockerOptions(home=home).home_label}"
        found += docker("ps", "--all", "--quiet", "--filter", label).split()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"={home}/".encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                found.append(f"process {path.parent.name}")
    return found


def networks_and_volumes() -> list[str]:
    """Names; of other tests on this engine there may be some, too, which come and go."""
    return [*docker("network", "ls", "--format", "{{.Name}}").split(), *docker("volume", "ls", "--quiet").split()]


class TestNothingIsLeft:
    def test_of_requirements_that_cannot_be_installed(
        self, supervisor: Supervisor, store: Store, tmp_path: Path
    ) -> None:
        one = submit(store, tmp_path, "print(1)", requirements="no-such-package-9f2c==1\n")
        assert record(supervisor, one)["status"] == "failed"
        assert left_behind(supervisor, tmp_path) == []
        assert list((tmp_path / "home" / "cache" / "environments").iterdir()) == []

    def test_of_a_workspace_that_is_damaged_in_the_store(
        self, supervisor: Supervisor, store: Store, tmp_path: Path
    ) -> None:
        one = submit(store, tmp_path, "print(1)")
        (blob,) = (tmp_path / "store" / "blobs").iterdir()
        blob.write_bytes(b"damaged")
        assert "damaged" in record(supervisor, one)["reason"]
        assert left_behind(supervisor, tmp_path) == []

    def test_of_a_script_that_makes_what_only_it_may_change(
        self, supervisor: Supervisor, store: Store, tmp_path: Path
    ) -> None:
        source = "import os; os.makedirs('a/b'); open('a/b/c', 'w').close(); os.chmod('a/b', 0); os.chmod('a', 0o500)"
        assert record(supervisor, submit(store, tmp_path, source))["status"] == "finished"
        assert left_behind(supervisor, tmp_path) == []

    @pytest.mark.parametrize("how", ["stop", "detach"])
    def test_when_installing_is_given_up(
        self, supervisor: Supervisor, store: Store, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("UV_OFFLINE")
        with socket.create_server((silent_host(supervisor), 0)) as silent:
            address = ":".join(map(str, silent.getsockname()[:2]))
            one = submit(
                store, tmp_path, "print(1)", requirements=f"tiny @ http://{address}/tiny-1.0-py3-none-any.whl\n"
            )
            fresh = Supervisor(store, make_runtime(supervisor.settings), supervisor.settings)
            thread = threading.Thread(target=handle, args=(fresh, one))
            thread.start()
            try:
                silent.settimeout(60)
                connection, _ = silent.accept()
                if how == "stop":
                    assert store.journal(one).decide(Kind.STOP_REQUESTED, "alice")
                else:
                    fresh.detach()
                thread.join(60)
                connection.close()
            finally:
                fresh.detach()
                thread.join(60)
                fresh.close()
        assert not thread.is_alive()
        assert left_behind(supervisor, tmp_path) == []
        assert store.journal(one).refresh().attempts[0].reason


def handle(supervisor: Supervisor, experiment: str) -> None:
    with suppress(Detached):
        supervisor.handle(experiment)


def silent_host(supervisor: Supervisor) -> str:
    """An address of this host that an installation reaches."""
    if supervisor.runtime.name == "process":
        return "127.0.0.1"
    return docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}").strip()


def test_a_workspace_is_fetched_once_by_a_host(supervisor: Supervisor, store: Store, tmp_path: Path) -> None:
    first, second = (submit(store, tmp_path, "print(1)") for _ in range(2))
    assert record(supervisor, first)["status"] == "finished"
    (blob,) = (tmp_path / "store" / "blobs").iterdir()
    blob.unlink()
    assert record(supervisor, second)["status"] == "finished"
    assert read_log(store, second) == b"1\n"


@pytest.mark.docker
class TestWhatIsNotOursStays:
    @pytest.mark.parametrize("supervisor", ["docker"], indirect=True)
    def test_however_much_it_looks_like_it(self, supervisor: Supervisor, store: Store, tmp_path: Path) -> None:
        home, mark = supervisor.settings.home, uuid.uuid4().hex[:12]
        label = DockerOptions(home=home).home_label
        foreign = [home / "run" / "notes", home / "run" / "1", home / "run" / new_id() / "1", home / "cache" / "apt"]
        foreign += [
            home / "environments.partial",
            home / "cache" / "apt" / "archives.partial",
            home / "run" / "x" / "1",
        ]
        for path in foreign:
            path.mkdir(parents=True, exist_ok=True)
            (path / "mine").touch()
        containers = [
            docker("create", "--name", f"studio-{new_id()}-1", need_image(), "true").strip(),
            docker("create", "--name", f"studio-install-{label}-{mark}", need_image(), "true").strip(),
            docker("create", "--label", f"studio.home={label}0", need_image(), "true").strip(),
            docker("create", "--label", f"studio={label}", need_image(), "true").strip(),
        ]
        docker("volume", "create", f"studio-{mark}")
        docker("network", "create", f"studio-{mark}")
        try:
            assert record(supervisor, submit(store, tmp_path, "print(1)"))["status"] == "finished"
            tight = Janitor(supervisor)
            tight._trimmer._limit_bytes = 0
            for _ in range(2):
                tight.make_round()
            assert all((path / "mine").exists() for path in foreign)
            assert set(containers) <= set(docker("ps", "--all", "--quiet", "--no-trunc").split())
            assert networks_and_volumes().count(f"studio-{mark}") == 2
            assert not list((home / "cache" / "workspaces").iterdir())
        finally:
            docker("rm", "--force", *containers)
            docker("volume", "rm", f"studio-{mark}")
            docker("network", "rm", f"studio-{mark}")
