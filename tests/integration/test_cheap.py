"""What an attempt costs besides itself: questions to engine and store. `benchmarks/attempts.py` measures the times."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from docker_engine import need_engine, need_image
from runtime_bench import Bench
from studio import quick_settings, submit, wait_for

from studio_celery.runtimes import make_runtime
from studio_celery.runtimes.docker import DockerRuntime
from studio_celery.store import Objects, Store
from studio_celery.supervisor import Supervisor

#: Everything that asks the store.
STORE_METHODS = ("create", "put", "get_dated", "get_range", "stream", "head", "listing", "folders", "delete")
SLEEP = "import time; time.sleep(600)"


@pytest.fixture
def engine_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by each question that the engine is asked."""
    calls: list[str] = []
    send = requests.Session.send

    def counted(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        calls.append(f"{request.method} {request.path_url.partition('?')[0]}")
        return send(session, request, **options)

    monkeypatch.setattr(requests.Session, "send", counted)
    return calls


@pytest.fixture
def store_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by each question that the store is asked."""
    calls: list[str] = []

    def counted(name: str) -> None:
        method = getattr(Objects, name)

        def call(*args: Any, **options: Any) -> Any:
            calls.append(f"{name} {args[1]}")
            return method(*args, **options)

        monkeypatch.setattr(Objects, name, call)

    for name in STORE_METHODS:
        counted(name)
    return calls


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    """A worker with containers, whose heartbeats come too seldom to be counted."""
    monkeypatch.setenv("DOCKER_HOST", need_engine())
    settings = quick_settings(tmp_path / "home", runtime="docker", image=need_image(), heartbeat_seconds=60.0)
    one = Supervisor(Store(str(tmp_path / "store")), make_runtime(settings), settings)
    yield one
    one.detach()
    one.close()


@pytest.mark.docker
def test_a_start_asks_engine_and_store_little(
    supervisor: Supervisor, tmp_path: Path, engine_calls: list[str], store_calls: list[str]
) -> None:
    def started(experiment: str) -> tuple[list[str], list[str]]:
        """Run one; what was asked until its container was started."""
        engine_calls.clear()
        store_calls.clear()
        assert supervisor.handle(experiment)
        begun = next(n for n, call in enumerate(engine_calls) if call.endswith("/start"))
        entry = next(n for n, call in enumerate(store_calls) if call.startswith("create") and "0004.json" in call)
        return engine_calls[: begun + 1], store_calls[:entry]

    first, second = (submit(supervisor.store, tmp_path, "print(1)") for _ in range(2))
    started(first)
    engine, store = started(second)
    assert len(engine) <= 12, engine
    assert not any(call.endswith(("/info", "/version")) for call in engine), engine
    assert len(store) <= 25, store
    assert not any("blobs/" in call for call in store), store


@pytest.mark.docker
def test_attempts_that_run_are_looked_at_together(docker_bench: Bench, engine_calls: list[str]) -> None:
    runtime = docker_bench.make()
    assert isinstance(runtime, DockerRuntime)
    runtime._census._valid_seconds = 600
    handles = [docker_bench.start(SLEEP) for _ in range(3)]
    engine_calls.clear()
    for _ in range(10):
        assert [runtime.poll(handle) for handle in handles] == [None] * 3
    assert [call for call in engine_calls if not call.endswith("/version")] == [
        f"GET {engine_calls[-1].partition(' ')[2]}"
    ]
    runtime.stop(handles[0], 0)
    assert wait_for("its end", lambda: runtime.poll(handles[0]))
    assert runtime.poll(handles[1]) is None


def test_one_that_runs_asks_the_store_for_its_heartbeats_only(tmp_path: Path, store_calls: list[str]) -> None:
    settings = quick_settings(tmp_path / "home", heartbeat_seconds=60.0)
    supervisor = Supervisor(Store(str(tmp_path / "store")), make_runtime(settings), settings)
    gate = tmp_path / "gate"
    one = submit(
        supervisor.store, tmp_path, f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.02)\n"
    )
    thread = threading.Thread(target=supervisor.handle, args=(one,))
    thread.start()
    try:
        journal = Store(str(tmp_path / "store")).journal(one)
        wait_for("the start", lambda: journal.refresh().live and journal.state.live.started_at)

        def asked() -> list[str]:
            before = len(store_calls)
            time.sleep(0.3)  # not a wait: the time that is watched, thirty looks of its owner
            return store_calls[before:]

        # What a start still asks comes first, on a busy machine later than its entry.
        wait_for(f"quiet, not {store_calls}", lambda: len(asked()) <= 3, 30)
    finally:
        gate.touch()
        thread.join(60)
        supervisor.detach()
        supervisor.close()
