"""What only containers do: limits, cards, users, images. A real engine; a registry of our own where one is needed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from docker_engine import IMAGE, SCRIPTS, cards_directory, missing, need_engine, need_image
from runtime_bench import Bench, wait_for_output

from studio_celery.cache import Cache
from studio_celery.errors import EngineUnavailable, ImageNotFound, RuntimeFailure
from studio_celery.experiment import Resources
from studio_celery.runtimes import installer
from studio_celery.runtimes.contract import Cancellation, Exit, Handle
from studio_celery.runtimes.docker import DockerOptions, DockerRuntime
from studio_celery.runtimes.docker.images import RegistryUnavailable

pytestmark = pytest.mark.docker

SLEEP = "import time\nprint('ready')\ntime.sleep(600)\n"


def docker(*arguments: str, host: str | None = None) -> str:
    """Ask the engine by the docker command: an observer of its own."""
    command = ["docker", "--host", host or need_engine(), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def inspect(handle: Handle) -> dict[str, Any]:
    facts: list[dict[str, Any]] = json.loads(docker("inspect", handle.ref))
    return facts[0]


def with_options(bench: Bench, **changes: Any) -> Callable[[], DockerRuntime]:
    """A maker of runtimes with other options."""
    runtime = bench.make()
    assert isinstance(runtime, DockerRuntime)
    options = dataclasses.replace(runtime.options, **changes)
    return lambda: DockerRuntime(options)


class TestLimits:
    def test_memory_beyond_the_limit_is_told(self, docker_bench: Bench) -> None:
        source = "kept = [bytearray(b'x' * 2**20) for _ in range(512)]"
        exit, _ = docker_bench.run(source, resources=Resources(memory_bytes=64 * 2**20))
        assert exit == Exit(signal=signal.SIGKILL, out_of_memory=True)

    def test_a_child_that_is_killed_for_its_memory_explains_the_failure(self, docker_bench: Bench) -> None:
        source = """
            import os, sys
            if os.fork() == 0:
                kept = [bytearray(b'x' * 2**20) for _ in range(512)]
            sys.exit(1 if os.wait()[1] else 0)
        """
        exit, _ = docker_bench.run(textwrap.dedent(source), resources=Resources(memory_bytes=64 * 2**20))
        assert exit == Exit(exit_code=1, out_of_memory=True)

    def test_everything_asked_for_is_set(self, docker_bench: Bench) -> None:
        asked = Resources(cpus=0.5, memory_bytes=256 * 2**20, shm_bytes=96 * 2**20)
        source = "import os\ns = os.statvfs('/dev/shm')\nprint(s.f_blocks * s.f_frsize)\n" + SLEEP
        handle = docker_bench.start(source, resources=asked)
        config = inspect(handle)["HostConfig"]
        assert (config["Memory"], config["MemorySwap"]) == (asked.memory_bytes, asked.memory_bytes)
        assert config["NanoCpus"] == 500_000_000
        wait_for_output(handle, b"%d\nready\n" % (96 * 2**20))

    def test_processes_are_limited(self, docker_bench: Bench) -> None:
        docker_bench.make = with_options(docker_bench, pids=20)
        source = """
            import os, time
            try:
                for number in range(100):
                    if os.fork() == 0:
                        time.sleep(600)
            except BlockingIOError:
                print(number < 20)
        """
        assert docker_bench.run(textwrap.dedent(source)) == (Exit(exit_code=0), b"True\n")

    def test_what_no_attempt_can_have_here_is_refused(self, docker_bench: Bench) -> None:
        runtime = docker_bench.make()
        assert runtime.refuses(Resources(cpus=0.5, memory_bytes=2**27)) is None
        assert "CPUs" in (runtime.refuses(Resources(cpus=100_000)) or "")
        assert "memory" in (runtime.refuses(Resources(memory_bytes=2**60)) or "")
        assert "memory" in (runtime.refuses(Resources(memory_bytes=1024)) or "")


class TestIsolation:
    def test_the_script_has_no_rights(self, docker_bench: Bench) -> None:
        source = "print(*[line for line in open('/proc/self/status') if line.startswith(('Cap', 'NoNew', 'Uid'))])"
        _, output = docker_bench.run(source)
        values = dict(line.split(":", 1) for line in output.decode().split("\n") if line.strip())
        rights = {name.strip(): value.split()[0] for name, value in values.items()}
        expected_uid = "65534" if os.getuid() == 0 else str(os.getuid())
        assert rights.pop("NoNewPrivs") == "1"
        assert rights.pop("Uid") == expected_uid
        assert set(rights.values()) == {"0" * 16}

    def test_what_it_writes_is_its_users(self, docker_bench: Bench) -> None:
        docker_bench.make = with_options(docker_bench, user="1234:1235") if os.getuid() == 0 else docker_bench.make
        handle = docker_bench.start("import os\nopen('made', 'w').close()\nprint(os.environ['HOME'])")
        docker_bench.end(handle)
        made = (handle.directory / "workspace" / "made").stat()
        expected = (1234, 1235) if os.getuid() == 0 else (os.getuid(), os.getgid())
        assert (made.st_uid, made.st_gid) == expected

    def test_shim_and_environment_are_read_only(self, docker_bench: Bench) -> None:
        source = """
            import os, tiny
            for path in (tiny.__file__, "/studio/shim.py", "/workspace"):
                print(bool(os.statvfs(path).f_flag & os.ST_RDONLY))
        """
        _, output = docker_bench.run(textwrap.dedent(source), requirements="tiny\n")
        assert output.split() == [b"True", b"True", b"False"]

    def test_the_host_is_not_inside(self, docker_bench: Bench) -> None:
        handle = docker_bench.start(SLEEP)
        facts = inspect(handle)
        inside = {mount["Destination"] for mount in facts["Mounts"]}
        assert inside == {"/workspace", "/studio/artifacts", "/studio/home", "/studio/io", "/studio/shim.py"}
        assert facts["HostConfig"]["Privileged"] is False
        assert facts["Config"]["Labels"]["studio.experiment"] == handle.experiment_id

    def test_installed_programs_are_on_the_path(self, docker_bench: Bench) -> None:
        source = "import shutil, sys\nprint(shutil.which('python'), sys.executable)"
        _, output = docker_bench.run(source, requirements="tiny\n")
        assert output.split() == [b"/opt/studio/environment/bin/python"] * 2


class TestCards:
    @pytest.fixture
    def records(self) -> Path:
        """Where the stand-in for NVIDIA's hook writes."""
        directory = cards_directory(need_engine())
        if directory is None:
            missing("the engine was not started by scripts/docker-engine, so it has no stand-in for NVIDIA's hook")
        assert directory is not None
        return directory

    def given(self, records: Path, handle: Handle) -> list[str]:
        """What the hook was told: the values of the variable in the container's configuration."""
        config = json.loads((records / handle.ref / "config.json").read_text())
        name = "NVIDIA_VISIBLE_DEVICES="
        return [value.removeprefix(name) for value in config["process"]["env"] if value.startswith(name)]

    def test_exactly_the_reserved_ones_are_given(self, docker_bench: Bench, records: Path) -> None:
        wanted = {"NVIDIA_VISIBLE_DEVICES": "all", "CUDA_VISIBLE_DEVICES": "7"}
        image = f"{IMAGE.partition(':')[0]}:all-cards"
        container = docker("create", need_image())
        docker("commit", "--change", "ENV NVIDIA_VISIBLE_DEVICES=all", container, image)
        docker("rm", container)
        source = "import os\nprint(os.environ['NVIDIA_VISIBLE_DEVICES'], os.environ.get('CUDA_VISIBLE_DEVICES'))"
        try:
            handle = docker_bench.start(source, image=image, environment=wanted, cards=("1", "GPU-5"))
            docker_bench.end(handle)
            none = docker_bench.start(source, image=image, environment=wanted)
            docker_bench.end(none)
            docker_bench.clear()
        finally:
            docker("rmi", image)
        assert (records / handle.ref / "arguments").read_text() == "prestart\n"
        assert set(self.given(records, handle)) == {"1,GPU-5"}
        assert handle.log.read_bytes() == b"1,GPU-5 None\n"
        assert not (records / none.ref).exists()
        assert none.log.read_bytes() == b"void None\n"

    def test_are_known_after_a_restart(self, docker_bench: Bench, records: Path) -> None:
        docker_bench.start(SLEEP, cards=("0", "2"))
        (found,) = docker_bench.make().find()
        assert found.cards == ("0", "2")


