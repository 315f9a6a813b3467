"""A page for Prometheus: ``GET /metrics`` and nothing else, over HTTP/1.1, one request to a connection."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus

from transports.local.access import Guard
from transports.local.errors import ListenError, RequestError, UnauthenticatedError
from transports.local.listeners import Listeners
from transports.local.monitoring import exposition
from transports.local.monitoring.counters import Counters
from transports.local.monitoring.queues import QueueStatistics
from transports.local.monitoring.service import visible

logger = logging.getLogger(__name__)

#: Seconds that a client has for its request.
REQUEST_SECONDS = 10.0
#: Most bytes of a request with its headers.
_MAX_REQUEST_BYTES = 16 * 1024


class MetricsPage:
    """Answers requests for the page; a broker that wants tokens wants a viewer's here, too."""

    def __init__(
        self,
        guard: Guard,
        counters: Counters,
        read: Callable[[], list[QueueStatistics]],
        followed: Callable[[], Awaitable[None]],
    ) -> None:
        """``followed`` is awaited before what was answered until now is ``read``."""
        self._guard = guard
        self._counters = counters
        self._read = read
        self._followed = followed

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                await self._followed()
                writer.write(self.answer(head))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as exc:
            logger.debug("no request for metrics: %s", exc)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def answer(self, head: bytes) -> bytes:
        """Return the response to a request of which ``head`` is all but the body."""
        request, *headers = head.decode("latin-1").split("\r\n")
        method, _, rest = request.partition(" ")
        if rest.partition(" ")[0].partition("?")[0] != "/metrics":
            return _response(HTTPStatus.NOT_FOUND, "The page is /metrics.\n")
        if method not in ("GET", "HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, "GET is all there is.\n")
        try:
            caller = self._guard.admit(_pairs(headers))
            text = exposition.render(visible(self._read(), caller), self._counters)
        except RequestError as exc:
            wrong = HTTPStatus.UNAUTHORIZED if isinstance(exc, UnauthenticatedError) else HTTPStatus.FORBIDDEN
            self._guard.note_refusal(f"metrics {wrong}", f"metrics: {exc}")
            return _response(wrong, f"{exc}\n")
        return _response(HTTPStatus.OK, text, body=method == "GET")


@asynccontextmanager
async def metrics_served(page: MetricsPage, host: str, port: int, tls: ssl.SSLContext | None) -> AsyncIterator[int]:
    """Serve the page; give its port.

    Raises:
        ListenError: Somebody else listens there.
    """
    loop = asyncio.get_running_loop()

    def protocol() -> asyncio.StreamReaderProtocol:
        reader = asyncio.StreamReader(_MAX_REQUEST_BYTES, loop)
        return asyncio.StreamReaderProtocol(reader, page.serve, loop)

    listeners = Listeners(protocol, tls)
    try:
        found = await listeners.listen(host, port)
    except (OSError, OverflowError) as exc:
        raise ListenError(f"{host}:{port}", getattr(exc, "strerror", None) or str(exc)) from exc
    logger.info("metrics on port %d", found)
    try:
        yield found
    finally:
        await listeners.close()


def _pairs(headers: Sequence[str]) -> list[tuple[str, str]]:
    return [(name.strip(), value.strip()) for name, _, value in (each.partition(":") for each in headers)]


def _response(status: HTTPStatus, text: str, *, body: bool = True) -> bytes:
    content = text.encode()
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {exposition.CONTENT_TYPE}",
        f"Content-Length: {len(content)}",
        "Connection: close",
    ]
    if status is HTTPStatus.UNAUTHORIZED:
        lines.append("WWW-Authenticate: Bearer")
    head = "\r\n".join([*lines, "", ""]).encode()
    return head + content if body else head
