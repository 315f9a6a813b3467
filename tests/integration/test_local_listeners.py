"""Who connects when there is no room, or does not end the handshake of TLS."""

from __future__ import annotations

import resource
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from http2_client import RawClient
from http2_server import House, served
from ports import kept_port
from pubsub_client import LIMIT_SECONDS, PubSub
from pubsub_servers import ServerProcess, broker_process
from pubsub_tokens import connected, make_certificate
from studio import wait_for

from transports.local import listeners
from transports.local.encryption import Certificate

EXHAUSTED = "no connection can be accepted: Too many open files"


@contextmanager
def connections(count: int, port: int) -> Iterator[list[socket.socket]]:
    """Connect, and say nothing."""
    with ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", port), LIMIT_SECONDS)) for _ in range(count)]


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


class TestWithoutFileDescriptors:
    @pytest.fixture
    def metrics_port(self) -> Iterator[int]:
        with kept_port() as port:
            yield port

    @pytest.fixture
    def process(self, tmp_path: Path, metrics_port: int) -> Iterator[ServerProcess]:
        with broker_process(tmp_path, f"--metrics-port={metrics_port}") as process:
            yield process

    @pytest.mark.parametrize("to_metrics", [False, True])
    def test_it_is_said_once_and_those_who_are_connected_notice_nothing(
        self, process: ServerProcess, metrics_port: int, *, to_metrics: bool
    ) -> None:
        page = f"http://127.0.0.1:{metrics_port}/metrics"
        with PubSub(process.address) as server:
            server.setup()
            self.leave_room_for(5, process)
            port = metrics_port if to_metrics else port_of(process.address)
            with connections(40, port):
                wait_for("a line about it", lambda: EXHAUSTED in process.output)
                before = self.cpu_ticks(process)
                for each in range(20):
                    server.publish(str(each))
                assert self.cpu_ticks(process) - before < 100
        wait_for("the end of all connections", lambda: connected_to(port) == 0)
        with PubSub(process.address) as late:
            late.setup("after", topic="after")
        assert urllib.request.urlopen(page, timeout=LIMIT_SECONDS).status == 200
        assert process.stop() == 0
        assert process.output.count(EXHAUSTED) == 1
        assert "Traceback" not in process.output

    def test_it_stops_at_once_all_the_same(self, process: ServerProcess) -> None:
        self.leave_room_for(5, process)
        with connections(40, port_of(process.address)):
            wait_for("a line about it", lambda: EXHAUSTED in process.output)
            assert process.stop() == 0
        assert "Traceback" not in process.output

    def leave_room_for(self, count: int, process: ServerProcess) -> None:
        taken = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (taken + count, 4096))

    def cpu_ticks(self, process: ServerProcess) -> int:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])


class TestHandshakes:
    def test_one_that_stalls_or_fails_holds_nobody_up(self, tmp_path: Path) -> None:
        certificate = make_certificate(tmp_path)
        options = (f"--tls-cert={certificate.path}", f"--tls-key={certificate.key}")
        with broker_process(tmp_path / "data", *options) as process:
            port = port_of(process.address)
            with connections(50, port) as stalled:
                stalled[0].sendall(b"GET / HTTP/1.1\r\n\r\n")
                stalled[1].close()
                stalled[2].sendall(b"\x16\x03\x01")
                stalled[2].close()
                with connected(f"localhost:{port}", None, "p", certificate.path) as client:
                    client.setup()
            assert process.stop() == 0
            assert "Traceback" not in process.output

    def test_one_that_does_not_end_is_given_up(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(listeners, "HANDSHAKE_SECONDS", 0.1)
        made = make_certificate(tmp_path)
        with (
            served(House(), tls=Certificate(made.path, made.key).context(("h2",))) as address,
            RawClient(address, greet=False) as client,
        ):
            assert client.socket.recv(1) == b""

    def test_no_more_are_under_way_than_may_be(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(listeners, "HANDSHAKE_SECONDS", 2.0)
        monkeypatch.setattr(listeners, "_MAX_HANDSHAKES", 3)
        made = make_certificate(tmp_path)
        with served(House(), tls=Certificate(made.path, made.key).context(("h2",))) as address:
            port = port_of(address)
            with connections(7, port):
                wait_for("those that may", lambda: connected_to(port, accepted=True) == 3)
                with connected(f"localhost:{port}", None, "p", made.path) as client:
                    echo = client.channel.unary_unary("/test/Echo")
                    assert echo(b"x", timeout=LIMIT_SECONDS, wait_for_ready=True) == b"x"


def connected_to(port: int, *, accepted: bool = False) -> int:
    """Return how many connections a server at a port of 127.0.0.1 has, or has ``accepted``: others have no inode."""
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    local, open_states = f"0100007F:{port:04X}", ("01", "08")  # ESTABLISHED, CLOSE_WAIT
    return sum(row[1] == local and row[3] in open_states and not (accepted and row[9] == "0") for row in rows)
