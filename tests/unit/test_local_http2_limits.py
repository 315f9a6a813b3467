"""What a connection bears of a healthy client, and what it does not do for another one."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from http2_client import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Frame,
    message,
    request_block,
    settings,
)

from transports.local.http2 import Call, Method, StatusError, Streaming, Unary, connection
from transports.local.http2.connection import Connection
from transports.local.http2.credit import BUSY_BYTES, MAX_KEPT_BYTES
from transports.local.http2.floods import BURST
from transports.local.http2.frames import FrameCutter
from transports.local.http2.windows import CONNECTION_WINDOW_BYTES, DEFAULT_WINDOW_BYTES

ECHO = Unary(lambda call, data: call.answer(data))
IDLE = Unary(lambda call, data: None)
BLOCK, GZIP = request_block("/test/It"), request_block("/test/It", ("grpc-encoding", "gzip"))
NOT_THERE = request_block("/test/None")


class Line:
    """A connection whose one method is a test's, the transport it writes to, and its server."""

    silence_seconds = 60.0

    def __init__(self, method: Method) -> None:
        self._method = method
        self.tasks: set[asyncio.Task[None]] = set()
        self.written = b""
        self.unread_bytes = 0
        self.ended = self.aborted = False
        self.connection = Connection(self)
        self.connection.connection_made(self)
        self.connection.data_received(PREFACE)
        self.send(Frame(SETTINGS))
        self.streams = self.connection._streams

    def send(self, *frames: Frame) -> None:
        self.connection.data_received(b"".join(each.to_bytes() for each in frames))

    def ask(self, stream: int, *bodies: bytes, block: bytes = BLOCK) -> None:
        self.send(
            Frame(HEADERS, END_HEADERS, stream, block),
            Frame(DATA, END_STREAM, stream, b"".join(map(message, bodies))),
        )

    async def frames(self, kind: int) -> list[Frame]:
        """Return what was written of a kind."""
        for _ in range(5):
            await asyncio.sleep(0)
        found = [Frame(*each) for each in FrameCutter().cut(PREFACE + self.written)]
        return [each for each in found if each.kind == kind]

    # The server

    def find(self, path: str) -> Method:
        if path == "/test/It":
            return self._method
        raise StatusError(grpc.StatusCode.UNIMPLEMENTED, "no")

    def connected(self, connection: Connection) -> None:
        return

    def disconnected(self, connection: Connection) -> None:
        return

    # The transport

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 50000)

    def set_write_buffer_limits(self, high: int) -> None:
        return

    def get_write_buffer_size(self) -> int:
        return self.unread_bytes

    def write(self, data: bytes) -> None:
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.aborted = True


