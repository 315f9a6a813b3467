"""Frames of HTTP/2 (RFC 9113, sections 4 and 6): cut out of the bytes that come, and made."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from transports.local.http2.errors import ConnectionFault, ErrorCode

#: What a client sends before its first frame.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#: Length (24 bits), type, flags, stream.
HEAD = Struct(">BHBBI")
#: Most bytes of a frame's payload that we take, and announce: batches of messages arrive whole.
MAX_FRAME_BYTES = 1 << 20
#: Largest number of a stream, window or increment.
MAX_31_BITS = (1 << 31) - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITIZED = 0x20

#: Some of what came. A view holds all that came with it: whoever keeps some makes a copy.
Chunk = bytes | memoryview
#: Type, flags, stream, payload.
Frame = tuple[int, int, int, Chunk]


class FrameCutter:
    """Cuts what a client sends into frames, however it is split on its way; the preface comes first."""

    def __init__(self) -> None:
        #: The beginning of a frame, or of the preface, whose rest has not come yet.
        self._rest = bytearray()
        self._missing = 0
        self.begun = False

    def cut(self, data: bytes) -> Iterator[Frame]:
        """Give the frames that are complete with this.

        Raises:
            ConnectionFault: These are no frames, or one is too large.
        """
        come: Chunk = data
        if self._rest:
            self._rest += data
            self._missing -= len(data)
            if self._missing > 0:
                return
            come, self._rest = memoryview(self._rest), bytearray()
        offset, end = 0, len(come)
        if not self.begun:
            if come[: len(PREFACE)] != PREFACE:
                self._await_preface(bytes(come))
                return
            self.begun, offset = True, len(PREFACE)
        wanted = HEAD.size
        while end - offset >= HEAD.size:
            high, low, kind, flags, stream = HEAD.unpack_from(come, offset)
            size = high << 16 | low
            if size > MAX_FRAME_BYTES:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {size} bytes")
            wanted = HEAD.size + size
            start = offset + HEAD.size
            if start + size > end:
                break
            offset, wanted = start + size, HEAD.size
            yield kind, flags, stream & MAX_31_BITS, come[start:offset]
        self._keep(come[offset:], wanted)

    def _await_preface(self, data: bytes) -> None:
        if not PREFACE.startswith(data):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "this is not HTTP/2")
        self._keep(data, len(PREFACE))

    def _keep(self, rest: Chunk, wanted: int) -> None:
        self._rest += rest
        self._missing = wanted - len(rest)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def rst_stream(stream: int, code: ErrorCode) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def goaway(last_stream: int, code: ErrorCode, reason: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, last_stream.to_bytes(4, "big") + code.to_bytes(4, "big") + reason.encode())


def header_frames(stream: int, block: bytes, max_frame_bytes: int, *, ended: bool) -> bytes:
    """Return a header block as HEADERS and, if it is large, CONTINUATION."""
    flags = END_STREAM if ended else 0
    if len(block) <= max_frame_bytes:
        return frame(HEADERS, flags | END_HEADERS, stream, block)
    parts = [block[at : at + max_frame_bytes] for at in range(0, len(block), max_frame_bytes)]
    middle = (frame(CONTINUATION, 0, stream, part) for part in parts[1:-1])
    return b"".join(
        (frame(HEADERS, flags, stream, parts[0]), *middle, frame(CONTINUATION, END_HEADERS, stream, parts[-1]))
    )


def unpadded(payload: Chunk, flags: int) -> Chunk:
    """Return a payload without its padding.

    Raises:
        ConnectionFault: There is more padding than payload.
    """
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - payload[0]]


def without_priority(payload: bytes, flags: int) -> bytes:
    """Return the header block of a HEADERS frame without the priority that may stand before it."""
    if not flags & PRIORITIZED:
        return payload
    if len(payload) < 5:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a priority is cut off")
    return payload[5:]
