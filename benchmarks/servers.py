"""The servers of a run, each a process of its own on a free port of 127.0.0.1: emulator, local broker, Redis, echo."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

# The tests start the same servers.
sys.path.append(str(Path(__file__).parents[1] / "tests"))
from ports import kept_port
from pubsub_servers import ServerProcess, broker_process, emulator, find_emulator, local_broker

__all__ = ["Addresses", "ServerProcess", "broker", "echo", "large_emulator", "running"]

#: The emulator keeps all messages in memory: enough for a million of them.
_EMULATOR_MEMORY = "-Xmx6g"

#: Redis numbers its databases; every measurement takes one of its own.
_REDIS_DATABASES = 10_000


@dataclass(frozen=True)
class Addresses:
    """The ``host:port`` of each server."""

    emulator: str
    local: str
    redis: str


@contextmanager
def running(folder: Path) -> Iterator[Addresses]:
    """Run all of them; what they store goes into ``folder``."""
    with ExitStack() as stack:
        yield Addresses(
            emulator=stack.enter_context(emulator()),
            local=stack.enter_context(local_broker(folder / "broker")),
            redis=stack.enter_context(_redis(folder)),
        )


@contextmanager
def _redis(folder: Path) -> Iterator[str]:
    """Run Redis as a broker usually is: in memory, nothing written."""
    with kept_port() as port:
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
        command += ["--databases", str(_REDIS_DATABASES), "--dir", str(folder)]
        with _started(
            ServerProcess(command, ready=r"(Ready to accept connections)", address=f"127.0.0.1:{port}")
        ) as server:
            yield server.address


@contextmanager
def broker(data: Path) -> Iterator[ServerProcess]:
    """Run the local broker on a directory, new or not."""
    with broker_process(data) as server:
        yield server


@contextmanager
def large_emulator() -> Iterator[ServerProcess]:
    """Run Google's emulator with memory for a long backlog."""
    with kept_port() as port:
        command = ["java", _EMULATOR_MEMORY, "-jar", str(find_emulator()), "--host=127.0.0.1", f"--port={port}"]
        ready = r"Server started, listening on (\d+)"
        with _started(ServerProcess(command, ready=ready, address=f"127.0.0.1:{port}")) as server:
            yield server


@contextmanager
def echo(kind: str) -> Iterator[ServerProcess]:
    """Run a bare gRPC server: gRPC's own (``grpc``), or the local broker's (``own``)."""
    command = [sys.executable, str(Path(__file__).with_name("echo.py")), kind]
    with _started(ServerProcess(command, ready=r"^ready (\S+)")) as server:
        yield server


@contextmanager
def _started(server: ServerProcess) -> Iterator[ServerProcess]:
    server.wait_until_ready()
    try:
        yield server
    finally:
        server.stop()
