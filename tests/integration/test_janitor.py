"""The janitor on real files, processes and containers: what goes, and above all what stays."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from runtime_bench import Bench
from studio import alive, environment, quick_settings, submit, wait_for
from test_runtime_docker import docker

from studio_celery.experiment import Status, new_id
from studio_celery.janitor import Janitor
from studio_celery.journal import Kind
from studio_celery.locks import locked
from studio_celery.runtimes import directory, make_runtime
from studio_celery.runtimes.contract import Launch
from studio_celery.runtimes.docker import DockerRuntime
from studio_celery.runtimes.process import INSTALLING
from studio_celery.store import Store
from studio_celery.supervisor import Supervisor

#: A worker that died long ago.
DEAD = "{host}-0badcafe"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def supervisor(tmp_path: Path, store: Store) -> Iterator[Supervisor]:
    settings = quick_settings(tmp_path / "home", forget_seconds=60.0)
    one = Supervisor(store, make_runtime(settings), settings)
    yield one
    one.detach()
    one.close()


@pytest.fixture
def janitor(supervisor: Supervisor) -> Janitor:
    return Janitor(supervisor)


def dead_worker(supervisor: Supervisor) -> str:
    """A worker of this host that has certainly ended: its lock file is there, and free."""
    worker_id = DEAD.format(host=supervisor.identity.host)
    (supervisor.settings.home / "run" / "workers" / f"{worker_id}.lock").touch()
    return worker_id


def claimed(supervisor: Supervisor, folder: Path, worker: str, host: str | None = None) -> Path:
    """The directory of an attempt that a worker claimed and began to prepare."""
    one = submit(supervisor.store, folder, "print(1)")
    journal = supervisor.store.journal(one)
    journal.refresh()
    assert journal.decide(Kind.CLAIMED, worker, attempt=1, host=host or supervisor.identity.host)
    attempt = supervisor.settings.home / "run" / one / "1"
    (attempt / "workspace").mkdir(parents=True)
    (attempt / "workspace.tar.gz").write_bytes(b"half")
    return attempt


def end(store: Store, attempt: Path) -> None:
    """Let the experiment end elsewhere."""
    journal = store.journal(attempt.parent.name)
    journal.refresh()
    assert journal.decide(Kind.LOST, "w2", attempt=1, reason="test")
    assert journal.decide(Kind.FAILED, "w2", reason="test")


class TestDirectories:
    def test_that_a_killed_worker_prepared_go(self, supervisor: Supervisor, janitor: Janitor, tmp_path: Path) -> None:
        attempt = claimed(supervisor, tmp_path, dead_worker(supervisor))
        janitor.make_round()
        assert not attempt.exists()
        assert attempt.parent.exists()
        end(supervisor.store, attempt)
        janitor.make_round()
        assert not attempt.parent.exists()

    def test_of_this_very_process_go_if_it_has_them_not_in_hand(
        self, supervisor: Supervisor, janitor: Janitor, tmp_path: Path
    ) -> None:
        attempt = claimed(supervisor, tmp_path, supervisor.identity.id)
        with supervisor.charge.take(attempt.parent.name):
            janitor.make_round()
            assert attempt.exists()
        janitor.make_round()
        assert not attempt.exists()

    def test_of_another_host_stay(self, supervisor: Supervisor, janitor: Janitor, tmp_path: Path) -> None:
        attempt = claimed(supervisor, tmp_path, dead_worker(supervisor), host="elsewhere")
        end(supervisor.store, attempt)
        janitor.make_round()
        assert (attempt / "workspace.tar.gz").exists()

    def test_of_an_experiment_that_this_store_does_not_know_stay(
        self, supervisor: Supervisor, janitor: Janitor
    ) -> None:
        attempt = supervisor.settings.home / "run" / new_id() / "1"
        attempt.mkdir(parents=True)
        janitor.make_round()
        assert attempt.exists()

    def test_that_another_runtime_may_use_stay(self, supervisor: Supervisor, janitor: Janitor, tmp_path: Path) -> None:
        attempt = claimed(supervisor, tmp_path, dead_worker(supervisor))
        directory.make(attempt, "docker 7f3a")
        janitor.make_round()
        assert attempt.exists()
        directory.make(attempt, supervisor.runtime.site())
        janitor.make_round()
        assert not attempt.exists()

    def test_behind_a_link_stay(self, supervisor: Supervisor, janitor: Janitor, tmp_path: Path) -> None:
        attempt = claimed(supervisor, tmp_path, dead_worker(supervisor))
        elsewhere = attempt.parent.rename(tmp_path / "elsewhere")
        attempt.parent.symlink_to(elsewhere)
        janitor.make_round()
        assert (elsewhere / "1" / "workspace.tar.gz").exists()

    def test_of_what_still_runs_stay(self, supervisor: Supervisor, janitor: Janitor, tmp_path: Path) -> None:
        attempt = claimed(supervisor, tmp_path, dead_worker(supervisor))
        (attempt / "workspace" / "script.py").write_text("import time; time.sleep(600)")
        identity = {"experiment_id": attempt.parent.name, "attempt": 1, "epoch": 3, "worker": dead_worker(supervisor)}
        launch = Launch(argv=("script.py",), directory=attempt, **identity)  # type: ignore[arg-type]
        supervisor.runtime.prepare(launch, lambda text: None, lambda: False)
        handle = supervisor.runtime.start(launch)
        janitor.make_round()
        assert attempt.exists()
        assert alive(int(handle.ref))
        supervisor.runtime.stop(handle, 0)
        supervisor.runtime.remove(handle)
        janitor.make_round()
        assert not attempt.exists()

    def test_two_janitors_at_once_do_no_harm(self, supervisor: Supervisor, tmp_path: Path) -> None:
        dead = dead_worker(supervisor)
        attempts = [claimed(supervisor, tmp_path, dead) for _ in range(20)]
        for attempt in attempts:
            for n in range(50):
                (attempt / "workspace" / str(n)).mkdir()
        with ThreadPoolExecutor(4) as janitors:
            rounds = [janitors.submit(Janitor(supervisor)._leftovers.clear) for _ in range(4)]
        for each in rounds:
            each.result()
        assert not any(attempt.exists() for attempt in attempts)


def test_what_a_living_worker_of_this_host_prepares_stays(
    supervisor: Supervisor, janitor: Janitor, store: Store, tmp_path: Path
) -> None:
    """The other worker installs requirements from an index that does not answer, is watched, and then killed."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/tiny-1.0-py3-none-any.whl"
        one = submit(store, tmp_path, "print(1)", requirements=f"tiny @ {url}\n")
        with start_worker(tmp_path, store, one) as worker:
            cache = tmp_path / "home" / "cache"
            partial = wait_for("the installation", lambda: next(cache.glob("environments/*.partial"), None))
            marker = f"{INSTALLING}={partial}".encode()
            # Until uv asks for the package: the process before it, which makes the environment, ends by itself.
            silent.settimeout(60)
            asking, _ = silent.accept()
            with asking:
                for _ in range(3):
                    janitor.make_round()
                assert (tmp_path / "home" / "run" / one / "1" / "workspace").exists()
                assert partial.exists()
                assert processes_with(marker)
                worker.kill()
                worker.wait()
                assert processes_with(marker)
                janitor.make_round()
    assert not processes_with(marker)
    assert not list(cache.glob("*/*.partial"))
    assert not list(cache.glob("environments/*"))
    assert not (tmp_path / "home" / "run" / one / "1").exists()


