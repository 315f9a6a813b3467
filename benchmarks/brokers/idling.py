"""What streams cost on which nothing happens."""

from __future__ import annotations

import time

from brokers.arena import Arena
from brokers.figures import IDLE, SERVERS
from brokers.processes import processor_seconds

_STREAMS = 200
_SUBSCRIPTIONS = 50
#: Seconds until what opening them took is over.
_SETTLE_SECONDS = 3.0


def idling(arena: Arena) -> None:
    """Open the streams of all servers, then look at all of them over the same seconds."""
    for who in SERVERS:
        arena.clients[who].ask("listen", streams=_STREAMS, subscriptions=_SUBSCRIPTIONS)
    time.sleep(_SETTLE_SECONDS)
    before = {who: processor_seconds(arena.servers[who].pid) for who in SERVERS}
    time.sleep(arena.scale.idle_seconds)
    for who in SERVERS:
        used = processor_seconds(arena.servers[who].pid) - before[who]
        arena.board.add(IDLE, who, 100 * used / arena.scale.idle_seconds)
        arena.clients[who].ask("close")
