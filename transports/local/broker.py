"""Running a broker from ordinary code: in a thread (``Broker``) or until a signal (``serve``)."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Self

from transports.local.errors import BrokerError
from transports.local.loops import run
from transports.local.options import Options
from transports.local.server import running


class Broker:
    """A broker in a thread of this process, from ``with`` to its end; do not fork meanwhile, run ``serve`` instead.

    Raises ``StartError`` on entry if the host is refused, or if the port or the directory are in use.
    """

    def __init__(self, data: Path, host: str = "127.0.0.1", port: int = 0, options: Options | None = None) -> None:
        """Name the directory and the address; port 0 takes a free one."""
        self._data = data
        self._host = host
        self._port = port
        self._options = options
        self._address = ""
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    @property
    def address(self) -> str:
        """``host:port`` of the running broker."""
        if not self._address:
            raise BrokerError("The broker is not running.")
        return self._address

    def __enter__(self) -> Self:
        started: Future[str] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="broker", daemon=True)
        self._thread.start()
        try:
            self._address = started.result()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End streams and requests, write what is under way, and free port and directory; again does nothing."""
        thread, self._thread, self._address = self._thread, None, ""
        if thread is None:
            return
        if self._loop is not None and self._stopping is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopping.set)
        thread.join()

    def _run(self, started: Future[str]) -> None:
        try:
            run(self._main(started))
        except BaseException as exc:  # noqa: BLE001 - handed to the thread that waits for the start
            if not started.done():
                started.set_exception(exc)

    async def _main(self, started: Future[str]) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        async with running(self._data, self._host, self._port, self._options) as address:
            started.set_result(address)
            await self._stopping.wait()


def serve(data: Path, host: str, port: int, ready: Callable[[str], None], options: Options | None = None) -> None:
    """Run a broker in this thread until SIGTERM or SIGINT; call ``ready`` with its ``host:port`` once it answers.

    Raises:
        StartError: The host is refused, or the port or the directory are in use.
    """
    run(_serve(data, host, port, ready, options))


async def _serve(data: Path, host: str, port: int, ready: Callable[[str], None], options: Options | None) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with running(data, host, port, options) as address:
        # What was loaded stays; to look through it again and again is a twentieth of the time of a request.
        gc.freeze()
        ready(address)
        await stopping.wait()
