"""What the figures are to reach, and whether they do."""

from __future__ import annotations

from collections.abc import Iterator

from board import Board, Measure
from figures import (
    BULK_1000,
    BULK_5000,
    DELAY,
    END_TO_END,
    FLOOR_OF,
    KILLED,
    LATENCY,
    LOST,
    LOST_ON_EXIT,
    OURS_LOCAL,
    PRIORITIES,
    REDIS,
    STOP_BUSY,
    STOP_IDLE,
)
from verdicts import Verdict, at_least, at_most

#: Most milliseconds between the floor's latency and ours.
LATENCY_ABOVE_FLOOR_MS = 5.0


def verdicts(board: Board) -> Iterator[Verdict]:
    """Judge every figure that has a target."""
    for who in FLOOR_OF:
        yield at_least(board, DELAY, who, FLOOR_OF[who], 0.9)
        yield at_least(board, BULK_1000, who, FLOOR_OF[who], 0.8)
        yield at_least(board, BULK_5000, who, FLOOR_OF[who], 0.8)
        yield _near_floor(board, LATENCY, who)
        yield _near_floor(board, PRIORITIES, who)
        yield at_most(board, STOP_IDLE, who, 1.0)
        yield at_most(board, STOP_BUSY, who, 1.0)
        yield at_most(board, KILLED, who, 60.0)
        yield at_most(board, LOST_ON_EXIT, who, 0.0)
        yield at_most(board, LOST, who, 0.0)
    yield at_most(board, LATENCY, OURS_LOCAL, 8.0)
    yield at_least(board, END_TO_END, OURS_LOCAL, REDIS, 1.0)


def _near_floor(board: Board, measure: Measure, who: str) -> Verdict:
    figure, floor = board.median(measure, who), board.median(measure, FLOOR_OF[who])
    above = None if figure is None or floor is None else figure - floor
    met = None if above is None else above <= LATENCY_ABOVE_FLOOR_MS
    return Verdict(measure, who, figure, floor, above, f"within {LATENCY_ABOVE_FLOOR_MS:g} ms of {FLOOR_OF[who]}", met)