def processes_with(marker: bytes) -> list[str]:
    """Living processes that have this in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marker + b"\0" in path.read_bytes() and alive(int(path.parent.name)):
                found.append(path.parent.name)
        except OSError:
            continue
    return found


WORKER = """
import sys
from studio_celery import settings
from studio_celery.runtimes import make_runtime
from studio_celery.store import Store
from studio_celery.supervisor import Supervisor
options = settings.load()
supervisor = Supervisor(Store({store!r}), make_runtime(options), options)
supervisor.handle({experiment!r})
"""


@contextmanager
def start_worker(tmp_path: Path, store: Store, experiment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process without a broker that looks after one experiment, and is dead in the end."""
    code = WORKER.format(store=store.url, experiment=experiment)
    variables = {**os.environ, **environment(tmp_path / "home", runtime="process", gpus="none")}
    with subprocess.Popen([sys.executable, "-c", code], env=variables) as worker:
        try:
            yield worker
        finally:
            worker.kill()


class TestWorkers:
    def test_that_were_silent_for_long_are_forgotten(
        self, supervisor: Supervisor, janitor: Janitor, store: Store
    ) -> None:
        dead = dead_worker(supervisor)
        for worker_id, seconds in ((dead, 100), ("other-00000001", 0)):
            store.write_worker(worker_id, {})
            path = Path(store.url) / "workers" / f"{worker_id}.json"
            os.utime(path, (time.time() - seconds, time.time() - seconds))
        lock = supervisor.settings.home / "run" / "workers" / f"{dead}.lock"
        janitor.make_round()
        assert list(store.worker_times()) == ["other-00000001"]
        os.utime(lock, (1, 1))
        janitor.make_round()
        assert not lock.exists()

    def test_keep_their_lock_files_while_they_live_or_something_of_them_is_left(
        self, supervisor: Supervisor, janitor: Janitor, tmp_path: Path
    ) -> None:
        dead = dead_worker(supervisor)
        attempt = claimed(supervisor, tmp_path, dead)
        directory.make(attempt, "docker 7f3a")  # so that it stays
        locks = supervisor.settings.home / "run" / "workers"
        (locks / "door-07.lock").touch()
        for path in locks.iterdir():
            os.utime(path, (1, 1))
        janitor.make_round()
        names = {path.name for path in locks.iterdir()}
        assert names == {f"{dead}.lock", f"{supervisor.identity.id}.lock", "door-07.lock", "janitor.lock"}
        assert supervisor.identity.is_gone(dead, supervisor.identity.host)

    def test_that_begin_right_now_keep_theirs(self, supervisor: Supervisor, janitor: Janitor) -> None:
        path = supervisor.settings.home / "run" / "workers" / "host-12345678.lock"
        path.touch()
        janitor.make_round()
        assert path.exists()


