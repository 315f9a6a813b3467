"""Workers and submitters whose keys may do little, or nothing any more."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery_worker_bench import LIMIT, PLACES, STOP_SECONDS, WorkerBench
from fault_proxy import FaultProxy
from fault_rules import Answer
from grpc import StatusCode
from studio import wait_for

from transports.pubsub.link import links

#: Seconds until a worker or submitter says what is wrong with its key: 4 with its start, ten times over for a busy
#: machine; trying until it succeeds would take a minute.
SAYS_SECONDS = 40.0
#: What the service says to a key that was revoked.
SAID = "Request had invalid authentication credentials"
REVOKED = Answer(StatusCode.UNAUTHENTICATED, SAID)


@pytest.fixture(params=["local_broker_address"])
def address(request: pytest.FixtureRequest) -> str:
    """The server behind the proxy."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def proxy(address: str) -> Iterator[FaultProxy]:
    with FaultProxy(address) as proxy:
        yield proxy


@pytest.fixture
def bench(address: str, tmp_path: Path) -> Iterator[WorkerBench]:
    """A bench whose own client may do anything, and whose queue exists."""
    bench = WorkerBench(tmp_path, address)
    with bench.app.connection_for_write() as connection:
        bench.app.amqp.queues["celery"].bind(connection.default_channel).declare()
    yield bench
    links.close()


def warnings(said: str) -> list[str]:
    return re.findall(r"^.*these credentials lack.*$", said, re.MULTILINE)


class TestSubscriber:
    @pytest.mark.parametrize("address", PLACES, indirect=True)
    def test_a_worker_runs_tasks_says_what_is_off_and_stops(self, bench: WorkerBench, proxy: FaultProxy) -> None:
        proxy.only("subscriber")
        with bench.worker("prefork", "-E", BROKER=bench.broker_at(proxy.address)) as worker:
            assert [bench.send("add", number, 1).get(timeout=LIMIT) for number in range(3)] == [1, 2, 3]
            assert bench.app.control.ping(timeout=1) == []
            assert bench.run("add", 1, 1) == 2
            assert worker.said.count(" ready.") == 1
            said = warnings(worker.said)
            assert 1 <= len(said) <= 2
            assert "pubsub.topics.create" in "".join(said)
            assert all("remote control" in line for line in said)
            assert worker.stop() < STOP_SECONDS
            assert "Traceback" not in worker.said
        with bench.app.connection_for_read() as connection:
            assert connection.default_channel.basic_get("celery") is None

    def test_a_task_that_cannot_be_published_again_fails_and_says_why(
        self, bench: WorkerBench, proxy: FaultProxy
    ) -> None:
        proxy.only("subscriber")
        with bench.worker("threads", BROKER=bench.broker_at(proxy.address)):
            result = bench.send("again")
            with pytest.raises(Exception, match=r"pubsub\.topics\.publish on the topic"):
                result.get(timeout=LIMIT)
            assert bench.run("add", 1, 1) == 2


SUBMIT = """
import sys, celery_application
print(celery_application.add.apply_async((1, 2), queue=sys.argv[1]).id)
print(celery_application.add.apply_async((3, 4), queue=sys.argv[1]).id)
"""


class TestPublisher:
    def test_a_submitter_submits_and_is_warned_once(self, bench: WorkerBench, proxy: FaultProxy) -> None:
        proxy.only("publisher")
        done = bench.python(SUBMIT, "celery", BROKER=bench.broker_at(proxy.address))
        assert done.returncode == 0, done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert "pubsub.topics.create" in done.stderr
        with bench.worker("threads"):
            results = [bench.app.AsyncResult(task).get(timeout=LIMIT) for task in done.stdout.split()]
        assert results == [3, 7]

    def test_a_submitter_is_told_of_a_queue_that_does_not_exist(self, bench: WorkerBench, proxy: FaultProxy) -> None:
        proxy.only("publisher")
        began = time.monotonic()
        done = bench.python(SUBMIT, "nowhere", BROKER=bench.broker_at(proxy.address))
        assert time.monotonic() - began < SAYS_SECONDS
        assert done.returncode == 1
        assert re.search(r"QueueNotFound: \S+/topics/celery-nowhere does not exist", done.stderr)


class TestRevokedKey:
    def test_a_worker_says_so_when_it_starts(self, bench: WorkerBench, proxy: FaultProxy) -> None:
        rule = proxy.rule("*", REVOKED)
        with bench.starting("threads", BROKER=bench.broker_at(proxy.address)) as worker:
            began = time.monotonic()
            said = worker.wait_until_said(r"(?m)^.*Cannot connect to.*$").group()
            assert time.monotonic() - began < SAYS_SECONDS
            assert SAID in said
            assert "Traceback" not in worker.said
            rule.end()
            wait_for("a worker that is ready", lambda: worker.is_ready, LIMIT)
            assert bench.run("add", 1, 1) == 2

    def test_a_command_says_so_and_ends(self, bench: WorkerBench, proxy: FaultProxy) -> None:
        proxy.rule("*", REVOKED)
        began = time.monotonic()
        done = bench.command("inspect", "ping", BROKER=bench.broker_at(proxy.address))
        # Celery tries three times, for six seconds; a publish would be repeated for a minute.
        assert time.monotonic() - began < SAYS_SECONDS + 10
        assert done.returncode != 0
        assert SAID in done.stderr

    @pytest.mark.parametrize("pool", ["threads", "prefork"])
    def test_a_worker_whose_key_is_revoked_later_says_so_and_recovers(
        self, bench: WorkerBench, proxy: FaultProxy, pool: str
    ) -> None:
        with bench.worker(pool, BROKER=bench.broker_at(proxy.address)) as worker:
            assert bench.run("add", 1, 1) == 2
            rule = proxy.rule("*", REVOKED)
            proxy.end_streams(StatusCode.UNAUTHENTICATED)
            worker.wait_until_said(SAID)
            rule.end()
            assert bench.run("add", 2, 2) == 4
            assert worker.stop() < STOP_SECONDS
