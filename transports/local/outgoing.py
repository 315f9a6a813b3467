"""What goes out on a stream: messages, so that the stream can be ended with a status at any moment."""

from __future__ import annotations

import asyncio

import grpc.aio

from transports.local.wire import Message


class Outgoing:
    """Writes messages to one client, one after the other, whoever hands them over.

    gRPC refuses to send a status while headers are under way, and headers go with the first message, which a client
    that does not read can hold up for ever. So they are sent by themselves, and are never left half sent.
    """

    def __init__(self, context: grpc.aio.ServicerContext) -> None:
        self._context = context
        self._headers: asyncio.Future[None] | None = None
        #: gRPC refuses a second write while one is under way, and ends the call.
        self._writing = asyncio.Lock()

    async def write(self, message: Message) -> None:
        """Hand a message to the client's connection; cancelled or failed, it has not reached the client."""
        async with self._writing:
            await self._send_headers()
            await self._context.write(message.SerializeToString())

    async def _send_headers(self) -> None:
        if self._headers is None:
            self._headers = asyncio.ensure_future(self._context.send_initial_metadata(()))
        try:
            await asyncio.shield(self._headers)
        except asyncio.CancelledError:
            await asyncio.gather(self._headers, return_exceptions=True)
            raise
