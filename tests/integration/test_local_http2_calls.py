"""Calls on the server: by gRPC's own client, and by one that splits and mixes frames as that never does."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from http2_client import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PREFACE,
    PRIORITIZED,
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
from pubsub_tokens import make_certificate
from studio import wait_for

from transports.local.encryption import Certificate
from transports.local.http2 import MAX_MESSAGE_BYTES, Server

LIMIT_SECONDS = 120.0
MB = 1_000_000


@pytest.fixture(scope="module")
def house() -> House:
    return House()


@pytest.fixture(scope="module")
def address(house: House) -> Iterator[str]:
    with served(house) as address:
        yield address


@contextmanager
def channel_to(address: str, **further: Any) -> Iterator[grpc.Channel]:
    """Connect as gRPC's client, which does not share the connection with others."""
    unlimited = [(f"grpc.max_{each}_message_length", -1) for each in ("send", "receive")]
    options = [*unlimited, ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options=options, **further) as channel:
        yield channel


@pytest.fixture
def channel(address: str) -> Iterator[grpc.Channel]:
    with channel_to(address) as channel:
        yield channel


def ask(channel: grpc.Channel, method: str, data: bytes = b"", **how: Any) -> bytes:
    found: bytes = channel.unary_unary(f"/test/{method}")(data, timeout=LIMIT_SECONDS, **how)
    return found


@contextmanager
def refused(code: grpc.StatusCode, text: str = "") -> Iterator[pytest.ExceptionInfo[grpc.RpcError]]:
    with pytest.raises(grpc.RpcError) as caught:
        yield caught
    assert caught.value.code() == code, caught.value
    assert text in caught.value.details()


class TestAnswers:
    def test_a_request_gets_its_answer(self, channel: grpc.Channel) -> None:
        assert ask(channel, "Echo", b"one") == b"one"
        assert ask(channel, "Echo", b"") == b""

    def test_large_messages_go_both_ways(self, channel: grpc.Channel) -> None:
        data = os.urandom(10 * MB)
        assert ask(channel, "Echo", data) == data
        stream = channel.stream_stream("/test/Stream")(iter([data] * 3), timeout=LIMIT_SECONDS)
        assert [each == data for each in stream] == [True] * 3

    def test_a_thousand_at_once_on_one_connection(self, channel: grpc.Channel) -> None:
        method = channel.unary_unary("/test/Echo")
        calls = [(str(each).encode(), method.future(str(each).encode(), timeout=LIMIT_SECONDS)) for each in range(1000)]
        assert all(call.result() == data for data, call in calls)

    def test_a_status_has_its_text_and_its_trailers(self, channel: grpc.Channel) -> None:
        text = "100 % of “quotes”\n and more"
        with refused(grpc.StatusCode.NOT_FOUND, text) as caught:
            ask(channel, "Fail", text.encode())
        trailers = dict(caught.value.trailing_metadata())
        assert (trailers["details-bin"], trailers["plain"]) == (text.encode(), "text")

    def test_trailers_beyond_what_the_client_takes_are_left_out(self, channel: grpc.Channel) -> None:
        with refused(grpc.StatusCode.NOT_FOUND) as caught:
            ask(channel, "Fail", b"x" * 9_000)
        assert "details-bin" not in dict(caught.value.trailing_metadata())

    def test_a_method_that_fails_is_a_status_and_the_next_call_is_served(self, channel: grpc.Channel) -> None:
        with refused(grpc.StatusCode.INTERNAL):
            ask(channel, "Bug")
        assert ask(channel, "Echo", b"next") == b"next"

    def test_a_method_that_there_is_not(self, channel: grpc.Channel) -> None:
        with refused(grpc.StatusCode.UNIMPLEMENTED, "no /test/Nothing"):
            ask(channel, "Nothing", b"x" * 5 * MB)
        assert ask(channel, "Echo", b"next") == b"next"

    def test_the_method_sees_metadata_deadline_and_peer(self, channel: grpc.Channel, house: House) -> None:
        metadata = (("authorization", "Bearer me"), ("data-bin", b"\0\xff\x10"))
        peer = ask(channel, "Seen", metadata=metadata)
        assert peer.startswith((b"ipv4:127.0.0.1:", b"ipv6:%5B::1%5D:"))
        assert house.metadata.items() >= dict(metadata).items()
        assert house.remaining is not None
        assert LIMIT_SECONDS / 2 < house.remaining < LIMIT_SECONDS + 1  # gRPC's client rounds it up


