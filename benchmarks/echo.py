"""A bare gRPC server for `client`: it answers with as many bytes as a broker does, and keeps nothing.

What is left of a broker's time above this one's is the broker's own. It reads no request but the first of a stream.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
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

_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0))
_MESSAGE_ID = "1234567"
_ACK_ID = "3.12d687.10000000123"


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

    async def same(self, data: bytes, context: Any) -> bytes:
        return data

    async def publish(self, data: bytes, context: Any) -> bytes:
        for queue, outstanding in self._streams.items():
            if not outstanding:
                queue.put_nowait(self._one)
        count = len(data) // MESSAGE_BYTES
        if count not in self._ids:
            self._ids[count] = PublishResponse(message_ids=[_MESSAGE_ID] * count).SerializeToString()
        return self._ids[count]

    async def pull(self, data: bytes, context: Any) -> bytes:
        answer = PullResponse(received_messages=_received(PullRequest.FromString(data).max_messages))
        found: bytes = answer.SerializeToString()
        return found

    async def acknowledge(self, data: bytes, context: Any) -> bytes:
        for queue, outstanding in self._streams.items():
            if outstanding:
                queue.put_nowait(self._many)
        return b""

    async def stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
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


async def main() -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers(_handlers(Echo()))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready 127.0.0.1:{port}", flush=True)
    await stopping.wait()
    await server.stop(None)


def _handlers(echo: Echo) -> tuple[grpc.GenericRpcHandler, ...]:
    def unary(method: Callable[[bytes, Any], Awaitable[bytes]]) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(method)

    publisher = {"Publish": unary(echo.publish), "CreateTopic": unary(echo.same)}
    subscriber = {
        "CreateSubscription": unary(echo.same),
        "Pull": unary(echo.pull),
        "Acknowledge": unary(echo.acknowledge),
        "StreamingPull": grpc.stream_stream_rpc_method_handler(echo.stream),
    }
    return (
        grpc.method_handlers_generic_handler("google.pubsub.v1.Publisher", publisher),
        grpc.method_handlers_generic_handler("google.pubsub.v1.Subscriber", subscriber),
    )


if __name__ == "__main__":
    asyncio.run(main())
