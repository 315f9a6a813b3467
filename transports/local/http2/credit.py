"""Credit: how much of requests a client may send on one connection, given what it has us keep.

The connection's window is opened again at once, unless the methods at work have much to do; then the client waits for
them. It does not wait because messages are not complete: without their rests it would wait for ever. A message larger
than its stream's window is let in when there is room for it, one after the other, so that of many some are whole soon.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import grpc

from transports.local.http2.errors import ConnectionFault, ErrorCode, StatusError
from transports.local.http2.frames import window_update
from transports.local.http2.windows import CONNECTION_WINDOW_BYTES

#: Bytes of requests that methods may be at work on before their client waits, and of large ones that come at a time.
BUSY_BYTES = 64 << 20
#: The connection's window is opened again when less than this is left of it.
_REOPENED_BELOW_BYTES = CONNECTION_WINDOW_BYTES // 2
#: Most bytes of requests that a connection may have us keep; eight of the largest.
MAX_KEPT_BYTES = 256 << 20


class Asker(Protocol):
    """A stream whose message is larger than its window."""

    def allow(self, size_bytes: int) -> None:
        """Let it come."""


class Credit:
    """What is kept of a connection's requests, and what may come."""

    def __init__(self, control: Callable[[bytes], None]) -> None:
        self._control = control
        #: Bytes that may still come.
        self._left = CONNECTION_WINDOW_BYTES
        #: Bytes of messages that wait, or whose rest is to come.
        self._waiting = 0
        #: Bytes of messages whose methods are at work.
        self._lent = 0
        #: Bytes by which streams' windows were widened for large messages that have not been taken.
        self._promised = 0
        self._asking: OrderedDict[Asker, int] = OrderedDict()

    @property
    def kept_bytes(self) -> int:
        return self._waiting + self._lent

    def receive(self, size_bytes: int) -> None:
        """Count what has come.

        Raises:
            ConnectionFault: It is more than the connection's window.
        """
        self._left -= size_bytes
        if self._left < _REOPENED_BELOW_BYTES:
            if self._left < 0:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more than the connection's window")
            self._reopen()

    def keep(self, change: int) -> bool:
        """Count bytes that wait, or, if negative, do no longer; False if they are too many."""
        self._waiting += change
        return self._waiting + self._lent <= MAX_KEPT_BYTES

    def lend(self, size_bytes: int) -> bool:
        """Count a message that a method works on; False if that is too much."""
        self._lent += size_bytes
        return self._waiting + self._lent <= MAX_KEPT_BYTES

    def redeem(self, size_bytes: int) -> None:
        """Take note that a method is done with its message."""
        self._lent -= size_bytes
        if self._left < _REOPENED_BELOW_BYTES:
            self._reopen()
        if self._asking:
            self._let_in()

    def ask(self, asker: Asker, size_bytes: int) -> None:
        """Let a large message come, as soon as there is room."""
        if asker not in self._asking:
            self._asking[asker] = size_bytes
            self._let_in()

    def settle(self, asker: Asker, promised: int) -> None:
        """Take note that what was promised for a large message has come, or need not come any more."""
        self._promised -= promised
        self._asking.pop(asker, None)
        if self._asking:
            self._let_in()

    def widen(self, stream: int, increment: int) -> None:
        """Let a client send more on a stream, or on the connection, which is stream 0."""
        self._control(window_update(stream, increment))

    def _let_in(self) -> None:
        while self._asking:
            size = next(iter(self._asking.values()))
            busy = self._promised + self._lent
            if busy and busy + size > BUSY_BYTES:
                return
            asker, _ = self._asking.popitem(last=False)
            self._promised += size
            asker.allow(size)

    def _reopen(self) -> None:
        if self._lent <= BUSY_BYTES:
            increment, self._left = CONNECTION_WINDOW_BYTES - self._left, CONNECTION_WINDOW_BYTES
            self.widen(0, increment)


def too_many_bytes() -> StatusError:
    """Return what refuses a call when more is kept than may be."""
    return StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many bytes of requests wait on the connection.")
