"""A broker at work: lock, database, writer, engine and server, taken down in the opposite order."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path

from transports.local.access import Guard, TokenError, TokenFile
from transports.local.engine import Engine
from transports.local.errors import DataUnusableError, HostError
from transports.local.lockfile import locked
from transports.local.monitoring.counters import Counters
from transports.local.monitoring.endpoint import MetricsPage, metrics_served
from transports.local.monitoring.queues import read
from transports.local.options import Options
from transports.local.rpc import Listening, serving
from transports.local.storage.database import Database
from transports.local.storage.writer import Writer

logger = logging.getLogger(__name__)

#: The database's name inside the data directory.
DATABASE_NAME = "broker.db"
_MAKE_TOKEN = "studio broker token create, or python -m transports.local token create"


@asynccontextmanager
async def running(data: Path, host: str, port: int, options: Options | None = None) -> AsyncIterator[str]:
    """Run a broker on the running event loop; give its ``host:port``.

    Raises:
        StartError: The host is refused, directory or port are in use, or a file cannot be used.
    """
    options = options or Options()
    listening = Listening(host, port, options.silence_seconds, options.certificate)
    guard = _guard(data, host, options)
    with locked(data):
        database = Database(data / DATABASE_NAME)
        writer = Writer(database)
        writer.start()
        try:
            engine = Engine(database, writer, grace_seconds=options.grace_seconds)
            await engine.start()
            counters = Counters()
            async with (
                serving(engine, listening, guard, counters) as address,
                _metrics(engine, guard, counters, host, options),
            ):
                kind = "tokens required" if guard.required else "open to everybody on this machine"
                logger.info("broker listens on %s (%s), data in %s", address, kind, data)
                yield address
                logger.info("broker on %s stops", address)
        finally:
            writer.stop()
            database.close()


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach a host."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _guard(data: Path, host: str, options: Options) -> Guard:
    """Return the guard; refuse, before anything is touched, what others could reach without TLS and tokens."""
    tokens = TokenFile(data)
    guard = Guard(tokens, required=options.require_tokens or not is_loopback(host))
    try:
        there_are_some = bool(tokens.tokens()) if guard.required else False
    except TokenError as exc:
        raise DataUnusableError(str(exc)) from exc
    if not is_loopback(host):
        if options.certificate is None:
            raise HostError(host, "TLS", "name a certificate and its key (--tls-cert, --tls-key)")
        if not there_are_some:
            raise HostError(host, "tokens", f"make one ({_MAKE_TOKEN})")
    return guard


def _metrics(
    engine: Engine, guard: Guard, counters: Counters, host: str, options: Options
) -> AbstractAsyncContextManager[object]:
    if options.metrics_port is None:
        return nullcontext()
    certificate = options.certificate
    page = MetricsPage(guard, counters, lambda: read(engine, counters), engine.followed)
    return metrics_served(page, host, options.metrics_port, certificate.context() if certificate else None)
