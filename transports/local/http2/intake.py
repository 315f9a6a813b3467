"""The receiving half of a stream: its bytes become messages, which wait for the call's method."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol, Self

import grpc

from transports.local.http2.errors import ErrorCode, GoneError, StatusError, StreamFault
from transports.local.http2.frames import window_update
from transports.local.http2.messages import PREFIX_BYTES, MessageCutter
from transports.local.http2.windows import STREAM_WINDOW_BYTES, ReceiveWindow


class Store(Protocol):
    """What an intake needs of its connection."""

    def control(self, frame: bytes) -> None:
        """Send a frame that needs no window."""

    def hold(self, size_bytes: int) -> bool:
        """Count what is kept of requests, or, if negative, is no longer; False if it is too much."""


class Intake:
    """Cuts what comes on a stream into messages; a client may send more as they are taken.

    Of a message that is not complete nothing can be taken, so that the client may send the rest at once.
    """

    __slots__ = (
        "_cutter",
        "_ended",
        "_gone",
        "_held",
        "_partial",
        "_store",
        "_stream",
        "_waiter",
        "_waiting",
        "_window",
    )

    def __init__(self, store: Store, stream: int, encoding: str) -> None:
        self._store = store
        self._stream = stream
        self._cutter = MessageCutter(encoding)
        self._window = ReceiveWindow(STREAM_WINDOW_BYTES)
        self._waiting: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._held = 0
        self._partial = 0
        self._ended = False
        self._gone = False

    def receive(self, data: bytes, size_bytes: int) -> None:
        """Take what a frame of ``size_bytes`` brought.

        Raises:
            StreamFault: The client was not allowed to send so much.
            StatusError: A message cannot be taken.
        """
        if not self._window.receive(size_bytes):
            raise StreamFault(self._stream, ErrorCode.FLOW_CONTROL_ERROR, "more than the stream's window")
        messages = self._cutter.cut(data)
        self._waiting.extend(messages)
        self._widen(size_bytes - sum(PREFIX_BYTES + len(each) for each in messages))
        self._hold(sum(map(_held_bytes, messages)))
        if messages:
            self._wake()

    def end(self) -> None:
        """Take note that the client sends nothing more."""
        self._ended = True
        self._wake()

    def drop(self) -> None:
        """Forget everything; who waits is told that the client has gone."""
        self._gone = True
        self._waiting.clear()
        self._cutter = MessageCutter("identity")
        self._store.hold(-self._held)
        self._held = self._partial = 0
        self._wake()

    def only(self) -> bytes:
        """Take the one message that a unary call's stream has.

        Raises:
            StatusError: There is none, or there are more.
        """
        if len(self._waiting) != 1 or self._cutter.rest_bytes:
            raise StatusError(grpc.StatusCode.INTERNAL, "The call must have one request.")
        message = self._waiting.popleft()
        self._hold(-_held_bytes(message))
        return message

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Wait for the next message.

        Raises:
            GoneError: The client has gone.
        """
        while not self._waiting:
            if self._gone:
                raise GoneError("The client has gone.")
            if self._ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        message = self._waiting.popleft()
        self._hold(-_held_bytes(message))
        self._widen(PREFIX_BYTES + len(message))
        return message

    def _hold(self, change: int) -> None:
        """Count the change of what waits, and that of a message that is not complete."""
        before, self._partial = self._partial, self._cutter.rest_bytes
        change += self._partial - before
        self._held += change
        if not self._store.hold(change) and change > 0:
            raise StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many bytes of requests wait on the connection.")

    def _widen(self, taken_bytes: int) -> None:
        increment = self._window.take(taken_bytes)
        if increment and not self._ended:
            self._store.control(window_update(self._stream, increment))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _held_bytes(message: bytes) -> int:
    """Return what a message that waits costs: more than its bytes, if it is small."""
    return len(message) + 64
