"""Our methods as a server's: how their requests are read, and what carries them to their end.

Methods that answer at once, and those that are carried to their end once begun, have no task that ends with their
client; the server counts them as under way until they have answered, whether or not somebody still waits. ``Pull`` and
``StreamingPull`` end with their client.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from transports.local import methods, wire
from transports.local.access import Caller, Guard
from transports.local.engine import Engine
from transports.local.http2 import Call, Streaming, Unary
from transports.local.methods import Method, QuickMethod
from transports.local.monitoring import service
from transports.local.monitoring.counters import Counters
from transports.local.promises import Promise
from transports.local.publications import Publication
from transports.local.reception import Reception
from transports.local.requests import parse
from transports.local.streams import Pipe, serve_stream
from transports.local.subscriber import SubscriberService
from transports.local.wire import Message, serialize

#: Seconds before a caller's deadline at which a pull that found nothing answers, so that the answer arrives in time on
#: a busy machine, too; a quarter of his patience at most.
ANSWER_SECONDS = 1.0
#: The classes that pulls and streams are read as.
_PULL_REQUEST = wire.request_type("PullRequest")
_STREAM_REQUEST = wire.request_type("StreamingPullRequest")

#: Answers a request, or begins what others carry to its end.
_Work = Callable[[Caller, Any], Message | Promise]


class Adapter:
    """Turns our methods into the server's; requests are read here, so that bad ones are answered in words."""

    def __init__(self, guard: Guard, counters: Counters) -> None:
        self._guard = guard
        self._counters = counters
        self._reception = Reception(guard, counters)
        self._under_way: set[asyncio.Future[Message]] = set()

    async def finish(self) -> None:
        """Wait for the changes under way, whose clients may have gone."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def quick(self, name: str, method: QuickMethod) -> Unary:
        """Wrap a method that is done, or begun and carried to its end by others, when it returns."""

        def work(caller: Caller, request: Any) -> Message | Promise:
            caller.check(name, request)
            return method.answer(request)

        return self._taskless(name, method.read, work, method.write, self._count_of(name))

    def unary(self, name: str, method: Method, request_class: Any) -> Unary:
        """Wrap a method that is carried to its end once begun, even if the client goes."""

        def work(caller: Caller, request: Message) -> Promise:
            caller.check(name, request)

            def respond(response: Message) -> Message:
                if name == methods.TEST_PERMISSIONS:
                    response.permissions[:] = caller.permitted(response.permissions, request.resource)
                return response

            return Promise(self._carried(method(request)), respond)

        return self._taskless(name, partial(parse, request_class), work)

    def statistics(self, engine: Engine) -> Unary:
        """Wrap our own service's ``List``."""

        async def answered(caller: Caller, request: Message) -> Message:
            await engine.followed()  # what was published is counted
            return service.answer(engine, self._counters, caller, request)

        def work(caller: Caller, request: Message) -> Promise:
            return Promise(self._carried(answered(caller, request)), lambda response: response)

        return self._taskless(service.LIST, partial(parse, service.STRUCT), work)

    def pull(self, subscriber: SubscriberService) -> Unary:
        """Wrap ``Pull``, which ends with its client: what that did not get goes back.

        The write of the response tells whether the client has gone meanwhile. What cannot be known is a cancellation
        that crosses the answer on its way: those messages stay leased until their deadline, as at Google.
        """

        async def pull(request: Message, call: Call) -> None:
            remaining = call.time_remaining()
            wait_seconds = math.inf if remaining is None else max(remaining - min(ANSWER_SECONDS, remaining / 4), 0)
            response = await subscriber.pull(request, wait_seconds)
            try:
                await call.write(serialize(response))
            except BaseException:
                subscriber.give_back(request, response)
                raise
            self._counters.delivered += len(response.received_messages)

        async def serve(call: Call, data: bytes, caller: Caller) -> None:
            request = parse(_PULL_REQUEST, data)
            caller.check(methods.PULL, request)
            with self._counters.consuming(request.subscription):
                await self._guard.while_admitted(caller, pull(request, call))

        def begin(call: Call, data: bytes) -> None:
            call.run(self._reception.serve(methods.PULL, call, partial(serve, call, data)))

        return Unary(begin)

    def stream(self, engine: Engine) -> Streaming:
        """Wrap ``StreamingPull``."""

        async def serve(call: Call, caller: Caller) -> None:
            await self._guard.while_admitted(caller, self._stream(engine, caller, call))

        return Streaming(lambda call: self._reception.serve(methods.STREAMING_PULL, call, partial(serve, call)))

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
            await call.write(serialize(response))
            self._counters.delivered += len(response.received_messages)

        with self._counters.consuming(opening.subscription):
            async with aclosing(requests()) as incoming:
                await serve_stream(engine, Pipe(incoming, write))

    def _taskless(
        self,
        name: str,
        read: Callable[[bytes], Any],
        work: _Work,
        write: Callable[[Any], bytes] = serialize,
        count: Callable[[Any, Any], None] = lambda request, response: None,
    ) -> Unary:
        """Wrap work that has no task of its call's; ``count`` gets the request and the response of what was done."""
        guard, reception = self._guard, self._reception

        def begin(call: Call, data: bytes) -> None:
            caller = None
            try:
                caller = guard.admit(call.metadata)
                request = read(data)
                found = work(caller, request)
                if isinstance(found, Promise):
                    found.when_done(partial(conclude, call, caller, request, found))
                    return
            except Exception as exc:  # noqa: BLE001 - answered, and logged if it is no refusal
                reception.refuse(name, call, caller, exc)
            else:
                succeed(call, request, found)

        def conclude(call: Call, caller: Caller, request: Any, promise: Promise) -> None:
            try:
                response = promise.response()
            except Exception as exc:  # noqa: BLE001 - as above
                reception.refuse(name, call, caller, exc)
            else:
                succeed(call, request, response)

        def succeed(call: Call, request: Any, response: Any) -> None:
            count(request, response)
            reception.succeed(name, call, write(response))

        return Unary(begin)

    def _carried(self, work: Awaitable[Message]) -> asyncio.Future[Message]:
        future = asyncio.ensure_future(work)
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return future

    def _count_of(self, name: str) -> Callable[[Any, Any], None]:
        """Return what counts the messages that a quick method was about, also those whose client has gone."""

        def published(request: Publication, ids: Sequence[int]) -> None:
            self._counters.published += len(ids)

        def acknowledged(request: Message, response: Message) -> None:
            self._counters.acknowledged += len(request.ack_ids)

        def nothing(request: Message, response: Message) -> None:
            return

        return {methods.PUBLISH: published, methods.ACKNOWLEDGE: acknowledged}.get(name, nothing)
