"""Acknowledging by the unary call, one request after the other."""

from __future__ import annotations

from brokers.arena import Arena
from brokers.figures import ACK, ACK_100, SERVERS


def acknowledging(arena: Arena) -> None:
    """Fill and take, which is not measured; then acknowledge."""
    parts = ((ACK, 1, arena.scale.acknowledged), (ACK_100, 100, arena.scale.acknowledged_by_100))
    for counts in arena.turns():
        for measure, size, count in parts:
            for who in SERVERS:
                arena.clients[who].ask("fill", count=count)
                arena.clients[who].ask("take", count=count)
                seconds = arena.clients[who].ask("acknowledge", size=size)
                if counts:
                    arena.board.add(measure, who, count / seconds)