class TestCompression:
    @pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
    def test_requests_may_be_compressed(self, channel: grpc.Channel, compression: grpc.Compression) -> None:
        data = b"again and again " * 100_000
        assert ask(channel, "Echo", data, compression=compression) == data

    @pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
    def test_a_small_request_that_becomes_too_large_is_refused(
        self, address: str, compress: Callable[[bytes], bytes]
    ) -> None:
        encoding = "gzip" if compress is gzip.compress else "deflate"
        with RawClient(address) as client:
            client.send(Frame(HEADERS, END_HEADERS, 1, request_block("/test/Echo", ("grpc-encoding", encoding))))
            client.send(Frame(DATA, END_STREAM, 1, message(compress(b"\0" * (MAX_MESSAGE_BYTES + 1)), flag=1)))
            assert client.answer(1)[0]["grpc-status"] == str(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])

    @pytest.mark.parametrize(
        ("encoding", "body", "code"),
        [
            ("gzip", b"no gzip", grpc.StatusCode.INTERNAL),
            ("gzip", gzip.compress(b"cut off", mtime=0)[:-3], grpc.StatusCode.INTERNAL),
            ("gzip", gzip.compress(b"one", mtime=0) + b"more", grpc.StatusCode.INTERNAL),
            ("identity", b"what is this", grpc.StatusCode.INTERNAL),
            ("snappy", b"never heard of", grpc.StatusCode.UNIMPLEMENTED),
        ],
    )
    def test_what_cannot_be_decompressed_is_refused(
        self, address: str, encoding: str, body: bytes, code: grpc.StatusCode
    ) -> None:
        with RawClient(address) as client:
            client.send(Frame(HEADERS, END_HEADERS, 1, request_block("/test/Echo", ("grpc-encoding", encoding))))
            client.send(Frame(DATA, END_STREAM, 1, message(body, flag=1)))
            headers, _ = client.answer(1)
            assert headers["grpc-status"] == str(code.value[0])
            if code is grpc.StatusCode.UNIMPLEMENTED:
                assert headers["grpc-accept-encoding"] == "identity,gzip,deflate"
            client.ask(3, "/test/Echo", b"next")
            assert client.until(HEADERS, 3)


class TestSizes:
    def test_the_largest_is_taken_and_more_is_not(self, channel: grpc.Channel) -> None:
        assert ask(channel, "Size", b"x" * MAX_MESSAGE_BYTES) == str(MAX_MESSAGE_BYTES).encode()
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max (33554433 vs. 33554432)"):
            ask(channel, "Size", b"x" * (MAX_MESSAGE_BYTES + 1))
        assert ask(channel, "Echo", b"next") == b"next"

    def test_what_is_too_large_is_refused_when_its_length_is_known(self, address: str) -> None:
        with RawClient(address) as client:
            client.send(Frame(HEADERS, END_HEADERS, 1, request_block("/test/Echo")))
            client.send(Frame(DATA, 0, 1, b"\0\xff\xff\xff\xff"))
            assert client.answer(1)[0]["grpc-status"] == str(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
            assert client.until(RST_STREAM, 1).code == 0

    def test_streams_that_together_keep_too_much_are_refused(self, address: str) -> None:
        with RawClient(address, window=1 << 20) as client:
            chunk = message(b"x" * ((1 << 20) - 5))
            for stream in range(1, 641, 2):  # each may send 1 MiB that nobody takes; together it would be 320
                client.send(Frame(HEADERS, END_HEADERS, stream, request_block("/test/Deaf")))
                client.send(Frame(DATA, 0, stream, chunk))
            refusal = next(each for each in client.frames() if each.kind == HEADERS)
            assert client.read_block(refusal)["grpc-status"] == str(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])

    def test_many_large_ones_at_a_time_wait_for_each_other(self, channel: grpc.Channel) -> None:
        # Together they are more than a connection may have us keep.
        data, method = bytes(6 * MB), channel.unary_unary("/test/Size")
        calls = [method.future(data, timeout=5 * LIMIT_SECONDS) for _ in range(60)]
        assert {call.result() for call in calls} == {str(len(data)).encode()}


