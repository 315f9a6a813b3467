"""Sockets that listen on all addresses of a host, and what becomes of who connects.

asyncio's own server, when the process has no file descriptor left, tries a thousand times in each turn of the event
loop, and logs each. This one says it once in a while, and waits a moment.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable, Sequence

from transports.local.throttle import LogThrottle

logger = logging.getLogger(__name__)

#: Seconds that a client has for the handshake of TLS, for its end, and for the first words of what is spoken then.
HANDSHAKE_SECONDS = 10.0
#: Connections that may wait to be accepted.
_BACKLOG = 1024
#: Most connections that are accepted in one turn of the event loop.
_AT_ONCE = 64
#: Most connections whose handshake is under way; further ones wait to be accepted.
_MAX_HANDSHAKES = 256
#: Seconds after which we try again where no connection could be accepted.
_PAUSE_SECONDS = 0.1


class Listeners:
    """Accepts connections, over TLS if there is a context; belongs to one event loop."""

    def __init__(self, protocol: Callable[[], asyncio.BaseProtocol], tls: ssl.SSLContext | None = None) -> None:
        self._protocol = protocol
        self._tls = tls
        self._seconds = None if tls is None else HANDSHAKE_SECONDS
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        self._handshakes: set[asyncio.Task[None]] = set()
        self._failures = LogThrottle(logger, logging.ERROR)

    async def listen(self, host: str, port: int) -> int:
        """Listen on all addresses of a host that this machine has; return the port.

        Raises:
            OSError: Somebody else listens there, or this machine has no such address.
            OverflowError: There is no such port.
        """
        found = await _listening(host, port)
        self._sockets += found
        for each in found:
            self._watch(each)
        return int(found[0].getsockname()[1])

    async def close(self) -> None:
        """Listen no more, and let go of those whose handshake has not ended."""
        for pause in self._pauses.values():
            pause.cancel()
        for each in self._sockets:
            self._loop.remove_reader(each)
        _close(self._sockets)
        for task in self._handshakes:
            task.cancel()
        await asyncio.gather(*self._handshakes, return_exceptions=True)

    def _watch(self, listener: socket.socket) -> None:
        self._pauses.pop(listener, None)
        self._loop.add_reader(listener, self._accept, listener)

    def _pause(self, listener: socket.socket) -> None:
        self._loop.remove_reader(listener)
        self._pauses[listener] = self._loop.call_later(_PAUSE_SECONDS, self._watch, listener)

    def _accept(self, listener: socket.socket) -> None:
        """Accept some of those that wait."""
        for _ in range(_AT_ONCE):
            if len(self._handshakes) >= _MAX_HANDSHAKES:
                self._pause(listener)
                return
            try:
                client, _ = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as exc:
                self._failures.log(str(exc.errno), f"no connection can be accepted: {exc.strerror}")
                self._pause(listener)
                return
            task = self._loop.create_task(self._receive(client))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _receive(self, client: socket.socket) -> None:
        """Hand a connection to its protocol once the handshake has ended; asyncio has small writes go at once."""
        try:
            await self._loop.connect_accepted_socket(
                self._protocol,
                client,
                ssl=self._tls,
                ssl_handshake_timeout=self._seconds,
                ssl_shutdown_timeout=self._seconds,
            )
        except OSError as exc:
            logger.debug("a connection came to nothing: %s", exc)


async def _listening(host: str, port: int) -> Sequence[socket.socket]:
    """Return a socket for each address of a host that this machine has, all with the same port."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    missing: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        # asyncio has small writes go at once (TCP_NODELAY) only on sockets that name their protocol.
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setblocking(False)
            listener.bind((address[0], port, *address[2:]))
            listener.listen(_BACKLOG)
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
