"""The door to the engine, with a server that speaks as little of its protocol as is needed."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from studio_celery.errors import EngineUnavailable, RuntimeFailure
from studio_celery.runtimes.docker.census import Census
from studio_celery.runtimes.docker.engine import Engine, Refused
from studio_celery.runtimes.docker.facts import KnownFacts
from studio_celery.runtimes.docker.images import Images
from studio_celery.runtimes.docker.options import DockerOptions

#: One event of a pull, as a chunk.
EVENT = b"%x\r\n%s\r\n" % (len(b'{"status": "Pulling"}'), b'{"status": "Pulling"}')

#: What may come of a pull after its headers, and what is said of it. "silent": nothing more comes.
CUTS = {
    "between events": (EVENT, "does not answer"),
    "within an event": (EVENT[:-9], "does not answer"),
    "within a chunk's size": (EVENT + b"1", "does not answer"),
    "within an event of an ended answer": (b"5\r\n" + b'{"sta' + b"\r\n0\r\n\r\n", "does not answer"),
    "at its end, and the image is not there": (EVENT + b"0\r\n\r\n", "is gone again"),
    "silent": (EVENT, "Nothing was heard"),
    "silent before its headers": (b"", "Nothing was heard"),
}


class Answers(BaseHTTPRequestHandler):
    """What `server.answers` says for the end of a path, else 404; connections stay open."""

    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.connections.append(self.connection)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        name = path.rpartition("/")[2] if not path.endswith("/json") else path.split("/")[-2]
        self.server.asked.append(name)
        self.server.hangs.get(name, self.server.goes_on).wait(60)
        status, body = self.server.answers.get(name, (404, {"message": "no such thing"}))
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        """A pull that is cut."""
        self.server.asked.append("pull")
        if self.server.cut != "silent before its headers":
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
            self.wfile.write(head + CUTS[self.server.cut][0])
            self.wfile.flush()
        if self.server.cut.startswith("silent"):
            self.rfile.read(1)  # until the client closes
        self.close_connection = True

    def address_string(self) -> str:
        return "test"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class Server(socketserver.ThreadingUnixStreamServer):
    """An engine on a socket."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), Answers)
        self.answers: dict[str, tuple[int, Any]] = {
            "version": (200, {"ApiVersion": "1.41"}),
            "info": (200, {"ID": "one", "NCPU": 2}),
            "bridge": (200, {"Id": "run-1"}),
        }
        self.asked: list[str] = []
        self.cut = ""
        #: What is asked for with such a name is answered when the event is set.
        self.hangs: dict[str, threading.Event] = {}
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.connections: list[Any] = []

    def drop_connections(self) -> None:
        """As when it is restarted."""
        for connection in self.connections:
            with suppress(OSError):  # its client closed it
                connection.shutdown(2)
        self.connections.clear()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "docker.sock") as one:
        thread = threading.Thread(target=one.serve_forever, args=(0.01,))
        thread.start()
        yield one
        one.shutdown()
        thread.join()
        one.drop_connections()


@pytest.fixture
def engine(server: Server) -> Engine:
    return Engine(f"unix://{server.server_address!s}", {})


def test_its_version_is_asked_once(engine: Engine, server: Server) -> None:
    for _ in range(3):
        assert engine.info()["ID"] == "one"
    assert server.asked == ["version", "info", "info", "info"]


def test_many_threads_ask_for_many_things_over_one_client(engine: Engine, server: Server) -> None:
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(engine.inspect, (f"c{number}" for number in range(300))))
    assert found == [None] * 300
    assert server.asked.count("version") == 1


def test_connections_that_a_restart_closed_fail_nothing(engine: Engine, server: Server) -> None:
    assert engine.info()["ID"] == "one"
    server.drop_connections()
    assert engine.info()["ID"] == "one"


def test_an_engine_of_another_version_is_spoken_to_in_its_own(engine: Engine, server: Server) -> None:
    assert engine.info()["ID"] == "one"
    server.answers["info"] = 400, {"message": "client version 1.41 is too old. Minimum supported API version is 1.44"}
    server.answers["version"] = 200, {"ApiVersion": "1.44"}
    with pytest.raises(Refused, match="too old"):
        engine.info()
    server.answers["info"] = 200, {"ID": "two"}
    assert engine.info()["ID"] == "two"
    assert server.asked.count("version") == 2


def test_what_else_goes_wrong_is_not_taken_for_its_silence(tmp_path: Path) -> None:
    engine = Engine(f"unix://{tmp_path}/nowhere.sock", {})
    try:
        raise ValueError("something else")
    except ValueError:
        with pytest.raises(EngineUnavailable, match="No such file") as caught:
            engine.info()
    assert "something else" not in str(caught.value)


