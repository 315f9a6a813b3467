"""A bare gRPC server for `client`: it answers with as many bytes as a broker does, and keeps nothing.

    python benchmarks/echo.py grpc|own

The server is gRPC's own for Python (`grpc.aio`), or the local broker's: what is left of the broker's time above that
one's is the broker's own. It reads no request but the first of a stream.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from client import ACKS_AT_ONCE, MESSAGE_BYTES
from stubs import (
    PublishResponse,
    PubsubMessage,
    PullRequest,
    PullResponse,
    ReceivedMessage,
    StreamingPullRequest,
    StreamingPullResponse,
)

from transports.local.http2 import Call, Method, Server, StatusError, Streaming, Unary

_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0))
_MESSAGE_ID = "1234567"
_ACK_ID = "AAAAAAAAAAMAAAAAAAHiQAAAAQAAAAAA"
_PUBLISHER, _SUBSCRIBER = "google.pubsub.v1.Publisher", "google.pubsub.v1.Subscriber"
_STREAMING_PULL = "StreamingPull"
#: Seconds after which a client that does not answer has gone.
_SILENCE_SECONDS = 30.0


def _received(count: int) -> list[Any]:
    message = PubsubMessage(data=b"x" * MESSAGE_BYTES, message_id=_MESSAGE_ID)
    message.publish_time.GetCurrentTime()
    return [ReceivedMessage(ack_id=_ACK_ID, message=message)] * count


class Echo:
    """The methods, on bytes."""

    def __init__(self) -> None:
        self._streams: dict[asyncio.Queue[bytes], int] = {}
        self._ids: dict[int, bytes] = {}
        self._one = StreamingPullResponse(received_messages=_received(1)).SerializeToString()
        self._many = StreamingPullResponse(received_messages=_received(ACKS_AT_ONCE)).SerializeToString()

    def unary(self) -> Mapping[str, Mapping[str, Callable[[bytes], bytes]]]:
        """Return the methods with one request, by service and name."""
        return {
            _PUBLISHER: {"Publish": self.publish, "CreateTopic": bytes},
            _SUBSCRIBER: {"CreateSubscription": bytes, "Pull": self.pull, "Acknowledge": self.acknowledge},
        }

    def publish(self, data: bytes) -> bytes:
        for queue, outstanding in self._streams.items():
            if not outstanding:
                queue.put_nowait(self._one)
        count = len(data) // MESSAGE_BYTES
        if count not in self._ids:
            self._ids[count] = PublishResponse(message_ids=[_MESSAGE_ID] * count).SerializeToString()
        return self._ids[count]

    def pull(self, data: bytes) -> bytes:
        answer = PullResponse(received_messages=_received(PullRequest.FromString(data).max_messages))
        found: bytes = answer.SerializeToString()
        return found

    def acknowledge(self, data: bytes) -> bytes:
        for queue, outstanding in self._streams.items():
            if outstanding:
                queue.put_nowait(self._many)
        return b""

    async def stream(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """With a limit, bring as much and then what was acknowledged again; without one, what is published."""
        rest = aiter(requests)
        first = StreamingPullRequest.FromString(await anext(rest))
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        ending = asyncio.ensure_future(_end(rest, queue))
        self._streams[queue] = first.max_outstanding_messages
        for _ in range(first.max_outstanding_messages // ACKS_AT_ONCE):
            queue.put_nowait(self._many)
        try:
            while response := await queue.get():
                yield response
        finally:
            del self._streams[queue]
            ending.cancel()


async def _end(requests: AsyncIterator[bytes], queue: asyncio.Queue[bytes]) -> None:
    """Have a stream end with its client's side."""
    async for _ in requests:
        pass
    queue.put_nowait(b"")


@asynccontextmanager
async def _grpc(echo: Echo) -> AsyncIterator[int]:
    """Serve with gRPC's own server; give the port."""

    def unary(method: Callable[[bytes], bytes]) -> grpc.RpcMethodHandler:
        async def answer(data: bytes, context: Any) -> bytes:
            return method(data)

        return grpc.unary_unary_rpc_method_handler(answer)

    async def stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for response in echo.stream(requests):
            yield response

    found = {service: {name: unary(each) for name, each in some.items()} for service, some in echo.unary().items()}
    found[_SUBSCRIBER][_STREAMING_PULL] = grpc.stream_stream_rpc_method_handler(stream)
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(*each) for each in found.items()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port
    await server.stop(None)


@asynccontextmanager
async def _own(echo: Echo) -> AsyncIterator[int]:
    """Serve with the local broker's server; give the port."""

    def unary(method: Callable[[bytes], bytes]) -> Unary:
        return Unary(lambda call, data: call.answer(method(data)))

    async def stream(call: Call) -> None:
        async for response in echo.stream(call.requests()):
            await call.write(response)

    found: dict[str, Method] = {
        f"/{service}/{name}": unary(each) for service, some in echo.unary().items() for name, each in some.items()
    }
    found[f"/{_SUBSCRIBER}/{_STREAMING_PULL}"] = Streaming(stream)

    def find(path: str) -> Method:
        if path not in found:
            raise StatusError(grpc.StatusCode.UNIMPLEMENTED, f"There is no {path} here.")
        return found[path]

    server = Server(find, silence_seconds=_SILENCE_SECONDS)
    yield await server.listen("127.0.0.1", 0)
    await server.stop(0)


_SERVERS: Mapping[str, Callable[[Echo], AbstractAsyncContextManager[int]]] = {"grpc": _grpc, "own": _own}


async def main() -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with _SERVERS[sys.argv[1]](Echo()) as port:
        print(f"ready 127.0.0.1:{port}", flush=True)
        await stopping.wait()


if __name__ == "__main__":
    asyncio.run(main())