class TestUnusualFrames:
    """What is allowed, and what gRPC's own client never does."""

    def test_byte_by_byte(self, address: str) -> None:
        frames = [
            Frame(SETTINGS),
            Frame(HEADERS, END_HEADERS, 1, request_block("/test/Echo")),
            Frame(DATA, END_STREAM, 1, message(b"slowly")),
        ]
        with RawClient(address, greet=False) as client:
            for each in PREFACE + b"".join(frame.to_bytes() for frame in frames):
                client.socket.sendall(bytes((each,)))
            assert client.answer(1)[1] == [b"slowly"]

    def test_everything_at_once(self, address: str) -> None:
        with RawClient(address, greet=False) as client:
            calls = b"".join(
                Frame(HEADERS, END_HEADERS, stream, request_block("/test/Echo")).to_bytes()
                + Frame(DATA, END_STREAM, stream, message(str(stream).encode())).to_bytes()
                for stream in (1, 3, 5)
            )
            client.socket.sendall(PREFACE + Frame(SETTINGS).to_bytes() + calls)
            for stream in (1, 3, 5):
                assert client.answer(stream)[1] == [str(stream).encode()]

    def test_data_of_one_byte_each_with_padding_and_nothing_at_the_end(self, address: str) -> None:
        with RawClient(address) as client:
            client.send(Frame(HEADERS, END_HEADERS, 1, request_block("/test/Echo")))
            for each in message(b"in small pieces"):
                client.send(Frame(DATA, PADDED, 1, b"\x03" + bytes((each,)) + b"\0\0\0"))
            client.send(Frame(DATA, END_STREAM, 1))
            assert client.answer(1)[1] == [b"in small pieces"]

    def test_headers_with_padding_and_priority_split_over_frames(self, address: str) -> None:
        block = request_block("/test/Echo")
        with RawClient(address) as client:
            first = b"\x02" + b"\0\0\0\0\x10" + block[:10] + b"\0\0"
            client.send(
                Frame(HEADERS, PADDED | PRIORITIZED, 1, first),
                Frame(CONTINUATION, 0, 1, block[10:20]),
                Frame(CONTINUATION, 0, 1),
                Frame(CONTINUATION, END_HEADERS, 1, block[20:]),
                Frame(DATA, END_STREAM, 1, message(b"x")),
            )
            assert client.answer(1)[1] == [b"x"]

    def test_several_messages_in_a_frame_and_one_over_several(self, address: str) -> None:
        data = b"".join(map(message, (b"one", b"", b"three")))
        with RawClient(address) as client:
            client.send(Frame(HEADERS, END_HEADERS, 1, request_block("/test/Stream")))
            client.send(Frame(DATA, 0, 1, data + message(b"four")[:7]))
            client.send(Frame(DATA, END_STREAM, 1, message(b"four")[7:]))
            assert client.answer(1) == (
                {":status": "200", "content-type": "application/grpc", "grpc-status": "0"},
                [b"one", b"", b"three", b"four"],
            )

    def test_trailers_end_a_request(self, address: str) -> None:
        with RawClient(address) as client:
            client.ask(1, "/test/Echo", b"x", ended=False)
            client.send(Frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x00\x01a\x01b"))
            assert client.answer(1)[1] == [b"x"]

    @pytest.mark.parametrize("bodies", [(), (b"one", b"two")])
    def test_a_call_with_one_request_has_one(self, address: str, bodies: tuple[bytes, ...]) -> None:
        with RawClient(address) as client:
            client.ask(1, "/test/Echo", *bodies, ended=False)
            client.send(Frame(DATA, END_STREAM, 1))
            assert client.answer(1)[0]["grpc-status"] == str(grpc.StatusCode.INTERNAL.value[0])

    @pytest.mark.parametrize(
        ("replaced", "status"),
        [({"content_type": "text/html"}, "415"), ({"content_type": ""}, "415"), ({"method": "GET"}, "405")],
    )
    def test_what_is_http_but_not_grpc_gets_a_status_of_http(
        self, address: str, replaced: dict[str, str], status: str
    ) -> None:
        with RawClient(address) as client:
            client.send(Frame(HEADERS, END_HEADERS, 1, request_block("/test/Echo", **replaced)))
            assert client.answer(1)[0] == {":status": status}
            assert client.until(RST_STREAM, 1).code == 0
            client.ask(3, "/test/Echo", b"next")
            assert client.answer(3)[1] == [b"next"]

    def test_a_client_without_a_table_is_told_that_there_is_none(self, address: str) -> None:
        with RawClient(address, table=0) as client:
            for stream, update in ((1, True), (3, False)):
                client.ask(stream, "/test/Echo", b"x")
                assert client.until(HEADERS, stream).payload.startswith(b"\x20") is update


class TestWindows:
    def test_nothing_is_sent_beyond_the_clients_windows(self, address: str) -> None:
        with RawClient(address, window=10) as client:
            client.ask(1, "/test/Many", b"95")
            assert len(client.until(DATA, 1).payload) == 10
            client.send(Frame(WINDOW_UPDATE, 0, 1, (5).to_bytes(4, "big")))
            assert len(client.until(DATA, 1).payload) == 5
            client.send(Frame(SETTINGS, 0, 0, settings(window=30)))  # 20 more
            assert len(client.until(DATA, 1).payload) == 20
            client.send(Frame(SETTINGS, 0, 0, settings(window=0)))  # now 30 less than nothing
            client.send(Frame(WINDOW_UPDATE, 0, 1, (30).to_bytes(4, "big")))
            assert client.is_served()
            client.send(Frame(SETTINGS, 0, 0, settings(window=65)))
            assert len(client.until(DATA, 1).payload) == 65
            assert client.read_block(client.until(HEADERS, 1)) == {"grpc-status": "0"}

    def test_the_connections_window_counts_for_all_streams(self, address: str) -> None:
        with RawClient(address, window=1 << 20) as client:
            client.ask(1, "/test/Many", b"40000")
            client.ask(3, "/test/Many", b"40000")
            sent = 0
            while sent < 65535:
                sent += len(next(each for each in client.frames() if each.kind == DATA).payload)
            assert sent == 65535
            assert client.is_served()
            client.send(Frame(WINDOW_UPDATE, 0, 0, (1 << 20).to_bytes(4, "big")))
            while sent < 80010:
                sent += len(next(each for each in client.frames() if each.kind == DATA).payload)

    def test_a_status_needs_no_window(self, address: str) -> None:
        with RawClient(address, window=0) as client:
            client.ask(1, "/test/Fail", b"why")
            assert client.answer(1)[0]["grpc-message"] == "why"

    def test_a_stream_that_is_not_read_holds_up_nobody(self, address: str, house: House) -> None:
        with channel_to(address) as channel:
            slow = channel.unary_stream("/test/Flow")(str(MB).encode())
            next(slow)
            for each in range(100):
                assert ask(channel, "Echo", str(each).encode()) == str(each).encode()
            stream = channel.stream_stream("/test/Stream")(iter([b"x" * MB] * 20), timeout=LIMIT_SECONDS)
            assert sum(map(len, stream)) == 20 * MB
            slow.cancel()

    def test_two_that_are_read_take_turns(self, address: str) -> None:
        with RawClient(address, window=1 << 24) as client:
            client.ask(1, "/test/Many", b"2000000")
            client.ask(3, "/test/Many", b"2000000")
            assert client.is_served()  # both wait for the connection's window
            client.send(Frame(WINDOW_UPDATE, 0, 0, (1 << 24).to_bytes(4, "big")))
            order = []
            for each in client.frames():
                if each.kind == HEADERS and each.flags & END_STREAM:
                    break
                if each.kind == DATA:
                    order.append(each.stream)
            turns = order[order.index(3) :]
            assert all(one != other for one, other in itertools.pairwise(turns))


class TestCancellation:
    """Each on a server of its own: calls of an earlier test may not have ended yet."""

    @pytest.fixture
    def house(self) -> House:
        return House()

    @pytest.fixture
    def address(self, house: House) -> Iterator[str]:
        with served(house) as address:
            yield address

    def test_the_task_of_a_method_ends_with_its_call(self, address: str, house: House) -> None:
        with channel_to(address) as channel:
            call = channel.unary_unary("/test/Wait").future(b"")
            wait_for("its begin", lambda: house.events["begun"])
            call.cancel()
            wait_for("its end", lambda: house.events["ended"])
            assert ask(channel, "Echo", b"next") == b"next"

    def test_and_with_its_connection(self, address: str, house: House) -> None:
        with RawClient(address) as client:
            client.ask(1, "/test/Wait", b"")
            client.send(Frame(HEADERS, END_HEADERS, 3, request_block("/test/Deaf")))
            wait_for("their begin", lambda: house.events["begun"] == 2)
        wait_for("their end", lambda: house.events["ended"] == 2)

    def test_and_with_its_deadline_whatever_the_client_does(self, address: str, house: House) -> None:
        with RawClient(address) as client:
            deaf, flow = (request_block(f"/test/{name}", ("grpc-timeout", "50m")) for name in ("Deaf", "Flow"))
            client.send(  # together, so that no time is up before its request has come
                Frame(HEADERS, END_HEADERS, 1, deaf),
                Frame(HEADERS, END_HEADERS, 3, flow),
                Frame(DATA, END_STREAM, 3, message(b"100000")),  # more than the windows let out
            )
            for _ in range(2):
                ended = next(each for each in client.frames() if each.kind == HEADERS and each.flags & END_STREAM)
                assert client.read_block(ended)["grpc-status"] == str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0])
        wait_for("their end", lambda: house.events["ended"] == 2)

    def test_a_writer_whose_client_goes_ends(self, address: str, house: House) -> None:
        with channel_to(address) as channel:
            call = channel.unary_stream("/test/Flow")(str(MB).encode())
            next(call)
            call.cancel()
            wait_for("its end", lambda: house.events["ended"])

    def test_a_stream_ends_when_both_sides_have(self, channel: grpc.Channel, house: House) -> None:
        requests: SimpleQueue[bytes | None] = SimpleQueue()
        call = channel.stream_stream("/test/Stream")(iter(requests.get, None), timeout=LIMIT_SECONDS)
        for each in (b"one", b"two"):
            requests.put(each)
            assert next(call) == each
        requests.put(None)
        assert list(call) == []
        assert house.events["closed"] == 1


