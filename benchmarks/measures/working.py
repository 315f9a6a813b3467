"""How fast tasks run, and whether each runs once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

from bench import Bench
from contenders import Contender, Place
from figures import BACKLOG, END_TO_END, LOST, PAUSE, TWICE
from notes import Missing, Note

#: Seconds without any task after which those that have not run are lost.
_QUIET_SECONDS = 30.0


def working(bench: Bench) -> None:
    """Publish to an idle worker, then a backlog to a worker that starts afterwards; contenders in turns."""
    lost: Counter[str] = Counter()
    twice: Counter[str] = Counter()
    for _ in range(bench.scale.task_turns):
        for contender in bench.contenders:
            for ran in (_end_to_end(bench, contender), _from_backlog(bench, contender)):
                lost[contender.name] += bench.scale.tasks - len(set(ran))
                twice[contender.name] += len(ran) - len(set(ran))
    published = 2 * bench.scale.tasks * bench.scale.task_turns
    for contender in bench.contenders:
        bench.board.add(LOST, contender.name, lost[contender.name])
        bench.board.add(TWICE, contender.name, twice[contender.name])
        bench.board.note(LOST, contender.name, f"of {published:,} published")


def _end_to_end(bench: Bench, contender: Contender) -> list[str]:
    place = bench.place(contender)
    with place.publisher() as publisher, place.worker():
        publisher.ask("delay", count=1)
        place.notes.time_of("0", _QUIET_SECONDS)
        began = publisher.ask("delay", count=bench.scale.tasks)["began"]
        ran = [note for note in _run(place, bench.scale.tasks + 1) if note.at > began]
    bench.board.add(END_TO_END, contender.name, len(ran) / (ran[-1].at - began))
    return [note.name for note in ran]


def _from_backlog(bench: Bench, contender: Contender) -> list[str]:
    place = bench.place(contender)
    with place.publisher() as publisher:
        publisher.ask("delay", count=bench.scale.tasks)
        # The publisher stays: what one loses that ends at once is another measurement.
        with place.worker():
            ran = _run(place, bench.scale.tasks)
    bench.board.add(BACKLOG, contender.name, len(ran) / (ran[-1].at - ran[0].at))
    bench.board.add(PAUSE, contender.name, max(later.at - note.at for note, later in pairwise(ran)))
    return [note.name for note in ran]


def _run(place: Place, count: int) -> Sequence[Note]:
    """Wait until so many tasks have run, or no more do; return their notes in the order of their times."""
    with suppress(Missing):
        place.notes.wait("tasks", lambda notes: len(_tasks(notes)) >= count, _QUIET_SECONDS)
    return sorted(_tasks(place.notes.read()), key=lambda note: note.at)


def _tasks(notes: Sequence[Note]) -> list[Note]:
    return [note for note in notes if note.name.isdecimal()]
