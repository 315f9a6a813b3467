"""What every measurement gets: the servers side by side, a client of each, how much, and the board for the figures."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import servers
from board import Board
from calls import Child
from contenders import environment
from servers import ServerProcess

from brokers.figures import DISKLESS, ECHO, EMULATOR, LOCAL, OWN

#: Messages that one client publishes in a turn: the emulator never gives up the memory even of acknowledged ones.
MOST = 20_000
_HERE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    #: Turns of everybody; those before the first that counts warm the emulator's virtual machine.
    turns: int
    warm_up: int
    #: Seconds of publishing in a turn.
    seconds: float
    #: Messages delivered in a turn, and acknowledged one by one and by a hundred.
    delivered: int
    acknowledged: int
    acknowledged_by_100: int
    latency_messages: int
    idle_seconds: float
    #: The backlogs, the turns with them, and starts of each.
    backlogs: tuple[int, ...]
    backlog_turns: int
    starts: int


QUICK = Scale(
    turns=3,
    warm_up=1,
    seconds=0.7,
    delivered=5_000,
    acknowledged=300,
    acknowledged_by_100=5_000,
    latency_messages=30,
    idle_seconds=5.0,
    backlogs=(0, 100_000),
    backlog_turns=3,
    starts=2,
)
FULL = Scale(
    turns=7,
    warm_up=2,
    seconds=1.5,
    delivered=10_000,
    acknowledged=1_000,
    acknowledged_by_100=10_000,
    latency_messages=200,
    idle_seconds=15.0,
    backlogs=(0, 100_000, 1_000_000),
    backlog_turns=5,
    starts=5,
)


@dataclass(frozen=True)
class Arena:
    """The servers, each with a client, in the order of their turns."""

    servers: Mapping[str, ServerProcess]
    clients: Mapping[str, Child]
    disk: Child
    folder: Path
    scale: Scale
    board: Board

    def turns(self) -> Iterator[bool]:
        """Go through the turns; say of each whether it counts."""
        for number in range(-self.scale.warm_up, self.scale.turns):
            yield number >= 0


def client(address: str, folder: Path) -> Child:
    """Return a process that uses a server, to be entered."""
    return Child(_HERE / "client.py", environment({"BENCH_SERVER": address}), folder)


@contextmanager
def _memory() -> Iterator[Path]:
    """Make a directory that is on no disk."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm") as name:
        yield Path(name)


@contextmanager
def arena(folder: Path, scale: Scale, board: Board) -> Iterator[Arena]:
    """Run the servers and what measures them; what they store goes into ``folder``."""
    with ExitStack() as stack:
        running = {
            LOCAL: stack.enter_context(servers.broker(folder / "broker")),
            DISKLESS: stack.enter_context(servers.broker(stack.enter_context(_memory()))),
            EMULATOR: stack.enter_context(servers.large_emulator()),
            ECHO: stack.enter_context(servers.echo("grpc")),
            OWN: stack.enter_context(servers.echo("own")),
        }
        clients = {who: stack.enter_context(client(server.address, folder)) for who, server in running.items()}
        for each in clients.values():
            each.ask("create")
        disk = stack.enter_context(Child(_HERE / "disk.py", environment({"BENCH_DISK": str(folder)}), folder))
        yield Arena(running, clients, disk, folder, scale, board)
