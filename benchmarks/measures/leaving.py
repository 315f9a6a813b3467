"""Whether a message survives a publisher that ends at once, as a submitting command does."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from bench import Bench
from contenders import Contender
from figures import LOST_ON_EXIT
from notes import Missing

#: Processes, each with one message.
_PROCESSES = 10
#: Seconds without any task after which those that have not run are lost.
_QUIET_SECONDS = 15.0
_LIMIT_SECONDS = 120.0
_LEAVER = Path(__file__).parents[1] / "leaver.py"


def leaving(bench: Bench) -> None:
    """Publish from processes that end at once, then count what a worker gets."""
    for contender in bench.contenders:
        bench.board.add(LOST_ON_EXIT, contender.name, _lost(bench, contender))


def _lost(bench: Bench, contender: Contender) -> int:
    place = bench.place(contender)
    wanted = {str(number) for number in range(_PROCESSES)}
    for number in sorted(wanted):
        subprocess.run([sys.executable, str(_LEAVER), number], env=place.environ, check=True, timeout=_LIMIT_SECONDS)
    with place.worker(), suppress(Missing):
        place.notes.wait("tasks", lambda notes: wanted <= {note.name for note in notes}, _QUIET_SECONDS)
    return len(wanted - {note.name for note in place.notes.read()})
