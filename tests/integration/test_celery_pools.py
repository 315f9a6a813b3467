"""Celery's pools under what makes them replace processes, and what a worker does that is told to stop."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery_worker_bench import LIMIT, STOP_SECONDS, WorkerBench
from studio import wait_for

import transports
from transports.pubsub.link import links

#: Tasks whose children publish; a torture run sets more.
CHILDREN = int(os.environ.get("STUDIO_TEST_CHILDREN", "40"))
#: Seconds until another worker has what a stopping one did not begin: 2, tenfold for a busy machine.
HANDOVER_SECONDS = 20.0


@pytest.fixture
def make_bench(local_broker_address: str, tmp_path: Path) -> Iterator[Any]:
    """Make a bench with settings."""
    yield lambda **settings: WorkerBench(tmp_path, local_broker_address, **settings)
    links.close()


class TestPrefork:
    @pytest.mark.parametrize(("method", "count"), [("fork", 20), ("spawn", 6)])
    def test_all_tasks_that_run_past_their_limit_are_ended(self, make_bench: Any, method: str, count: int) -> None:
        bench = make_bench(worker_pool_start_method=method)
        with bench.worker("prefork", concurrency=4) as worker:
            limited = [bench.send("work", str(number), 600, time_limit=1) for number in range(count)]
            for result in limited:
                result.get(timeout=LIMIT, propagate=False)
            assert {result.state for result in limited} == {"FAILURE"}
            assert bench.run("add", 1, 1) == 2
            assert worker.stop() < STOP_SECONDS

    def test_children_that_live_for_one_task_publish(self, make_bench: Any) -> None:
        bench = make_bench(worker_max_tasks_per_child=1)
        with transports.bulk():
            for number in range(CHILDREN):
                bench.send("multiply", number)
        with bench.worker("prefork", concurrency=2) as worker:
            wait_for("all tasks", lambda: len(bench.notes) >= 2 * CHILDREN, LIMIT + CHILDREN)
            worker.stop()
        expected = [f"{which} {number}" for which in ("first", "second") for number in range(CHILDREN)]
        assert sorted(bench.notes) == sorted(expected)

    def test_spawned_children_publish(self, make_bench: Any) -> None:
        bench = make_bench(worker_pool_start_method="spawn")
        with bench.worker("prefork", concurrency=2) as worker:
            child = bench.run("parent")
            assert bench.app.AsyncResult(child).get(timeout=LIMIT) == 5
            worker.stop()


class TestStop:
    @pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
    def test_what_a_stopping_worker_did_not_begin_is_with_another_when_it_ends(
        self, make_bench: Any, pool: str
    ) -> None:
        bench = make_bench(worker_prefetch_multiplier=4)
        with bench.worker(pool) as busy:
            bench.send("hold", "long")
            bench.noted("begin long")
            waiting = [bench.send("work", str(number), 0) for number in range(3)]
            received = 1 if pool == "solo" else 4
            wait_for("prefetching", lambda: busy.said.count("received") == received, LIMIT)
            with bench.worker(pool):
                busy.process.send_signal(signal.SIGTERM)
                busy.wait_until_said("Warm shutdown")
                bench.release("long")
                busy.process.wait(LIMIT)
                ended_at = time.monotonic()
                for result in waiting:
                    result.get(timeout=LIMIT)
                assert time.monotonic() - ended_at < HANDOVER_SECONDS
                assert busy.said.count("received") == received
        assert sorted(bench.notes) == sorted(
            f"{edge} {name}" for edge in ("begin", "end") for name in ("long", 0, 1, 2)
        )

    @pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
    def test_an_idle_worker_stops_soon(self, make_bench: Any, pool: str) -> None:
        bench = make_bench()
        with bench.worker(pool) as worker:
            assert bench.run("add", 1, 1) == 2
            assert worker.stop() < STOP_SECONDS
            assert "Traceback" not in worker.said
