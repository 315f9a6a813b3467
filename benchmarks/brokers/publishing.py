"""Publishing that waits for each confirmation, beside how often the disk alone can confirm."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from board import Measure
from calls import Child

from brokers.arena import MOST, Arena, client
from brokers.figures import BATCH_100, BATCH_1000, SERVERS, SINGLE, SINGLE_8, SQLITE, SYNC

_CLIENTS = 8
#: Messages to a request that acknowledges what was published, which is not measured.
_DRAINED_AT_ONCE = 1000
_SIZES = {SINGLE: 1, BATCH_100: 100, BATCH_1000: 1000}


def publishing(arena: Arena) -> None:
    """One client, three sizes."""
    for counts in arena.turns():
        for measure, size in _SIZES.items():
            for who in SERVERS:
                _one_turn(arena, measure, who, [arena.clients[who]], size=size, counts=counts)
            _disk_turn(arena, measure, size=size, counts=counts)


def together(arena: Arena) -> None:
    """Eight clients at once."""
    with ExitStack() as stack:
        crowds = {
            who: [stack.enter_context(client(arena.servers[who].address, arena.folder)) for _ in range(_CLIENTS)]
            for who in SERVERS
        }
        for counts in arena.turns():
            for who, crowd in crowds.items():
                _one_turn(arena, SINGLE_8, who, crowd, size=1, counts=counts)


def _one_turn(arena: Arena, measure: Measure, who: str, clients: Sequence[Child], *, size: int, counts: bool) -> None:
    with ThreadPoolExecutor(len(clients)) as pool:
        asked = [
            pool.submit(each.ask, "publish", seconds=arena.scale.seconds, size=size, at_most=MOST) for each in clients
        ]
        answers = [each.result() for each in asked]
    count = int(sum(each["count"] for each in answers))
    seconds = max(each["ended"] for each in answers) - min(each["began"] for each in answers)
    if counts:
        arena.board.add(measure, who, count / seconds)
    arena.clients[who].ask("take", count=count)
    arena.clients[who].ask("acknowledge", size=_DRAINED_AT_ONCE)


def _disk_turn(arena: Arena, measure: Measure, *, size: int, counts: bool) -> None:
    seconds = arena.scale.seconds / 2
    commits = arena.disk.ask("commits", seconds=seconds, size=size)
    syncs = arena.disk.ask("syncs", seconds=seconds) if size == 1 else None
    if counts:
        arena.board.add(measure, SQLITE, commits)
        if syncs is not None:
            arena.board.add(measure, SYNC, syncs)
