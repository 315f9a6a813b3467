"""How long the task of a killed worker waits for another one, with everybody's defaults."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack

from bench import Bench
from contenders import Place
from figures import KILLED

#: Seconds after which the task counts as not redelivered.
CAP_SECONDS = 300.0
#: Longer than the cap, so that the task is still running whenever it is looked at.
_TASK_SECONDS = 3600.0
_START_SECONDS = 60.0
_LOOK_SECONDS = 0.1
#: Seconds of the task before its worker is killed.
_INTO_SECONDS = 5.0


def killing(bench: Bench) -> None:
    """Kill a worker of each contender while another one idles, and wait for all of them together."""
    if not bench.scale.kill:
        return
    places = [bench.place(contender) for contender in bench.contenders]
    with ExitStack() as stack:
        victims = [stack.enter_context(place.worker()) for place in places]
        for place in places:
            stack.enter_context(place.publisher()).ask("hold", name="task", seconds=_TASK_SECONDS)
            place.notes.time_of("begin-task", _START_SECONDS)
        for place in places:
            stack.enter_context(place.worker())
        time.sleep(_INTO_SECONDS)
        killed_at = {place: victim.kill() for place, victim in zip(places, victims, strict=True)}
        for place, seconds in _wait(killed_at).items():
            bench.board.add(KILLED, place.name, seconds)
            if math.isinf(seconds):
                bench.board.note(KILLED, place.name, f"not within {CAP_SECONDS:g} s")


def _wait(killed_at: dict[Place, float]) -> dict[Place, float]:
    found: dict[Place, float] = {}
    ends_at = time.monotonic() + CAP_SECONDS
    while len(found) < len(killed_at) and time.monotonic() < ends_at:
        for place, at in killed_at.items():
            begun = [note.at for note in place.notes.read() if note.name == "begin-task"]
            if len(begun) > 1:
                found.setdefault(place, begun[1] - at)
        time.sleep(_LOOK_SECONDS)
    return {place: found.get(place, math.inf) for place in killed_at}