def test_what_is_sent_in_two_writes_does_not_wait_for_an_acknowledgement() -> None:
    async def main() -> int:
        server = Server(House().find, silence_seconds=60.0)
        _, writer = await asyncio.open_connection("127.0.0.1", await server.listen("127.0.0.1", 0))
        while not server._connections:
            await asyncio.sleep(0)
        (connection,) = server._connections
        found: int = connection._transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()
        await server.stop(1.0)
        return found

    assert asyncio.run(main())


class TestSilence:
    #: A client that has a call open.
    CLIENT = """
import sys, grpc
with grpc.insecure_channel(sys.argv[1]) as channel:
    channel.unary_unary(sys.argv[2])(b"")
"""

    def test_a_frozen_client_loses_its_calls_and_a_quiet_one_does_not(self) -> None:
        house = House()
        with served(house, silence_seconds=6.0) as address, self.client(address, "/test/Wait"):
            wait_for("the call of the quiet one", lambda: house.events["begun"] == 1)
            with self.client(address, "/test/Deaf") as frozen:
                wait_for("the call of the other", lambda: house.events["begun"] == 2)
                frozen.send_signal(signal.SIGSTOP)
                wait_for("its end", lambda: house.events["ended /test/Deaf"])
                assert house.events["ended /test/Wait"] == 0  # and it has been quiet for longer

    @contextmanager
    def client(self, address: str, method: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a client that calls a method."""
        with subprocess.Popen([sys.executable, "-c", self.CLIENT, address, method]) as process:
            try:
                yield process
            finally:
                process.kill()

    def test_who_connects_and_says_nothing_is_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("transports.local.http2.connection.HANDSHAKE_SECONDS", 0.1)
        with served(House()) as address, RawClient(address, greet=False) as client:
            assert [each.kind for each in client.frames()] == [SETTINGS, WINDOW_UPDATE]


class TestStop:
    def test_calls_under_way_end_and_new_ones_are_not_taken(self) -> None:
        house, leave = House(), threading.Event()
        with ThreadPoolExecutor(1) as pool:

            def run() -> None:
                with served(house, grace_seconds=30.0) as address:
                    found.put(address)
                    leave.wait(60)

            found: SimpleQueue[str] = SimpleQueue()
            running = pool.submit(run)
            with RawClient(found.get()) as client:
                client.send(Frame(HEADERS, END_HEADERS, 1, request_block("/test/Stream")))
                client.send(Frame(DATA, 0, 1, message(b"before")))
                client.until(DATA, 1)
                leave.set()
                goaway = client.until(GOAWAY)
                assert (goaway.code, goaway.payload[:4]) == (0, b"\0\0\0\1")
                client.ask(3, "/test/Echo", b"too late")
                client.send(Frame(DATA, END_STREAM, 1, message(b"after")))
                assert client.until(DATA, 1).payload == message(b"after")
                assert client.read_block(client.until(HEADERS, 1)) == {"grpc-status": "0"}
                assert not list(client.frames())
            running.result(60)
        assert house.events["tasks"] == 0

    def test_what_does_not_end_is_cancelled(self) -> None:
        house = House()
        with ExitStack() as after, served(house) as address:
            client = after.enter_context(RawClient(address))
            client.send(Frame(HEADERS, END_HEADERS, 1, request_block("/test/Deaf")))
            wait_for("its begin", lambda: house.events["begun"])
        assert (house.events["ended"], house.events["tasks"]) == (1, 0)


class TestTls:
    def test_a_client_of_grpc_is_served(self, tmp_path: Path) -> None:
        files = make_certificate(tmp_path)
        tls = Certificate(files.path, files.key).context(("h2",))
        with served(House(), tls=tls) as address:
            credentials = grpc.ssl_channel_credentials(files.path.read_bytes())
            with grpc.secure_channel(address, credentials) as channel:
                data = os.urandom(3 * MB)
                assert ask(channel, "Size", data) == str(len(data)).encode()
                stream = channel.stream_stream("/test/Stream")(iter([data] * 2), timeout=LIMIT_SECONDS)
                assert [each == data for each in stream] == [True] * 2
            context = ssl.create_default_context(cafile=str(files.path))
            context.set_alpn_protocols(["http/1.1", "h2"])
            with RawClient(address, greet=False) as client:
                client.socket = context.wrap_socket(client.socket, server_hostname="localhost")
                assert client.socket.selected_alpn_protocol() == "h2"
