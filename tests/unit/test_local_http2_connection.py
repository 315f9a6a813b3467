"""Whatever a client sends, a connection raises nothing and keeps little."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from http2_client import PREFACE, Frame, message, request_block, settings
from http2_server import House
from hypothesis import HealthCheck, given
from hypothesis import settings as how
from hypothesis import strategies as st

from transports.local.http2.connection import Connection
from transports.local.http2.errors import ConnectionFault
from transports.local.http2.floods import BURST, PER_SECOND, Patience

PATHS = ["/test/Echo", "/test/Wait", "/test/Stream", "/test/Deaf", "/test/Many", "/test/Fail", "/test/None", ""]
BLOCKS = st.sampled_from(
    [
        *map(request_block, PATHS),
        request_block("/test/Echo", ("grpc-encoding", "gzip")),
        request_block("/test/Deaf", ("grpc-timeout", "1n")),
        request_block("/test/Echo", content_type="text/html"),
        b"\x40\x04name\x05value",
        b"\xbe",
        b"\x20",
        b"\x3f\xe1\x1f",
        b"\xff",
    ]
)
STREAMS = st.integers(0, 9)
BODIES = st.sampled_from([b"", b"7", b"70000", b"x" * 300]).map(message)
WORDS = st.sampled_from([0, 1, 100, (1 << 31) - 1, (1 << 32) - 1]).map(lambda number: number.to_bytes(4, "big"))
FRAMES = st.one_of(
    st.builds(Frame, st.just(1), st.sampled_from([0, 1, 4, 5, 0xC, 0x24, 0x2D]), STREAMS, BLOCKS),
    st.builds(Frame, st.just(9), st.sampled_from([0, 4]), STREAMS, BLOCKS),
    st.builds(Frame, st.just(0), st.sampled_from([0, 1, 8, 9]), STREAMS, BODIES | st.binary(max_size=20)),
    st.builds(Frame, st.sampled_from([2, 3, 6, 7, 8]), st.sampled_from([0, 1]), STREAMS, WORDS | st.binary(max_size=9)),
    st.builds(
        Frame,
        st.just(4),
        st.sampled_from([0, 1]),
        st.sampled_from([0, 0, 0, 1]),
        st.one_of(
            st.builds(lambda size: settings(window=size), st.sampled_from([0, 10, 65535, (1 << 31) - 1])),
            st.sampled_from([b"", settings(table=0, frame=16384, list=0), settings(push=3), b"123"]),
        ),
    ),
    st.builds(Frame, st.integers(0, 255), st.integers(0, 255), st.integers(0, 1 << 31), st.binary(max_size=40)),
)
#: Frames that open calls and feed them, so that not every sequence ends with the first frame.
CALLS = st.sampled_from([1, 3, 5, 7]).flatmap(
    lambda stream: st.tuples(
        st.builds(Frame, st.just(1), st.sampled_from([4, 5]), st.just(stream), BLOCKS),
        st.builds(Frame, st.just(0), st.sampled_from([0, 1]), st.just(stream), BODIES),
    ).map(list)
)


class Transport:
    """A transport whose client reads now and then."""

    def __init__(self) -> None:
        self.closed = False
        self.ended = False
        self.written = 0

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 50000)

    def set_write_buffer_limits(self, high: int) -> None:
        return

    def write(self, data: bytes) -> None:
        assert not self.ended, "written after the end"
        self.written += len(data)

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


class Server:
    """What a connection needs of its server."""

    silence_seconds = 60.0

    def __init__(self) -> None:
        self.find = House().find
        self.tasks: set[asyncio.Task[None]] = set()
        self.connections: set[Connection] = set()

    def connected(self, connection: Connection) -> None:
        self.connections.add(connection)

    def disconnected(self, connection: Connection) -> None:
        self.connections.discard(connection)


async def feed(data: list[bytes]) -> None:
    """Feed a connection, and lose it at the end; afterwards nothing of it may be left."""
    server, transport = Server(), Transport()
    said: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    connection = Connection(server)
    connection.connection_made(transport)
    for index, piece in enumerate(data):
        connection.data_received(piece)
        if index % 5 == 2:
            connection.pause_writing()
        if index % 5 == 4:
            connection.resume_writing()
        await asyncio.sleep(0)
    connection.leave()
    connection.connection_lost(None)
    for _ in range(5):
        await asyncio.sleep(0)
    streams = connection._streams
    assert (len(server.tasks), len(server.connections), streams.handling, streams.credit.kept_bytes) == (0, 0, 0, 0)
    assert said == []


@how(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.one_of(FRAMES.map(lambda each: [each]), CALLS), max_size=25))
def test_no_sequence_of_frames_raises(caplog: pytest.LogCaptureFixture, sequence: list[list[Frame]]) -> None:
    frames = [each.to_bytes() for group in sequence for each in group]
    with caplog.at_level(logging.INFO):
        asyncio.run(feed([PREFACE + Frame(4).to_bytes(), *frames]))
    assert caplog.records == []


@how(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=100), max_size=10), st.booleans())
def test_no_bytes_raise(pieces: list[bytes], greeted: bool) -> None:
    asyncio.run(feed([PREFACE + Frame(4).to_bytes(), *pieces] if greeted else pieces))


class TestPatience:
    def test_a_burst_is_endured_and_more_is_not(self) -> None:
        patience = Patience(lambda: 0.0)
        for _ in range(BURST):
            patience.spend()
        with pytest.raises(ConnectionFault):
            patience.spend()

    def test_it_comes_back(self) -> None:
        now = [0.0]
        patience = Patience(lambda: now[0])
        for _ in range(5 * BURST):
            now[0] += 1 / PER_SECOND
            patience.spend()


def test_a_client_that_goes_while_we_leave_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel knows that before the event loop, and refuses to end what has ended."""

    def refuse(transport: Transport) -> None:
        raise OSError(107, "Transport endpoint is not connected")

    async def main() -> None:
        transport = Transport()
        connection = Connection(Server())
        connection.connection_made(transport)
        connection.data_received(PREFACE + Frame(4).to_bytes())
        connection.leave()
        assert transport.closed
        connection.connection_lost(None)

    monkeypatch.setattr(Transport, "write_eof", refuse)
    asyncio.run(main())
