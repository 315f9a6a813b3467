"""A call: one method, asked once, from its request's headers to the status that ends it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from transports.local.http2.errors import ErrorCode, GoneError, StatusError, StreamFault
from transports.local.http2.flows import Flow
from transports.local.http2.intake import Intake, Store
from transports.local.http2.messages import MAX_MESSAGE_BYTES, PREFIX_BYTES
from transports.local.http2.outbound import Outbound
from transports.local.http2.requests import Metadata, Request
from transports.local.http2.status import OK, Trailing, write_status

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Unary:
    """A method with one request: a function that is given the request's bytes, and answers or has a task do it."""

    begin: Callable[[Call, bytes], None]


@dataclass(frozen=True, slots=True)
class Streaming:
    """A method with a stream of requests: a coroutine, run as a task, that takes them from its call."""

    serve: Callable[[Call], Coroutine[Any, Any, None]]


Method = Unary | Streaming


class Line(Store, Protocol):
    """What a call needs of its connection."""

    outbound: Outbound
    peer: str
    #: Bytes of a header list that the client takes.
    max_list_bytes: int
    #: Calls whose methods are at work, also those that the client has given up.
    handling: int
    #: The tasks of those methods.
    tasks: set[asyncio.Task[None]]

    def is_alone(self) -> bool:
        """Say whether no more than one call is open."""

    def forget(self, call: Call) -> None:
        """Let go of a call that everything was sent of."""


class Call(Flow):
    """What a method is given: what the client said, and the ways to answer it.

    When the client goes, the method's task is cancelled; a method without one goes on, and its answer is dropped.
    """

    __slots__ = ("_arrived", "_handling", "_intake", "_line", "_method", "_request", "_task", "gone", "half_closed")

    def __init__(self, line: Line, stream: int, window: int, request: Request) -> None:
        super().__init__(stream, window)
        self._line = line
        self._request = request
        self._method: Method | None = None
        self._arrived = 0.0 if request.timeout_seconds is None else time.monotonic()
        self._intake: Intake | None = None
        self._task: asyncio.Task[None] | None = None
        #: The method is at work.
        self._handling = False
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
                await sent
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

    def receive(self, data: bytes, size_bytes: int, *, ended: bool) -> None:
        """Take the data of a frame whose payload had ``size_bytes``.

        Raises:
            StreamFault: The client may not send this.
        """
        if self.half_closed:
            raise StreamFault(self.stream, ErrorCode.STREAM_CLOSED, "data after the end of the stream")
        try:
            if ended and self._intake is None and isinstance(self._method, Unary) and _is_message(data):
                self.half_closed = True
                self._ask(self._method, data[PREFIX_BYTES:])
                return
            self._intake_made().receive(data, size_bytes)
        except StatusError as exc:
            self.refuse(exc)
            return
        if ended:
            self.receive_end()

    def receive_end(self) -> None:
        """Take note that the client sends nothing more."""
        self.half_closed = True
        intake = self._intake_made()
        intake.end()
        if isinstance(self._method, Unary):
            try:
                message = intake.only()
            except StatusError as exc:
                self.refuse(exc)
            else:
                self._ask(self._method, message)

    def refuse(self, error: StatusError) -> None:
        """End the call for what its client sent."""
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

    def _intake_made(self) -> Intake:
        if self._intake is None:
            self._intake = Intake(self._line, self.stream, self._request.encoding)
        return self._intake

    def _ask(self, method: Unary, message: bytes) -> None:
        self._enter()
        try:
            method.begin(self, message)
        except Exception:
            logger.exception("%s failed", self.path)
            self.finish(grpc.StatusCode.INTERNAL)

    def _enter(self) -> None:
        self._handling = True
        self._line.handling += 1

    def _leave(self) -> None:
        if self._handling and self._task is None:
            self._handling = False
            self._line.handling -= 1

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


def _is_message(data: bytes) -> bool:
    """Say whether data are one message, whole and not compressed."""
    size = len(data) - PREFIX_BYTES
    return size >= 0 and not data[0] and int.from_bytes(data[1:PREFIX_BYTES], "big") == size <= MAX_MESSAGE_BYTES
