"""Messages of gRPC inside a stream: a flag, a length, and the bytes, which may be compressed."""

from __future__ import annotations

import zlib

import grpc

from transports.local.http2.errors import StatusError

#: Most bytes of a request: above Google's limit, so that it is the method that refuses, with Google's status code.
MAX_MESSAGE_BYTES = 32 << 20
#: Bytes before each message.
PREFIX_BYTES = 5
#: How requests may be compressed, and how zlib calls that.
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
ENCODINGS = ("identity", *_WINDOW_BITS)


class MessageCutter:
    """Cuts a stream's bytes into messages, however they are split over frames."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._rest = bytearray()

    @property
    def rest_bytes(self) -> int:
        """How much there is of a message that is not complete."""
        return len(self._rest)

    def cut(self, data: bytes) -> list[bytes]:
        """Return the messages that are complete with this.

        Raises:
            StatusError: One is too large, or cannot be decompressed.
        """
        rest = self._rest
        rest += data
        found: list[bytes] = []
        offset = 0
        while len(rest) - offset >= PREFIX_BYTES:
            size = int.from_bytes(rest[offset + 1 : offset + PREFIX_BYTES], "big")
            if size > MAX_MESSAGE_BYTES:
                raise _too_large(f"{size}")
            start = offset + PREFIX_BYTES
            if len(rest) < start + size:
                break
            with memoryview(rest) as view:
                message = bytes(view[start : start + size])
            found.append(decompressed(message, rest[offset], self._encoding))
            offset = start + size
        del rest[:offset]
        return found


def prefixed(message: bytes) -> bytes:
    """Return a message as it is sent: never compressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def decompressed(message: bytes, flag: int, encoding: str) -> bytes:
    """Return a message as it was before it was compressed, if it was.

    Raises:
        StatusError: It is too large then, or was not compressed so.
    """
    if flag == 0:
        return message
    if flag != 1 or encoding not in _WINDOW_BITS:
        raise StatusError(grpc.StatusCode.INTERNAL, "A message is compressed, and the headers do not say how.")
    decompressor = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        data = decompressor.decompress(message, MAX_MESSAGE_BYTES + 1)
    except zlib.error as exc:
        raise StatusError(grpc.StatusCode.INTERNAL, f"A message cannot be decompressed with {encoding}.") from exc
    if len(data) > MAX_MESSAGE_BYTES:
        raise _too_large("more")
    if not decompressor.eof or decompressor.unused_data:
        raise StatusError(grpc.StatusCode.INTERNAL, f"A message cannot be decompressed with {encoding}.")
    return data


def _too_large(size: str) -> StatusError:
    text = f"Received message larger than max ({size} vs. {MAX_MESSAGE_BYTES})"
    return StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
