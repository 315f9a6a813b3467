"""A change on its way to the disk: who waits for it, and what follows."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from transports.local.storage import redo
from transports.local.storage.entries import Parts
from transports.local.storage.operations import Operation, left
from transports.local.storage.segments import Place
from transports.local.storage.writer import Change
from transports.local.throttle import LogThrottle

logger = logging.getLogger(__name__)

#: Seconds of a sync from which on the next is left to the writer's thread, and how many more a byte may take.
SLOW_SECONDS = 0.01
_SLOW_SECONDS_PER_BYTE = 5e-8

R = TypeVar("R")

#: What is done on the event loop when a change is durable (None) or failed: it returns the result, or raises.
Then = Callable[[BaseException | None], R]


class Wanted(NamedTuple):
    """A change that somebody asked for."""

    change: Change
    then: Then[Any]
    waiter: asyncio.Future[Any]
    #: What is written to the redo log: nothing, for what a crash may undo; None for what the log cannot confirm.
    entry: Parts | None = None
    #: Called when the tables have it.
    applied: Callable[[], None] = lambda: None
    #: What the entry says.
    operation: Operation | None = None
    #: Whether it is confirmed only once no power cut can undo it; a kill cannot in any case.
    lasting: bool = True
    #: Says whether somebody waits until the tables have it.
    awaited: Callable[[], bool] = lambda: True

    def lying_at(self, body: Place) -> Wanted:
        """Return what is left of it when the redo log has the entry there."""
        assert self.operation is not None
        assert self.entry is not None
        if max(map(len, self.entry)) < redo.LARGE_BYTES:
            return self
        operation, entry = left(self.operation, body, self.entry)
        return self._replace(change=operation.apply, operation=operation, entry=entry)

    @property
    def size(self) -> int:
        """Bytes of the entry that the tables have to take."""
        return sum(map(len, self.entry or ()))

    def apply(self) -> None:
        """Have memory follow the tables."""
        try:
            self.applied()
        except Exception:
            logger.exception("what follows a change failed")

    def end(self, error: BaseException | None, forgotten: LogThrottle) -> None:
        """Do what follows for who waits, even if he waits no more; what fails then is logged by ``forgotten``."""
        try:
            result = self.then(error)
        except Exception as exc:  # noqa: BLE001 - it belongs to whoever waits
            if self.waiter.done():
                forgotten.log(str(exc), f"a change failed whose request had gone: {exc}")
            else:
                self.waiter.set_exception(exc)
        else:
            if not self.waiter.done():
                self.waiter.set_result(result)


class Pace:
    """Whether the disk syncs so quickly that the event loop can wait for it."""

    def __init__(self) -> None:
        self.is_quick = True

    def measure(self, began: float, group: Iterable[Wanted]) -> None:
        """Take note that a group is synced, which was begun then by the monotonic clock."""
        self.is_quick = time.monotonic() - began < SLOW_SECONDS + _SLOW_SECONDS_PER_BYTE * size_of(group)


def size_of(group: Iterable[Wanted]) -> int:
    """Return the bytes of a group's operations that the tables have to take."""
    return sum(each.size for each in group)