class TestImages:
    @pytest.fixture
    def registry(self) -> Iterator[tuple[str, threading.Event]]:
        """A registry that has nothing; it answers as soon as the event is set."""
        answering = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answering.wait(30)
                body = b"{}" if self.path == "/v2/" else b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}'
                self.send_response(200 if self.path == "/v2/" else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *arguments: object) -> None:
                return

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}", answering
        answering.set()
        server.shutdown()
        thread.join()
        server.server_close()

    def test_that_do_not_exist_fail_with_the_registrys_reason(
        self, docker_bench: Bench, registry: tuple[str, threading.Event]
    ) -> None:
        address, answering = registry
        answering.set()
        launch = docker_bench.launch(SLEEP, image=f"{address}/nothing/here:7")
        with pytest.raises(ImageNotFound, match=r"^image not found: .*/nothing/here:7 .*manifest") as caught:
            docker_bench.prepare(launch)
        assert caught.value.release_class is None
        assert "\n" not in str(caught.value)

    def test_of_a_registry_that_is_down_are_another_workers_chance(self, docker_bench: Bench) -> None:
        launch = docker_bench.launch(SLEEP, image="127.0.0.1:9/nothing:7")
        with pytest.raises(RegistryUnavailable, match="connection refused") as caught:
            docker_bench.prepare(launch)
        assert caught.value.release_class == "engine"

    def test_with_an_impossible_name_do_not_exist(self, docker_bench: Bench) -> None:
        with pytest.raises(ImageNotFound):
            docker_bench.prepare(docker_bench.launch(SLEEP, image="No Such:Image:"))

    def test_are_not_waited_for_when_nobody_wants_them(
        self, docker_bench: Bench, registry: tuple[str, threading.Event]
    ) -> None:
        launch = docker_bench.launch(SLEEP, image=f"{registry[0]}/slow:1")
        with pytest.raises(Cancellation):
            docker_bench.make().prepare(launch, docker_bench.progress.append, lambda: True)
        assert docker_bench.progress == [f"pulling {registry[0]}/slow:1"]

    def test_that_take_too_long_are_another_workers_chance(
        self, docker_bench: Bench, registry: tuple[str, threading.Event]
    ) -> None:
        docker_bench.make = with_options(docker_bench, pull_limit_seconds=0.1)
        with pytest.raises(RegistryUnavailable, match="took longer"):
            docker_bench.prepare(docker_bench.launch(SLEEP, image=f"{registry[0]}/slow:2"))

    def test_without_python_say_so_in_the_log(self, docker_bench: Bench, tmp_path: Path) -> None:
        image = f"{IMAGE.partition(':')[0]}:empty"
        (tmp_path / "file").touch()
        subprocess.run(["tar", "-cf", tmp_path / "empty.tar", "-C", tmp_path, "file"], check=True)
        docker("import", str(tmp_path / "empty.tar"), image)
        try:
            exit, output = docker_bench.run(SLEEP, image=image)
            docker_bench.clear()
        finally:
            docker("rmi", image)
        assert exit == Exit(exit_code=127)
        assert output.startswith(b"[studio] The script could not be run: ")
        assert output.count(b"python3 failed: No such file or directory") == 1


