"""Measure what it costs to have attempts looked after: their start, an idle worker, a worker with fifty of them.

    python benchmarks/attempts.py [--quick] [--json FILE] [--markdown FILE] [--only NAME ...]

Real workers (`studio-start-remote-worker`) with every time constant at its default, on the local broker and a local
store, with both runtimes. A start is compared with a bare `docker run` of the same image with the same options, by the
command line and by Docker's own library, and with a bare `python3`: all take turns, and what is judged is the median of
the differences within a turn. An idle worker is watched on the local broker and on Google's emulator at the same time.

It needs a Docker engine (`eval "$(scripts/docker-engine up)"`), Google's Pub/Sub emulator (of a Google Cloud SDK), and
for fifty containers 4 GB of memory. The quick run takes about four minutes, the full one about fifteen.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from board import Board
from command import arguments, publish, timed
from supervision import ALL
from supervision.borrowed import need_engine
from supervision.figures import MEASURES, WHO
from supervision.place import FULL, QUICK, Bench, Scale
from supervision.targets import verdicts
from table import Report


def main() -> None:
    given = arguments(
        "Measure what looking after attempts costs.", list(ALL), quick="fewer turns, and half a minute of idleness"
    )
    board = _measured(QUICK if given.quick else FULL, given.only)
    title = "What looking after attempts costs"
    report = Report(title, "python benchmarks/attempts.py", [board], list(verdicts(board)))
    publish(report, board.to_dict(), given)


def _measured(scale: Scale, names: list[str]) -> Board:
    board = Board(MEASURES, WHO)
    os.environ["DOCKER_HOST"] = need_engine()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        bench = Bench(Path(name), scale, board)
        for each in names:
            with timed(each):
                ALL[each](bench)
    return board


if __name__ == "__main__":
    main()
