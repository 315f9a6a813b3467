"""A process that publishes: what `python publisher.py` does when it is called, see `calls`."""

from __future__ import annotations

import time
from typing import Any

from application import app, hold, noop
from calls import serve
from celery import group

import transports


def delay(count: int) -> dict[str, float]:
    """Publish one after the other."""
    began = time.monotonic()
    for number in range(count):
        noop.delay(number)
    return {"began": began, "seconds": time.monotonic() - began}


def bulk(count: int) -> float | None:
    """Publish many at once in the way the transport has for that; None: it has none yet."""
    began = time.monotonic()
    if not app.conf.broker_url.startswith("pubsub:"):
        group(noop.s(number) for number in range(count)).apply_async()
        return time.monotonic() - began
    many: Any = getattr(transports, "bulk", None)
    if many is None:
        return None
    with many():
        for number in range(count):
            noop.delay(number)
    return time.monotonic() - began


def send(number: int, queue: str = "celery", priority: int | None = None) -> float:
    """Publish one, and return when that began."""
    began = time.monotonic()
    noop.apply_async((number,), queue=queue, priority=priority)
    return began


def send_hold(name: str, seconds: float) -> None:
    """Publish one task that takes its time."""
    hold.delay(name, seconds)


def purge() -> None:
    """Drop what was published."""
    app.control.purge()


if __name__ == "__main__":
    serve({"delay": delay, "bulk": bulk, "send": send, "hold": send_hold, "purge": purge})
