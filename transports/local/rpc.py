"""The one door to gRPC: methods behind their names, errors as status codes, a server that starts and stops."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from transports.local import methods, wire
from transports.local.engine import Engine
from transports.local.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    ListenError,
    NotFoundError,
    NotSupportedError,
    RequestError,
    UnavailableError,
)
from transports.local.methods import Method
from transports.local.streams import Pipe, serve_stream
from transports.local.subscriber import SubscriberService
from transports.local.wire import Message

logger = logging.getLogger(__name__)

#: Seconds that requests under way get to end when the broker stops; they all end at once unless the machine is busy.
STOP_SECONDS = 3.0
#: Seconds before a caller's deadline at which a pull that found nothing answers, so that the answer arrives in time.
ANSWER_SECONDS = 0.2
#: Most bytes of a request: above Google's limit, so that it is we who refuse, with Google's status code.
_MAX_REQUEST_BYTES = 32 * 1024 * 1024
_OPTIONS = (
    # Two brokers must not share a port unnoticed.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", _MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", -1),
    # Clients of Google's library ping idle connections every 30 s; that is no abuse.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
_CODES: Mapping[type[RequestError], grpc.StatusCode] = {
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    InvalidArgumentError: grpc.StatusCode.INVALID_ARGUMENT,
    NotSupportedError: grpc.StatusCode.UNIMPLEMENTED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
}


@asynccontextmanager
async def serving(engine: Engine, host: str, port: int) -> AsyncIterator[str]:
    """Serve an engine; give the address as ``host:port``.

    Raises:
        ListenError: Somebody else listens there.
    """
    adapter = _Adapter()
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers((_Services(_handlers(engine, adapter)),))
    await _add_health(server)
    address = _bind(server, host, port)
    await server.start()
    try:
        yield address
    finally:
        stopped = asyncio.ensure_future(server.stop(STOP_SECONDS))
        engine.close()
        await stopped
        await adapter.finish()


def _bind(server: grpc.aio.Server, host: str, port: int) -> str:
    shown = f"[{host}]" if ":" in host else host
    try:
        _check_port(host, port)
        return f"{shown}:{server.add_insecure_port(f'{shown}:{port}')}"
    except (OSError, OverflowError, RuntimeError) as exc:
        raise ListenError(f"{shown}:{port}", getattr(exc, "strerror", None) or str(exc)) from exc


def _check_port(host: str, port: int) -> None:
    """Try the port before gRPC does, which would print its own opinion of a failure."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


async def _add_health(server: grpc.aio.Server) -> None:
    servicer = health.aio.HealthServicer()
    for service in ("", methods.PUBLISHER, methods.SUBSCRIBER):
        await servicer.set(service, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)


class _Adapter:
    """Turns our methods into gRPC's, and our errors into status codes."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Future[Message]] = set()

    async def finish(self) -> None:
        """Wait for the changes under way, whose clients may have gone."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def unary(self, method: Method, request_class: Any) -> grpc.RpcMethodHandler:
        """Wrap a method that is carried to its end once begun, even if the client goes."""

        async def handle(request: Message, context: grpc.aio.ServicerContext) -> Message:
            task = asyncio.ensure_future(method(request))
            self._under_way.add(task)
            task.add_done_callback(self._ended)
            async with _status(context):
                return await asyncio.shield(task)

        return grpc.unary_unary_rpc_method_handler(
            handle, request_deserializer=request_class.FromString, response_serializer=_serialize
        )

    def pull(self, service: SubscriberService) -> grpc.RpcMethodHandler:
        """Wrap ``Pull``, which ends with its client: what that did not get goes back.

        To gRPC the response is a stream of one message, which is the same on the wire. Unlike a plain response, the
        write of a message tells whether the client has gone meanwhile. What cannot be known is a cancellation that
        crosses the end of the answer on its way: those messages stay leased until their deadline, as at Google.
        """

        async def handle(request: Message, context: grpc.aio.ServicerContext) -> None:
            async with _status(context):
                remaining = context.time_remaining()
                wait_seconds = math.inf if remaining is None else max(remaining - ANSWER_SECONDS, 0)
                response = await service.pull(request, wait_seconds)
                try:
                    await context.write(response)
                except BaseException:
                    service.give_back(request, response)
                    raise

        return grpc.unary_stream_rpc_method_handler(
            handle,
            request_deserializer=wire.request_type("PullRequest").FromString,
            response_serializer=_serialize,
        )

    def stream(self, engine: Engine) -> grpc.RpcMethodHandler:
        async def handle(requests: AsyncIterator[Message], context: grpc.aio.ServicerContext) -> None:
            async with _status(context):
                await serve_stream(engine, Pipe(aiter(requests), context.write))

        return grpc.stream_stream_rpc_method_handler(
            handle,
            request_deserializer=wire.request_type("StreamingPullRequest").FromString,
            response_serializer=_serialize,
        )

    def _ended(self, task: asyncio.Future[Message]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # so that one whose client has gone is not reported as forgotten


class _Services(grpc.GenericRpcHandler):
    """Finds a method's handler; the rest of the two services is refused in words."""

    def __init__(self, handlers: Mapping[str, grpc.RpcMethodHandler]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        method = handler_call_details.method
        if method in self._handlers:
            return self._handlers[method]
        if not method.startswith(methods.PREFIXES):
            return None

        async def refuse(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
            name = method.rpartition("/")[2]
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"The local broker does not implement {name}.")

        return grpc.stream_stream_rpc_method_handler(refuse)


def _handlers(engine: Engine, adapter: _Adapter) -> dict[str, grpc.RpcMethodHandler]:
    unary = methods.unary_methods(engine)
    handlers = {name: adapter.unary(method, request) for name, (method, request) in unary.items()}
    handlers[methods.PULL] = adapter.pull(SubscriberService(engine))
    handlers[methods.STREAMING_PULL] = adapter.stream(engine)
    return handlers


@asynccontextmanager
async def _status(context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
    """Answer our errors with their codes, and a bug with INTERNAL and a traceback in the log."""
    try:
        yield
    except RequestError as exc:
        await context.abort(_CODES[type(exc)], str(exc))
    except Exception:
        logger.exception("a request failed")
        await context.abort(grpc.StatusCode.INTERNAL, "The broker has a bug; its log has the traceback.")


def _serialize(message: Message) -> bytes:
    data: bytes = message.SerializeToString()
    return data
