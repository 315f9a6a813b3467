"""The broker's door: it starts to listen, answers for everything there is, and stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from transports.local import methods
from transports.local.access import Guard
from transports.local.encryption import Certificate
from transports.local.engine import Engine
from transports.local.errors import ListenError
from transports.local.handlers import Adapter
from transports.local.health import Health
from transports.local.http2 import Server
from transports.local.monitoring.counters import Counters
from transports.local.monitoring.service import SERVICE as STATISTICS
from transports.local.services import Services, handlers

#: Seconds that requests under way get to end when the broker stops; they all end at once unless the machine is busy.
STOP_SECONDS = 3.0
#: What clients of gRPC negotiate over TLS.
_PROTOCOLS = ("h2",)


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a server listens, and with which certificate."""

    host: str
    port: int
    #: Seconds after which a client that does not answer has gone.
    silence_seconds: float
    certificate: Certificate | None = None


@asynccontextmanager
async def serving(engine: Engine, listening: Listening, guard: Guard, counters: Counters) -> AsyncIterator[str]:
    """Serve an engine; give the address as ``host:port``.

    Raises:
        StartError: Somebody else listens there, or the certificate cannot be used.
    """
    adapter, health = Adapter(guard, counters), Health((methods.PUBLISHER, methods.SUBSCRIBER, STATISTICS))
    services = Services({**handlers(engine, adapter), **health.methods()})
    server = Server(services.find, silence_seconds=listening.silence_seconds)
    address = await _listen(server, listening)
    watching = asyncio.ensure_future(guard.watch())
    try:
        yield address
    finally:
        watching.cancel()
        health.stop()
        stopped = asyncio.ensure_future(server.stop(STOP_SECONDS))
        engine.close()
        await stopped
        await adapter.finish()
        engine.finish()


async def _listen(server: Server, listening: Listening) -> str:
    host, port = listening.host, listening.port
    shown = f"[{host}]" if ":" in host else host
    tls = listening.certificate.context(_PROTOCOLS) if listening.certificate else None
    try:
        return f"{shown}:{await server.listen(host, port, tls)}"
    except (OSError, OverflowError) as exc:
        raise ListenError(f"{shown}:{port}", getattr(exc, "strerror", None) or str(exc)) from exc
