"""A client of HTTP/2 that sends whatever a test wants, right or wrong, and says what the server does about it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import hpack

#: Seconds within which a server must have answered.
LIMIT_SECONDS = 60.0
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITIZED = 0x20


@dataclass(frozen=True)
class Frame:
    """One frame."""

    kind: int
    flags: int = 0
    stream: int = 0
    payload: bytes = b""

    def to_bytes(self) -> bytes:
        head = len(self.payload).to_bytes(3, "big") + bytes((self.kind, self.flags)) + self.stream.to_bytes(4, "big")
        return head + self.payload

    @property
    def code(self) -> int:
        """The error code of a GOAWAY or RST_STREAM."""
        at = 4 if self.kind == GOAWAY else 0
        return int.from_bytes(self.payload[at : at + 4], "big")


def request_block(path: str, *further: tuple[str, str], **replaced: str) -> bytes:
    """Return the header block of a call that changes no table; ``content_type="x"`` replaces or, if empty, removes."""
    headers = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "test", "te": "trailers"}
    headers["content-type"] = "application/grpc"
    for name, value in replaced.items():
        headers[name.replace("_", "-") if name in ("content_type", "te") else f":{name}"] = value
    listed = [(name, value) for name, value in headers.items() if value]
    return hpack.Encoder().encode([(name, value, True) for name, value in (*listed, *further)])


def settings(**values: int) -> bytes:
    """Return the payload of SETTINGS."""
    numbers = {"table": 1, "push": 2, "streams": 3, "window": 4, "frame": 5, "list": 6}
    return b"".join(struct.pack(">HI", numbers[name], value) for name, value in values.items())


def message(body: bytes, flag: int = 0) -> bytes:
    """Return a message as gRPC sends it."""
    return bytes((flag,)) + len(body).to_bytes(4, "big") + body


class RawClient:
    """A connection on which a test writes frames and reads those of the server."""

    def __init__(self, address: str, *, greet: bool = True, **own: int) -> None:
        """Connect and, if ``greet``, say what a client says first; ``own`` are settings."""
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=LIMIT_SECONDS)
        self._rest = b""
        self._decoder = hpack.Decoder()
        if greet:
            self.socket.sendall(PREFACE)
            self.send(Frame(SETTINGS, payload=settings(**own)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, *frames: Frame) -> None:
        self.socket.sendall(b"".join(each.to_bytes() for each in frames))

    def ask(self, stream: int, path: str, *bodies: bytes, ended: bool = True) -> None:
        """Send a call's headers and messages."""
        self.send(Frame(HEADERS, END_HEADERS, stream, request_block(path)))
        for index, body in enumerate(bodies):
            last = ended and index == len(bodies) - 1
            self.send(Frame(DATA, END_STREAM if last else 0, stream, message(body)))

    def frames(self) -> Iterator[Frame]:
        """Give what the server sends until it closes the connection."""
        while True:
            while len(self._rest) < 9 or len(self._rest) < 9 + int.from_bytes(self._rest[:3], "big"):
                try:
                    data = self.socket.recv(65536)
                except ConnectionResetError:
                    return
                if not data:
                    return
                self._rest += data
            end = 9 + int.from_bytes(self._rest[:3], "big")
            kind, flags, stream = self._rest[3], self._rest[4], int.from_bytes(self._rest[5:9], "big")
            payload, self._rest = self._rest[9:end], self._rest[end:]
            yield Frame(kind, flags, stream, payload)

    def until(self, kind: int, stream: int = 0, *, flags: int = 0) -> Frame:
        """Read up to a frame of a kind."""
        seen = []
        for each in self.frames():
            if each.kind == kind and each.stream == stream and each.flags & flags == flags:
                return each
            seen.append(each)
        raise AssertionError(f"the server closed the connection, having sent {seen}")

    def answer(self, stream: int) -> tuple[dict[str, str], list[bytes]]:
        """Read a call to its end; return headers with trailers, and messages."""
        headers: dict[str, str] = {}
        data = b""
        for each in self.frames():
            assert each.stream in (0, stream), f"not only {stream}: {each}"
            if each.kind == HEADERS:
                headers |= self.read_block(each)
            elif each.kind == DATA:
                data += each.payload
            elif each.kind in (RST_STREAM, GOAWAY):
                raise AssertionError(f"{each} after {headers}")
            if each.kind in (HEADERS, DATA) and each.flags & END_STREAM:
                return headers, list(_messages(data))
        raise AssertionError(f"the server closed the connection after {headers}")

    def read_block(self, frame: Frame) -> dict[str, str]:
        """Read a header block; each has to be read, in order."""
        return dict(self._decoder.decode(frame.payload))

    def is_served(self) -> bool:
        """Say whether the connection is still good for anything."""
        try:
            self.send(Frame(PING, payload=b"question"))
        except OSError:
            return False
        return any(each.kind == PING and each.payload == b"question" for each in self.frames())


def _messages(data: bytes) -> Iterator[bytes]:
    while data:
        size = int.from_bytes(data[1:5], "big")
        yield data[5 : 5 + size]
        data = data[5 + size :]