def test_facts_are_asked_once_for_each_run_of_the_engine(engine: Engine, server: Server) -> None:
    known = KnownFacts(engine)
    assert [known.now().site for _ in range(3)] == ["docker one"] * 3
    assert server.asked.count("info") == 1
    server.answers.update(bridge=(200, {"Id": "run-2"}), info=(200, {"ID": "two"}))
    assert (known.now().run, known.now().site) == ("run-2", "docker two")
    assert server.asked.count("info") == 2


def test_facts_of_an_engine_whose_runs_look_alike_are_asked_each_time(engine: Engine, server: Server) -> None:
    del server.answers["bridge"]
    known = KnownFacts(engine)
    assert [known.now().run for _ in range(3)] == [None] * 3
    assert server.asked.count("info") == 3


def test_one_listing_tells_of_all_containers_for_a_while(engine: Engine, server: Server) -> None:
    def listing(**states: str) -> None:
        server.answers["containers"] = 200, [{"Id": name, "State": state} for name, state in states.items()]

    listing(a="running", b="exited", c="paused", d="created")
    census = Census(engine, "studio.home=x", valid_seconds=600)
    assert [census.runs(name) for name in "abcde"] == [True, False, True, False, False]
    assert server.asked.count("containers") == 1
    listing(a="exited", b="running")
    assert census.runs("a")
    census.forget()
    assert [census.runs(name) for name in "ab"] == [False, True]
    assert Census(engine, "studio.home=x", valid_seconds=0).runs("b")
    assert server.asked.count("containers") == 3


@pytest.mark.parametrize("cut", list(CUTS))
def test_a_pull_that_is_cut_is_another_workers_chance(server: Server, tmp_path: Path, cut: str) -> None:
    server.cut = cut
    options = DockerOptions(home=tmp_path, pull_silence_seconds=3.0 if cut.startswith("silent") else 60.0)
    images = Images(Engine(f"unix://{server.server_address!s}", {}), options)
    with pytest.raises(RuntimeFailure, match=CUTS[cut][1]) as caught:
        images.ensure("some/image:1", lambda _: None, lambda: False)
    assert caught.value.release_class == "engine"
    assert server.asked.count("pull") == 1


def test_a_defect_in_following_a_pull_is_not_taken_for_its_end(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.cut = "between events"
    monkeypatch.setattr("studio_celery.runtimes.docker.images._describe", lambda *_: 1 // 0)
    images = Images(Engine(f"unix://{server.server_address!s}", {}), DockerOptions(home=tmp_path))
    with pytest.raises(ZeroDivisionError):
        images.ensure("some/image:1", lambda _: None, lambda: False)


@pytest.mark.parametrize("hung", ["version", "containers"])
def test_a_hung_engine_is_waited_for_once_by_all_together(
    server: Server, monkeypatch: pytest.MonkeyPatch, hung: str
) -> None:
    server.answers["containers"] = 200, []
    server.hangs[hung] = threading.Event()
    engine = Engine(f"unix://{server.server_address!s}", {})
    census = Census(engine, "studio.home=x", valid_seconds=0.0)
    question = engine.inspect if hung == "version" else census.runs
    everybody = threading.Barrier(16)

    def ask(name: str) -> str:
        everybody.wait()
        with pytest.raises(EngineUnavailable) as caught:
            question(name)
        return str(caught.value)

    with monkeypatch.context() as patched, ThreadPoolExecutor(16) as threads:
        patched.setattr("studio_celery.runtimes.docker.engine.ANSWER_SECONDS", 3.0)  # within which all have asked
        told = set(threads.map(ask, "abcdefghijklmnop"))
    server.hangs[hung].set()
    assert len(told) == 1
    assert "does not answer" in told.pop()
    assert server.asked.count(hung) == 1
    assert not census.runs("a")


def test_that_an_engine_does_not_answer_is_known_for_as_long_as_a_listing(engine: Engine, server: Server) -> None:
    server.answers["containers"] = 200, []
    assert engine.info()["ID"] == "one"
    census, other = (Census(engine, "studio.home=x", seconds) for seconds in (600.0, 0.0))
    gone = EngineUnavailable("gone")
    asked: list[float] = []

    def containers(_: str) -> list[dict[str, Any]]:
        asked.append(time.monotonic())
        raise gone

    engine.containers = containers  # type: ignore[method-assign]
    for each in (census, census, other, other):
        with pytest.raises(EngineUnavailable, match="gone"):
            each.runs("a")
    assert len(asked) == 3
