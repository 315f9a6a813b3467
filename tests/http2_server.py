"""The local broker's server with methods of a test instead of a broker's, in a thread."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager

import grpc

from transports.local.http2 import Call, Method, Server, StatusError, Streaming, Unary

#: What the methods have done, by name and event.
Events = Counter[str]


class House:
    """Methods to be called, and what became of the calls."""

    def __init__(self) -> None:
        self.events = Events()
        self.metadata: dict[str, str | bytes] = {}
        self.remaining: float | None = None

    def methods(self) -> Mapping[str, Method]:
        return {
            "/test/Echo": Unary(lambda call, data: call.answer(data)),
            "/test/Size": Unary(lambda call, data: call.answer(str(len(data)).encode())),
            "/test/Many": Unary(lambda call, data: call.answer(b"x" * _number(data))),
            "/test/Seen": Unary(self._see),
            "/test/Fail": Unary(self._fail),
            "/test/Bug": Unary(self._stumble),
            "/test/Wait": Unary(lambda call, data: call.run(self._wait(call))),
            "/test/Flow": Unary(lambda call, data: call.run(self._flow(call, _number(data)))),
            "/test/Stream": Streaming(self._stream),
            "/test/Deaf": Streaming(self._wait),
        }

    def find(self, path: str) -> Method:
        try:
            return self.methods()[path]
        except KeyError as exc:
            raise StatusError(grpc.StatusCode.UNIMPLEMENTED, f"no {path}") from exc

    def _see(self, call: Call, data: bytes) -> None:
        self.metadata, self.remaining = dict(call.metadata), call.time_remaining()
        call.answer(call.peer.encode())

    def _fail(self, call: Call, data: bytes) -> None:
        trailing = (("details-bin", data), ("plain", "text"))
        call.finish(grpc.StatusCode.NOT_FOUND, data[:1000].decode(errors="replace"), trailing)

    def _stumble(self, call: Call, data: bytes) -> None:
        raise ZeroDivisionError

    async def _wait(self, call: Call) -> None:
        """Wait until the client goes."""
        self.events["begun"] += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.events[f"ended {call.path}"] += 1
            self.events["ended"] += 1

    async def _flow(self, call: Call, size: int) -> None:
        """Send for ever."""
        try:
            while True:
                await call.write(b"x" * size)
                self.events["written"] += 1
        finally:
            self.events["ended"] += 1

    async def _stream(self, call: Call) -> None:
        """Send back what comes."""
        async for each in call.requests():
            await call.write(each)
        self.events["closed"] += 1


def _number(data: bytes) -> int:
    return int(data) if data.isdigit() else 0


@contextmanager
def served(
    house: House, *, silence_seconds: float = 60.0, grace_seconds: float = 1.0, tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Run a server; give its address. At the end, calls that are open have ``grace_seconds``."""
    started: Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def main() -> None:
        server, stopping = Server(house.find, silence_seconds=silence_seconds), asyncio.Event()
        port = await server.listen("localhost", 0, tls)
        started.set_result((f"localhost:{port}", asyncio.get_running_loop(), stopping))
        await stopping.wait()
        await server.stop(grace_seconds)
        house.events["tasks"] = len(server.tasks)

    thread = threading.Thread(target=asyncio.run, args=(main(),), name="http2-server", daemon=True)
    thread.start()
    address, loop, stopping = started.result(60)
    try:
        yield address
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join(60)
        assert not thread.is_alive(), "the server does not stop"
