"""What a worker costs that has nothing to do."""

from __future__ import annotations

import time
from contextlib import ExitStack

from supervision.borrowed import emulator
from supervision.figures import (
    CROWDS,
    IDLE_EMULATOR,
    IDLE_LOCAL,
    MEMORY,
    WAKES_EMULATOR,
    WAKES_LOCAL,
    WORKERS,
)
from supervision.place import Bench
from supervision.tree import tree_memory_bytes, tree_processor_seconds, wakeups

#: Seconds until what starting takes is over.
_SETTLE_SECONDS = 10.0


def idling(bench: Bench) -> None:
    """Watch a worker of each runtime on each server, all over the same seconds."""
    seconds = bench.scale.idle_seconds
    with ExitStack() as stack:
        address = stack.enter_context(emulator())
        watched = []
        for runtime, who in WORKERS.items():
            for measure, wakes, url in (
                (IDLE_LOCAL, WAKES_LOCAL, None),
                (IDLE_EMULATOR, WAKES_EMULATOR, f"pubsub://{address}/bench-{runtime}"),
            ):
                place = stack.enter_context(bench.place(runtime))
                place.start(broker_url=url)
                watched.append((place.pid, who, measure, wakes))
        time.sleep(_SETTLE_SECONDS)
        before = {pid: (tree_processor_seconds(pid), wakeups(pid)) for pid, *_ in watched}
        time.sleep(seconds)
        for pid, who, measure, wakes in watched:
            used, woken = before[pid]
            bench.board.add(measure, who, 100 * (tree_processor_seconds(pid) - used) / seconds)
            bench.board.add(wakes, who, (wakeups(pid) - woken) / seconds)
            if measure is IDLE_LOCAL:
                bench.board.add(MEMORY[CROWDS[0]], who, tree_memory_bytes(pid) / 1e6)