def test_what_a_script_made_unwritable_goes_too(tmp_path: Path) -> None:
    """Root may remove everything, so this is tried as nobody."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom studio_celery.runtimes import directory\n"
        "attempt = Path(sys.argv[1]) / '1'\n(attempt / 'workspace/a/b').mkdir(parents=True)\n"
        "(attempt / 'workspace/a/b/file').touch()\n(attempt / 'workspace/link').symlink_to(sys.argv[2])\n"
        "(attempt / 'workspace/a/b').chmod(0)\n(attempt / 'workspace/a').chmod(0o500)\n"
        "directory.remove(attempt)\nsys.exit(attempt.exists())\n"
    )
    home, other = tmp_path / "home", tmp_path / "other"
    for path in (home, other):
        path.mkdir()
        path.chmod(0o777)
    for path in tmp_path.parents:
        if path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    tmp_path.chmod(0o755)
    argv = [sys.executable, "-c", code, str(home), str(other)]
    if os.geteuid() == 0:
        argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *argv]
        if subprocess.run([*argv[:5], "-c", "import studio_celery"], capture_output=True).returncode:
            pytest.skip("nobody may not use this checkout's Python")
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert other.is_dir()


@pytest.mark.docker
class TestContainers:
    def test_of_installations_that_nobody_waits_for_go(self, docker_bench: Bench) -> None:
        runtime = docker_bench.make()
        assert isinstance(runtime, DockerRuntime)
        home = runtime.options.home_label
        label = f"label=studio.install={home}"
        ours = installer(runtime.options.image, home, "k1")
        bystanders = [
            installer(runtime.options.image, "0123456789abcdef", "k1"),
            docker("create", runtime.options.image, "sleep", "600").strip(),
        ]
        try:
            with locked(installing(docker_bench, "k1"), lambda: None, lambda: False):
                runtime.tidy()
                assert docker("ps", "--all", "--quiet", "--no-trunc", "--filter", label).split() == [ours]
            runtime.tidy()
            assert docker("ps", "--all", "--quiet", "--filter", label) == ""
            assert list((docker_bench.home / "cache").glob("*/*")) == []
            known = docker("ps", "--all", "--quiet", "--no-trunc").split()
            assert set(bystanders) <= set(known)
        finally:
            docker("rm", "--force", ours, *bystanders)


def installer(image: str, home: str, key: str) -> str:
    """A container like those that install requirements, which runs; its id."""
    labels = ("--label", f"studio.install={home}", "--label", f"studio.environment={key}")
    return docker("run", "--detach", *labels, image, "sleep", "600").strip()


def installing(bench: Bench, key: str) -> Path:
    """The lock of an environment that is being installed."""
    (bench.home / "cache" / "environments" / f"{key}.partial").mkdir(parents=True)
    return bench.home / "cache" / "environments" / f"{key}.lock"


def test_a_round_says_what_cannot_be_done_and_goes_on(
    supervisor: Supervisor, janitor: Janitor, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = quick_settings(tmp_path / "home", runtime="docker")
    away = DockerRuntime.from_settings(settings)
    away._engine = type(away._engine)("unix:///nowhere/docker.sock", {})
    supervisor.runtime = away
    one = submit(store, tmp_path, "print(1)", lifetime_seconds=0.001)
    time.sleep(0.05)
    Janitor(supervisor).make_round()
    assert store.journal(one).refresh().status is Status.EXPIRED
    assert "does not answer" in caplog.text


def test_it_makes_rounds_from_the_start_on_and_ends_in_order(supervisor: Supervisor, tmp_path: Path) -> None:
    janitor = Janitor(supervisor)
    attempt = claimed(supervisor, tmp_path, dead_worker(supervisor))
    janitor.start()
    wait_for("the first round", lambda: not attempt.exists())
    janitor.stop()
    assert not janitor._thread.is_alive()
