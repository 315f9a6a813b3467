"""The receiving half of a stream: its bytes wait for the call's method, which takes them as messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self

import grpc

from transports.local.http2.credit import Credit, too_many_bytes
from transports.local.http2.errors import ErrorCode, GoneError, StatusError, StreamFault
from transports.local.http2.frames import Chunk
from transports.local.http2.messages import MessageCutter
from transports.local.http2.windows import STREAM_WINDOW_BYTES, ReceiveWindow

#: Messages that are taken before others have their turn.
_MESSAGES_PER_TURN = 100


class Intake:
    """Keeps what comes on a stream, as it comes; a client may send more as messages are taken."""

    __slots__ = (
        "_credit",
        "_cutter",
        "_ended",
        "_gone",
        "_lent",
        "_promised",
        "_refuse",
        "_single",
        "_stream",
        "_turn",
        "_waiter",
        "_window",
    )

    def __init__(
        self, credit: Credit, stream: int, encoding: str, *, single: bool, refuse: Callable[[StatusError], None]
    ) -> None:
        """``single``: there is one message; ``refuse`` ends the call when one that is taken cannot be read."""
        self._credit = credit
        self._stream = stream
        self._single = single
        self._refuse = refuse
        self._cutter = MessageCutter(encoding)
        self._window = ReceiveWindow(STREAM_WINDOW_BYTES)
        self._waiter: asyncio.Future[None] | None = None
        #: Bytes of the message that was taken last.
        self._lent = 0
        #: Bytes that were let in for a message larger than the window.
        self._promised = 0
        self._turn = 0
        self._ended = False
        self._gone = False

    def receive(self, data: Chunk, size_bytes: int) -> None:
        """Take what a frame of ``size_bytes`` brought.

        Raises:
            StreamFault: The client was not allowed to send so much.
            StatusError: A message cannot be taken.
        """
        if not self._window.receive(size_bytes):
            raise StreamFault(self._stream, ErrorCode.FLOW_CONTROL_ERROR, "more than the stream's window")
        self._cutter.add(data)
        if not self._credit.keep(len(data)):
            raise too_many_bytes()
        missing = self._cutter.missing_bytes()
        if self._single and missing < 0:
            raise _not_one()
        self._widen(missing)
        if missing <= 0:
            self._wake()

    def end(self) -> None:
        """Take note that the client sends nothing more."""
        self._ended = True
        self._wake()

    def drop(self) -> None:
        """Forget everything; who waits is told that the client has gone."""
        if not self._gone:
            self._gone = True
            self._settle()
            self._credit.keep(-self._cutter.kept_bytes)
            self._cutter = MessageCutter("identity")
            self._give_back()
            self._wake()

    def only(self) -> bytes:
        """Take the one message that a unary call's stream has.

        Raises:
            StatusError: There is none, or more; or it cannot be read.
        """
        if self._cutter.missing_bytes() != 0:
            raise _not_one()
        return self._take()

    def allow(self, size_bytes: int) -> None:
        """Let a message come that is larger than the window."""
        self._promised += size_bytes
        self._widen_by(size_bytes)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Wait for the next message.

        Raises:
            GoneError: The client has gone, or the message could not be read.
        """
        self._give_back()
        self._turn = (self._turn + 1) % _MESSAGES_PER_TURN
        if not self._turn:
            await asyncio.sleep(0)
        try:
            while self._cutter.missing_bytes() > 0:
                if self._gone:
                    raise GoneError("The client has gone.")
                if self._ended:
                    if self._cutter.kept_bytes:
                        raise StatusError(grpc.StatusCode.INTERNAL, "The last message is cut off.")
                    raise StopAsyncIteration
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
            message = self._take()
            self._lent = len(message)
            if not self._credit.lend(self._lent):
                raise too_many_bytes()
            self._widen(self._cutter.missing_bytes())
        except StatusError as exc:
            self._refuse(exc)
            raise GoneError(str(exc)) from exc
        return message

    def _take(self) -> bytes:
        kept = self._cutter.kept_bytes
        try:
            return self._cutter.take()
        finally:
            self._settle()
            self._credit.keep(self._cutter.kept_bytes - kept)

    def _give_back(self) -> None:
        if self._lent:
            lent, self._lent = self._lent, 0
            self._credit.redeem(lent)

    def _settle(self) -> None:
        promised, self._promised = self._promised, 0
        self._credit.settle(self, promised)

    def _widen(self, missing: int) -> None:
        """Let the client send the rest of the first message, or what makes up for what was taken."""
        if missing > self._window.left:
            self._credit.ask(self, missing - self._window.left)
        else:
            self._widen_by(self._window.lack(self._cutter.kept_bytes))

    def _widen_by(self, increment: int) -> None:
        if increment and not self._ended:
            self._window.widen(increment)
            self._credit.widen(self._stream, increment)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _not_one() -> StatusError:
    return StatusError(grpc.StatusCode.INTERNAL, "The call must have one request.")
