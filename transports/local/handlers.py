"""Our methods as gRPC's: who may call them, how requests are read, answers counted and errors told."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import cache
from typing import Any

import grpc
import grpc.aio
from google.protobuf import timestamp_pb2
from google.protobuf.message import DecodeError

from transports.local import methods, wire
from transports.local.access import Caller, Guard
from transports.local.answers import code_of, refuse
from transports.local.engine import Engine
from transports.local.errors import InvalidArgumentError, RequestError
from transports.local.methods import Method
from transports.local.monitoring import service
from transports.local.monitoring.counters import Counters
from transports.local.outgoing import Outgoing
from transports.local.streams import Pipe, serve_stream
from transports.local.subscriber import SubscriberService
from transports.local.wire import Message

logger = logging.getLogger(__name__)

#: Seconds before a caller's deadline at which a pull that found nothing answers, so that the answer arrives in time.
ANSWER_SECONDS = 0.2
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
    """Turns our methods into gRPC's; the bytes of requests are read here, so that bad ones are answered in words."""

    def __init__(self, guard: Guard, counters: Counters) -> None:
        self._guard = guard
        self._counters = counters
        self._under_way: set[asyncio.Future[Message]] = set()

    async def finish(self) -> None:
        """Wait for the changes under way, whose clients may have gone."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def unary(self, name: str, method: Method, request_class: Any) -> grpc.RpcMethodHandler:
        """Wrap a method that is carried to its end once begun, even if the client goes."""

        async def handle(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
            async with self._serving(name, context) as caller:
                request = parse(request_class, data)
                caller.check(name, request)
                work = method(request)
                response = await (work if name in methods.SELF_CARRIED else self._carried(work))
                self._see(caller, request, response)
                return _serialize(response)

        return grpc.unary_unary_rpc_method_handler(handle)

    async def _carried(self, work: Awaitable[Message]) -> Message:
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def pull(self, subscriber: SubscriberService) -> grpc.RpcMethodHandler:
        """Wrap ``Pull``, which ends with its client: what that did not get goes back.

        To gRPC the response is a stream of one message, which is the same on the wire. Unlike a plain response, the
        write of a message tells whether the client has gone meanwhile. What cannot be known is a cancellation that
        crosses the end of the answer on its way: those messages stay leased until their deadline, as at Google.
        """

        async def pull(request: Message, context: grpc.aio.ServicerContext) -> None:
            remaining = context.time_remaining()
            wait_seconds = math.inf if remaining is None else max(remaining - ANSWER_SECONDS, 0)
            response = await subscriber.pull(request, wait_seconds)
            try:
                await Outgoing(context).write(response)
            except BaseException:
                subscriber.give_back(request, response)
                raise
            self._counters.delivered += len(response.received_messages)

        async def handle(data: bytes, context: grpc.aio.ServicerContext) -> None:
            async with self._serving(methods.PULL, context) as caller:
                request = parse(wire.request_type("PullRequest"), data)
                caller.check(methods.PULL, request)
                with self._counters.consuming(request.subscription):
                    await self._guard.while_admitted(caller, pull(request, context))

        return grpc.unary_stream_rpc_method_handler(handle)

    def stream(self, engine: Engine) -> grpc.RpcMethodHandler:
        """Wrap ``StreamingPull``."""

        async def handle(chunks: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
            async with self._serving(methods.STREAMING_PULL, context) as caller:
                await self._guard.while_admitted(caller, self._stream(engine, caller, chunks, context))

        return grpc.stream_stream_rpc_method_handler(handle)

    async def _stream(
        self, engine: Engine, caller: Caller, chunks: AsyncIterator[bytes], context: grpc.aio.ServicerContext
    ) -> None:
        rest = aiter(chunks)
        first = await anext(rest, None)
        if first is None:
            return
        opening = parse(_STREAM_REQUEST, first)
        caller.check(methods.STREAMING_PULL, opening)
        outgoing = Outgoing(context)

        async def requests() -> AsyncGenerator[Message, None]:
            self._counters.acknowledged += len(opening.ack_ids)
            yield opening
            async for chunk in rest:
                request = parse(_STREAM_REQUEST, chunk)
                yield request
                self._counters.acknowledged += len(request.ack_ids)

        async def write(response: Message) -> None:
            await outgoing.write(response)
            self._counters.delivered += len(response.received_messages)

        with self._counters.consuming(opening.subscription):
            async with aclosing(requests()) as incoming:
                await serve_stream(engine, Pipe(incoming, write))

    def statistics(self, engine: Engine) -> grpc.RpcMethodHandler:
        """Wrap our own service's ``List``."""

        async def handle(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
            async with self._serving(service.LIST, context) as caller:
                request = parse(service.STRUCT, data)
                return _serialize(service.answer(engine, self._counters, caller, request))

        return grpc.unary_unary_rpc_method_handler(handle)

    @asynccontextmanager
    async def _serving(self, name: str, context: grpc.aio.ServicerContext) -> AsyncIterator[Caller]:
        """Admit the caller, answer errors with their codes, count."""
        code, caller = grpc.StatusCode.OK, None
        try:
            caller = self._guard.admit(context.invocation_metadata() or ())
            yield caller
        except RequestError as exc:
            code = code_of(exc)
            self._note(exc, name, caller, context)
            await refuse(context, exc)
        except Exception as exc:
            code = code_of(exc)
            logger.exception("a request failed")
            await refuse(context, exc)
        except BaseException:
            code = grpc.StatusCode.CANCELLED
            raise
        finally:
            self._counters.requests[name.rpartition("/")[2], code.name] += 1

    def _note(self, error: Exception, name: str, caller: Caller | None, context: grpc.aio.ServicerContext) -> None:
        """Tell the guard about somebody who was refused."""
        what = f"{name.rpartition('/')[2]} from {context.peer()}"
        match code_of(error):
            case grpc.StatusCode.UNAUTHENTICATED:
                self._guard.note_refusal("unauthenticated", f"{what}: {error}")
            case grpc.StatusCode.PERMISSION_DENIED:
                self._guard.note_refusal(f"{caller} {error}", f"{what} by {caller}: {error}")

    def _see(self, caller: Caller, request: Message, response: Message) -> None:
        """Count what was done; leave of permissions those that the caller has."""
        match request.DESCRIPTOR.name:
            case "PublishRequest":
                self._counters.published += len(response.message_ids)
            case "AcknowledgeRequest":
                self._counters.acknowledged += len(request.ack_ids)
            case "TestIamPermissionsRequest":
                response.permissions[:] = caller.permitted(response.permissions, request.resource)

    def _ended(self, task: asyncio.Future[Message]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # so that one whose client has gone is not reported as forgotten


class Services(grpc.GenericRpcHandler):
    """Finds a method's handler; the rest of Google's services is refused in words."""

    def __init__(self, handlers: Mapping[str, grpc.RpcMethodHandler]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        method = handler_call_details.method
        if method in self._handlers:
            return self._handlers[method]
        if not method.startswith(methods.PREFIXES):
            return None

        async def answer(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
            name = method.rpartition("/")[2]
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"The local broker does not implement {name}.")

        return grpc.stream_stream_rpc_method_handler(answer)


def handlers(engine: Engine, adapter: Adapter) -> dict[str, grpc.RpcMethodHandler]:
    """Return the handlers of Google's services and ours by full name."""
    unary = methods.unary_methods(engine)
    found = {name: adapter.unary(name, method, request) for name, (method, request) in unary.items()}
    found[methods.PULL] = adapter.pull(SubscriberService(engine))
    found[methods.STREAMING_PULL] = adapter.stream(engine)
    found[service.LIST] = adapter.statistics(engine)
    return found


def _serialize(message: Message) -> bytes:
    data: bytes = message.SerializeToString()
    return data
