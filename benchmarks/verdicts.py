"""Whether a figure is what it is to be: beside that of somebody else, or by itself."""

from __future__ import annotations

from dataclasses import dataclass

from board import Board, Measure


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


def at_least(board: Board, measure: Measure, who: str, base: str, least: float) -> Verdict:
    """Judge a rate by that of ``base`` in the same turns."""
    ratio = board.ratio(measure, who, base)
    met = None if ratio is None else ratio >= least
    return _beside(board, measure, (who, base), ratio, f"at least {least:g} x {base}", met)


def at_most(board: Board, measure: Measure, who: str, most: float) -> Verdict:
    """Judge a figure by a number of its own unit."""
    figure = board.median(measure, who)
    met = None if figure is None else figure <= most
    return Verdict(measure, who, figure, None, figure, f"at most {most:g} {measure.unit}", met)


def at_most_above(board: Board, measure: Measure, who: str, base: str, most: float) -> Verdict:
    """Judge a figure by how far it is above that of ``base`` in the same turns."""
    above = board.difference(measure, who, base)
    met = None if above is None else above <= most
    return _beside(board, measure, (who, base), above, f"at most {most:g} {measure.unit} above {base}", met)


def _beside(
    board: Board, measure: Measure, pair: tuple[str, str], compared: float | None, target: str, met: bool | None
) -> Verdict:
    who, base = pair
    return Verdict(measure, who, board.median(measure, who), board.median(measure, base), compared, target, met)
