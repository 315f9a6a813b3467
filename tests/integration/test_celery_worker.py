"""Celery's own worker, as a real process, over the transport."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery_worker_bench import LIMIT, STOP_SECONDS, WorkerBench
from kombu import Connection
from pubsub_client import AFTER_A_KILL_SECONDS
from studio import wait_for

from transports.pubsub.link import links

POOLS = [
    *(
        pytest.param((f"{server}_address", pool), id=f"{server}-{pool}")
        for server, pool in [("local_broker", "threads"), ("local_broker", "solo"), ("local_broker", "prefork")]
    ),
    *(
        pytest.param(("emulator_address", pool), id=f"emulator-{pool}", marks=pytest.mark.emulator)
        for pool in ("threads", "prefork")
    ),
]


@pytest.fixture(params=POOLS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[WorkerBench, str]]:
    """Each server and pool in turn."""
    address, pool = request.param
    yield WorkerBench(tmp_path, request.getfixturevalue(address)), pool
    links.close()


@pytest.fixture
def bench(local_broker_address: str, tmp_path: Path) -> Iterator[WorkerBench]:
    yield WorkerBench(tmp_path, local_broker_address)
    links.close()


def test_a_worker_does_all_that_celery_asks_for(place: tuple[WorkerBench, str]) -> None:
    bench, pool = place
    early = bench.send("add", 1, 1)
    with bench.worker(pool, concurrency=2) as worker:
        assert early.get(timeout=LIMIT) == 2
        assert [result.get(timeout=LIMIT) for result in [bench.send("add", n, n) for n in range(6)]] == [
            0,
            2,
            4,
            6,
            8,
            10,
        ]
        assert bench.run("again") == 2
        assert bench.app.AsyncResult(bench.run("parent")).get(timeout=LIMIT) == 5
        answers = bench.app.control.inspect(timeout=30, limit=1).ping()
        assert [answer["ok"] for answer in answers.values()] == ["pong"]
        assert worker.stop() < STOP_SECONDS


def test_a_killed_workers_task_runs_again_elsewhere(place: tuple[WorkerBench, str]) -> None:
    bench, pool = place
    with bench.worker(pool) as worker:
        result = bench.send("hold", "a")
        bench.noted("begin a")
        worker.kill()
    bench.release("a")
    with bench.worker(pool):
        result.get(timeout=AFTER_A_KILL_SECONDS)
    assert bench.notes == ["begin a", "begin a", "end a"]


def test_a_worker_told_to_stop_finishes_its_task_and_takes_no_other(place: tuple[WorkerBench, str]) -> None:
    bench, pool = place
    with bench.worker(pool) as worker:
        bench.send("hold", "first")
        bench.noted("begin first")
        second = bench.send("work", "second", 0)
        worker.process.send_signal(signal.SIGTERM)
        worker.wait_until_said("Warm shutdown")
        bench.release("first")
        assert worker.process.wait(LIMIT) == 0, worker.said
        assert bench.notes == ["begin first", "end first"]
    with bench.worker(pool):
        second.get(timeout=LIMIT)
    assert bench.notes == ["begin first", "end first", "begin second", "end second"]


def test_a_task_longer_than_its_lease_runs_once(place: tuple[WorkerBench, str]) -> None:
    bench, pool = place
    with bench.worker(pool), bench.worker(pool):
        bench.send("work", "long", 12).get(timeout=LIMIT)
    assert bench.notes == ["begin long", "end long"]


@pytest.mark.parametrize("pool", ["threads", "solo", "prefork"])
def test_a_deferred_task_makes_room_and_runs_later(bench: WorkerBench, pool: str) -> None:
    with bench.worker(pool):
        deferred = bench.send("wait_twice", "d")
        assert bench.run("add", 1, 2) == 3
        assert deferred.get(timeout=LIMIT) == 0
    assert bench.notes == ["try d"] * 3


def test_children_that_replace_killed_ones_publish(bench: WorkerBench) -> None:
    with bench.worker("prefork", concurrency=2):
        limited = [bench.send("work", str(number), 60, time_limit=1) for number in range(4)]
        for result in limited:
            result.get(timeout=LIMIT, propagate=False)
        assert {result.state for result in limited} == {"FAILURE"}
        parents = [bench.send("parent") for _ in range(4)]
        children = [bench.app.AsyncResult(parent.get(timeout=LIMIT)) for parent in parents]
        assert [child.get(timeout=LIMIT) for child in children] == [5] * 4


def test_a_worker_whose_queue_is_deleted_goes_on(bench: WorkerBench) -> None:
    with bench.worker("threads"):
        assert bench.run("add", 1, 1) == 2
        # Options of its own make it another client, as one in another process would be.
        options = {"rpc_timeout_seconds": 9}
        with Connection(bench.environ["BROKER"], transport_options=options) as connection:
            connection.default_channel.queue_delete("celery")
        wait_for("the worker's new queue", lambda: "subscriptions/celery-celery" in bench.resources(), LIMIT)
        assert bench.run("add", 2, 2) == 4
