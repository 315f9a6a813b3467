"""A server of gRPC on one address, in the running event loop."""

from __future__ import annotations

import asyncio
import logging
import ssl

from transports.local.http2.connection import Connection
from transports.local.http2.heap import keep_heap
from transports.local.http2.streams import Find
from transports.local.listeners import Listeners

logger = logging.getLogger(__name__)


class Server:
    """Listens, keeps its clients' connections, and ends them in order."""

    def __init__(self, find: Find, *, silence_seconds: float) -> None:
        self.find = find
        self.silence_seconds = silence_seconds
        self.tasks: set[asyncio.Task[None]] = set()
        self._listeners: list[Listeners] = []
        self._connections: set[Connection] = set()
        self._stopping = False
        self._empty = asyncio.Event()

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Listen on all addresses of a host; return the port.

        Raises:
            OSError: Somebody else listens there, or this machine has no such address.
            OverflowError: There is no such port.
        """
        keep_heap()
        listeners = Listeners(lambda: Connection(self), tls)
        self._listeners.append(listeners)
        return await listeners.listen(host, port)

    async def stop(self, grace_seconds: float) -> None:
        """Listen no more, let calls end that are open, then cancel what has not ended."""
        self._stopping = True
        for each in self._listeners:
            await each.close()
        for connection in list(self._connections):
            connection.leave()
        if self._connections:
            self._empty.clear()
            try:
                async with asyncio.timeout(grace_seconds):
                    await self._empty.wait()
            except TimeoutError:
                logger.debug("%d connections have not ended", len(self._connections))
        for connection in list(self._connections):
            connection.abort()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    # What connections tell

    def connected(self, connection: Connection) -> None:
        self._connections.add(connection)
        if self._stopping:
            connection.leave()

    def disconnected(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()