class TestInstalling:
    def test_that_nobody_wants_any_more_leaves_no_container(self, docker_bench: Bench) -> None:
        runtime = docker_bench.make()
        assert isinstance(runtime, DockerRuntime)
        label = f"label=studio.install={runtime.options.home_label}"
        seen: list[str] = []

        def cancelled() -> bool:
            seen.extend(docker("ps", "--all", "--quiet", "--filter", label).split())
            return bool(seen)

        source = f"tiny\n{'# long' * 9}\nnever @ http://127.0.0.1:{os.getpid() % 1000 + 20000}/never.whl\n"
        launch = docker_bench.launch(SLEEP, requirements=source)
        with pytest.raises((Cancellation, RuntimeFailure)):
            runtime.prepare(launch, docker_bench.progress.append, cancelled)
        assert docker("ps", "--all", "--quiet", "--filter", label) == ""

    def test_uses_a_uv_that_runs_in_any_image(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path)
        with ExitStack() as held:
            binary = installer.container_uv(cache, dict(os.environ), lambda: False, held)
        if not binary.is_relative_to(tmp_path):
            missing("no package index that has uv answers")
        assert b"/ld-linux" not in binary.read_bytes()[:65536]
        assert subprocess.run([binary, "--version"], capture_output=True).returncode == 0
        with ExitStack() as held:
            assert installer.container_uv(cache, {}, lambda: True, held) == binary
            assert not cache.place("tools", binary.parent.name).discard()
        assert [path.name for path in cache.root.glob("*/*") if path.suffix == ".partial"] == []


