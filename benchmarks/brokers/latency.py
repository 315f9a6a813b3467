"""How long an idle stream waits for a message."""

from __future__ import annotations

import random
import time

from board import percentile

from brokers.arena import Arena
from brokers.figures import LATENCY, LATENCY_95, SERVERS

#: Seconds without a message before each one.
_PAUSE_SECONDS = (0.02, 0.06)
_WARM_UP = 10


def latency(arena: Arena) -> None:
    """One message at a time, all servers in turns."""
    chance = random.Random(0)
    found: dict[str, list[float]] = {who: [] for who in SERVERS}
    for number in range(-_WARM_UP, arena.scale.latency_messages):
        for who in SERVERS:
            time.sleep(chance.uniform(*_PAUSE_SECONDS))
            seconds = arena.clients[who].ask("latency")
            if number >= 0:
                found[who].append(seconds * 1000)
    for who, samples in found.items():
        arena.clients[who].ask("close")
        arena.board.add(LATENCY, who, *samples)
        arena.board.add(LATENCY_95, who, percentile(samples, 95))
