"""Large objects over a link that takes its time: a slow one is waited for, a silent one is not."""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from s3_server import in_thread, new_bucket, variables

from studio_celery.errors import StoreError, StoreRefusal
from studio_celery.store import Store, limits, objects

MIB = 2**20


@dataclass
class Link:
    """How the server behaves, and what it saw."""

    #: Bodies of answers to GET, and of requests, come in so many pieces with a pause before each, seconds.
    pieces: int = 1
    pause_seconds: float = 0.0
    #: An answer to PUT that is given without asking the server: status and body.
    refusal: tuple[int, bytes] | None = None
    gets: int = 0
    puts: int = 0
    #: Numbers of the parts that came, and how many were on their way at once.
    parts: list[int] = field(default_factory=list)
    now: int = 0
    most: int = 0


class SlowServer(ThreadingHTTPServer):
    """Passes requests on to an S3 server, as slowly as its `link` says."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.target = urlsplit(target).netloc
        self.link = Link()
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: SlowServer

    def pass_on(self) -> None:
        link, part = self.server.link, parse_qs(urlsplit(self.path).query).get("partNumber")
        with self.server.lock:
            link.gets += self.command == "GET"
            link.puts += self.command == "PUT"
            link.parts += [int(number) for number in part or ()]
            link.now += bool(part)
            link.most = max(link.most, link.now)
        try:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.command == "PUT":
                time.sleep(link.pieces * link.pause_seconds)
        finally:
            with self.server.lock:
                link.now -= bool(part)
        if self.command == "PUT" and link.refusal is not None:
            self._answer(link.refusal[0], [], link.refusal[1])
            return
        connection = http.client.HTTPConnection(self.server.target, timeout=60)
        connection.request(self.command, self.path, body, dict(self.headers.items()))
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        self._answer(answer.status, answer.getheaders(), data)

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        self.send_response_only(status)
        given = {name.lower(): value for name, value in headers}
        length = given.pop("content-length", "0") if self.command == "HEAD" else str(len(data))
        for name in given.keys() - {"transfer-encoding", "connection"}:
            self.send_header(name, given[name])
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command == "HEAD":
            return
        link = self.server.link
        step = max(1, -(-len(data) // link.pieces))
        for begin in range(0, len(data), step):
            if self.command == "GET":
                time.sleep(link.pause_seconds)
            try:
                self.wfile.write(data[begin : begin + step])
            except OSError:  # the client has given up
                self.close_connection = True
                return

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = pass_on  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(s3_endpoint: str) -> Iterator[SlowServer]:
    one = SlowServer(s3_endpoint)
    with in_thread(one):
        yield one


@pytest.fixture
def store(server: SlowServer, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store that gives what is small a second, but asks again for a minute: a busy machine may take longer."""
    for name, value in variables(f"http://127.0.0.1:{server.server_port}").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(objects, "_SMALL", {"timeout": "1s"})
    monkeypatch.setattr(objects, "_RETRIES", {"max_retries": 100, "retry_timeout": timedelta(seconds=60)})
    monkeypatch.setattr(objects, "_DOWNLOAD", {"timeout": "60s", "read_timeout": "30s"})
    monkeypatch.setattr(objects, "_UPLOAD", {"timeout": "60s"})
    monkeypatch.setattr(objects, "PIECE_BYTES", MIB)
    return Store(f"s3://{new_bucket(s3_endpoint)}/prefix")


def test_what_takes_longer_to_download_than_one_request_may_arrives(
    server: SlowServer, store: Store, tmp_path: Path
) -> None:
    data = os.urandom(2 * MIB + 1)
    store.objects.put("blobs/a", data)
    server.link = Link(pieces=3, pause_seconds=0.4)
    store.get_blob("a", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert server.link.gets == 3


def test_a_download_that_falls_silent_is_an_error_soon(
    server: SlowServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_DOWNLOAD", {"timeout": "60s", "read_timeout": "300ms"})
    monkeypatch.setattr(objects, "_RETRIES", {"max_retries": 0})
    store.objects.put("key", os.urandom(MIB))
    server.link = Link(pieces=2, pause_seconds=60)
    begun = time.monotonic()
    with pytest.raises(StoreError, match="cannot be read"):
        b"".join(store.objects.stream("key"))
    assert time.monotonic() - begun < 60


def test_pieces_are_of_one_version(server: SlowServer, store: Store) -> None:
    store.objects.put("key", b"a" * (2 * MIB))
    pieces = store.objects.stream("key")
    assert next(pieces) == b"a" * MIB
    store.objects.put("key", b"b" * (2 * MIB))
    with pytest.raises(StoreError, match="was replaced while it was read"):
        next(pieces)


@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1])
def test_objects_of_any_size_come_back(store: Store, size: int) -> None:
    data = os.urandom(size)
    store.objects.put("key", data)
    assert b"".join(store.objects.stream("key")) == data
    with pytest.raises(KeyError):
        b"".join(store.objects.stream("none"))


def test_parts_of_a_large_object_may_take_longer_than_one_small_request(
    server: SlowServer, store: Store, tmp_path: Path
) -> None:
    data = os.urandom(26 * MIB)
    (tmp_path / "file").write_bytes(data)
    server.link = Link(pause_seconds=1.5)
    store.objects.put("key", tmp_path / "file")
    assert sorted(server.link.parts) == [1, 2, 3, 4, 5, 6]
    assert server.link.most <= 4
    server.link = Link()
    assert b"".join(store.objects.stream("key")) == data


def test_an_object_of_many_parts_is_sent_in_greater_ones(
    server: SlowServer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_PARTS", 3)
    (tmp_path / "file").write_bytes(b"x" * (24 * MIB))
    store.objects.put("key", tmp_path / "file")
    assert sorted(server.link.parts) == [1, 2, 3]
    assert store.objects.head("key").size == 24 * MIB


@pytest.mark.parametrize("code", ["KeyTooLongError", "EntityTooLarge"])
def test_what_a_bucket_never_takes_is_told_from_what_it_may_take_later(
    server: SlowServer, store: Store, code: str
) -> None:
    server.link.refusal = 400, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    with pytest.raises(StoreRefusal, match="never takes key"):
        store.objects.put("key", b"data")
    server.link.refusal = 400, b"<Error><Code>RequestTimeout</Code><Message>again</Message></Error>"
    with pytest.raises(StoreError) as caught:
        store.objects.put(f"{code}", b"data")
    assert not isinstance(caught.value, StoreRefusal)
