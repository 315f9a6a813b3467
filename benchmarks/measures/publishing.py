"""How fast messages are published: `delay()` one after the other, and many at once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from bench import Bench
from board import Measure
from calls import Child
from contenders import Contender
from figures import BATCH_100, BATCH_1000, BULK_1000, BULK_5000, CELERY_ALONE, DELAY, RIVAL, STUB

#: Calls before the first that counts: connections and topics are made, code is warm.
_WARM_UP = 50
_BULKS: dict[int, Measure] = {1000: BULK_1000, 5000: BULK_5000}
_MEMORY = Contender(CELERY_ALONE, "memory://{number}")


def publishing(bench: Bench) -> None:
    """Measure messages per second, floors and contenders in turns; what was published is dropped after each."""
    count = bench.scale.publish_count
    with bench.publishers(_everybody(bench)) as publishers, bench.floor_children() as floors:
        for contender, child in publishers.items():
            child.ask("delay", count=_WARM_UP)
            _clean(contender, child)
        for child in floors.values():
            child.ask("unary", count=_WARM_UP)
            child.ask("stub", count=_WARM_UP)
        for _ in range(bench.scale.publish_turns):
            for who, child in floors.items():
                bench.board.add(DELAY, who, count / child.ask("unary", count=count))
                bench.board.add(STUB, who, count / child.ask("stub", count=count))
                child.ask("purge")
            for contender, child in publishers.items():
                bench.board.add(DELAY, contender.name, count / child.ask("delay", count=count)["seconds"])
                _clean(contender, child)
    bench.board.note(DELAY, RIVAL, "nothing is confirmed: this is the speed of handing over to a thread")


def bulk(bench: Bench) -> None:
    """Measure messages per second when many are published at once.

    Celery alone makes some thousand messages per second, a batch takes ten times that: the floor of both is what
    Celery needs to make the messages and, after that, the server to take them in batches of 1,000.
    """
    with bench.publishers(_everybody(bench)) as publishers, bench.floor_children() as floors:
        for contender, child in publishers.items():
            child.ask("delay", count=_WARM_UP)
            _clean(contender, child)
        for size in bench.scale.bulk_sizes:
            for _ in range(bench.scale.bulk_turns):
                seconds = {each.name: _bulk_once(each, child, size) for each, child in publishers.items()}
                for who, child in floors.items():
                    batches = _batches(bench, who, child, size)
                    seconds[who] = batches + (seconds[CELERY_ALONE] or 0)
                _note_bulk(bench, _BULKS[size], size, seconds)
    bench.board.note(BULK_1000, RIVAL, "a group; nothing is confirmed")


def _bulk_once(contender: Contender, child: Child, size: int) -> float | None:
    seconds: float | None = child.ask("bulk", count=size)
    _clean(contender, child)
    return seconds


def _batches(bench: Bench, who: str, child: Child, size: int) -> float:
    hundreds, thousands = (float(child.ask("batches", count=size, size=each)) for each in (100, 1000))
    bench.board.add(BATCH_100, who, size / hundreds)
    bench.board.add(BATCH_1000, who, size / thousands)
    child.ask("purge")
    return thousands


def _note_bulk(bench: Bench, measure: Measure, size: int, seconds: Mapping[str, float | None]) -> None:
    for who, each in seconds.items():
        if each is None:
            bench.board.note(measure, who, "transports.bulk is not there yet")
        else:
            bench.board.add(measure, who, size / each)


def _everybody(bench: Bench) -> Sequence[Contender]:
    return [*bench.contenders, _MEMORY]


def _clean(contender: Contender, child: Child) -> None:
    time.sleep(contender.settle_seconds)
    child.ask("purge")
