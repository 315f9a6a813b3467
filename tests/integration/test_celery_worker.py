"""Celery's own worker, as a real process, over the transport."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Connection
from studio import wait_for

import transports  # noqa: F401  registers the scheme
from transports.pubsub.link import links

#: Seconds for what must happen; workers take seconds to start on a busy machine.
LIMIT = 90.0
#: Seconds a worker that has nothing to do may take to stop: 2, five times over for a busy machine.
STOP_SECONDS = 10.0

APPLICATION = """
import os, time
import transports
from celery import Celery, Task
from transports.defer import defer

app = Celery("application", broker=os.environ["BROKER"], backend=os.environ["RESULTS"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"lease_floor_seconds": 2.25, "ack_deadline_seconds": 10},
)

def note(line):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(line + "\\n")

class Patient(Task):
    Request = "transports.defer:DeferrableRequest"

@app.task(name="add")
def add(x, y):
    return x + y

@app.task(name="again", bind=True)
def again(self):
    if self.request.retries < 2:
        raise self.retry(countdown=1)
    return self.request.retries

@app.task(name="parent")
def parent():
    return add.delay(2, 3).id

@app.task(name="work")
def work(name, seconds):
    note("begin " + name)
    time.sleep(seconds)
    note("end " + name)

@app.task(name="wait_twice", bind=True, base=Patient)
def wait_twice(self, name):
    note("try " + name)
    with open(os.environ["NOTES"]) as notes:
        if notes.read().count("try " + name) < 3:
            defer(self, 1)
    return self.request.retries
"""


class Studio:
    """Workers on one broker, their notes and results."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        self.notes_file = folder / "notes"
        self.notes_file.touch()
        (folder / "application.py").write_text(APPLICATION)
        (folder / "results").mkdir()
        root = Path(__file__).parents[2]
        self.environ = {
            **os.environ,
            "BROKER": f"pubsub://{address}/test-{uuid.uuid4().hex[:12]}",
            "RESULTS": f"file://{folder}/results",
            "NOTES": str(self.notes_file),
            "PYTHONPATH": str(root),
        }
        self.app = Celery(broker=self.environ["BROKER"], backend=self.environ["RESULTS"])

    @property
    def notes(self) -> list[str]:
        return self.notes_file.read_text().splitlines()

    def noted(self, line: str) -> None:
        wait_for(f"the note {line!r}", lambda: line in self.notes, LIMIT)

    def send(self, name: str, *args: Any, **options: Any) -> Any:
        return self.app.send_task(name, args, **options)

    def run(self, name: str, *args: Any) -> Any:
        return self.send(name, *args).get(timeout=LIMIT)

    @contextmanager
    def worker(self, pool: str, *, concurrency: int = 1) -> Iterator[subprocess.Popen[bytes]]:
        """A worker that is ready; killed with its children if it still runs at the end."""
        log = self.folder / f"{uuid.uuid4().hex}.log"
        command = [sys.executable, "-m", "celery", "-A", "application", "worker", "-P", pool, "-c", str(concurrency)]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "-n", f"{log.stem}@%h", "-l", "INFO"],
                cwd=self.folder,
                env=self.environ,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_for("a worker that is ready", lambda: self._is_ready(process, log), LIMIT)
            yield process
        finally:
            if process.poll() is None:
                kill(process)
            print(log.read_text())

    @staticmethod
    def _is_ready(process: subprocess.Popen[bytes], log: Path) -> bool:
        said = log.read_text()
        assert process.poll() is None, said
        return re.search(r"\w ready\.$", said, re.MULTILINE) is not None


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a worker and its children as a power failure would."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(LIMIT)


def stop(process: subprocess.Popen[bytes], seconds: float = LIMIT) -> float:
    """Ask a worker to end, and return how long it took."""
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(seconds) == 0
    return time.monotonic() - began


