"""Group commit, as the event loop does it: what one turn of the loop asks for goes to the disk together.

Operations (publishing, acknowledging) are confirmed by the redo log, and the tables follow. Those that need not last
are confirmed before the log is synced, which is some milliseconds later, or with the next that has to. Everything else
is confirmed by a transaction that is synced; so is an operation that has other company, or finds no room in the log.
Whatever way they are confirmed, changes are made to the tables in the order in which they were asked for.

What is expected to be quick is done on the loop's own thread: to hand it to another thread and back costs as much as a
disk that syncs in a fraction of a millisecond. While the disk is slow, or the writer's thread is at work, it is that
thread which commits, and the loop serves others meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from transports.local.loops import call_last
from transports.local.promises import Prompt
from transports.local.storage.debt import Debt
from transports.local.storage.operations import Operation
from transports.local.storage.redo import LARGE_BYTES, RedoLog
from transports.local.storage.wanted import Pace, Then, Wanted
from transports.local.storage.writer import Change, Writer
from transports.local.throttle import LogThrottle

logger = logging.getLogger(__name__)

#: Seconds after which a change is committed for which nobody waits, unless others are committed before: whoever kills
#: the broker within them has it forget who held what, so that comes again at once.
_LATER_SECONDS = 0.01
#: Seconds within which an operation is synced that was confirmed before.
SYNC_SECONDS = 0.05
#: Most changes in one transaction, so that the first of them does not wait for too many others.
_MAX_CHANGES = 1000
#: Most bytes of them, but for a larger change by itself.
_MAX_BYTES = 16 << 20

R = TypeVar("R")


class Commits:
    """Changes are made in the order in which they were asked for; belongs to one event loop."""

    def __init__(self, writer: Writer, log: RedoLog) -> None:
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._pace = Pace()
        self._forgotten = LogThrottle(logger, logging.WARNING)
        self._debt = Debt(writer, log, self._pace, self._forgotten, on_end=self._go_on)
        self._wanted: list[Wanted] = []
        self._soon = False
        self._later: asyncio.TimerHandle | None = None
        self._to_sync: asyncio.TimerHandle | None = None
        self._closed = False
        #: Who waits for changes for which nobody waits.
        self._nobody: asyncio.Future[Any] = self._loop.create_future()
        self._nobody.set_result(None)

    def begin(self, change: Change, then: Then[R], applied: Callable[[], None] = lambda: None) -> asyncio.Future[R]:
        """Begin a change; ``then`` is called when it has ended, whether or not anybody awaits the future.

        ``applied`` is called before that if it has ended well.
        """
        return self._begin(Wanted(change, then, self._loop.create_future(), applied=applied))

    def operate(
        self,
        operation: Operation,
        then: Then[R],
        applied: Callable[[], None],
        *,
        lasting: bool = True,
        awaited: Callable[[], bool] = lambda: False,
    ) -> asyncio.Future[R]:
        """Begin an operation; ``then`` as above, ``applied`` is called once the tables have it: before or later.

        One that is not ``lasting`` may be confirmed some milliseconds before it is synced. ``awaited`` says whether
        somebody waits until the tables have it.
        """
        entry = operation.parts()
        return self._begin(Wanted(operation.apply, then, Prompt(), entry, applied, operation, lasting, awaited))

    def later(self, change: Change) -> None:
        """Make a change some milliseconds from now, at the latest; nobody is told of its end, and a crash may undo it.

        It goes with the others, but is not synced for its own sake.
        """
        self._wanted.append(Wanted(change, _nothing, self._nobody, ()))
        if self._later is None:
            self._later = self._loop.call_later(_LATER_SECONDS, self._flush_soon)

    def hurry(self) -> None:
        """Somebody waits for what the tables will have: they follow at once."""
        self._debt.hurry()

    async def followed(self) -> None:
        """Wait until the tables have what was confirmed, unless they refuse it."""
        await self._debt.followed()

    def close(self) -> None:
        """Leave to the writer's thread what was asked for until now; it ends last."""
        self._closed = True
        self._forget_later()
        if self._to_sync is not None:
            self._to_sync.cancel()
        group, self._wanted = self._wanted, []
        self._debt.close(group)

    def _begin(self, wanted: Wanted) -> asyncio.Future[Any]:
        self._wanted.append(wanted)
        self._flush_soon()
        return wanted.waiter

    def _go_on(self) -> None:
        if self._wanted:
            self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._soon:
            self._soon = True
            call_last(self._loop, self._flush)

    def _flush(self) -> None:
        self._soon = False
        self._forget_later()
        if self._debt.syncing or not self._wanted:
            return
        group = self._next_group()
        can_be_logged = self._can_be_logged(group)
        if can_be_logged and (logged := self._logged(group)) is not None:
            self._debt.owe(logged, soon=any(each.size >= LARGE_BYTES or each.awaited() for each in group))
            for each in logged:
                each.end(None, self._forgotten)
            self._go_on()
            return
        if self._debt.at_work or (can_be_logged and self._log.is_full):
            self._wanted[:0] = group  # until that has ended, or there is room
            group = []
        if not self._debt.at_work:
            self._debt.sync(group)

    def _next_group(self) -> list[Wanted]:
        if len(self._wanted) == 1:
            group, self._wanted = self._wanted, []
            return group
        count = size = 0
        for each in self._wanted[:_MAX_CHANGES]:
            size += each.size
            if count and size > _MAX_BYTES:
                break
            count += 1
        group, self._wanted = self._wanted[:count], self._wanted[count:]
        return group

    def _can_be_logged(self, group: list[Wanted]) -> bool:
        is_possible = self._pace.is_quick and not self._closed and not self._debt.refused
        return is_possible and all(each.entry is not None for each in group)

    def _logged(self, group: list[Wanted]) -> list[Wanted] | None:
        """Confirm a group by the redo log, and return what is left to do of it; None if that is not possible."""
        operations = [each for each in group if each.entry]
        if not operations:
            return group
        began, synced = time.monotonic(), any(each.lasting for each in operations)
        places = self._log.append([each.entry for each in operations if each.entry], synced=synced)
        if places is None:
            return None
        if synced:
            self._pace.measure(began, group)
        elif self._to_sync is None:
            self._to_sync = self._loop.call_later(SYNC_SECONDS, self._sync)
        rest = iter(places)
        return [each.lying_at(next(rest)) if each.entry else each for each in group]

    def _sync(self) -> None:
        """Sync what was confirmed without; if that is refused, it lasts with a transaction."""
        self._to_sync = None
        if not self._log.unsynced:
            return
        began = time.monotonic()
        is_synced = self._log.sync()
        self._pace.measure(began, ())
        if is_synced:
            return
        if self._debt.at_work:
            self._to_sync = self._loop.call_later(SYNC_SECONDS, self._sync)
        else:
            self._debt.sync(())

    def _forget_later(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None


def _nothing(error: BaseException | None) -> None:
    """Follow a change for which nobody waits; the writer has logged what failed."""
