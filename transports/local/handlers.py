"""Our methods as a server's: who may call them, how requests are read, answers counted and errors told."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, contextmanager
from functools import cache, partial
from typing import Any

import grpc
from google.protobuf import timestamp_pb2
from google.protobuf.message import DecodeError

from transports.local import methods, wire
from transports.local.access import Caller, Guard
from transports.local.answers import code_of, refuse
from transports.local.engine import Engine
from transports.local.errors import InvalidArgumentError, RequestError
from transports.local.http2 import Call, GoneError, Streaming, Unary
from transports.local.methods import Method, QuickMethod
from transports.local.monitoring import service
from transports.local.monitoring.counters import Counters
from transports.local.promises import Promise
from transports.local.streams import Pipe, serve_stream
from transports.local.subscriber import SubscriberService
from transports.local.wire import Message

logger = logging.getLogger(__name__)

#: Seconds before a caller's deadline at which a pull that found nothing answers, so that the answer arrives in time.
ANSWER_SECONDS = 0.2
#: The code of what went well, as it is counted.
_OK = grpc.StatusCode.OK.name
#: The class that streams are read as.
_STREAM_REQUEST = wire.request_type("StreamingPullRequest")


def parse(request_class: Any, data: bytes) -> Message:
    """Read a request.

    Raises:
        InvalidArgumentError: The bytes are not such a message.
    """
    try:
        request = request_class.FromString(data)
        for name in _times(request_class):
            getattr(request, name).ToMicroseconds()  # which refuses what is no time
    except (DecodeError, ValueError) as exc:
        raise InvalidArgumentError(f"The request is not a valid {request_class.DESCRIPTOR.full_name}.") from exc
    return request


@cache
def _times(request_class: Any) -> Sequence[str]:
    """Return the names of a request's fields that are times."""
    fields = [each for each in request_class.DESCRIPTOR.fields if each.message_type is not None]
    return [each.name for each in fields if each.message_type.full_name == timestamp_pb2.Timestamp.DESCRIPTOR.full_name]


