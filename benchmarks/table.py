"""The figures as tables: for the terminal and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from board import Board, Measure
from verdicts import Verdict

#: What stands where nothing was measured.
_NOTHING = "-"

Rows = list[list[str]]


@dataclass(frozen=True)
class Report:
    """What one benchmark found; ``command`` made it."""

    title: str
    command: str
    boards: Sequence[Board]
    verdicts: Iterable[Verdict]


def as_text(report: Report) -> str:
    """Return all tables and the notes in columns."""
    figures = [_columns(_figures(board)) for board in report.boards]
    parts = [*figures, _columns(_judged(report)), "\n".join(_notes(report))]
    return "\n\n".join(part for part in parts if part)


def as_markdown(report: Report, *, machine: str) -> str:
    """Return all tables and the notes as a page."""
    notes = [f"- {note}" for note in _notes(report)]
    parts = [
        f"# {report.title}",
        f"Medians of runs taken in turns on one machine: {machine}. Made by `{report.command}`.",
        *("\n".join(_piped(_figures(board))) for board in report.boards),
        "## Against floors and targets",
        "Ratios are medians of the ratios of runs side by side.",
        "\n".join(_piped(_judged(report))),
        "\n".join(notes),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _figures(board: Board) -> Rows:
    rows = [["", "unit", *board.who]]
    for measure in board.measures:
        cells = [_shown(measure, board.median(measure, who)) for who in board.who]
        if any(cell != _NOTHING for cell in cells):
            rows.append([measure.title, measure.unit, *cells])
    return rows


def _judged(report: Report) -> Rows:
    head = ["", "who", "figure", "floor", "compared", "target", "met"]
    return [head, *(_judgement(each) for each in report.verdicts if each.figure is not None)]


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


def _notes(report: Report) -> list[str]:
    return [
        f"{who}, {measure.title}: {text}" for board in report.boards for (measure, who), text in board.notes.items()
    ]


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
