"""What the figures are to reach, and whether they do."""

from __future__ import annotations

from collections.abc import Iterator

from board import Board
from verdicts import Verdict, at_least, at_most

from brokers.figures import BACKLOGS, DISKLESS, EMULATOR, FLAT, LOCAL, MEMORY, MEMORY_AFTER, RATES, waiting

#: The share of its speed without a backlog that is flat, given how runs differ on a busy machine.
FLAT_RATIO = 0.8
#: Most memory with the largest backlog.
MOST_MB = 300.0


def verdicts(serving: Board, backlogs: Board) -> Iterator[Verdict]:
    """Judge every figure that has a target."""
    for measure in RATES:
        yield at_least(serving, measure, LOCAL, EMULATOR, 1.0)
        yield at_least(serving, measure, DISKLESS, EMULATOR, 1.0)
    empty, *filled = (waiting(LOCAL, count) for count in BACKLOGS)
    for who in filled:
        for measure in FLAT:
            yield at_least(backlogs, measure, who, empty, FLAT_RATIO)
        yield at_most(backlogs, MEMORY, who, MOST_MB)
        yield at_most(backlogs, MEMORY_AFTER, who, MOST_MB)
