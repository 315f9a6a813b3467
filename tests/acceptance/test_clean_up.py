"""Nothing is left behind: a worker is killed in each phase of an attempt, the next one starts, the experiment ends."""

from __future__ import annotations

import io
import json
import os
import subprocess
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from docker_engine import need_engine
from faulty_store import Fault, Faults
from processes import Studio
from remains import containers_of, processes_of
from studio import wait_for

from studio_celery.experiment import Status
from studio_celery.runtimes import make_runtime
from studio_celery.runtimes.docker import DockerRuntime
from studio_celery.runtimes.docker.engine import Engine
from studio_celery.settings import load

#: Files of a worker's own that stay: they are empty and few.
STAYS = ("door-", "janitor.lock")


@pytest.fixture
def cleaning(studio: Studio) -> Studio:
    """A studio with a quick janitor, and with a directory of its own for temporary files."""
    (studio.folder / "tmp").mkdir()
    studio.environ.update(STUDIO_JANITOR_SECONDS="0.5", STUDIO_FORGET_SECONDS="8", TMPDIR=str(studio.folder / "tmp"))
    studio.broker()
    return studio


def left_behind(studio: Studio) -> list[str]:
    """Everything that is neither a living worker's nor a finished thing in the cache."""
    found = [path.name for path in (studio.home / "run").iterdir() if path.name not in ("workers", "cards")]
    locks = [path.name for path in (studio.home / "run" / "workers").iterdir()]
    living = [f"{worker}.lock" for worker in studio.store.worker_times()]
    found += [name for name in locks if name not in living and not name.startswith(STAYS)]
    found += [str(path) for path in (studio.home / "cache").glob("*/*.partial")]
    found += [path.name for path in (studio.folder / "tmp").iterdir()]
    found += processes_of(studio) + containers_of(studio)
    return found if len(living) == 1 else [*found, f"{len(living)} workers are known"]


def ends_and_leaves_nothing(studio: Studio, experiment: str) -> dict[str, Any]:
    """Start the next worker; the record after the end, when nothing is left."""
    studio.worker("q")
    record = studio.ended(experiment)
    try:
        wait_for("the end of clean-up", lambda: not left_behind(studio), 60)
    except AssertionError as exc:
        raise AssertionError(f"left behind: {left_behind(studio)}") from exc
    return record


@contextmanager
def killed_as_soon_as(studio: Studio, worker: subprocess.Popen[str], pattern: str) -> Iterator[None]:
    """Kill the worker at the very moment when an experiment has such a file in the store."""
    experiments, given_up = studio.home / "store" / "experiments", threading.Event()

    def watch() -> None:
        while not given_up.is_set():
            if next(experiments.glob(pattern), None):
                studio.kill(worker)
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
        watcher.join(60)
    finally:
        given_up.set()
        watcher.join()
    assert worker.poll() is not None, f"there was no {pattern}"


def test_a_worker_killed_right_after_its_claim(cleaning: Studio) -> None:
    worker = cleaning.worker("q")
    with killed_as_soon_as(cleaning, worker, "*/journal/000003.json"):
        experiment = cleaning.submit("--queue", "q", cleaning.script("print(1)"))
    record = ends_and_leaves_nothing(cleaning, experiment)
    assert record["status"] == "finished"
    assert len(record["attempts"]) in (1, 2)


def test_a_worker_killed_while_requirements_are_installed(cleaning: Studio) -> None:
    with package_server(reachable_host(cleaning)) as (url, answer):
        (cleaning.work / "requirements.txt").write_text(f"tiny @ {url}/tiny-1.0-py3-none-any.whl\n")
        worker = cleaning.worker("q")
        experiment = cleaning.submit("--queue", "q", cleaning.script("import tiny; print(tiny.ANSWER)"))
        wait_for("the installation", lambda: answer.asked.wait(0.1))
        assert list((cleaning.home / "cache").glob("environments/*.partial"))
        cleaning.kill(worker)
        assert [name for name in left_behind(cleaning) if name.startswith(("process", "container"))]
        answer.given.set()
        record = ends_and_leaves_nothing(cleaning, experiment)
    assert [a["status"] for a in record["attempts"]] == ["lost", "finished"]
    assert cleaning.log(experiment) == b"42\n"


def test_a_worker_killed_while_the_script_runs(cleaning: Studio) -> None:
    gate = "go"
    source = f"import os, time\nprint('runs', flush=True)\nwhile not os.path.exists('{gate}'): time.sleep(0.02)\n"
    worker = cleaning.worker("q")
    experiment = cleaning.submit("--queue", "q", cleaning.script(source))
    wait_for("its start", lambda: cleaning.status(experiment) is Status.RUNNING)
    cleaning.kill(worker)
    (handle,) = make_runtime(load(environ=cleaning.environ)).find()
    (handle.directory / "workspace" / gate).touch()
    record = ends_and_leaves_nothing(cleaning, experiment)
    assert [a["status"] for a in record["attempts"]] == ["finished"]