class Adapter:
    """Turns our methods into the server's; requests are read here, so that bad ones are answered in words."""

    def __init__(self, guard: Guard, counters: Counters) -> None:
        self._guard = guard
        self._counters = counters
        self._under_way: set[asyncio.Future[Message]] = set()

    async def finish(self) -> None:
        """Wait for the changes under way, whose clients may have gone."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def quick(self, name: str, method: QuickMethod, request_class: Any) -> Unary:
        """Wrap a method that is done, or begun and carried to its end by others, when it returns: it has no task."""
        count = self._count_of(name)

        def begin(call: Call, data: bytes) -> None:
            caller = None
            try:
                caller = self._guard.admit(call.metadata)
                request = parse(request_class, data)
                caller.check(name, request)
                found = method(request)
            except Exception as exc:  # noqa: BLE001 - answered, and logged if it is no refusal
                self._refuse(call, name, caller, exc)
            else:
                if isinstance(found, Promise):
                    found.done.add_done_callback(partial(conclude, call, caller, request, found))
                else:
                    succeed(call, request, found)

        def conclude(call: Call, caller: Caller, request: Message, promise: Promise, _: asyncio.Future[Any]) -> None:
            try:
                response = promise.response()
            except Exception as exc:  # noqa: BLE001 - as above
                self._refuse(call, name, caller, exc)
            else:
                succeed(call, request, response)

        def succeed(call: Call, request: Message, response: Message) -> None:
            if call.gone:
                self._counters.requests[_short(name), grpc.StatusCode.CANCELLED.name] += 1
            else:
                self._counters.requests[_short(name), _OK] += 1
                count(request, response)
            call.answer(_serialize(response))

        return Unary(begin)

    def unary(self, name: str, method: Method, request_class: Any) -> Unary:
        """Wrap a method that is carried to its end once begun, even if the client goes."""

        async def handle(call: Call, data: bytes) -> None:
            with self._serving(name, call) as caller:
                request = parse(request_class, data)
                caller.check(name, request)
                response = await self._carried(method(request))
                if name == methods.TEST_PERMISSIONS:
                    response.permissions[:] = caller.permitted(response.permissions, request.resource)
                call.answer(_serialize(response))

        return _as_task(handle)

    async def _carried(self, work: Awaitable[Message]) -> Message:
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def pull(self, subscriber: SubscriberService) -> Unary:
        """Wrap ``Pull``, which ends with its client: what that did not get goes back.

        The write of the response tells whether the client has gone meanwhile. What cannot be known is a cancellation
        that crosses the answer on its way: those messages stay leased until their deadline, as at Google.
        """

        async def pull(request: Message, call: Call) -> None:
            remaining = call.time_remaining()
            wait_seconds = math.inf if remaining is None else max(remaining - ANSWER_SECONDS, 0)
            response = await subscriber.pull(request, wait_seconds)
            try:
                await call.write(_serialize(response))
            except BaseException:
                subscriber.give_back(request, response)
                raise
            self._counters.delivered += len(response.received_messages)

        async def handle(call: Call, data: bytes) -> None:
            with self._serving(methods.PULL, call) as caller:
                request = parse(wire.request_type("PullRequest"), data)
                caller.check(methods.PULL, request)
                with self._counters.consuming(request.subscription):
                    await self._guard.while_admitted(caller, pull(request, call))

        return _as_task(handle)

    def stream(self, engine: Engine) -> Streaming:
        """Wrap ``StreamingPull``."""

        async def serve(call: Call) -> None:
            with self._serving(methods.STREAMING_PULL, call) as caller:
                await self._guard.while_admitted(caller, self._stream(engine, caller, call))

        return Streaming(serve)

    async def _stream(self, engine: Engine, caller: Caller, call: Call) -> None:
        chunks = call.requests()
        first = await anext(chunks, None)
        if first is None:
            return
        opening = parse(_STREAM_REQUEST, first)
        caller.check(methods.STREAMING_PULL, opening)

        async def requests() -> AsyncGenerator[Message, None]:
            self._counters.acknowledged += len(opening.ack_ids)
            yield opening
            async for chunk in chunks:
                request = parse(_STREAM_REQUEST, chunk)
                yield request
                self._counters.acknowledged += len(request.ack_ids)

        async def write(response: Message) -> None:
            await call.write(_serialize(response))
            self._counters.delivered += len(response.received_messages)

        with self._counters.consuming(opening.subscription):
            async with aclosing(requests()) as incoming:
                await serve_stream(engine, Pipe(incoming, write))

    def statistics(self, engine: Engine) -> Unary:
        """Wrap our own service's ``List``."""

        async def handle(call: Call, data: bytes) -> None:
            with self._serving(service.LIST, call) as caller:
                request = parse(service.STRUCT, data)
                call.answer(_serialize(service.answer(engine, self._counters, caller, request)))

        return _as_task(handle)

    @contextmanager
    def _serving(self, name: str, call: Call) -> Iterator[Caller]:
        """Admit the caller, answer errors with their codes, count."""
        caller = None
        try:
            caller = self._guard.admit(call.metadata)
            yield caller
        except Exception as exc:  # noqa: BLE001 - answered, and logged if it is no refusal
            self._refuse(call, name, caller, exc)
        except BaseException:
            self._counters.requests[_short(name), grpc.StatusCode.CANCELLED.name] += 1
            raise
        else:
            self._counters.requests[_short(name), _OK] += 1

    def _refuse(self, call: Call, name: str, caller: Caller | None, error: Exception) -> None:
        """Answer an error with its code, count it, and tell the guard about somebody who was refused."""
        cut_off = isinstance(error, GoneError)
        code = grpc.StatusCode.CANCELLED if call.gone or cut_off else code_of(error)
        self._counters.requests[_short(name), code.name] += 1
        if isinstance(error, RequestError):
            self._note(error, name, caller, call)
        elif not cut_off:
            logger.error("a request failed", exc_info=error)
        refuse(call, error)

    def _note(self, error: RequestError, name: str, caller: Caller | None, call: Call) -> None:
        what = f"{_short(name)} from {call.peer}"
        match code_of(error):
            case grpc.StatusCode.UNAUTHENTICATED:
                self._guard.note_refusal("unauthenticated", f"{what}: {error}")
            case grpc.StatusCode.PERMISSION_DENIED:
                self._guard.note_refusal(f"{caller} {error}", f"{what} by {caller}: {error}")

    def _count_of(self, name: str) -> Callable[[Message, Message], None]:
        """Return what counts the messages that a quick method was about."""

        def published(request: Message, response: Message) -> None:
            self._counters.published += len(response.message_ids)

        def acknowledged(request: Message, response: Message) -> None:
            self._counters.acknowledged += len(request.ack_ids)

        def nothing(request: Message, response: Message) -> None:
            return

        return {methods.PUBLISH: published, methods.ACKNOWLEDGE: acknowledged}.get(name, nothing)

    def _ended(self, task: asyncio.Future[Message]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # so that one whose client has gone is not reported as forgotten


def _as_task(handle: Callable[[Call, bytes], Coroutine[Any, Any, None]]) -> Unary:
    return Unary(lambda call, data: call.run(handle(call, data)))


@cache
def _short(name: str) -> str:
    return name.rpartition("/")[2]


def _serialize(message: Message) -> bytes:
    data: bytes = message.SerializeToString()
    return data
