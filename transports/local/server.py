"""A broker at work: lock, database, writer, engine and server, taken down in the opposite order."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from transports.local.database import Database
from transports.local.engine import Engine
from transports.local.errors import HostError
from transports.local.lockfile import locked
from transports.local.rpc import serving
from transports.local.writer import Writer

logger = logging.getLogger(__name__)

#: The database's name inside the data directory.
DATABASE_NAME = "broker.db"


@asynccontextmanager
async def running(data: Path, host: str, port: int) -> AsyncIterator[str]:
    """Run a broker on the running event loop; give its ``host:port``.

    Raises:
        StartError: The host is refused, or directory or port are in use.
    """
    check_host(host)
    with locked(data):
        database = Database(data / DATABASE_NAME)
        writer = Writer(database)
        writer.start()
        try:
            engine = Engine(database, writer)
            await engine.start()
            async with serving(engine, host, port) as address:
                logger.info("broker listens on %s, data in %s", address, data)
                yield address
                logger.info("broker on %s stops", address)
        finally:
            writer.stop()
            database.close()


def check_host(host: str) -> None:
    """Refuse what others could reach: there is neither encryption nor a password."""
    with suppress(ValueError):
        if host == "localhost" or ipaddress.ip_address(host).is_loopback:
            return
    raise HostError(host)
