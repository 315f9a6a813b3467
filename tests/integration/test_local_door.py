"""What happens at the broker's door: strangers, calls that nobody waits for, and how all of them are counted."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from http2_client import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    RST_STREAM,
    Frame,
    RawClient,
    message,
    request_block,
)
from http2_server import House, served
from ports import kept_port
from pubsub_client import LIMIT_SECONDS
from pubsub_servers import ServerProcess, broker_process
from studio import wait_for

from transports.local import TokenFile, methods, wire
from transports.local.access import Guard
from transports.local.handlers import Adapter
from transports.local.http2 import Method
from transports.local.http2.errors import ErrorCode
from transports.local.methods import QuickMethod
from transports.local.monitoring import service
from transports.local.monitoring.counters import Counters
from transports.local.promises import Promise
from transports.local.publications import write_ids

CREATE_TOPIC = f"/{methods.PUBLISHER}/CreateTopic"
CANCEL = ErrorCode.CANCEL.to_bytes(4, "big")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A broker that wants tokens."""
    with broker_process(tmp_path_factory.mktemp("strangers"), "--require-tokens") as process:
        yield process


class TestStrangers:
    @pytest.mark.parametrize("token", [None, "sbt_wrong"])
    @pytest.mark.parametrize(
        "method", [methods.PUBLISH, CREATE_TOPIC, methods.PULL, methods.STREAMING_PULL, service.LIST]
    )
    def test_they_are_refused_in_words_and_leave_one_line_in_the_log(
        self, guarded: ServerProcess, method: str, token: str | None
    ) -> None:
        metadata = [("authorization", f"Bearer {token}")] if token else []
        with grpc.insecure_channel(guarded.address) as channel:
            for _ in range(5):
                with pytest.raises(grpc.RpcError) as caught:
                    channel.unary_unary(method)(b"", metadata=metadata, timeout=LIMIT_SECONDS)
                assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
                assert "authentication credential" in caught.value.details()
        wait_for("a line about it", lambda: "refused:" in guarded.output)
        assert guarded.output.count("refused:") == 1
        assert "Traceback" not in guarded.output


