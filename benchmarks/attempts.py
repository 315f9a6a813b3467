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

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from board import Board
from machine import described
from supervision import ALL
from supervision.borrowed import need_engine
from supervision.figures import MEASURES, WHO
from supervision.place import FULL, QUICK, Bench, Scale
from supervision.targets import verdicts
from table import Report, as_markdown, as_text


def main() -> None:
    given = _arguments()
    board = _measured(QUICK if given.quick else FULL, given.only or list(ALL))
    report = Report(
        "What looking after attempts costs", "python benchmarks/attempts.py", [board], list(verdicts(board))
    )
    print(as_text(report))
    if given.json:
        given.json.write_text(json.dumps(board.to_dict(), indent=1) + "\n")
    if given.markdown:
        given.markdown.write_text(as_markdown(report, machine=described()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what looking after attempts costs.")
    parser.add_argument("--quick", action="store_true", help="fewer turns, and half a minute of idleness")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")
    parser.add_argument("--only", nargs="+", choices=list(ALL), metavar="NAME", help=f"some of: {', '.join(ALL)}")
    return parser.parse_args()


def _measured(scale: Scale, names: list[str]) -> Board:
    board = Board(MEASURES, WHO)
    os.environ["DOCKER_HOST"] = need_engine()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        bench = Bench(Path(name), scale, board)
        for each in names:
            began = time.monotonic()
            ALL[each](bench)
            print(f"{each}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return board


if __name__ == "__main__":
    main()