class TestEnds:
    def test_a_removed_container_is_lost(self, docker_bench: Bench) -> None:
        handle = docker_bench.start(SLEEP)
        docker("rm", "--force", handle.ref)
        assert docker_bench.make().poll(handle) == Exit(lost="the container was removed")
        docker_bench.make().stop(handle, 5)

    def test_a_container_killed_by_hand_is_killed(self, docker_bench: Bench) -> None:
        handle = docker_bench.start(SLEEP)
        docker("kill", handle.ref)
        assert docker_bench.end(handle) == Exit(signal=signal.SIGKILL)

    def test_a_container_that_was_never_started_is_lost(self, docker_bench: Bench) -> None:
        handle = docker_bench.start(SLEEP)
        labels = [f"--label={name}={value}" for name, value in inspect(handle)["Config"]["Labels"].items()]
        docker_bench.make().remove(handle)
        created = docker("create", *labels, need_image())
        (found,) = docker_bench.make().find()
        assert found.ref == created
        assert docker_bench.make().poll(found) == Exit(lost="the container was never started")

    def test_another_home_does_not_see_it(self, docker_bench: Bench, tmp_path: Path) -> None:
        handle = docker_bench.start(SLEEP)
        (tmp_path / "other").mkdir()
        other = with_options(docker_bench, home=tmp_path / "other")
        assert other().find() == []
        launch = docker_bench.launch(SLEEP, experiment_id=handle.experiment_id)
        with pytest.raises(RuntimeFailure, match="in use"):
            other().start(launch)

    def test_a_dead_engine_is_one_sentence(self, tmp_path: Path) -> None:
        runtime = DockerRuntime(DockerOptions(home=tmp_path, host=f"unix://{tmp_path}/docker.sock"))
        handle = Handle("e", 1, "w", tmp_path, "abc")
        for call in (runtime.check, runtime.find, lambda: runtime.poll(handle), lambda: runtime.stop(handle, 1)):
            with pytest.raises(EngineUnavailable, match="No such file or directory") as caught:
                call()
            assert "\n" not in str(caught.value)
        assert runtime.refuses(Resources(cpus=100_000)) is None


class TestRestartedEngine:
    @pytest.fixture
    def own_engine(self) -> Iterator[tuple[str, Callable[[str], None]]]:
        """An engine of its own, with the image, and a way to stop and start it."""
        image = need_image()
        if os.getuid() != 0 or cards_directory(need_engine()) is None:
            missing("only root can start an engine of its own, and only where scripts/docker-engine can")
        directory = Path("/tmp") / f"studio-engine-{os.getpid()}"
        host = f"unix://{directory}/docker.sock"

        def engine(command: str) -> None:
            subprocess.run([SCRIPTS / "docker-engine", command, directory], check=True, capture_output=True)

        try:
            engine("own")
            save = subprocess.Popen(["docker", "--host", need_engine(), "save", image], stdout=subprocess.PIPE)
            with save:
                subprocess.run(["docker", "--host", host, "load"], stdin=save.stdout, check=True, capture_output=True)
            yield host, engine
        finally:
            engine("down")
            subprocess.run(["rm", "-rf", directory], check=True)

    def test_loses_what_it_took_down_and_fails_nothing(
        self, docker_bench: Bench, own_engine: tuple[str, Callable[[str], None]]
    ) -> None:
        host, engine = own_engine
        usual, docker_bench.make = docker_bench.make, with_options(docker_bench, host=host)
        handle = docker_bench.start(SLEEP)
        wait_for_output(handle, b"ready\n")
        engine("down")
        with pytest.raises(EngineUnavailable):
            docker_bench.make().poll(handle)
        engine("own")
        assert docker_bench.make().poll(handle) == Exit(lost="the Docker engine or the host was restarted")
        docker_bench.clear()
        docker_bench.make = usual
