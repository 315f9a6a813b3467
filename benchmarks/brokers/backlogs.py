"""The broker with messages waiting: whether it is as fast, how it starts, what it holds in memory.

The emulator keeps messages in memory only, so it is not started again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import servers
from board import Board
from calls import Child
from servers import ServerProcess

from brokers.arena import MOST, Scale, client
from brokers.delivering import OUTSTANDING
from brokers.figures import (
    EMULATOR,
    FILL,
    LOCAL,
    MEASURES_WAITING,
    MEMORY,
    MEMORY_AFTER,
    START,
    WAITING_BATCH,
    WAITING_DELIVER,
    WAITING_SINGLE,
    WHO_WAITING,
    waiting,
)
from brokers.processes import memory_bytes

_BATCH = 100
_MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Filled:
    """A server with messages waiting; `data` is where a broker keeps them."""

    who: str
    count: int
    server: ServerProcess
    client: Child
    data: Path | None


def backlogs(folder: Path, scale: Scale) -> Board:
    """Measure all backlogs side by side, then the starts."""
    board = Board(MEASURES_WAITING, WHO_WAITING)
    with ExitStack() as stack:
        pairs = [(who, count) for count in scale.backlogs for who in (LOCAL, EMULATOR)]
        filled = [stack.enter_context(_filled(folder, who, count)) for who, count in pairs]
        for each in filled:
            _fill(each, board)
        for number in range(-scale.warm_up, scale.backlog_turns):
            for each in filled:
                _one_turn(each, scale, board, counts=number >= 0)
        _note_memory(filled, board)
    for _ in range(scale.starts):
        for each in filled:
            if each.data is not None:
                _start(each.who, each.data, folder, scale, board)
    return board


def _fill(filled: Filled, board: Board) -> None:
    if filled.count:
        board.add(FILL, filled.who, filled.count / filled.client.ask("fill", count=filled.count))
    board.add(MEMORY, filled.who, memory_bytes(filled.server.pid) / _MEGABYTE)


@contextmanager
def _filled(folder: Path, who: str, count: int) -> Iterator[Filled]:
    data = folder / f"broker-{count}" if who == LOCAL else None
    with (
        servers.large_emulator() if data is None else servers.broker(data) as server,
        client(server.address, folder) as child,
    ):
        child.ask("create")
        yield Filled(waiting(who, count), count, server, child, data)


def _one_turn(filled: Filled, scale: Scale, board: Board, *, counts: bool) -> None:
    published = 0
    for measure, size in ((WAITING_SINGLE, 1), (WAITING_BATCH, _BATCH)):
        answer = filled.client.ask("publish", seconds=scale.seconds / 2, size=size, at_most=MOST)
        published += answer["count"]
        if counts:
            board.add(measure, filled.who, answer["count"] / (answer["ended"] - answer["began"]))
    # As many as were published, so that as many wait in each turn.
    seconds = filled.client.ask("deliver", count=published, outstanding=OUTSTANDING)
    if counts:
        board.add(WAITING_DELIVER, filled.who, published / seconds)


def _note_memory(filled: list[Filled], board: Board) -> None:
    for each in filled:
        board.note(MEMORY, each.who, f"{memory_bytes(each.server.pid) / _MEGABYTE:,.0f} MB after all turns")


def _start(who: str, data: Path, folder: Path, scale: Scale, board: Board) -> None:
    """Start a broker with what is there, and have it deliver some."""
    began = time.monotonic()
    with servers.broker(data) as server:
        board.add(START, who, time.monotonic() - began)
        _deliver_some(who, server, folder, scale, board)


def _deliver_some(who: str, server: ServerProcess, folder: Path, scale: Scale, board: Board) -> None:
    with client(server.address, folder) as child:
        child.ask("fill", count=scale.delivered)
        child.ask("deliver", count=scale.delivered, outstanding=OUTSTANDING)
        board.add(MEMORY_AFTER, who, memory_bytes(server.pid) / _MEGABYTE)
