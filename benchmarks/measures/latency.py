"""How long an idle worker lets a message wait."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from bench import Bench
from board import Measure, percentile
from calls import Child
from contenders import PRIORITY_STEPS, Contender, Place
from figures import FLOOR_OF, LATENCY, LATENCY_95, PRIORITIES, PRIORITIES_95, RIVAL

#: Seconds without a message before each one, at random so that nobody's polling falls into step.
_PAUSE_SECONDS = (0.1, 0.3)
#: Seconds for which workers settle before the first message.
_SETTLE_SECONDS = 2.0
#: Messages before the first that counts.
_WARM_UP = 3
#: Seconds after which a message that has not come is given up.
_LIMIT_SECONDS = 60.0
_QUEUES = tuple(f"queue-{number}" for number in range(5))

#: Sends one message, given its number, and returns the seconds until it was there.
Shot = Callable[[int], float]


def latency(bench: Bench) -> None:
    """One message at a time, contenders and floors in turns."""
    with ExitStack() as stack:
        shots = {
            contender.name: _shot(place, stack.enter_context(place.publisher()), stack)
            for contender, place in _places(bench, bench.contenders).items()
        }
        shots.update(_floor_shots(bench, stack))
        _take_turns(bench, shots, LATENCY, LATENCY_95)


def priorities(bench: Bench) -> None:
    """The same with five queues of four priorities each, a message into any of them."""
    with ExitStack() as stack:
        places = _places(bench, _with_priorities(bench), priorities=True)
        shots = {
            contender.name: _shot(place, stack.enter_context(place.publisher()), stack, queues=_QUEUES)
            for contender, place in places.items()
        }
        shots.update(_floor_shots(bench, stack))
        _take_turns(bench, shots, PRIORITIES, PRIORITIES_95)
    bench.board.note(PRIORITIES, RIVAL, "five queues; it has no priorities")


def _places(bench: Bench, contenders: Sequence[Contender], *, priorities: bool = False) -> dict[Contender, Place]:
    return {each: bench.place(each, options=each.priorities if priorities else None) for each in contenders}


def _with_priorities(bench: Bench) -> list[Contender]:
    """Return those that keep priorities, and those that have none by design, which take part without."""
    found = []
    for contender in bench.contenders:
        if contender.name not in FLOOR_OF or _keeps_priorities(bench, contender):
            found.append(contender)
        else:
            bench.board.note(PRIORITIES, contender.name, "priority_steps is not there yet")
    return found


def _keeps_priorities(bench: Bench, contender: Contender) -> bool:
    """Find out whether ours puts priorities apart: one queue then has several topics."""
    place = bench.place(contender, options=contender.priorities)
    with place.publisher() as publisher, bench.floor_children() as floors:
        for priority in (PRIORITY_STEPS[0], PRIORITY_STEPS[-1]):
            publisher.ask("send", number=0, priority=priority)
        return len(floors[FLOOR_OF[contender.name]].ask("topics", project=place.namespace)) > 1


def _shot(place: Place, publisher: Child, stack: ExitStack, *, queues: Sequence[str] = ("celery",)) -> Shot:
    stack.enter_context(place.worker(queues=",".join(queues)))

    def shoot(number: int) -> float:
        priority = PRIORITY_STEPS[number % len(PRIORITY_STEPS)] if len(queues) > 1 else None
        sent_at = publisher.ask("send", number=number, queue=queues[number % len(queues)], priority=priority)
        return place.notes.time_of(str(number), _LIMIT_SECONDS) - float(sent_at)

    return shoot


def _floor_shots(bench: Bench, stack: ExitStack) -> dict[str, Shot]:
    floors = stack.enter_context(bench.floor_children())
    return {who: _floor_shot(child) for who, child in floors.items()}


def _floor_shot(child: Child) -> Shot:
    return lambda number: float(child.ask("latency"))


def _take_turns(bench: Bench, shots: Mapping[str, Shot], median: Measure, high: Measure) -> None:
    pauses = random.Random(1)
    found: defaultdict[str, list[float]] = defaultdict(list)
    time.sleep(_SETTLE_SECONDS)
    for number in range(_WARM_UP + bench.scale.latency_messages):
        for who, shoot in shots.items():
            time.sleep(pauses.uniform(*_PAUSE_SECONDS))
            seconds = shoot(number)
            if number >= _WARM_UP:
                found[who].append(seconds * 1000)
    for who, samples in found.items():
        bench.board.add(median, who, *samples)
        bench.board.add(high, who, percentile(samples, 95))
