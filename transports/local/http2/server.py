"""A server of gRPC on one address, in the running event loop."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Sequence

from transports.local.http2.connection import HANDSHAKE_SECONDS, Connection
from transports.local.http2.streams import Find

logger = logging.getLogger(__name__)

#: Connections that may wait to be accepted.
_BACKLOG = 1024


class Server:
    """Listens, keeps its clients' connections, and ends them in order."""

    def __init__(self, find: Find, *, silence_seconds: float) -> None:
        self.find = find
        self.silence_seconds = silence_seconds
        self.tasks: set[asyncio.Task[None]] = set()
        self._listeners: list[asyncio.Server] = []
        self._connections: set[Connection] = set()
        self._stopping = False
        self._empty = asyncio.Event()

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Listen on all addresses of a host; return the port.

        Raises:
            OSError: Somebody else listens there, or this machine has no such address.
            OverflowError: There is no such port.
        """
        loop = asyncio.get_running_loop()
        timeout = None if tls is None else HANDSHAKE_SECONDS
        for listener in await _bound(host, port):
            port = listener.getsockname()[1]
            self._listeners.append(
                await loop.create_server(
                    lambda: Connection(self),
                    sock=listener,
                    backlog=_BACKLOG,
                    ssl=tls,
                    ssl_handshake_timeout=timeout,
                    ssl_shutdown_timeout=timeout,
                )
            )
        return port

    async def stop(self, grace_seconds: float) -> None:
        """Listen no more, let calls end that are open, then cancel what has not ended."""
        self._stopping = True
        for listener in self._listeners:
            listener.close()
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


async def _bound(host: str, port: int) -> Sequence[socket.socket]:
    """Return a socket for each address of a host that this machine has, all with the same port."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    missing: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        # asyncio has small writes go at once (TCP_NODELAY) only on sockets that name their protocol.
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address[0], port, *address[2:]))
        except OSError as exc:
            listener.close()
            if exc.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                _close(listeners)
                raise
            missing = exc
        except OverflowError:
            listener.close()
            raise
        else:
            port = listener.getsockname()[1]
            listeners.append(listener)
    if missing is not None and not listeners:
        raise missing
    return listeners


def _close(listeners: Sequence[socket.socket]) -> None:
    for each in listeners:
        each.close()
