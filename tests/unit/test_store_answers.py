"""An S3 server whose answers get lost, or that refuses for a while: what the store's client makes of it."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from s3_server import in_thread, new_bucket, variables

from studio_celery.errors import StoreError
from studio_celery.experiment import Experiment, Status, new_id, utc_now
from studio_celery.journal import Kind
from studio_celery.store import Store


def experiment() -> Experiment:
    return Experiment(id=new_id(), queue="q", script="a.py", workspace="0" * 64, submitted_at=utc_now())


class Lossy(ThreadingHTTPServer):
    """Passes requests on; loses the answers to those that the server carries out, or refuses them, as it is told."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.target = urlsplit(target).netloc
        #: Part of a path, and how often answers to a PUT of it get lost, or are a refusal.
        self.path = "journal"
        self.losses = 0
        self.refusals = 0
        self.puts: list[str] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Lossy

    def pass_on(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        concerned = self.command == "PUT" and self.server.path in self.path
        if concerned:
            self.server.puts.append(self.path)
        if concerned and self.server.refusals:
            self.server.refusals -= 1
            self._answer(503, {}, b"")
            return
        connection = http.client.HTTPConnection(self.server.target, timeout=60)
        connection.request(self.command, self.path, body, dict(self.headers.items()))
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        if concerned and self.server.losses:
            self.server.losses -= 1
            self.close_connection = True
            return
        kept = {k: v for k, v in answer.getheaders() if k.lower() not in ("transfer-encoding", "connection")}
        self._answer(answer.status, kept, data)

    def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() != "content-length":
                self.send_header(name, value)
        self.send_header("Content-Length", headers.get("Content-Length", "0") if not data else str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = pass_on  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def lossy(s3_endpoint: str) -> Iterator[Lossy]:
    server = Lossy(s3_endpoint)
    with in_thread(server):
        yield server


@pytest.fixture
def store(lossy: Lossy, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name, value in variables(f"http://127.0.0.1:{lossy.server_port}").items():
        monkeypatch.setenv(name, value)
    return Store(f"s3://{new_bucket(s3_endpoint)}/prefix")


def test_an_entry_whose_answer_was_lost_is_known_by_its_nonce(lossy: Lossy, store: Store) -> None:
    """The client asks again by itself, finds the name taken, and it was taken by itself."""
    journal = store.submit(experiment(), "alice")
    lossy.puts.clear()
    lossy.losses = 1
    state = journal.append(Kind.QUEUED, "alice")
    assert (lossy.losses, len(lossy.puts)) == (0, 2)
    assert state is not None
    assert (state.status, state.seq) == (Status.WAITING, 2)


def test_an_entry_that_somebody_else_wrote_meanwhile_is_not_taken_for_ones_own(lossy: Lossy, store: Store) -> None:
    first = store.submit(experiment(), "alice")
    second = store.journal(first.experiment_id)
    second.refresh()
    assert second.append(Kind.QUEUED, "bob") is not None
    lossy.losses = 1
    assert first.append(Kind.STOP_REQUESTED, "alice") is None
    assert first.state.seq == 2
    assert lossy.losses == 0


def test_a_passing_refusal_is_not_seen(lossy: Lossy, store: Store) -> None:
    journal = store.submit(experiment(), "alice")
    lossy.refusals = 2
    assert journal.append(Kind.QUEUED, "alice") is not None
    assert lossy.refusals == 0


def test_an_outage_is_told_in_one_sentence(lossy: Lossy, store: Store) -> None:
    lossy.refusals = 10**6
    with pytest.raises(StoreError) as caught:
        store.submit(experiment(), "alice")
    assert "\n" not in str(caught.value)
    assert "cannot be written" in str(caught.value)


def test_a_bucket_that_is_gone_is_an_error_of_the_store_and_no_missing_object(store: Store) -> None:
    gone = Store(store.url.replace("/prefix", "-gone/prefix"))
    with pytest.raises(StoreError, match="cannot be written"):
        gone.objects.put("key", b"")
