"""What it costs one worker to look after many attempts at a time."""

from __future__ import annotations

import time

from supervision.figures import CROWDS, MEMORY, PROCESSOR, STORE_CALLS, WORKERS
from supervision.place import Bench, Place
from supervision.tree import tree_memory_bytes, tree_processor_seconds

#: Longer than anybody watches.
_SOURCE = "import time\ntime.sleep(3600)\n"
#: Seconds until what starting takes is over.
_SETTLE_SECONDS = 5.0


def crowds(bench: Bench) -> None:
    """One worker of each runtime, with more and more attempts."""
    for runtime, who in WORKERS.items():
        with bench.place(runtime) as place:
            place.studio.script(_SOURCE)
            place.start("--concurrency", str(CROWDS[-1]))
            _grow(bench, place, who)
            _watch(bench, place, who)


def _grow(bench: Bench, place: Place, who: str) -> None:
    running = 0
    with place.submitter() as submitter:
        for count in CROWDS[1:]:
            new = [submitter.ask("submit", script="script.py", args=[]) for _ in range(count - running)]
            running = count
            for each in new:
                place.wait_until_started(each)
            time.sleep(_SETTLE_SECONDS)
            bench.board.add(MEMORY[count], who, tree_memory_bytes(place.pid) / 1e6)


def _watch(bench: Bench, place: Place, who: str) -> None:
    used, calls, began = tree_processor_seconds(place.pid), place.store_calls(), time.monotonic()
    time.sleep(bench.scale.crowd_seconds)
    seconds = time.monotonic() - began
    bench.board.add(PROCESSOR, who, 100 * (tree_processor_seconds(place.pid) - used) / seconds)
    bench.board.add(STORE_CALLS, who, 60 * (place.store_calls() - calls) / seconds / CROWDS[-1])
