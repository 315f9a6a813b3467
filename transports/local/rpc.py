"""The one door to gRPC's server: it starts, listens, answers for everything there is, and stops."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import grpc.aio

from transports.local import methods
from transports.local.access import Guard
from transports.local.encryption import Certificate
from transports.local.engine import Engine
from transports.local.errors import ListenError
from transports.local.handlers import Adapter, Services, handlers
from transports.local.health import Health
from transports.local.monitoring.counters import Counters
from transports.local.monitoring.service import SERVICE as STATISTICS

#: Seconds that requests under way get to end when the broker stops; they all end at once unless the machine is busy.
STOP_SECONDS = 3.0
#: Most bytes of a request: above Google's limit, so that it is we who refuse, with Google's status code.
_MAX_REQUEST_BYTES = 32 * 1024 * 1024


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
    server = grpc.aio.server(options=_options(listening.silence_seconds))
    server.add_generic_rpc_handlers((Services(handlers(engine, adapter)),))
    health.add_to(server)
    address = _bind(server, listening)
    await server.start()
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


def _options(silence_seconds: float) -> list[tuple[str, int]]:
    timeout_ms = round(silence_seconds * 1000 / 3)
    return [
        # Two brokers must not share a port unnoticed.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", _MAX_REQUEST_BYTES),
        ("grpc.max_send_message_length", -1),
        # Clients of Google's library ping idle connections every 30 s; that is no abuse.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # We ping them, too, however little there is to send, else a frozen one kept its streams for ever.
        ("grpc.keepalive_time_ms", 2 * timeout_ms),
        ("grpc.http2.max_pings_without_data", 0),
        # Whichever of these is shorter closes the connection; the second one is a minute by default.
        ("grpc.keepalive_timeout_ms", timeout_ms),
        ("grpc.http2.ping_timeout_ms", timeout_ms),
    ]


def _bind(server: grpc.aio.Server, listening: Listening) -> str:
    host, port = listening.host, listening.port
    shown = f"[{host}]" if ":" in host else host
    try:
        _check_port(host, port)
        if listening.certificate is None:
            return f"{shown}:{server.add_insecure_port(f'{shown}:{port}')}"
        return f"{shown}:{server.add_secure_port(f'{shown}:{port}', listening.certificate.credentials())}"
    except (OSError, OverflowError, RuntimeError) as exc:
        raise ListenError(f"{shown}:{port}", getattr(exc, "strerror", None) or str(exc)) from exc


def _check_port(host: str, port: int) -> None:
    """Try the port before gRPC does, which would print its own opinion of a failure."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