PLACES = [
    *(
        pytest.param((f"{server}_address", pool), id=f"{server}-{pool}")
        for server, pool in [("local_broker", "threads"), ("local_broker", "solo"), ("local_broker", "prefork")]
    ),
    *(
        pytest.param(("emulator_address", pool), id=f"emulator-{pool}", marks=pytest.mark.emulator)
        for pool in ("threads", "prefork")
    ),
]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Studio, str]]:
    """Each server and pool in turn."""
    address, pool = request.param
    yield Studio(tmp_path, request.getfixturevalue(address)), pool
    links.close()


@pytest.fixture
def studio(local_broker_address: str, tmp_path: Path) -> Iterator[Studio]:
    yield Studio(tmp_path, local_broker_address)
    links.close()


def test_a_worker_does_all_that_celery_asks_for(place: tuple[Studio, str]) -> None:
    studio, pool = place
    early = studio.send("add", 1, 1)
    with studio.worker(pool, concurrency=2) as process:
        assert early.get(timeout=LIMIT) == 2
        assert [result.get(timeout=LIMIT) for result in [studio.send("add", n, n) for n in range(6)]] == [
            0,
            2,
            4,
            6,
            8,
            10,
        ]
        assert studio.run("again") == 2
        assert studio.app.AsyncResult(studio.run("parent")).get(timeout=LIMIT) == 5
        answers = studio.app.control.inspect(timeout=5, limit=1).ping()
        assert [answer["ok"] for answer in answers.values()] == ["pong"]
        assert stop(process) < STOP_SECONDS


def test_a_killed_workers_task_runs_again_elsewhere(place: tuple[Studio, str]) -> None:
    studio, pool = place
    with studio.worker(pool) as process:
        result = studio.send("work", "a", 5)
        studio.noted("begin a")
        kill(process)
    with studio.worker(pool):
        result.get(timeout=LIMIT)
    assert studio.notes == ["begin a", "begin a", "end a"]


def test_a_worker_told_to_stop_finishes_its_task_and_takes_no_other(place: tuple[Studio, str]) -> None:
    studio, pool = place
    with studio.worker(pool) as process:
        studio.send("work", "first", 3)
        studio.noted("begin first")
        second = studio.send("work", "second", 0)
        stop(process)
        assert studio.notes == ["begin first", "end first"]
    with studio.worker(pool):
        second.get(timeout=LIMIT)
    assert studio.notes == ["begin first", "end first", "begin second", "end second"]


def test_a_task_longer_than_its_lease_runs_once(place: tuple[Studio, str]) -> None:
    studio, pool = place
    with studio.worker(pool), studio.worker(pool):
        studio.send("work", "long", 12).get(timeout=LIMIT)
    assert studio.notes == ["begin long", "end long"]


@pytest.mark.parametrize("pool", ["threads", "solo", "prefork"])
def test_a_deferred_task_makes_room_and_runs_later(studio: Studio, pool: str) -> None:
    with studio.worker(pool):
        deferred = studio.send("wait_twice", "d")
        assert studio.run("add", 1, 2) == 3
        assert deferred.get(timeout=LIMIT) == 0
    assert studio.notes == ["try d"] * 3


def test_children_that_replace_killed_ones_publish(studio: Studio) -> None:
    with studio.worker("prefork", concurrency=2):
        limited = [studio.send("work", str(number), 60, time_limit=1) for number in range(4)]
        for result in limited:
            result.get(timeout=LIMIT, propagate=False)
        assert {result.state for result in limited} == {"FAILURE"}
        parents = [studio.send("parent") for _ in range(4)]
        children = [studio.app.AsyncResult(parent.get(timeout=LIMIT)) for parent in parents]
        assert [child.get(timeout=LIMIT) for child in children] == [5] * 4


def test_a_worker_whose_queue_is_deleted_goes_on(studio: Studio) -> None:
    with studio.worker("threads"):
        assert studio.run("add", 1, 1) == 2
        # Options of its own make it another client, as one in another process would be.
        options = {"rpc_timeout_seconds": 9}
        with Connection(studio.environ["BROKER"], transport_options=options) as connection:
            connection.default_channel.queue_delete("celery")
        assert studio.run("add", 2, 2) == 4
