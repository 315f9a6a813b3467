"""A TCP proxy that can be cut like a cable, freeze like a network that drops every packet, or forget connections."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Self

#: Seconds that the proxy may take to obey.
_LIMIT_SECONDS = 60.0
#: Bytes read at a time.
_CHUNK = 65536
#: A socket option: closing sends a reset.
_RESET = struct.pack("ii", 1, 0)


class CutProxy:
    """Listens from `__enter__` to `__exit__` at `address`; to be used from one thread at a time."""

    def __init__(self, target: str) -> None:
        """Lead to `HOST:PORT`, or to the socket `unix://PATH`."""
        self._target = target

    def __enter__(self) -> Self:
        # Bound and not listening: it keeps the port for us while we are cut, and refuses who connects.
        self._place = _bound(0)
        port = int(self._place.getsockname()[1])
        self.address = f"127.0.0.1:{port}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cut-proxy")
        self._thread.start()
        self._line = _Line(self._target, port)
        self.restore()
        return self

    def __exit__(self, *exception: object) -> None:
        self._do(self._line.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_LIMIT_SECONDS)
        self._loop.close()
        self._place.close()

    def cut(self) -> None:
        """Reset all connections, and refuse new ones."""
        self._do(self._line.cut())

    def freeze(self) -> None:
        """Pass nothing, in neither direction; connections stay up, and new ones are accepted."""
        self._do(self._line.freeze())

    def forget(self) -> None:
        """Leave clients with connections that are dead, as a firewall does; the server sees them end, new ones work."""
        self._do(self._line.forget())

    def restore(self) -> None:
        """Be a cable again: what was frozen arrives now."""
        self._do(self._line.restore())

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._line.connections)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_LIMIT_SECONDS)


class _Line:
    """The proxy's own side; everything here runs on its event loop."""

    def __init__(self, target: str, port: int) -> None:
        self._target = target
        self._port = port
        self._server: asyncio.Server | None = None
        self._frozen = False
        self.connections: dict[asyncio.Task[Any], _Connection] = {}

    async def restore(self) -> None:
        self._frozen = False
        for connection in self.connections.values():
            connection.flows.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, sock=_bound(self._port))

    async def freeze(self) -> None:
        await self.restore()
        self._frozen = True
        for connection in self.connections.values():
            connection.flows.clear()

    async def forget(self) -> None:
        for connection in self.connections.values():
            connection.flows.clear()
            connection.reset_server()

    async def cut(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            # What was accepted in this turn becomes a transport in the next; of a closed server it would stay open.
            loop = asyncio.get_running_loop()
            for listener in server.sockets:
                loop.remove_reader(listener.fileno())
            await asyncio.sleep(0)
            server.close()
        for connection in self.connections.values():
            connection.reset()

    async def close(self) -> None:
        await self.cut()
        # Those of connections, too, that were accepted just now and are not served yet.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:
            _reset(writer)
            return
        task = asyncio.current_task()
        assert task is not None
        connection = self.connections[task] = _Connection(reader, writer)
        if not self._frozen:
            connection.flows.set()
        try:
            await connection.run(self._target)
        finally:
            del self.connections[task]


class _Connection:
    """A client's connection, and the one to the server behind it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._far_writer: asyncio.StreamWriter | None = None
        self._cut = False
        #: Whether anything passes.
        self.flows = asyncio.Event()

    async def run(self, target: str) -> None:
        """Copy both ways until one side ends."""
        try:
            await self.flows.wait()
            with suppress(OSError):
                far_reader, self._far_writer = await _reach(target)
                if not self._cut:
                    await self._copy_until_one_ends(far_reader, self._far_writer)
        finally:
            self._writer.close()
            if self._far_writer is not None:
                self._far_writer.close()

    def reset(self) -> None:
        self._cut = True
        _reset(self._writer)
        self.reset_server()
        self.flows.set()

    def reset_server(self) -> None:
        if self._far_writer is not None:
            _reset(self._far_writer)

    async def _copy_until_one_ends(self, far_reader: asyncio.StreamReader, far_writer: asyncio.StreamWriter) -> None:
        copies = [self._copy(self._reader, far_writer), self._copy(far_reader, self._writer)]
        tasks = [asyncio.ensure_future(copy) for copy in copies]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = b"-"
        while data:
            try:
                data = await reader.read(_CHUNK)
            except OSError:
                data = b""
            # A frozen network does not carry the news of an end either.
            await self.flows.wait()
            writer.write(data)
            await writer.drain()


def _bound(port: int) -> socket.socket:
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    place.bind(("127.0.0.1", port))
    return place


def _reset(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):  # closed before
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


async def _reach(target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if target.startswith("unix://"):
        return await asyncio.open_unix_connection(target.removeprefix("unix://"))
    host, _, port = target.rpartition(":")
    return await asyncio.open_connection(host, int(port))
