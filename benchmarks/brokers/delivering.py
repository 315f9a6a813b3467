"""Delivering a backlog on one stream."""

from __future__ import annotations

from brokers.arena import Arena
from brokers.figures import DELIVER, SERVERS

OUTSTANDING = 1000


def delivering(arena: Arena) -> None:
    """Fill, then deliver and acknowledge all of it."""
    count = arena.scale.delivered
    for counts in arena.turns():
        for who in SERVERS:
            arena.clients[who].ask("fill", count=count)
            seconds = arena.clients[who].ask("deliver", count=count, outstanding=OUTSTANDING)
            if counts:
                arena.board.add(DELIVER, who, count / seconds)
