"""Messages of gRPC inside a stream: a flag, a length, and the bytes, which may be compressed."""

from __future__ import annotations

import zlib

import grpc

from transports.local.http2.errors import StatusError
from transports.local.http2.frames import Chunk

#: Most bytes of a request: above Google's limit, so that it is the method that refuses, with Google's status code.
MAX_MESSAGE_BYTES = 32 << 20
#: Bytes before each message.
PREFIX_BYTES = 5
#: How requests may be compressed, and how zlib calls that.
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
ENCODINGS = ("identity", *_WINDOW_BITS)


class MessageCutter:
    """Cuts a stream's bytes into messages, however they are split over frames; one is cut when it is taken."""

    __slots__ = ("_encoding", "_kept")

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._kept = bytearray()

    @property
    def kept_bytes(self) -> int:
        return len(self._kept)

    def add(self, data: Chunk) -> None:
        """Keep what has come."""
        self._kept += data

    def missing_bytes(self) -> int:
        """Return how much is missing of the first message, or of its length; if negative, there is more than it.

        Raises:
            StatusError: It is too large.
        """
        kept = self._kept
        if len(kept) < PREFIX_BYTES:
            return PREFIX_BYTES - len(kept)
        size = int.from_bytes(kept[1:PREFIX_BYTES], "big")
        if size > MAX_MESSAGE_BYTES:
            raise _too_large(f"{size}")
        return PREFIX_BYTES + size - len(kept)

    def take(self) -> bytes:
        """Return the first message, of which nothing is missing.

        Raises:
            StatusError: It cannot be decompressed, or is too large then.
        """
        kept = self._kept
        flag, end = kept[0], PREFIX_BYTES + int.from_bytes(kept[1:PREFIX_BYTES], "big")
        with memoryview(kept) as view:
            message = bytes(view[PREFIX_BYTES:end])
        del kept[:end]
        return decompressed(message, flag, self._encoding)


def is_message(data: Chunk) -> bool:
    """Say whether data are one message, whole and not compressed."""
    size = len(data) - PREFIX_BYTES
    return size >= 0 and not data[0] and int.from_bytes(data[1:PREFIX_BYTES], "big") == size <= MAX_MESSAGE_BYTES


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
