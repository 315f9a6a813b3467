"""Measure the local broker beside Google's emulator and beside floors, on this machine and side by side.

    python benchmarks/broker.py [--quick] [--json FILE] [--markdown FILE] [--only NAME ...]

One client, bare stubs with Google's types, uses several servers in turns: the local broker, Google's emulator (which
keeps nothing on disk), and two bare servers that answer with as many bytes and keep nothing: gRPC's own library for
Python (`grpc.aio`), and the broker's server. The broker runs a second time with its data in memory (`/dev/shm`): what
it would do if the disk cost nothing. Two more floors are the disk's: how often SQLite commits, and how often
`fdatasync` returns, in the directory of the broker's data. Then brokers with messages waiting, up to a million of 1 KB,
are compared with an empty one. A figure is a median, a ratio the median of the ratios of each turn.

It needs Google's Pub/Sub emulator (of a Google Cloud SDK), Linux, and for the full run 8 GB of memory and 5 GB of disk.
The quick run takes about three minutes, the full one about twelve.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from board import Board
from brokers import ALL
from brokers.arena import FULL, QUICK, Scale, arena
from brokers.backlogs import backlogs
from brokers.figures import MEASURES, MEASURES_WAITING, WHO, WHO_WAITING
from brokers.targets import verdicts
from command import arguments, publish, timed
from table import Report

_BACKLOGS = "backlogs"


def main() -> None:
    given = arguments(
        "Measure the local broker beside Google's emulator and floors.",
        [*ALL, _BACKLOGS],
        quick="fewer turns, at most 100,000 messages waiting",
    )
    serving, waiting = _measured(QUICK if given.quick else FULL, given.only)
    judged = list(verdicts(serving, waiting))
    report = Report(
        "The local broker beside Google's emulator", "python benchmarks/broker.py", [serving, waiting], judged
    )
    publish(report, {"serving": serving.to_dict(), _BACKLOGS: waiting.to_dict()}, given)


def _measured(scale: Scale, names: list[str]) -> tuple[Board, Board]:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        serving, waiting = Board(MEASURES, WHO), Board(MEASURES_WAITING, WHO_WAITING)
        for each in (each for each in names if each in ALL):
            _measure_one(each, folder, scale, serving)
        if _BACKLOGS in names:
            waiting = backlogs(folder, scale)
        return serving, waiting


def _measure_one(name: str, folder: Path, scale: Scale, board: Board) -> None:
    """Measure on servers of its own: what the emulator holds from earlier would slow it."""
    place = folder / name
    place.mkdir()
    with timed(name), arena(place, scale, board) as servers:
        ALL[name](servers)


if __name__ == "__main__":
    main()
