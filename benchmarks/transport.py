"""Measure the transport beside its rivals, on this machine and side by side.

    python benchmarks/transport.py [--quick] [--json FILE] [--markdown FILE] [--only NAME ...]

Four brokers run the same application on the same worker (`-P threads -c 4`, prefetch as it is by default, late
acknowledgement): this transport on Google's emulator, kombu's own ``gcpubsub`` on the same emulator, this transport on
the local broker, and Redis. Beside them run the floors: Google's client library alone, on the same servers. They take
turns, so that what else happens on the machine hits all of them; a figure is a median, a ratio the median of the ratios
of each turn.

It needs Google's Pub/Sub emulator (of a Google Cloud SDK), ``redis-server``, and pip: what only the rivals need is
installed into ``build/benchmark/rivals``, see `rivals`. Everything it starts listens on free ports of 127.0.0.1 and is
gone at the end. The quick run takes about five minutes, the full one about twenty.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import rivals
import servers
from bench import FULL, QUICK, Bench, Scale
from board import Board
from command import arguments, publish, timed
from contenders import contenders
from figures import FLOOR_EMULATOR, FLOOR_LOCAL, MEASURES, WHO
from measures import ALL
from table import Report
from targets import verdicts


def main() -> None:
    given = arguments("Measure the transport beside its rivals.", list(ALL), quick="fewer turns, and no killed workers")
    rivals.install()
    board = _measured(QUICK if given.quick else FULL, given.only)
    report = Report("The transport beside its rivals", "python benchmarks/transport.py", [board], list(verdicts(board)))
    publish(report, board.to_dict(), given)


def _measured(scale: Scale, names: list[str]) -> Board:
    board = Board(MEASURES, WHO)
    with tempfile.TemporaryDirectory(prefix="bench-") as name, servers.running(Path(name)) as addresses:
        floors = {FLOOR_EMULATOR: addresses.emulator, FLOOR_LOCAL: addresses.local}
        bench = Bench(contenders(addresses), floors, Path(name), scale, board)
        for each in names:
            with timed(each):
                ALL[each](bench)
    return board


if __name__ == "__main__":
    main()
