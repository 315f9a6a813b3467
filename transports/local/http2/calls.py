"""A call: one method, asked once, from its request's headers to the status that ends it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import grpc

from transports.local.http2.credit import too_many_bytes
from transports.local.http2.errors import ErrorCode, GoneError, StatusError, StreamFault
from transports.local.http2.flows import Flow
from transports.local.http2.frames import Chunk
from transports.local.http2.intake import Intake
from transports.local.http2.line import Line
from transports.local.http2.messages import PREFIX_BYTES, is_message
from transports.local.http2.methods import Method, Streaming, Unary
from transports.local.http2.requests import Metadata, Request
from transports.local.http2.status import OK, Trailing, write_status
from transports.local.http2.waiting import wait_until_sent

logger = logging.getLogger(__name__)


class Call(Flow):
    """What a method is given: what the client said, and the ways to answer it.

    When the client goes, the method's task is cancelled; a method without one goes on, and its answer is dropped.
    """

    __slots__ = (
        "_announced",
        "_arrived",
        "_handling",
        "_intake",
        "_lent",
        "_line",
        "_method",
        "_request",
        "_task",
        "gone",
        "half_closed",
    )

    def __init__(self, line: Line, stream: int, window: int, request: Request) -> None:
        super().__init__(stream, window)
        self._line = line
        self._request = request
        self._method: Method | None = None
        #: Bytes that are to come, if the client has said how many.
        self._announced = request.content_length
        self._arrived = 0.0 if request.timeout_seconds is None else time.monotonic()
        self._intake: Intake | None = None
        self._task: asyncio.Task[None] | None = None
        #: The method is at work, on a request of so many bytes.
        self._handling = False
        self._lent = 0
        #: The client sends nothing more.
        self.half_closed = False
        #: The client has given up the call, or its connection is lost.
        self.gone = False

    @property
    def path(self) -> str:
        return self._request.path

    @property
    def metadata(self) -> Metadata:
        return self._request.metadata

    @property
    def peer(self) -> str:
        """Where the client is, as gRPC writes it: ``ipv4:127.0.0.1:50000``."""
        return self._line.peer

    def time_remaining(self) -> float | None:
        """Return the seconds that the client goes on waiting; None if it has not said."""
        timeout = self._request.timeout_seconds
        return None if timeout is None else max(self._arrived + timeout - time.monotonic(), 0.0)

    def answer(self, message: bytes) -> None:
        """Send the only response and end well; without effect if the call has ended."""
        if not self.ended and not self.trailers:
            self._line.outbound.answer(self, message, alone=self._line.is_alone())
        self._leave()

    def finish(self, code: grpc.StatusCode = grpc.StatusCode.OK, text: str = "", trailing: Trailing = ()) -> None:
        """End with a status; without effect if the call has ended. An error drops what waits to be sent before it."""
        if not self.ended and not self.trailers:
            if code is not grpc.StatusCode.OK:
                self._line.outbound.drop(self)
            plain = code is grpc.StatusCode.OK and not text and not trailing
            block = OK if plain else write_status(code, text, trailing, self._line.max_list_bytes)
            self._line.outbound.end(self, block)
        self._leave()

    async def write(self, message: bytes) -> None:
        """Send a response, and return when it is on its way.

        Raises:
            GoneError: The call has ended. Then, as when this is cancelled, the response has not reached the client.
        """
        sent = self._line.outbound.write(self, message)
        if sent is not None:
            try:
                await wait_until_sent(sent)
            except asyncio.CancelledError:
                self._line.outbound.withdraw(self, sent)
                raise

    def requests(self) -> AsyncIterator[bytes]:
        """Give the requests of a stream until the client has ended its side."""
        return self._intake_made()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Have a task do the method's work; it is cancelled when the client goes, or its deadline has passed."""
        self._task = task = asyncio.create_task(work)
        self._line.tasks.add(task)
        task.add_done_callback(self._worked)
        remaining = self.time_remaining()
        if remaining is not None:
            expiry = task.get_loop().call_later(remaining, self._expire)
            task.add_done_callback(lambda _: expiry.cancel())

    # What the connection tells

    def begin(self, method: Method) -> None:
        """Begin a method, once its headers are there."""
        self._method = method
        if isinstance(method, Streaming):
            self._enter()
            self.run(method.serve(self))
        if self.half_closed:
            self.receive_end()

    def receive(self, data: Chunk, size_bytes: int, *, ended: bool) -> None:
        """Take the data of a frame whose payload had ``size_bytes``.

        Raises:
            StreamFault: The client may not send this.
        """
        if self.half_closed:
            raise StreamFault(self.stream, ErrorCode.STREAM_CLOSED, "data after the end of the stream")
        self.half_closed = ended
        if self._announced is not None:
            self._announced -= len(data)
            self._check_length(ended=ended)
        if self.trailers:
            return  # it was answered, and only the answer's end is still to go
        try:
            if ended and self._intake is None and isinstance(self._method, Unary) and is_message(data):
                self._ask(self._method, bytes(data[PREFIX_BYTES:]))
                return
            self._intake_made().receive(data, size_bytes)
            if ended:
                self.receive_end()
        except StatusError as exc:
            self.refuse(exc)

    def receive_end(self) -> None:
        """Take note that the client sends nothing more.

        Raises:
            StreamFault: It has sent less than it said.
        """
        self.half_closed = True
        self._check_length(ended=True)
        intake = self._intake_made()
        intake.end()
        if isinstance(self._method, Unary):
            try:
                self._ask(self._method, intake.only())
            except StatusError as exc:
                self.refuse(exc)

    def refuse(self, error: StatusError) -> None:
        """End the call for what its client sent."""
        if self._intake is not None:
            self._intake.drop()
        self.finish(error.code, str(error))
        self._stop()

    def lose(self) -> None:
        """Take note that the client has gone."""
        self.gone = self.ended = True
        self._line.outbound.drop(self)
        if self._intake is not None:
            self._intake.drop()
        self._stop()

    def on_sent(self) -> None:
        if self._intake is not None:
            self._intake.drop()
        self._line.forget(self)

    def _check_length(self, *, ended: bool) -> None:
        left = self._announced or 0
        if left < 0 or (ended and left):
            raise StreamFault(self.stream, ErrorCode.PROTOCOL_ERROR, "another size than the headers say")

    def _intake_made(self) -> Intake:
        if self._intake is None:
            single = isinstance(self._method, Unary)
            encoding = self._request.encoding
            self._intake = Intake(self._line.credit, self.stream, encoding, single=single, refuse=self.refuse)
        return self._intake

    def _ask(self, method: Unary, message: bytes) -> None:
        if not self._line.credit.lend(len(message)):
            self._line.credit.redeem(len(message))
            raise too_many_bytes()
        self._enter(len(message))
        try:
            method.begin(self, message)
        except Exception:
            logger.exception("%s failed", self.path)
            self.finish(grpc.StatusCode.INTERNAL)

    def _enter(self, lent: int = 0) -> None:
        self._handling, self._lent = True, lent
        self._line.handling += 1

    def _leave(self) -> None:
        if self._handling and self._task is None:
            self._handling = False
            self._line.handling -= 1
            self._line.credit.redeem(self._lent)

    def _worked(self, task: asyncio.Task[None]) -> None:
        self._line.tasks.discard(task)
        self._task = None
        if task.cancelled():
            self.finish(grpc.StatusCode.UNAVAILABLE, "The server is stopping.")
        elif (error := task.exception()) is None:
            self.finish()
        else:
            if not isinstance(error, GoneError):
                logger.error("%s failed", self.path, exc_info=error)
            self.finish(grpc.StatusCode.INTERNAL)

    def _expire(self) -> None:
        self.finish(grpc.StatusCode.DEADLINE_EXCEEDED, "The deadline has passed.")
        self._stop()

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
