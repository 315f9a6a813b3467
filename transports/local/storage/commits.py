"""Group commit, as the event loop does it: all changes that one turn of the loop asks for share a transaction.

A commit that is expected to be quick is made on the loop's own thread: to hand it to another thread and back costs as
much as a disk that syncs in a fraction of a millisecond. While the disk is slow, or the writer's thread is at work, it
is that thread which commits, and the loop serves others meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from transports.local.storage.writer import Change, Writer
from transports.local.throttle import LogThrottle

logger = logging.getLogger(__name__)

#: Seconds of a commit, its sync included, from which on the next one is made by the writer's thread.
SLOW_SECONDS = 0.01
#: Seconds after which a change is committed for which nobody waits, unless others are committed before: whoever kills
#: the broker within them has it forget who held what, so that comes again at once.
_LATER_SECONDS = 0.01
#: Most changes in one transaction, so that the first of them does not wait for too many others.
_MAX_CHANGES = 1000

R = TypeVar("R")

#: What is done on the event loop when a change is on disk (None) or failed: it returns the result, or raises.
Then = Callable[[BaseException | None], R]


class _Wanted(NamedTuple):
    """A change, what follows it, and who waits for that."""

    change: Change
    then: Then[Any]
    waiter: asyncio.Future[Any]

    def end(self, error: BaseException | None, forgotten: LogThrottle) -> None:
        """Do what follows, even if nobody waits any more; what fails then is logged."""
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


class Commits:
    """Changes are committed in the order in which they were asked for; belongs to one event loop."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._wanted: list[_Wanted] = []
        self._soon: asyncio.Handle | None = None
        self._later: asyncio.TimerHandle | None = None
        #: Transactions that the writer's thread has been asked for.
        self._under_way = 0
        self._is_quick = True
        #: Who waits for changes for which nobody waits.
        self._nobody: asyncio.Future[Any] = self._loop.create_future()
        self._nobody.set_result(None)
        self._forgotten = LogThrottle(logger, logging.WARNING)

    def begin(self, change: Change, then: Then[R]) -> asyncio.Future[R]:
        """Begin a change; ``then`` is called when it has ended, whether or not anybody awaits the future."""
        waiter: asyncio.Future[R] = self._loop.create_future()
        self._wanted.append(_Wanted(change, then, waiter))
        if self._soon is None:
            self._flush_soon()
        return waiter

    def later(self, change: Change) -> None:
        """Commit a change some milliseconds from now, at the latest; nobody is told of its end."""
        self._wanted.append(_Wanted(change, _nothing, self._nobody))
        if self._later is None:
            self._later = self._loop.call_later(_LATER_SECONDS, self._flush_soon)

    def close(self) -> None:
        """Leave to the writer's thread what was asked for until now; it ends last."""
        self._forget_timers()
        while self._wanted:
            self._submit(self._next_group())

    def _flush_soon(self) -> None:
        if self._soon is None:
            self._soon = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._forget_timers()
        if self._under_way or not self._wanted:
            return
        group, began = self._next_group(), time.monotonic()
        if self._is_quick:
            try:
                here, error = self._writer.commit_here([each.change for each in group]), None
            except Exception as exc:  # noqa: BLE001 - logged by the writer; each is told
                here, error = True, exc
            if here:
                self._end(group, error, began)
                return
        self._submit(group)

    def _next_group(self) -> list[_Wanted]:
        group, self._wanted = self._wanted[:_MAX_CHANGES], self._wanted[_MAX_CHANGES:]
        return group

    def _submit(self, group: list[_Wanted]) -> None:
        """Have the writer's thread commit a group, after those that it was asked for before."""
        began = time.monotonic()
        self._under_way += 1
        self._writer.submit(*(each.change for each in group)).add_done_callback(
            lambda done: self._loop.call_soon_threadsafe(self._submitted, group, done.exception(), began)
        )

    def _submitted(self, group: list[_Wanted], error: BaseException | None, began: float) -> None:
        self._under_way -= 1
        self._end(group, error, began)

    def _end(self, group: list[_Wanted], error: BaseException | None, began: float) -> None:
        self._is_quick = time.monotonic() - began < SLOW_SECONDS
        for each in group:
            each.end(error, self._forgotten)
        if self._wanted:
            self._flush_soon()

    def _forget_timers(self) -> None:
        for each in (self._soon, self._later):
            if each is not None:
                each.cancel()
        self._soon = self._later = None


def _nothing(error: BaseException | None) -> None:
    """Follow a change for which nobody waits; the writer has logged what failed."""
