"""What the figures are to reach, and whether they do."""

from __future__ import annotations

from collections.abc import Iterator

from board import Board
from verdicts import Verdict, at_most, at_most_above

from supervision.figures import (
    COMMAND,
    CROWDS,
    DOCKER,
    FIRST_LINE,
    IDLE_EMULATOR,
    IDLE_LOCAL,
    LIBRARY,
    MEMORY,
    PROCESS,
    PYTHON,
    START,
)

#: Most milliseconds between a bare start and one by a worker.
MOST_ABOVE_MS = 150.0
#: Most of a core that an idle worker takes, percent.
MOST_IDLE = 0.5
#: Most memory of a worker with the largest crowd.
MOST_MB = 250.0


def verdicts(board: Board) -> Iterator[Verdict]:
    """Judge every figure that has a target."""
    for floor in (COMMAND, LIBRARY):
        yield at_most_above(board, START, DOCKER, floor, MOST_ABOVE_MS)
    yield at_most_above(board, FIRST_LINE, PROCESS, PYTHON, MOST_ABOVE_MS)
    for who in (DOCKER, PROCESS):
        yield at_most(board, IDLE_LOCAL, who, MOST_IDLE)
        yield at_most(board, IDLE_EMULATOR, who, MOST_IDLE)
        yield at_most(board, MEMORY[CROWDS[-1]], who, MOST_MB)