class TestMetadata:
    def test_too_much_of_it_is_refused_and_the_other_calls_go_on(self, tmp_path: Path) -> None:
        with broker_process(tmp_path) as process, RawClient(process.address) as client:
            client.send(Frame(HEADERS, END_HEADERS, 1, request_block(methods.STREAMING_PULL)))
            for stream, size in ((3, 33_000), (5, 70_000)):
                block = request_block(CREATE_TOPIC, ("x-large", "x" * size))
                client.send(Frame(HEADERS, END_HEADERS | END_STREAM, stream, block))
                assert client.answer(stream)[0]["grpc-status"] == str(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
            client.send(Frame(DATA, END_STREAM, 1))
            assert client.answer(1)[0]["grpc-status"] == "0"


class Slow(House):
    """Methods of the broker's kinds that last until they are told to end."""

    def __init__(self, data: Path) -> None:
        super().__init__()
        self.counters = Counters()
        self._adapter = Adapter(Guard(TokenFile(data), required=False), self.counters)
        self._ends: list[asyncio.Future[Any]] = []

    def methods(self) -> Mapping[str, Method]:
        publish = QuickMethod(self._publish, lambda data: data, write_ids)
        return {
            methods.PUBLISH: self._adapter.quick(methods.PUBLISH, publish),
            CREATE_TOPIC: self._adapter.unary(CREATE_TOPIC, self._create, wire.request_type("Topic")),
            **super().methods(),
        }

    def end(self) -> None:
        """End those that have begun; called from another thread."""
        ends, self._ends = self._ends, []
        for each in ends:
            each.get_loop().call_soon_threadsafe(each.set_result, None)

    def _publish(self, request: Any) -> Promise:
        return Promise(self._begin(), lambda _: [1, 2])

    async def _create(self, request: Any) -> Any:
        await self._begin()
        self.events["created"] += 1
        return request

    def _begin(self) -> asyncio.Future[Any]:
        end = asyncio.get_running_loop().create_future()
        self._ends.append(end)
        self.events["begun"] += 1  # a test that sees it ends it
        return end


@pytest.fixture
def slow(tmp_path: Path) -> Slow:
    return Slow(tmp_path)


def ask(client: RawClient, stream: int, method: str, *further: tuple[str, str]) -> None:
    client.send(
        Frame(HEADERS, END_HEADERS, stream, request_block(method, *further)),
        Frame(DATA, END_STREAM, stream, message(b"")),
    )


class TestCallsThatNobodyWaitsFor:
    def test_what_they_stored_is_counted_and_they_as_cancelled(self, slow: Slow) -> None:
        with served(slow) as address, RawClient(address) as client:
            for stream in (1, 3):
                ask(client, stream, methods.PUBLISH)
            wait_for("their begin", lambda: slow.events["begun"] == 2)
            client.send(Frame(RST_STREAM, 0, 1, CANCEL))
            assert client.is_served()
            slow.end()
            assert client.answer(3)[0]["grpc-status"] == "0"
        assert slow.counters.published == 4
        assert slow.counters.requests == {("Publish", "CANCELLED"): 1, ("Publish", "OK"): 1}

    def test_one_whose_time_was_up_is_counted_so(self, slow: Slow) -> None:
        with served(slow) as address, RawClient(address) as client:
            ask(client, 1, methods.PUBLISH, ("grpc-timeout", "1n"))
            wait_for("its begin", lambda: slow.events["begun"] == 1)
            client.send(Frame(RST_STREAM, 0, 1, CANCEL))
            assert client.is_served()
            slow.end()
            wait_for("its end", lambda: slow.counters.requests)
        assert slow.counters.requests == {("Publish", "DEADLINE_EXCEEDED"): 1}

    def test_a_stream_whose_time_was_up_is_counted_so(self, tmp_path: Path) -> None:
        with (
            kept_port() as port,
            broker_process(tmp_path, f"--metrics-port={port}") as process,
            RawClient(process.address) as client,
        ):
            block = request_block(methods.STREAMING_PULL, ("grpc-timeout", "10m"))
            client.send(Frame(HEADERS, END_HEADERS, 1, block))
            assert client.answer(1)[0]["grpc-status"] == str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0])
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=LIMIT_SECONDS) as page:
                text = page.read().decode()
        assert 'requests_total{method="StreamingPull",code="DEADLINE_EXCEEDED"} 1\n' in text

    @pytest.mark.parametrize("method", [methods.PUBLISH, CREATE_TOPIC])
    @pytest.mark.parametrize("timeout", [(), (("grpc-timeout", "1n"),)])
    def test_their_work_goes_on_and_is_bounded(
        self, slow: Slow, monkeypatch: pytest.MonkeyPatch, method: str, timeout: tuple[tuple[str, str], ...]
    ) -> None:
        monkeypatch.setattr("transports.local.http2.streams.MAX_STREAMS", 5)
        with served(slow) as address, RawClient(address) as client:
            for stream in range(1, 11, 2):
                ask(client, stream, method, *timeout)
                client.send(Frame(RST_STREAM, 0, stream, CANCEL))
            ask(client, 11, method)
            assert client.until(RST_STREAM, 11).code == ErrorCode.REFUSED_STREAM
            wait_for("their begin", lambda: slow.events["begun"] == 5)
            slow.end()
            wait_for("their ends", lambda: sum(slow.counters.requests.values()) == 5)
            ask(client, 13, method)
            wait_for("the next one", lambda: slow.events["begun"] == 6)
            slow.end()
            assert client.answer(13)[0]["grpc-status"] == "0"
        assert slow.events["created"] == (6 if method == CREATE_TOPIC else 0)
