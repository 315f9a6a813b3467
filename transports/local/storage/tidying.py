"""Tidying: while changes are made, it is looked now and then which segments of the redo log nobody needs any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from transports.local.storage.gathering import Gathering
from transports.local.storage.redo import RedoLog
from transports.local.storage.wanted import Wanted

#: Seconds after which segments are looked at, if anything changes.
TIDY_SECONDS = 10.0
#: Seconds between the removals of two of them.
REMOVE_SECONDS = 0.05


class Tidying:
    """Belongs to one event loop."""

    def __init__(self, log: RedoLog, sync: Callable[[Wanted], bool]) -> None:
        """``sync`` begins a synced transaction with a change; it returns False if that cannot be now."""
        self._log = log
        self._sync = sync
        self._loop = asyncio.get_running_loop()
        self._gathering = Gathering(log.segments)
        self._to_look: asyncio.TimerHandle | None = None
        self._to_remove: asyncio.TimerHandle | None = None
        self._closed = False
        self.remove_later()

    def look_later(self) -> None:
        """Something changes."""
        if self._to_look is None and not self._closed and self._log.has_retired:
            self._to_look = self._loop.call_later(TIDY_SECONDS, self._look)

    def remove_later(self) -> None:
        """Remove what was found to be needed no more, with time for others between."""
        if self._to_remove is None and not self._closed and self._log.segments.doomed:
            self._to_remove = self._loop.call_later(REMOVE_SECONDS, self._remove)

    def close(self) -> None:
        self._closed = True
        for timer in (self._to_look, self._to_remove):
            if timer is not None:
                timer.cancel()

    def _look(self) -> None:
        """Only what is synced says what is not needed."""
        self._to_look = None
        if not self._sync(Wanted(self._gathering.gather, self._synced, self._loop.create_future())):
            self.look_later()

    def _synced(self, error: BaseException | None) -> None:
        if self._closed:
            return
        if error is None:
            self._log.tidy()
            self.remove_later()
        if error is not None or not self._gathering.is_done:
            self.look_later()

    def _remove(self) -> None:
        self._to_remove = None
        self._log.segments.remove_one()
        self.remove_later()