def test_a_worker_killed_while_artifacts_are_uploaded(cleaning: Studio) -> None:
    source = (
        "import os, pathlib\n"
        "for n in range(1500): pathlib.Path(os.environ['STUDIO_ARTIFACTS'], str(n)).write_bytes(b'x' * 1000)\n"
    )
    faults = Faults(cleaning.folder / "faults.json")
    faults.add(Fault("slow", method="put", key="*/artifacts/*", skip=100, times=1, seconds=600))  # until it is killed
    worker = cleaning.worker("q", **faults.variables())
    with killed_as_soon_as(cleaning, worker, "*/attempts/1/artifacts/output/*"):
        experiment = cleaning.submit("--queue", "q", cleaning.script(source))
    assert not cleaning.status(experiment).terminal
    record = ends_and_leaves_nothing(cleaning, experiment)
    assert [a["status"] for a in record["attempts"]] == ["finished"]
    assert record["artifacts"] == [{"tag": "output", "files": 1500, "bytes": 1_500_000}]


def test_a_worker_killed_again_and_again(process_studio: Studio) -> None:
    """Each time at another moment, with several experiments under way."""
    studio = process_studio
    (studio.folder / "tmp").mkdir()
    studio.environ.update(STUDIO_JANITOR_SECONDS="0.3", STUDIO_FORGET_SECONDS="8", TMPDIR=str(studio.folder / "tmp"))
    studio.broker()
    script = studio.script("import time; time.sleep(0.5); print('done')")
    ids = [studio.submit("--queue", "q", "--max-attempts", "50", script) for _ in range(4)]
    for number in range(6):
        worker = studio.worker("q", "--concurrency", "2")
        time.sleep(0.15 * number)  # not a wait: the moment of the kill
        studio.kill(worker)
    studio.worker("q")
    for experiment in ids:
        assert studio.ended(experiment)["status"] == "finished"
    wait_for("the end of clean-up", lambda: not left_behind(studio))


def test_removing_and_collecting(process_studio: Studio) -> None:
    studio = process_studio
    studio.broker()
    running = studio.submit("--queue", "q", studio.script("print(1)"))
    refused = studio.command("studio", "rm", running)
    assert refused.returncode == 2
    assert "is waiting: only what has ended can be removed" in refused.stderr
    studio.worker("q")
    studio.ended(running)
    done = studio.command("studio", "rm", "--json", running[:20])
    assert (done.returncode, json.loads(done.stdout)) == (0, [running]), done.stderr
    assert json.loads(studio.command("studio", "ls", "--json").stdout) == []
    for command in ("show", "logs", "rm", "artifacts"):
        again = studio.command("studio", command, running)
        assert (again.returncode, "was removed by" in again.stderr) == (2, True), again.stderr
    left = sorted(path.name for path in (studio.home / "store" / "experiments" / running).rglob("*") if path.is_file())
    assert left == [f"{n:06d}.json" for n in range(1, 7)]
    (blob,) = (studio.home / "store" / "blobs").iterdir()
    assert json.loads(studio.command("studio", "gc", "--json").stdout)["blobs"] == 0
    os.utime(blob, (1, 1))
    size = blob.stat().st_size
    assert f"1 workspaces would be removed ({size} B)" in studio.command("studio", "gc", "--dry-run").stdout
    assert blob.exists()
    report = json.loads(studio.command("studio", "gc", "--json").stdout)
    assert (report["blobs"], report["bytes"], report["dry_run"]) == (1, size, False)
    assert not blob.exists()
    assert studio.submit("--queue", "q", "script.py")
    assert blob.exists()


class Answer:
    """Whether the server was asked for the package, and may answer."""

    def __init__(self) -> None:
        self.asked, self.given = threading.Event(), threading.Event()


@contextmanager
def package_server(host: str) -> Iterator[tuple[str, Answer]]:
    """A server with one package, which it holds back until it may answer: its URL."""
    answer, wheel = Answer(), tiny_wheel()

    class Handler(BaseHTTPRequestHandler):
        def _head(self) -> None:
            answer.asked.set()
            answer.given.wait(300)
            self.send_response(200)
            self.send_header("Content-Length", str(len(wheel)))
            self.end_headers()

        def do_HEAD(self) -> None:
            self._serve(self._head)

        def do_GET(self) -> None:
            self._serve(lambda: (self._head(), self.wfile.write(wheel)))

        def _serve(self, act: Callable[[], object]) -> None:
            try:
                act()
            except OSError:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer((host, 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://{host}:{server.server_address[1]}", answer
    finally:
        answer.given.set()
        server.shutdown()
        server.server_close()
        thread.join()


def tiny_wheel() -> bytes:
    """A package with one module."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("tiny.py", "ANSWER = 42\n")
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr("tiny-1.0.dist-info/WHEEL", tags)
        archive.writestr("tiny-1.0.dist-info/RECORD", "tiny.py,,\n")
    return content.getvalue()


def reachable_host(studio: Studio) -> str:
    """An address of this host that installations can reach: from a container, the bridge's."""
    runtime = make_runtime(load(environ=studio.environ))
    if not isinstance(runtime, DockerRuntime):
        return "127.0.0.1"
    with Engine(need_engine(), os.environ)._client() as client:
        return str(client.api.inspect_network("bridge")["IPAM"]["Config"][0]["Gateway"])
