"""The figures as tables: for the terminal and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from figures import MEASURES, WHO, Board, Measure
from targets import Verdict, verdicts

#: What stands where nothing was measured.
_NOTHING = "-"

Rows = list[list[str]]


def as_text(board: Board) -> str:
    """Return both tables and the notes in columns."""
    parts = [_columns(_figures(board)), _columns(_judged(board)), "\n".join(_notes(board))]
    return "\n\n".join(part for part in parts if part)


def as_markdown(board: Board, *, machine: str) -> str:
    """Return both tables and the notes as a page."""
    notes = [f"- {note}" for note in _notes(board)]
    parts = [
        "# The transport beside its rivals",
        f"Medians of runs taken in turns on one machine: {machine}. Made by `python benchmarks/transport.py`.",
        "\n".join(_piped(_figures(board))),
        "## Against floors and targets",
        "Ratios are medians of the ratios of runs side by side.",
        "\n".join(_piped(_judged(board))),
        "\n".join(notes),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _figures(board: Board) -> Rows:
    rows = [["", "unit", *WHO]]
    for measure in MEASURES:
        cells = [_shown(measure, board.median(measure, who)) for who in WHO]
        if any(cell != _NOTHING for cell in cells):
            rows.append([measure.title, measure.unit, *cells])
    return rows


def _judged(board: Board) -> Rows:
    head = ["", "who", "figure", "floor", "compared", "target", "met"]
    return [head, *(_judgement(each) for each in verdicts(board) if each.figure is not None)]


def _judgement(verdict: Verdict) -> list[str]:
    measure = verdict.measure
    digits = 2 if "x" in verdict.target else measure.digits
    return [
        measure.title,
        verdict.who,
        _shown(measure, verdict.figure),
        _shown(measure, verdict.floor),
        _number(verdict.compared, digits),
        verdict.target,
        {True: "yes", False: "NO", None: _NOTHING}[verdict.met],
    ]


def _notes(board: Board) -> list[str]:
    return [f"{who}, {measure.title}: {text}" for (measure, who), text in board.notes.items()]


def _shown(measure: Measure, value: float | None) -> str:
    return _number(value, measure.digits)


def _number(value: float | None, digits: int) -> str:
    if value is None:
        return _NOTHING
    return f"{value:,.{digits}f}" if math.isfinite(value) else "not within the cap"


def _columns(rows: Rows) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _piped(rows: Rows) -> Sequence[str]:
    head, *rest = [f"| {' | '.join(row)} |" for row in rows]
    return [head, f"|{' --- |' * len(rows[0])}", *rest]
