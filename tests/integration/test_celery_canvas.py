"""What Celery does with tasks (retries, canvas, ETA, rejection, priorities, results), by real workers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from celery import chain, chord, group
from celery.exceptions import TaskRevokedError
from celery_worker_bench import LIMIT, PLACES, WorkerBench
from kombu import Queue
from kombu.common import Broadcast
from studio import wait_for

import transports
from transports.pubsub.link import links

LOCAL = pytest.mark.parametrize("bench", ["local_broker_address"], indirect=True)
RANKED = {"x-max-priority": 9}


@pytest.fixture(scope="module", params=PLACES)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerBench]:
    """A worker with two threads, which all tests on the same server share."""
    bench = WorkerBench(tmp_path_factory.mktemp("bench"), request.getfixturevalue(request.param))
    with bench.worker("threads", "-Q", "celery,private", concurrency=2, name="shared@test"):
        yield bench
    links.close()


@pytest.fixture
def alone(local_broker_address: str, tmp_path: Any) -> Iterator[WorkerBench]:
    """A bench without a worker."""
    yield WorkerBench(tmp_path, local_broker_address)
    links.close()


def add(bench: WorkerBench, *numbers: int, **options: Any) -> Any:
    return bench.app.signature("add", numbers, **options)


class TestCanvas:
    def test_a_task_that_retries_comes_back_after_its_countdown(self, bench: WorkerBench) -> None:
        began = time.time()
        assert bench.run("again") == 2
        assert time.time() - began > 2

    def test_a_chain_hands_results_on(self, bench: WorkerBench) -> None:
        assert chain(add(bench, 1, 2), add(bench, 3), add(bench, 4)).apply_async().get(timeout=LIMIT) == 10

    def test_a_group_gives_all_results(self, bench: WorkerBench) -> None:
        done = group(add(bench, number, number) for number in range(20)).apply_async()
        assert done.get(timeout=LIMIT) == [2 * number for number in range(20)]

    def test_a_chord_calls_back_once_with_all_results(self, bench: WorkerBench) -> None:
        header = [add(bench, number, 1) for number in range(10)]
        assert chord(header)(bench.app.signature("total")).get(timeout=LIMIT) == 55

    @LOCAL
    def test_an_error_reaches_the_caller_with_its_type(self, bench: WorkerBench) -> None:
        with pytest.raises(ValueError, match="so it is"):
            bench.run("fail", "so it is")

    @LOCAL
    def test_a_thousand_tasks_are_published_in_bulk_and_all_run(self, bench: WorkerBench) -> None:
        with transports.bulk():
            done = group(add(bench, number, 0, ignore_result=False) for number in range(1000)).apply_async()
        assert sum(done.get(timeout=3 * LIMIT, interval=0.5)) == sum(range(1000))


class TestTime:
    def test_a_task_with_a_countdown_runs_on_time(self, bench: WorkerBench) -> None:
        asked_at = time.time()
        late = bench.send("clock", countdown=3).get(timeout=LIMIT) - asked_at
        # Less than a lease of the server: it would come by itself when that ends.
        assert 3 <= late < 10

    def test_tasks_for_later_are_not_held_by_the_worker(self, bench: WorkerBench) -> None:
        with transports.bulk():
            for _ in range(20):
                bench.send("clock", countdown=3600)
        assert bench.run("add", 1, 1) == 2
        for command in ("scheduled", "reserved", "active"):
            ask = partial(bench.app.control.broadcast, command, reply=True, timeout=30, limit=1)
            # A task is active for a moment after its result is there.
            wait_for(f"nothing that is {command}", lambda ask=ask: ask() == [{"shared@test": []}])

    @LOCAL
    def test_a_task_that_has_expired_is_not_run(self, bench: WorkerBench) -> None:
        result = bench.send("work", "expired", 0, expires=-1)
        with pytest.raises(TaskRevokedError):
            result.get(timeout=LIMIT)
        assert "begin expired" not in bench.notes


class TestRejection:
    def test_a_task_that_gives_its_message_back_gets_it_again(self, bench: WorkerBench) -> None:
        assert bench.run("reject", "back", True) == "back"
        assert bench.notes.count("try back") == 2

    @LOCAL
    @pytest.mark.parametrize(("task", "arguments"), [("reject", (False, 100)), ("ignore", ())])
    def test_a_task_that_drops_its_message_does_not_get_it_again(
        self, bench: WorkerBench, task: str, arguments: tuple[Any, ...]
    ) -> None:
        bench.send(task, task, *arguments, queue="private")
        bench.noted(f"try {task}")
        with bench.app.connection_for_read() as connection:
            look = partial(connection.default_channel.queue_declare, "private", passive=True)
            wait_for("an empty queue", lambda: look().message_count == 0, LIMIT)
        assert bench.notes.count(f"try {task}") == 1

    @LOCAL
    def test_an_unknown_task_is_dropped_and_the_worker_goes_on(self, bench: WorkerBench) -> None:
        bench.send("nobody_knows")
        assert bench.run("add", 1, 1) == 2

    def test_a_task_whose_process_was_killed_runs_again(self, alone: WorkerBench) -> None:
        with alone.worker("prefork"):
            assert alone.run("die_once", "child") == "child"
        assert alone.notes == ["try child"] * 2


class TestBodies:
    @LOCAL
    @pytest.mark.parametrize("compression", ["zlib", "bzip2"])
    def test_a_compressed_body_arrives(self, bench: WorkerBench, compression: str) -> None:
        client = bench.client(task_compression=compression)
        text = "ä" * 100_000
        assert client.send_task("echo", [text]).get(timeout=LIMIT) == text

    def test_a_pickled_body_arrives(self, bench: WorkerBench) -> None:
        client = bench.client(task_serializer="pickle")
        assert client.send_task("total", [{1, 2, 3}]).get(timeout=LIMIT) == 6


class TestQueues:
    def test_a_purge_tells_how_much_it_dropped(self, alone: WorkerBench) -> None:
        for _ in range(3):
            alone.send("add", 1, 1)
        assert "Purged 3 messages from 1 known task queue." in alone.command("purge", "-f").stdout
        assert "No messages purged" in alone.command("purge", "-f").stdout

    def test_a_message_is_got_without_consuming(self, alone: WorkerBench) -> None:
        sent = alone.send("add", 1, 1)
        patient = alone.client(broker_transport_options={"get_timeout_seconds": LIMIT})
        with patient.connection_for_read() as connection:
            message = connection.default_channel.basic_get("celery")
            assert message.headers["id"] == sent.id
            message.ack()
        with alone.app.connection_for_read() as connection:
            channel = connection.default_channel
            assert channel.basic_get("celery") is None
            assert channel.queue_declare("celery", passive=True).message_count == 0

    def test_a_task_to_everybody_runs_on_every_worker(self, alone: WorkerBench) -> None:
        alone.environ["QUEUES"] = "broadcast"
        alone.app.conf.task_queues = [Broadcast("everybody")]
        with alone.starting("threads") as one, alone.starting("threads") as two:
            for worker in (one, two):
                wait_for("a worker that is ready", lambda worker=worker: worker.is_ready, LIMIT)
            with alone.app.connection_for_write() as connection:
                Broadcast("everybody").exchange(connection.default_channel).declare()
            alone.send("work", "together", 0, queue="everybody")
            wait_for("both", lambda: alone.notes.count("end together") == 2, LIMIT)

    @pytest.mark.parametrize("how", ["task_queue_max_priority", "queue_arguments"])
    def test_a_higher_priority_goes_first(self, local_broker_address: str, tmp_path: Any, how: str) -> None:
        ranked = how == "task_queue_max_priority"
        bench = WorkerBench(tmp_path, local_broker_address, **({"task_queue_max_priority": 9} if ranked else {}))
        if not ranked:
            bench.environ["QUEUES"] = "ranked"
            bench.app.conf.task_queues = [Queue("ranked", queue_arguments=RANKED)]
        queue = "celery" if ranked else "ranked"
        with bench.worker("threads", concurrency=1):
            bench.send("hold", "busy", queue=queue)
            bench.noted("begin busy")
            results = [bench.send("work", str(rank), 0, queue=queue, priority=rank) for rank in (0, 3, 9, 6, 0, 9)]
            bench.release("busy")
            for result in results:
                result.get(timeout=LIMIT)
        links.close()
        begun = [line.removeprefix("begin ") for line in bench.notes if line.startswith("begin")]
        assert begun == ["busy", "9", "9", "6", "3", "0", "0"]


@pytest.fixture(scope="module", params=PLACES)
def rpc(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerBench]:
    """A worker that sends results to those who asked, by the broker."""
    folder = tmp_path_factory.mktemp("rpc")
    bench = WorkerBench(folder, request.getfixturevalue(request.param), results="rpc://")
    with bench.worker("threads", concurrency=2, name="rpc@test"):
        yield bench
    links.close()


class TestResultsByTheBroker:
    def test_a_result_and_an_error_come_back(self, rpc: WorkerBench) -> None:
        assert rpc.run("add", 1, 2) == 3
        with pytest.raises(ValueError, match="so it is"):
            rpc.run("fail", "so it is")

    def test_several_clients_get_their_own(self, rpc: WorkerBench) -> None:
        def ask(number: int) -> list[int]:
            client = rpc.client()
            sent = [client.send_task("add", (number, each)) for each in range(5)]
            return [result.get(timeout=LIMIT) for result in sent]

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(ask, range(4))) == [[n + each for each in range(5)] for n in range(4)]

    def test_a_client_that_has_gone_does_not_harm_the_worker(self, rpc: WorkerBench) -> None:
        before = rpc.resources()
        rpc.python("import celery_application; celery_application.work.delay('orphan', 2)")
        assert rpc.resources() == before
        rpc.noted("end orphan")
        assert rpc.run("add", 1, 1) == 2
        assert "QueueNotFound" not in next(rpc.folder.glob("*.log")).read_text()
        assert rpc.notes.count("begin orphan") == 1
