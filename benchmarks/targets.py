"""What the figures are to reach, and whether they do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
    Board,
    Measure,
)

#: Most milliseconds between the floor's latency and ours.
LATENCY_ABOVE_FLOOR_MS = 5.0


@dataclass(frozen=True)
class Verdict:
    """One figure beside its floor and its target; `met` is None where the figure is missing."""

    measure: Measure
    who: str
    figure: float | None
    floor: float | None
    #: The figure as the target counts it: a ratio, a difference, or itself.
    compared: float | None
    target: str
    met: bool | None


def verdicts(board: Board) -> Iterator[Verdict]:
    """Judge every figure that has a target."""
    for who in FLOOR_OF:
        yield _at_least(board, DELAY, who, FLOOR_OF[who], 0.9)
        yield _at_least(board, BULK_1000, who, FLOOR_OF[who], 0.8)
        yield _at_least(board, BULK_5000, who, FLOOR_OF[who], 0.8)
        yield _near_floor(board, LATENCY, who)
        yield _near_floor(board, PRIORITIES, who)
        yield _at_most(board, STOP_IDLE, who, 1.0)
        yield _at_most(board, STOP_BUSY, who, 1.0)
        yield _at_most(board, KILLED, who, 60.0)
        yield _at_most(board, LOST_ON_EXIT, who, 0.0)
        yield _at_most(board, LOST, who, 0.0)
    yield _at_most(board, LATENCY, OURS_LOCAL, 8.0)
    yield _at_least(board, END_TO_END, OURS_LOCAL, REDIS, 1.0)


def _at_least(board: Board, measure: Measure, who: str, base: str, least: float) -> Verdict:
    ratio = board.ratio(measure, who, base)
    return Verdict(
        measure,
        who,
        board.median(measure, who),
        board.median(measure, base),
        ratio,
        f"at least {least:g} x {base}",
        None if ratio is None else ratio >= least,
    )


def _near_floor(board: Board, measure: Measure, who: str) -> Verdict:
    figure, floor = board.median(measure, who), board.median(measure, FLOOR_OF[who])
    above = None if figure is None or floor is None else figure - floor
    met = None if above is None else above <= LATENCY_ABOVE_FLOOR_MS
    return Verdict(measure, who, figure, floor, above, f"within {LATENCY_ABOVE_FLOOR_MS:g} ms of {FLOOR_OF[who]}", met)


def _at_most(board: Board, measure: Measure, who: str, most: float) -> Verdict:
    figure = board.median(measure, who)
    met = None if figure is None else figure <= most
    return Verdict(measure, who, figure, None, figure, f"at most {most:g} {measure.unit}", met)
