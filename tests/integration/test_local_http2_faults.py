"""The server against clients that break the rules of HTTP/2: they get the code that RFC 9113 names, others nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from http2_client import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    LIMIT_SECONDS,
    PADDED,
    PING,
    PREFACE,
    PRIORITIZED,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Frame,
    RawClient,
    message,
    request_block,
    settings,
)
from http2_server import House, served
from pubsub_client import PubSub
from pubsub_servers import broker_process
from studio import wait_for

from transports.local.http2.errors import ErrorCode as Code
from transports.local.http2.floods import BURST
from transports.local.http2.windows import STREAM_WINDOW_BYTES

ECHO = request_block("/test/Echo")
OPEN = Frame(HEADERS, END_HEADERS, 1, ECHO)
ENDED = Frame(HEADERS, END_HEADERS | END_STREAM, 1, request_block("/test/Deaf"))
WAITING = Frame(HEADERS, END_HEADERS, 1, request_block("/test/Deaf"))


@pytest.fixture(scope="module")
def house() -> House:
    return House()


@pytest.fixture(scope="module")
def address(house: House) -> Iterator[str]:
    with served(house) as address:
        yield address


def u32(number: int) -> bytes:
    return number.to_bytes(4, "big")


class TestConnectionFaults:
    """What a connection cannot go on after."""

    @pytest.mark.parametrize(
        ("frames", "code"),
        [
            pytest.param([Frame(DATA, 0, 0, b"x")], Code.PROTOCOL_ERROR, id="data on stream 0"),
            pytest.param([Frame(DATA, 0, 1, b"x")], Code.PROTOCOL_ERROR, id="data on an idle stream"),
            pytest.param([OPEN, Frame(DATA, PADDED, 1, b"\x05abc")], Code.PROTOCOL_ERROR, id="too much padding"),
            pytest.param([OPEN, Frame(DATA, PADDED, 1, b"")], Code.PROTOCOL_ERROR, id="padding of nothing"),
            pytest.param([Frame(HEADERS, END_HEADERS, 0, ECHO)], Code.PROTOCOL_ERROR, id="headers on stream 0"),
            pytest.param([Frame(HEADERS, END_HEADERS, 2, ECHO)], Code.PROTOCOL_ERROR, id="an even stream"),
            pytest.param(
                [Frame(HEADERS, END_HEADERS | PRIORITIZED, 1, b"\0\0")], Code.FRAME_SIZE_ERROR, id="half a priority"
            ),
            pytest.param([Frame(HEADERS, END_HEADERS, 1, b"\xff\xff")], Code.COMPRESSION_ERROR, id="no header block"),
            pytest.param([Frame(HEADERS, END_HEADERS, 1, b"\xfe")], Code.COMPRESSION_ERROR, id="no such index"),
            pytest.param([Frame(HEADERS, 0, 1, ECHO), Frame(PING, 0, 0, b"8" * 8)], Code.PROTOCOL_ERROR, id="between"),
            pytest.param(
                [Frame(HEADERS, 0, 1, ECHO), Frame(CONTINUATION, END_HEADERS, 3)],
                Code.PROTOCOL_ERROR,
                id="a continuation of another stream",
            ),
            pytest.param([Frame(CONTINUATION, END_HEADERS, 1, ECHO)], Code.PROTOCOL_ERROR, id="a continuation alone"),
            pytest.param([Frame(PRIORITY, 0, 0, b"12345")], Code.PROTOCOL_ERROR, id="priority of stream 0"),
            pytest.param([Frame(RST_STREAM, 0, 0, u32(8))], Code.PROTOCOL_ERROR, id="reset of stream 0"),
            pytest.param([Frame(RST_STREAM, 0, 1, u32(8))], Code.PROTOCOL_ERROR, id="reset of an idle stream"),
            pytest.param([WAITING, Frame(RST_STREAM, 0, 1, b"1")], Code.FRAME_SIZE_ERROR, id="a short reset"),
            pytest.param([Frame(SETTINGS, 0, 1)], Code.PROTOCOL_ERROR, id="settings of a stream"),
            pytest.param([Frame(SETTINGS, 0, 0, b"12345")], Code.FRAME_SIZE_ERROR, id="a short setting"),
            pytest.param([Frame(SETTINGS, ACK, 0, b"123456")], Code.FRAME_SIZE_ERROR, id="settings acknowledged"),
            pytest.param([Frame(SETTINGS, 0, 0, settings(push=2))], Code.PROTOCOL_ERROR, id="push 2"),
            pytest.param([Frame(SETTINGS, 0, 0, settings(window=1 << 31))], Code.FLOW_CONTROL_ERROR, id="window 2^31"),
            pytest.param([Frame(SETTINGS, 0, 0, settings(frame=16383))], Code.PROTOCOL_ERROR, id="small frames"),
            pytest.param([Frame(SETTINGS, 0, 0, settings(frame=1 << 24))], Code.PROTOCOL_ERROR, id="large frames"),
            pytest.param(
                [WAITING, Frame(WINDOW_UPDATE, 0, 1, u32(1)), Frame(SETTINGS, 0, 0, settings(window=(1 << 31) - 1))],
                Code.FLOW_CONTROL_ERROR,
                id="a window that settings make too large",
            ),
            pytest.param([Frame(PUSH_PROMISE, END_HEADERS, 1, u32(2))], Code.PROTOCOL_ERROR, id="push promise"),
            pytest.param([Frame(PING, 0, 0, b"7 bytes")], Code.FRAME_SIZE_ERROR, id="a short ping"),
            pytest.param([Frame(PING, 0, 1, b"8 bytes.")], Code.PROTOCOL_ERROR, id="ping of a stream"),
            pytest.param([Frame(GOAWAY, 0, 1, u32(0) * 2)], Code.PROTOCOL_ERROR, id="goaway of a stream"),
            pytest.param([Frame(GOAWAY, 0, 0, u32(0))], Code.FRAME_SIZE_ERROR, id="a short goaway"),
            pytest.param([Frame(WINDOW_UPDATE, 0, 0, u32(0))], Code.PROTOCOL_ERROR, id="window by 0"),
            pytest.param([Frame(WINDOW_UPDATE, 0, 0, b"123")], Code.FRAME_SIZE_ERROR, id="a short window"),
            pytest.param([Frame(WINDOW_UPDATE, 0, 3, u32(1))], Code.PROTOCOL_ERROR, id="window of an idle stream"),
            pytest.param([Frame(WINDOW_UPDATE, 0, 0, u32((1 << 31) - 1))], Code.FLOW_CONTROL_ERROR, id="window 2^31+"),
            pytest.param(
                [OPEN, Frame(DATA, END_STREAM, 1, message(b"")), OPEN], Code.STREAM_CLOSED, id="headers on a closed one"
            ),
            pytest.param(
                [Frame(HEADERS, END_HEADERS, 3, ECHO), Frame(HEADERS, END_HEADERS, 1, ECHO)],
                Code.STREAM_CLOSED,
                id="a stream before the last",
            ),
        ],
    )
    def test_the_client_is_told_the_code(self, address: str, frames: list[Frame], code: Code) -> None:
        with RawClient(address) as client:
            client.send(*frames)
            assert Code(client.until(GOAWAY).code) == code
            assert not list(client.frames())

    def test_a_frame_larger_than_announced_is_refused_before_it_has_come(self, address: str) -> None:
        with RawClient(address) as client:
            client.socket.sendall((2 << 20).to_bytes(3, "big") + bytes((DATA, 0)) + u32(1))
            assert client.until(GOAWAY).code == Code.FRAME_SIZE_ERROR

    def test_the_first_frame_is_settings(self, address: str) -> None:
        with RawClient(address, greet=False) as client:
            client.socket.sendall(PREFACE)
            client.send(Frame(PING, 0, 0, b"8 bytes."))
            assert client.until(GOAWAY).code == Code.PROTOCOL_ERROR

    @pytest.mark.parametrize(
        "said", [b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"PRI * X"]
    )
    def test_who_does_not_speak_http2_is_left(self, address: str, said: bytes) -> None:
        with RawClient(address, greet=False) as client:
            client.socket.sendall(said)
            assert [each.kind for each in client.frames()] == [SETTINGS, WINDOW_UPDATE]

    def test_a_header_list_that_grows_beyond_the_limit(self, address: str) -> None:
        # One byte of the block is 100 bytes of the list: an entry of the table, again and again.
        entry = b"\x40\x01a" + b"\x64" + b"x" * 100
        with RawClient(address) as client:
            client.send(Frame(HEADERS, END_HEADERS, 1, entry + b"\xbe" * 10_000))
            assert client.until(GOAWAY).code == Code.ENHANCE_YOUR_CALM


class TestStreamFaults:
    """What concerns one stream: the connection goes on."""

    @pytest.mark.parametrize(
        ("frames", "code"),
        [
            pytest.param([ENDED, Frame(DATA, 0, 1, b"x")], Code.STREAM_CLOSED, id="data after the end"),
            pytest.param([ENDED, Frame(HEADERS, END_HEADERS | END_STREAM, 1, ECHO)], Code.STREAM_CLOSED, id="headers"),
            pytest.param([WAITING, Frame(HEADERS, END_HEADERS, 1, ECHO)], Code.PROTOCOL_ERROR, id="no trailers"),
            pytest.param([WAITING, Frame(WINDOW_UPDATE, 0, 1, u32(0))], Code.PROTOCOL_ERROR, id="window by 0"),
            pytest.param(
                [WAITING, Frame(WINDOW_UPDATE, 0, 1, u32((1 << 31) - 1))], Code.FLOW_CONTROL_ERROR, id="window 2^31+"
            ),
            pytest.param([WAITING, Frame(PRIORITY, 0, 1, b"1234")], Code.FRAME_SIZE_ERROR, id="a short priority"),
            pytest.param(
                [WAITING, Frame(HEADERS, END_HEADERS | END_STREAM, 1, ECHO)], Code.PROTOCOL_ERROR, id="a request again"
            ),
            *(
                pytest.param(
                    [
                        Frame(HEADERS, END_HEADERS, 1, request_block("/test/Echo", ("content-length", length))),
                        Frame(DATA, END_STREAM, 1, message(b"12345")),
                    ],
                    Code.PROTOCOL_ERROR,
                    id=f"{length} bytes that are 10",
                )
                for length in ("9", "11")
            ),
            pytest.param([Frame(HEADERS, END_HEADERS, 1, b"\x83")], Code.PROTOCOL_ERROR, id="no path"),
            *(
                pytest.param([Frame(HEADERS, END_HEADERS, 1, block)], Code.PROTOCOL_ERROR, id=name)
                for name, block in {
                    "upper case": request_block("/test/Echo", ("Name", "x")),
                    "te gzip": request_block("/test/Echo", te="gzip"),
                    "connection": request_block("/test/Echo", ("connection", "close")),
                    "a pseudo-header after others": request_block("/test/Echo", (":authority", "x")),
                    "an unknown pseudo-header": request_block("/test/Echo", content_type="", te="", what="x"),
                    "an empty path": request_block(""),
                    "a line end": request_block("/test/Echo", ("name", "a\nb")),
                    "no ASCII": request_block("/test/Echo", ("name", "ä")),
                }.items()
            ),
        ],
    )
    def test_the_stream_is_reset_and_the_next_is_served(self, address: str, frames: list[Frame], code: Code) -> None:
        with RawClient(address) as client:
            client.send(*frames)
            assert Code(client.until(RST_STREAM, 1).code) == code
            client.ask(3, "/test/Echo", b"as ever")
            assert client.answer(3)[1] == [b"as ever"]

    def test_more_than_the_streams_window(self, address: str) -> None:
        with RawClient(address) as client:
            # Whole messages that the method does not take; one more byte than is allowed.
            chunk = message(b"x" * ((1 << 20) - 5))
            client.send(WAITING, *[Frame(DATA, 0, 1, chunk)] * (STREAM_WINDOW_BYTES // len(chunk)))
            client.send(Frame(DATA, 0, 1, b"\0"))
            assert client.until(RST_STREAM, 1).code == Code.FLOW_CONTROL_ERROR
            assert client.is_served()

    def test_a_stream_that_was_reset_takes_what_is_under_way(self, address: str) -> None:
        with RawClient(address) as client:
            client.send(Frame(HEADERS, END_HEADERS, 1, request_block("")), Frame(DATA, 0, 1, b"x"))
            assert client.until(RST_STREAM, 1).code == Code.PROTOCOL_ERROR
            client.send(Frame(DATA, END_STREAM, 1, b"x"), Frame(WINDOW_UPDATE, 0, 1, u32(1)))
            client.ask(3, "/test/Echo", b"next")
            assert client.answer(3)[1] == [b"next"]

    def test_a_block_of_a_refused_stream_still_changes_the_table(self, address: str) -> None:
        with RawClient(address) as client:
            added = b"\x40\x04name\x05value"
            client.send(Frame(HEADERS, END_HEADERS, 1, added))  # refused: it has no path
            client.until(RST_STREAM, 1)
            client.send(Frame(HEADERS, END_HEADERS, 3, request_block("/test/Seen") + b"\xbe"))
            client.send(Frame(DATA, END_STREAM, 3, message(b"")))
            assert client.answer(3)[0]["grpc-status"] == "0"


class TestFloods:
    @pytest.mark.parametrize(
        "frame",
        [
            pytest.param(Frame(PING, 0, 0, b"8 bytes."), id="pings"),
            pytest.param(Frame(SETTINGS), id="settings"),
            pytest.param(Frame(PRIORITY, 0, 5, b"12345"), id="priorities"),
            pytest.param(Frame(0x77, 0, 0, b"?"), id="unknown frames"),
            pytest.param(Frame(DATA, 0, 1), id="empty data"),
            pytest.param(Frame(DATA, PADDED, 1, b"\2\0\0"), id="padding"),
        ],
    )
    def test_frames_that_do_nothing_end_the_connection(self, address: str, frame: Frame) -> None:
        with RawClient(address) as client:
            client.send(WAITING)
            assert self.code_of_the_end(client, [frame] * 1000) == Code.ENHANCE_YOUR_CALM

    def test_streams_that_are_opened_and_reset_end_the_connection_and_their_methods(
        self, address: str, house: House
    ) -> None:
        with RawClient(address) as client:
            streams = iter(range(1, 1 << 30, 2))
            block = request_block("/test/Deaf")

            def pairs() -> list[Frame]:
                found = []
                for stream, _ in zip(streams, range(500), strict=False):
                    found += [Frame(HEADERS, END_HEADERS, stream, block), Frame(RST_STREAM, 0, stream, u32(8))]
                return found

            end = time.monotonic() + LIMIT_SECONDS
            code = None
            while code is None and time.monotonic() < end:
                code = self.sent(client, pairs())
            assert code == Code.ENHANCE_YOUR_CALM
        wait_for("their ends", lambda: house.events["begun"] == house.events["ended"])

    def test_a_header_block_without_end(self, address: str) -> None:
        with RawClient(address) as client:
            client.send(Frame(HEADERS, 0, 1, ECHO))
            assert self.code_of_the_end(client, [Frame(CONTINUATION, 0, 1)] * 100) == Code.ENHANCE_YOUR_CALM

    def test_a_header_block_that_is_too_large(self, address: str) -> None:
        with RawClient(address) as client:
            client.send(Frame(HEADERS, 0, 1, ECHO))
            parts = [Frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b" * 3000)] * 10
            assert self.code_of_the_end(client, parts) == Code.ENHANCE_YOUR_CALM

    def test_some_are_endured(self, address: str) -> None:
        with RawClient(address) as client:
            for _ in range(BURST // 4):
                client.send(Frame(PING, 0, 0, b"8 bytes."), Frame(0x77), Frame(PRIORITY, 0, 1, b"12345"))
            assert client.is_served()

    def test_too_many_settings_at_once(self, address: str) -> None:
        with RawClient(address) as client:
            client.send(Frame(SETTINGS, 0, 0, settings(window=1) * 100_000))
            assert client.until(GOAWAY).code == Code.ENHANCE_YOUR_CALM

    def code_of_the_end(self, client: RawClient, frames: list[Frame]) -> int:
        """Send the same again and again until the server ends the connection."""
        for _ in range(1000):
            code = self.sent(client, frames)
            if code is not None:
                return code
        raise AssertionError("the server endures it")

    def sent(self, client: RawClient, frames: list[Frame]) -> int | None:
        """Send, and return the code of the end, if it has come."""
        try:
            client.send(*frames)
            client.socket.settimeout(0.001)
            return next(each.code for each in client.frames() if each.kind == GOAWAY)
        except TimeoutError:
            return None
        except OSError:
            return int(client.until(GOAWAY).code)
        finally:
            client.socket.settimeout(LIMIT_SECONDS)


def test_a_broker_that_is_attacked_does_not_grow(tmp_path: Path) -> None:
    def resident_bytes() -> int:
        return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def attack() -> None:
        """Ask much and read nothing; leave large requests half sent."""
        publish = request_block("/google.pubsub.v1.Publisher/Publish")
        with RawClient(process.address) as client:
            client.socket.settimeout(0.5)
            try:
                for stream in range(1, 4001, 2):
                    half = (0).to_bytes(1, "big") + u32(20_000_000) + b"x" * 1000
                    client.send(Frame(HEADERS, END_HEADERS, stream, publish), Frame(DATA, 0, stream, half))
                while True:
                    client.send(*[Frame(PING, 0, 0, b"8 bytes.")] * 1000)
            except OSError:
                return

    with broker_process(tmp_path) as process:
        attack()
        before = resident_bytes()
        for _ in range(4):
            attack()
        assert resident_bytes() - before < 30_000_000
        with PubSub(process.address) as server:
            path = server.setup()
            server.publish("as ever")
            assert [each.message.data for each in server.pull(path)] == [b"as ever"]
        assert "Traceback" not in process.output
