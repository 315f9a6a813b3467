"""The broker in operation: its numbers, its health, its log, and data that was damaged."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from google.api_core.exceptions import ServiceUnavailable
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ports import kept_port
from pubsub_client import LIMIT_SECONDS, PubSub
from pubsub_servers import ServerProcess, broker_process

from transports.local import Broker, StartError, StatisticsError, statistics
from transports.local.server import DATABASE_NAME


@contextmanager
def client(address: str, project: str = "operations") -> Iterator[PubSub]:
    """Connect to a broker."""
    with PubSub(address) as server:
        server.project = f"projects/{project}"
        yield server


class TestStatistics:
    def test_they_tell_what_waits_what_is_held_and_who_listens(self, local_pubsub: PubSub) -> None:
        path = local_pubsub.setup("full", "empty")
        local_pubsub.publish("one", "two", "three")
        local_pubsub.pull(path)
        project = local_pubsub.project.removeprefix("projects/")
        with local_pubsub.stream(local_pubsub.subscription("empty")) as stream:
            stream.take(3)
            empty, full = statistics(local_pubsub.address, project)
        assert (full.name, full.topic) == (path, local_pubsub.topic())
        assert (full.waiting, full.leased, full.consumers) == (2, 1, 0)
        assert full.oldest_age_seconds is not None
        assert 0 <= full.oldest_age_seconds < 60
        assert (empty.waiting, empty.leased, empty.consumers) == (0, 3, 1)

    def test_they_count_what_was_confirmed_just_now(self, local_pubsub: PubSub) -> None:
        local_pubsub.setup("one")
        project = local_pubsub.project.removeprefix("projects/")
        for count in range(1, 11):
            local_pubsub.publish("x" * 1_000_000)
            (one,) = statistics(local_pubsub.address, project)
            assert one.waiting == count

    def test_without_a_project_they_are_of_all(self, local_pubsub: PubSub) -> None:
        path = local_pubsub.setup()
        assert path in [each.name for each in statistics(local_pubsub.address)]

    def test_a_project_with_nothing_has_none(self, local_broker_address: str) -> None:
        assert statistics(local_broker_address, "nothing-here") == []

    def test_where_no_broker_is_the_error_says_so(self) -> None:
        with kept_port() as port, pytest.raises(StatisticsError, match=r"No broker answers at 127\.0\.0\.1:"):
            statistics(f"127.0.0.1:{port}")

    @pytest.mark.emulator
    def test_googles_emulator_gives_none(self, emulator_address: str) -> None:
        with pytest.raises(StatisticsError, match="not a local broker"):
            statistics(emulator_address)


class TestMetrics:
    def test_prometheus_reads_them_where_a_port_was_named(self, tmp_path: Path) -> None:
        with (
            kept_port() as port,
            broker_process(tmp_path, f"--metrics-port={port}") as process,
            client(process.address) as server,
        ):
            path = server.setup()
            server.publish("one", "two")
            server.acknowledge(path, *server.pull(path))
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=LIMIT_SECONDS) as page:
                lines = page.read().decode().splitlines()
                assert page.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        labels = '{project="operations",subscription="subscription",topic="topic"}'
        assert f"studio_broker_waiting_messages{labels} 1" in lines
        assert "studio_broker_published_messages_total 2" in lines
        assert "studio_broker_delivered_messages_total 1" in lines
        assert "studio_broker_acknowledged_messages_total 1" in lines
        assert 'studio_broker_requests_total{method="Publish",code="OK"} 1' in lines

    def test_a_port_in_use_is_refused(self, tmp_path: Path, local_broker_address: str) -> None:
        port = local_broker_address.rpartition(":")[2]
        command = [sys.executable, "-m", "transports.local", "--port=0", f"--data={tmp_path}", f"--metrics-port={port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        assert f"Cannot listen on 127.0.0.1:{port}" in done.stderr


class TestHealth:
    def test_who_watches_is_told_of_the_stop_and_does_not_delay_it(self, tmp_path: Path) -> None:
        with broker_process(tmp_path) as process, client(process.address) as server:
            watch = health_pb2_grpc.HealthStub(server.channel).Watch(
                health_pb2.HealthCheckRequest(service="studio.broker.v1.Statistics"), timeout=LIMIT_SECONDS
            )
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            with ThreadPoolExecutor(1) as pool:
                rest = pool.submit(list, watch)
                assert process.stop() == 0
                assert [each.status for each in rest.result()] == [health_pb2.HealthCheckResponse.NOT_SERVING]
            assert "Traceback" not in process.output


class TestLog:
    def test_each_event_of_interest_has_one_line(self, tmp_path: Path) -> None:
        with broker_process(tmp_path) as process, client(process.address) as server:
            path = server.setup()
            server.subscriber.delete_subscription(subscription=path)
            server.publisher.delete_topic(topic=server.topic())
            address = process.address
            assert process.stop() == 0
        for event in (
            f"broker listens on {address}",
            f"created topic {server.topic()}",
            f"created subscription {path}",
            f"deleted subscription {path}",
            f"deleted topic {server.topic()}",
            f"broker on {address} stops",
        ):
            assert process.output.count(event) == 1


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 100)


def _overwrite_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"not a database at all" * 20)


def _overwrite_pages(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))


class TestDamagedData:
    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        """A directory whose broker ended in order, with messages."""
        with Broker(tmp_path) as broker, client(broker.address) as server:
            server.setup()
            for _ in range(20):
                server.publish("x" * 20_000)
        return tmp_path

    @pytest.mark.parametrize("damage", [_truncate, _overwrite_header, _overwrite_pages])
    def test_a_damaged_file_is_set_aside_whole_and_the_broker_starts_empty(
        self, data: Path, damage: Callable[[Path], None]
    ) -> None:
        damage(data / DATABASE_NAME)
        damaged = (data / DATABASE_NAME).read_bytes()
        with broker_process(data) as process, client(process.address) as server:
            assert server.setup()
            assert server.publish("new")
        (aside,) = (each for each in data.glob(f"{DATABASE_NAME}.damaged-*") if each.name.endswith("Z"))
        assert aside.read_bytes() == damaged
        assert "is damaged" in process.output
        assert str(aside) in process.output

    def test_a_log_that_is_not_the_databases_own_changes_nothing(self, data: Path) -> None:
        (data / f"{DATABASE_NAME}-wal").write_bytes(os.urandom(100_000))
        with broker_process(data) as process, client(process.address) as server:
            assert len(server.ready(server.subscription())) == 20

    def test_data_of_a_newer_broker_are_left_alone(self, data: Path) -> None:
        connection = sqlite3.connect(data / DATABASE_NAME)
        connection.execute("PRAGMA user_version = 999")
        connection.close()
        before = (data / DATABASE_NAME).read_bytes()
        with pytest.raises(StartError, match="newer broker"):
            Broker(data).__enter__()
        assert (data / DATABASE_NAME).read_bytes() == before

    def test_a_second_broker_is_refused_and_the_first_goes_on(self, data: Path) -> None:
        with broker_process(data) as process, client(process.address) as server:
            command = [sys.executable, "-m", "transports.local", "--port=0", f"--data={data}"]
            second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert (second.returncode, second.stdout) == (1, "")
            assert "Another broker already uses" in second.stderr
            assert server.publish("still here")

    def test_a_directory_that_cannot_be_written_is_named(self, data: Path) -> None:
        data.chmod(0o500)
        for each in data.iterdir():
            each.chmod(0o400)
        command = [sys.executable, "-m", "transports.local", "--port=0", f"--data={data}"]
        if os.geteuid() == 0:  # who may write to everything, unless that is taken from him
            command = ["setpriv", "--bounding-set=-dac_override", *command]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        data.chmod(0o700)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"Cannot write to the data directory {data}" in done.stderr


class TestFullDisk:
    def test_nothing_confirmed_is_lost_and_room_is_all_it_takes_to_go_on(self, tmp_path: Path) -> None:
        confirmed: set[str] = set()
        with self.limited_broker(tmp_path) as process, client(process.address) as server:
            path = server.setup()
            with pytest.raises(ServiceUnavailable, match="cannot store"):
                self.publish_until_it_fails(server, confirmed)
            assert server.subscriber.get_subscription(subscription=path)
            os.kill(process.pid, signal.SIGKILL)
        assert confirmed
        with broker_process(tmp_path) as process, client(process.address) as server:
            found = {each.message.message_id for each in server.pull(path, len(confirmed))}
            assert confirmed <= found
            assert server.publish("room again")
        assert not list(tmp_path.glob("*.damaged-*"))

    def publish_until_it_fails(self, server: PubSub, confirmed: set[str]) -> None:
        """Publish large messages, each once."""
        request = {"topic": server.topic(), "messages": [{"data": b"x" * 50_000}]}
        for _ in range(1000):
            answer = server.publisher.publish(request=request, retry=None, timeout=LIMIT_SECONDS)
            confirmed.update(answer.message_ids)

    @contextmanager
    def limited_broker(self, data: Path) -> Iterator[ServerProcess]:
        """Run a broker that can write files of 2 MB at most: to it the disk is full then."""
        command = f"ulimit -f 2000; exec {sys.executable} -m transports.local --port=0 --data={data}"
        process = ServerProcess(["bash", "-c", command], ready=r"^ready (\S+)")
        process.wait_until_ready()
        try:
            yield process
        finally:
            process.kill()
