"""Remote control, events and mingle: what Celery does with broadcasts and replies, between real workers."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from celery.exceptions import TaskRevokedError
from celery_worker_bench import LIMIT, PLACES, WorkerBench
from google.pubsub_v1 import SubscriberClient
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from studio import wait_for

from transports.pubsub.link import links
from transports.pubsub.topology.provision import sweep

ONE, TWO = "one@test", "two@test"
LOCAL = pytest.mark.parametrize("bench", ["local_broker_address"], indirect=True)


@pytest.fixture(scope="module", params=PLACES)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerBench]:
    """Two workers, `one` of threads and `two` that forks, which all tests on the same server share."""
    folder = tmp_path_factory.mktemp("bench")
    bench = WorkerBench(folder, request.getfixturevalue(request.param), worker_pool_restarts=True)
    with (
        bench.starting("threads", "-E", concurrency=2, name=ONE) as one,
        bench.starting("prefork", "-E", concurrency=2, name=TWO) as two,
    ):
        for worker in (one, two):
            wait_for("a worker that is ready", lambda worker=worker: worker.is_ready, LIMIT)
        yield bench
    links.close()


def ask(bench: WorkerBench, command: str, **arguments: Any) -> dict[str, Any]:
    """Broadcast a command and return the answers of both workers, or of the one it is for, by name."""
    names = arguments.get("destination") or [ONE, TWO]
    answers = bench.app.control.broadcast(
        command, arguments=arguments.pop("arguments", None), reply=True, timeout=30, limit=len(names), **arguments
    )
    found = {name: answer for each in answers for name, answer in each.items()}
    assert sorted(found) == sorted(names)
    return found


@contextmanager
def private_queue(bench: WorkerBench) -> Iterator[str]:
    """A queue that only the worker `two` reads."""
    queue = f"private-{time.monotonic_ns()}"
    bench.app.control.add_consumer(queue, destination=[TWO], reply=True, timeout=30)
    yield queue
    bench.app.control.cancel_consumer(queue, destination=[TWO], reply=True, timeout=30)


class TestInspect:
    def test_both_workers_answer_a_ping(self, bench: WorkerBench) -> None:
        assert ask(bench, "ping") == {ONE: {"ok": "pong"}, TWO: {"ok": "pong"}}

    def test_the_command_pings_both_workers_and_ends_soon(self, bench: WorkerBench) -> None:
        began = time.monotonic()
        done = bench.command("inspect", "--timeout=5", "ping")
        # Five seconds for the answers and one to start; less than if it waited in vain, at its end, for what it leaves.
        assert time.monotonic() - began < 35
        assert done.returncode == 0
        assert "2 nodes online." in done.stdout
        assert done.stderr == ""

    def test_requests_leave_nothing_behind(self, bench: WorkerBench) -> None:
        before = bench.resources()
        for _ in range(5):
            ask(bench, "ping")
        with ThreadPoolExecutor(5) as pool:
            list(pool.map(lambda _: ask(bench, "ping"), range(5)))
        assert bench.app.control.inspect(timeout=0.1, destination=["nobody@test"]).ping() is None
        bench.command("status")
        assert bench.resources() == before

    @LOCAL
    def test_a_running_task_is_shown(self, bench: WorkerBench) -> None:
        with private_queue(bench) as queue:
            result = bench.send("hold", "shown", queue=queue)
            bench.noted("begin shown")
            # Another task is active for a moment after its result is there.
            wait_for("this one alone", lambda: _ids(ask(bench, "active", destination=[TWO])[TWO]) == [result.id])
            bench.release("shown")
            result.get(timeout=LIMIT)

    @LOCAL
    @pytest.mark.parametrize("command", ["active", "reserved", "scheduled", "registered", "stats", "active_queues"])
    def test_both_workers_tell(self, bench: WorkerBench, command: str) -> None:
        told = ask(bench, command)
        if command == "registered":
            assert "add" in told[ONE]
        if command == "stats":
            assert told[TWO]["broker"]["transport"] == "pubsub"

    @LOCAL
    def test_a_task_in_a_child_process_pings(self, bench: WorkerBench) -> None:
        with private_queue(bench) as queue:
            assert bench.send("colleagues", 2, queue=queue).get(timeout=LIMIT) == [ONE, TWO]

    @LOCAL
    def test_the_workers_do_not_take_each_other_for_namesakes(self, bench: WorkerBench) -> None:
        assert not [
            log for log in bench.folder.glob("*.log") if "already using this process mailbox" in log.read_text()
        ]


class TestControl:
    @LOCAL
    def test_a_rate_limit_holds(self, bench: WorkerBench) -> None:
        bench.app.control.rate_limit("clock", "1/s", reply=True, timeout=30, destination=[ONE, TWO])
        results = [bench.send("clock") for _ in range(6)]
        times = [result.get(timeout=LIMIT) for result in results]
        bench.app.control.rate_limit("clock", 0, reply=True, timeout=30, destination=[ONE, TWO])
        # One of the two has at least three, two seconds from the first to the last; it may begin late with the first.
        assert max(times) - min(times) > 0.9

    @LOCAL
    def test_a_queue_whose_consumer_is_cancelled_keeps_its_tasks(self, bench: WorkerBench) -> None:
        with private_queue(bench) as queue:
            assert bench.send("add", 1, 1, queue=queue).get(timeout=LIMIT) == 2
        later = bench.send("add", 2, 2, queue=queue)
        assert bench.run("add", 3, 3) == 6
        assert not later.ready()
        bench.app.control.add_consumer(queue, destination=[TWO], reply=True, timeout=30)
        assert later.get(timeout=LIMIT) == 4

    @LOCAL
    def test_a_pool_that_is_restarted_works_on(self, bench: WorkerBench) -> None:
        with private_queue(bench) as queue:
            before = bench.send("process", queue=queue).get(timeout=LIMIT)
            bench.app.control.pool_restart(reply=True, timeout=30, destination=[TWO])
            assert bench.send("process", queue=queue).get(timeout=LIMIT) != before

    @LOCAL
    def test_a_pool_that_has_grown_works_on_more_tasks(self, bench: WorkerBench) -> None:
        with private_queue(bench) as queue:
            ask(bench, "pool_grow", arguments={"n": 1}, destination=[TWO])
            results = [bench.send("hold", f"grown-{number}", queue=queue) for number in range(3)]
            for number in range(3):
                bench.noted(f"begin grown-{number}")
            for number, result in enumerate(results):
                bench.release(f"grown-{number}")
                result.get(timeout=LIMIT)
            ask(bench, "pool_shrink", arguments={"n": 1}, destination=[TWO])

    def test_a_worker_that_is_told_to_shut_down_ends(self, bench: WorkerBench) -> None:
        with bench.worker("threads", name="third@test") as worker:
            bench.app.control.shutdown(destination=["third@test"])
            assert worker.process.wait(LIMIT) == 0

    @LOCAL
    def test_a_worker_does_not_obey_what_its_killed_namesake_was_told(self, bench: WorkerBench) -> None:
        with bench.worker("threads", name="fourth@test") as worker:
            worker.kill()
        bench.app.control.shutdown(destination=["fourth@test"])
        with bench.worker("threads", name="fourth@test") as worker:
            assert ask(bench, "ping", destination=["fourth@test"])
            assert worker.process.poll() is None
            worker.stop()

    @LOCAL
    def test_a_worker_whose_namesake_has_stopped_can_still_be_reached(self, bench: WorkerBench) -> None:
        with bench.worker("threads", name="seventh@test"), bench.worker("threads", name="seventh@test") as second:
            second.stop()
            wait_for(
                "an answer", lambda: bench.app.control.ping(destination=["seventh@test"], timeout=5, limit=1), LIMIT
            )


class TestRevoke:
    def test_a_task_that_was_revoked_before_is_not_run(self, bench: WorkerBench) -> None:
        ask(bench, "revoke", arguments={"task_id": "revoked-early"})
        result = bench.send("work", "revoked", 0, task_id="revoked-early")
        with pytest.raises(TaskRevokedError):
            result.get(timeout=LIMIT)
        assert "begin revoked" not in bench.notes

    @LOCAL
    def test_a_running_task_that_is_terminated_ends(self, bench: WorkerBench) -> None:
        with private_queue(bench) as queue:
            result = bench.send("work", "endless", 600, queue=queue)
            bench.noted("begin endless")
            result.revoke(terminate=True)
            with pytest.raises(TaskRevokedError):
                result.get(timeout=LIMIT)
            assert bench.send("add", 1, 1, queue=queue).get(timeout=LIMIT) == 2

    @LOCAL
    def test_a_task_with_a_revoked_stamp_is_not_run(self, bench: WorkerBench) -> None:
        bench.app.control.revoke_by_stamped_headers({"colour": "red"}, reply=True, timeout=30, limit=2)
        signature = bench.app.signature("work", ("stamped", 0))
        signature.stamp(colour="red")
        with pytest.raises(TaskRevokedError):
            signature.apply_async().get(timeout=LIMIT)
        assert "begin stamped" not in bench.notes

    @LOCAL
    def test_a_worker_that_comes_later_learns_what_was_revoked(self, bench: WorkerBench) -> None:
        ask(bench, "revoke", arguments={"task_id": "revoked-long-ago"})
        with bench.worker("threads", name="fifth@test", HELLO_SECONDS="5") as worker:
            assert "mingle: sync with 2 nodes" in worker.said
            assert "revoked-long-ago" in ask(bench, "revoked", destination=["fifth@test"])["fifth@test"]
            worker.stop()


class TestEvents:
    def test_a_receiver_sees_workers_and_tasks(self, bench: WorkerBench) -> None:
        seen: list[tuple[str, str]] = []

        def note(event: dict[str, Any]) -> None:
            seen.append((event["type"], event.get("uuid") or event["hostname"]))

        with bench.app.connection_for_read() as connection:
            receiver = bench.app.events.Receiver(connection, handlers={"*": note})
            stop = threading.Event()
            capture = threading.Thread(target=lambda: [None for _ in _until(stop, receiver)])
            capture.start()
            try:
                wait_for("a heartbeat", lambda: any(kind == "worker-heartbeat" for kind, _ in seen), LIMIT)
                task = bench.send("add", 1, 1)
                with bench.worker("threads", name="sixth@test") as worker:
                    worker.stop()
                for event in [
                    ("task-received", task.id),
                    ("task-succeeded", task.id),
                    ("worker-online", "sixth@test"),
                    ("worker-offline", "sixth@test"),
                ]:
                    wait_for(f"the event {event}", lambda event=event: event in seen, LIMIT)
            finally:
                stop.set()
                capture.join(LIMIT)


def _ids(tasks: list[dict[str, Any]]) -> list[str]:
    return [task["id"] for task in tasks]


def _until(stop: threading.Event, receiver: Any) -> Iterator[None]:
    """Receive events until told to stop."""
    with receiver.consumer_context() as (connection, _, _):
        while not stop.is_set():
            try:
                connection.drain_events(timeout=0.2)
            except TimeoutError:
                yield


CLIENT = "import celery_application; celery_application.app.control.ping(timeout=600)"


class TestLeftovers:
    @LOCAL
    def test_what_a_killed_client_left_is_swept_once_its_subscription_has_expired(self, bench: WorkerBench) -> None:
        before = bench.resources()
        with subprocess.Popen([sys.executable, "-c", CLIENT], env=bench.environ) as client:
            try:
                wait_for("both parts of a reply queue", lambda: len(set(bench.resources()) - set(before)) >= 2, LIMIT)
            finally:
                client.kill()
        left = [each for each in bench.resources() if each not in before]
        assert [each.partition("/")[0] for each in left] == ["subscriptions", "topics"]
        with bench.app.connection_for_write() as connection:
            server = connection.default_channel.link.client
            assert sweep(server, "celery-", older_than_seconds=-60) == 0
            _expire(bench, left[0])
            assert sweep(server, "celery-") == 0
            assert sweep(server, "another-", older_than_seconds=-60) == 0
            assert sweep(server, "celery-", older_than_seconds=-60) == 1
        assert bench.resources() == before


def _expire(bench: WorkerBench, subscription: str) -> None:
    """Delete a subscription that nobody uses, as Pub/Sub does after a day."""
    with grpc.insecure_channel(bench.address) as channel:
        subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
        subscriber.delete_subscription(subscription=f"projects/{bench.project}/{subscription}")