def run(method: Method, test: Callable[[Line], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        line = Line(method)
        await test(line)
        line.connection.connection_lost(None)

    asyncio.run(main())


class TestPatience:
    def test_a_ping_with_each_answer_is_endured(self) -> None:
        async def main(line: Line) -> None:
            for index in range(2 * BURST):
                line.ask(2 * index + 1, b"x")
                line.send(Frame(PING, payload=b"8 bytes."))
            line.written = b""
            line.ask(1_000_001, b"x")
            assert len(await line.frames(DATA)) == 1

        run(ECHO, main)

    def test_calls_do_not_make_up_for_resets(self) -> None:
        async def main(line: Line) -> None:
            for index in range(4 * BURST):
                line.send(
                    Frame(HEADERS, END_HEADERS, 2 * index + 1, BLOCK), Frame(RST_STREAM, 0, 2 * index + 1, bytes(4))
                )
            assert [each.code for each in await line.frames(GOAWAY)] == [0xB]

        run(IDLE, main)

    def test_windows_of_many_calls_are_not_changed_again_and_again(self) -> None:
        async def main(line: Line) -> None:
            for index in range(2000):
                line.send(Frame(HEADERS, END_HEADERS, 2 * index + 1, BLOCK))
            line.send(*[Frame(SETTINGS, 0, 0, settings(window=size)) for size in (1, 2)] * (BURST // 10))
            assert [each.code for each in await line.frames(GOAWAY)] == [0xB]

        run(IDLE, main)


def test_of_each_setting_the_last_value_counts() -> None:
    async def main(line: Line) -> None:
        line.send(Frame(SETTINGS, 0, 0, settings(window=0) + settings(window=9) + settings(window=7)))
        line.ask(1, b"x" * 20)
        assert [len(each.payload) for each in await line.frames(DATA)] == [7]

    run(ECHO, main)


class TestRequests:
    def test_they_wait_compressed(self) -> None:
        async def main(line: Line) -> None:
            bombs = message(gzip.compress(bytes(20_000_000)), 1) * 20
            line.send(Frame(HEADERS, END_HEADERS, 1, GZIP), Frame(DATA, 0, 1, bombs))
            assert line.streams.credit.kept_bytes == len(bombs)

        run(Streaming(_never), main)

    def test_a_second_one_is_refused_before_the_first_is_read(self) -> None:
        async def main(line: Line) -> None:
            line.send(Frame(HEADERS, END_HEADERS, 1, GZIP), Frame(DATA, 0, 1, message(b"no gzip", 1) * 2))
            assert b"one request" in (await line.frames(HEADERS))[0].payload or await line.frames(RST_STREAM)
            assert line.streams.credit.kept_bytes == 0

        run(ECHO, main)

    def test_one_in_a_stream_that_cannot_be_read_ends_it(self) -> None:
        async def main(line: Line) -> None:
            line.send(Frame(HEADERS, END_HEADERS, 1, GZIP), Frame(DATA, 0, 1, message(b"no gzip", 1)))
            assert [each.flags & END_STREAM for each in await line.frames(HEADERS)] == [END_STREAM]

        run(Streaming(_read_all), main)

    def test_what_comes_for_a_call_that_was_refused_is_not_kept(self) -> None:
        async def main(line: Line) -> None:
            line.connection.pause_writing()
            line.send(Frame(HEADERS, END_HEADERS, 1, NOT_THERE), Frame(DATA, 0, 1, message(bytes(1000))[:900]))
            assert line.streams.credit.kept_bytes == 0

        run(ECHO, main)

    def test_nor_is_its_method_run(self) -> None:
        ran = []

        async def main(line: Line) -> None:
            line.connection.pause_writing()
            line.streams.credit.keep(MAX_KEPT_BYTES)
            line.send(Frame(HEADERS, END_HEADERS, 1, BLOCK), Frame(DATA, 0, 1, message(b"abc")))
            line.streams.credit.keep(-MAX_KEPT_BYTES)
            line.send(Frame(DATA, END_STREAM, 1))
            line.connection.resume_writing()
            assert [each.flags & END_STREAM for each in await line.frames(HEADERS)] == [END_STREAM]
            assert not await line.frames(RST_STREAM)
            assert ran == []

        run(Unary(lambda call, data: ran.append(data)), main)

    def test_a_client_waits_until_methods_are_done_with_what_it_sent(self) -> None:
        calls: list[Call] = []

        async def main(line: Line) -> None:
            async def window() -> int:
                updates = [each for each in await line.frames(WINDOW_UPDATE) if each.stream == 0]
                return DEFAULT_WINDOW_BYTES + sum(int.from_bytes(each.payload, "big") for each in updates)

            whole = message(bytes((1 << 20) - 5))
            for index in range(300):
                if (index + 1) * len(whole) > await window():
                    break
                line.send(Frame(HEADERS, END_HEADERS, 2 * index + 1, BLOCK))
                line.send(Frame(DATA, END_STREAM, 2 * index + 1, whole))
            assert BUSY_BYTES < line.streams.credit.kept_bytes < 3 * BUSY_BYTES
            sent = len(calls) * len(whole)
            for call in calls:
                call.answer(b"")
            assert line.streams.credit.kept_bytes == 0
            assert await window() - sent == CONNECTION_WINDOW_BYTES

        run(Unary(lambda call, data: calls.append(call)), main)

    def test_many_small_ones_leave_others_their_turns(self) -> None:
        turns = []

        async def main(line: Line) -> None:
            line.send(Frame(HEADERS, END_HEADERS, 1, BLOCK), Frame(DATA, 0, 1, message(b"") * 10_000))
            while line.streams.credit.kept_bytes:
                turns.append(line.streams.credit.kept_bytes)
                await asyncio.sleep(0)
            assert len(turns) > 50

        run(Streaming(_read_all), main)


async def _never(call: Call) -> None:
    await asyncio.Event().wait()


async def _read_all(call: Call) -> None:
    async for _ in call.requests():
        pass


@pytest.mark.parametrize(("sent_first", "sent_bytes", "expected"), [(True, 70_005, ["sent"]), (False, 65_535, [])])
def test_a_writer_that_is_cancelled_knows_whether_its_message_went(
    sent_first: bool, sent_bytes: int, expected: list[str]
) -> None:
    said: list[str] = []

    async def write(call: Call) -> None:
        await call.write(bytes(70_000))
        said.append("sent")
        await asyncio.sleep(0)
        said.append("not cancelled")

    async def main(line: Line) -> None:
        line.ask(1, b"")
        await asyncio.sleep(0)
        (task,) = line.tasks
        if not sent_first:
            task.cancel()
        widened = (1 << 20).to_bytes(4, "big")
        line.send(Frame(WINDOW_UPDATE, 0, 0, widened), Frame(WINDOW_UPDATE, 0, 1, widened))
        if sent_first:
            task.cancel()
        assert sum(len(each.payload) for each in await line.frames(DATA)) == sent_bytes
        assert said == expected
        assert task.cancelled()

    run(Unary(lambda call, data: call.run(write(call))), main)


def test_calls_that_were_given_up_wait_for_nothing() -> None:
    async def main(line: Line) -> None:
        line.connection.pause_writing()
        for stream in (1, 3, 5):
            line.ask(stream, b"x")
            line.send(Frame(RST_STREAM, 0, stream, bytes(4)))
        assert len(line.connection._outbound._turns) == 0

    run(ECHO, main)


async def aborted(line: Line) -> None:
    """Wait until the connection is cut off."""
    async with asyncio.timeout(30):
        while not line.aborted:
            await asyncio.sleep(0.01)


class TestEnds:
    def test_the_last_stream_that_is_served_does_not_change(self) -> None:
        async def main(line: Line) -> None:
            line.send(Frame(HEADERS, END_HEADERS, 1, BLOCK))
            line.connection.leave()
            line.send(Frame(HEADERS, END_HEADERS, 3, BLOCK), Frame(PING, payload=b"short"))
            assert [int.from_bytes(each.payload[:4], "big") for each in await line.frames(GOAWAY)] == [1, 1]

        run(IDLE, main)

    def test_a_client_gets_the_time_to_read_the_last_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connection, "_LINGER_SECONDS", 0.01)

        async def main(line: Line) -> None:
            line.unread_bytes = 1
            line.connection.leave()
            assert line.ended
            await asyncio.sleep(0.2)
            assert not line.aborted
            line.unread_bytes = 0
            await aborted(line)

        run(ECHO, main)

    def test_one_that_broke_a_rule_does_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connection, "_LINGER_SECONDS", 0.01)

        async def main(line: Line) -> None:
            line.unread_bytes = 1
            line.send(Frame(PING, payload=b"short"))
            await aborted(line)

        run(ECHO, main)


class TestSilence:
    def test_a_client_is_asked_before_it_is_let_go(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
        monkeypatch.setattr(connection, "time", clock)

        async def main(line: Line) -> None:
            async def pings_at(now: float) -> int:
                clock.now = now
                line.connection._watch.cancel()
                line.connection._check_silence()
                return len([each for each in await line.frames(PING) if not each.flags & ACK])

            assert await pings_at(1000.0) == 1  # it is we who were away
            assert await pings_at(1019.0) == 1
            assert not line.aborted
            line.send(Frame(PING, ACK, 0, b"are you?"))
            assert await pings_at(1058.0) == 1
            assert await pings_at(1060.0) == 2
            assert not line.aborted
            await pings_at(1081.0)
            assert line.aborted

        run(ECHO, main)
