"""What is owed to the tables: what was confirmed, and how they come to have it.

They follow in transactions that are not synced, one after the other; what the thread of the writer is at work on is
waited for. One that is synced has all that is owed before anything else, and then the redo log begins anew. If the
tables refuse, it stays owed, and is asked of them again, by itself or before the next change.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from transports.local.storage.redo import RedoLog
from transports.local.storage.tables import Tables
from transports.local.storage.tidying import Tidying
from transports.local.storage.wanted import Pace, Wanted, size_of
from transports.local.storage.writer import Change, Writer
from transports.local.throttle import LogThrottle

#: Seconds until tables that refused what is owed to them are asked again, unless there is something else to write.
RETRY_SECONDS = 1.0
#: Seconds until the tables follow what nobody waits for: together, what is owed costs them a fraction.
FOLLOW_SECONDS = 0.02
#: How much is owed at most before they do.
MOST_OWED = 32
#: Bytes of operations up to which the tables follow on the loop's own thread.
SMALL_BYTES = 128 * 1024


class Debt:
    """Belongs to one event loop."""

    def __init__(
        self, writer: Writer, log: RedoLog, pace: Pace, forgotten: LogThrottle, *, on_end: Callable[[], None]
    ) -> None:
        """``on_end`` is called whenever a transaction has ended, well or not."""
        self._writer = writer
        self._log = log
        self._pace = pace
        self._forgotten = forgotten
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._owed: list[Wanted] = []
        #: The tables have refused what is owed.
        self.refused = False
        #: The writer's thread is at work on a transaction that is synced.
        self.syncing = False
        #: What the thread was asked for last, with what of it was confirmed before.
        self._under_way: tuple[Future[None], Sequence[Change]] | None = None
        #: Confirmed changes that a last transaction could not make.
        self._left: Sequence[Change] = ()
        #: How many changes were owed ever, and how many of them the tables have.
        self._total = self._done = 0
        self._again: asyncio.TimerHandle | None = None
        self._to_follow: asyncio.Handle | None = None
        #: Who waits for the end of the next transaction.
        self._next_end: asyncio.Future[None] | None = None
        self._closed = False
        self._tidying = Tidying(log, self._sync_too)

    @property
    def at_work(self) -> bool:
        """Whether the writer's thread is."""
        return self._under_way is not None

    def owe(self, group: Sequence[Wanted], *, soon: bool) -> None:
        """Have the tables follow what was confirmed, with what comes after it if that is not to be ``soon``."""
        self._owed += group
        self._total += len(group)
        if soon or len(self._owed) >= MOST_OWED:
            self._follow_soon()
        elif self._to_follow is None:
            self._to_follow = self._loop.call_later(FOLLOW_SECONDS, self._follow)

    def hurry(self) -> None:
        """Have the tables follow at once, if anything is owed."""
        if self._owed:
            self._follow_soon()

    def sync(self, group: Sequence[Wanted]) -> None:
        """Commit a group, with what is owed before it, while the writer's thread is not at work."""
        self._tidying.look_later()
        owed, self._owed = self._owed, []
        if self._pace.is_quick and size_of((*owed, *group)) <= SMALL_BYTES and not self._left:
            began, error, here, number = time.monotonic(), None, True, self._log.last + 1
            changes = [each.change for each in (*owed, *group)]
            try:
                here = self._writer.commit_here([*changes, _noted(number)])
            except Exception as exc:  # noqa: BLE001 - logged by the writer; each is told
                error = exc
            if here:
                self._synced(owed, group, error, began, number)
                return
        self._have_synced(owed, group, *self._left)

    async def followed(self) -> None:
        """Wait until the tables have what was confirmed before, unless they refuse it."""
        total = self._total
        self.hurry()
        while self._done < total and not self.refused and not self._closed:
            self._next_end = self._next_end or self._loop.create_future()
            await asyncio.shield(self._next_end)

    def close(self, group: Sequence[Wanted]) -> None:
        """Leave a last group to the writer's thread, after what is owed and what the thread could not make."""
        self._closed = True
        self._tidying.close()
        for timer in (self._again, self._to_follow):
            if timer is not None:
                timer.cancel()
        owed, self._owed = self._owed, []
        if owed or group:
            self._have_synced(owed, group, *self._left, self._made_up_for())
        self._tell_of_the_end()

    def _follow_soon(self) -> None:
        """Have the tables follow in the next turn, after the answers that were made possible now."""
        if isinstance(self._to_follow, asyncio.TimerHandle):
            self._to_follow.cancel()
            self._to_follow = None
        if self._to_follow is None:
            self._to_follow = self._loop.call_soon(self._follow)

    def _follow(self) -> None:
        self._to_follow = None
        if self.at_work or self.refused or self._closed or not self._owed:
            return
        group, self._owed = self._owed, []
        changes = [*(each.change for each in group), _noted(self._log.last)]
        if size_of(group) <= SMALL_BYTES:
            error, here = None, True
            try:
                here = self._writer.commit_here(changes, synced=False)
            except Exception as exc:  # noqa: BLE001 - logged by the writer; it stays owed
                error = exc
            if here:
                self._followed(group, error)
                return
        self._ask(changes, (), lambda error: self._followed(group, error), synced=False)

    def _followed(self, group: Sequence[Wanted], error: BaseException | None) -> None:
        if error is None:
            self._done += len(group)
            for each in group:
                each.apply()
            self._tidying.look_later()
        else:
            self._stay_owed(group)
        if self._owed and not self.refused:
            self._follow_soon()
        self._tell_of_the_end()
        self._on_end()

    def _have_synced(self, owed: Sequence[Wanted], group: Sequence[Wanted], *before: Change) -> None:
        """Ask the writer's thread for a synced transaction."""
        began, number = time.monotonic(), self._log.last + 1
        confirmed = [*before, *(each.change for each in owed)]
        others = [*(each.change for each in group), _noted(number)]
        self.syncing = True
        self._ask(confirmed, others, lambda error: self._synced(owed, group, error, began, number))

    def _synced(
        self,
        owed: Sequence[Wanted],
        group: Sequence[Wanted],
        error: BaseException | None,
        began: float,
        number: int,
    ) -> None:
        self._pace.measure(began, (*owed, *group))
        self.syncing = False
        if error is None:
            self.refused = False
            if not self._closed:
                self._log.begin_anew(number)
                self._tidying.remove_later()
            self._done += len(owed)
            for each in owed:
                each.apply()
        else:
            self._stay_owed(owed)
        for each in group:
            if error is None:
                each.apply()
            each.end(error, self._forgotten)
        self._tell_of_the_end()
        self._on_end()

    def _ask(
        self,
        confirmed: Sequence[Change],
        others: Sequence[Change],
        then: Callable[[BaseException | None], None],
        *,
        synced: bool = True,
    ) -> None:
        """Ask the writer's thread for changes; ``then`` is called on the event loop, with what went wrong."""
        future = self._writer.submit(*confirmed, *others, synced=synced)
        self._under_way = future, confirmed

        def ended() -> None:
            error = future.exception()
            if self._under_way is not None and self._under_way[0] is future:
                self._under_way = None
                if self._closed:
                    self._left = confirmed if error is not None else ()
            then(error)

        future.add_done_callback(lambda _: self._loop.call_soon_threadsafe(ended))

    def _made_up_for(self) -> Change:
        """Return what makes the confirmed changes that the writer's thread was asked for last, if it could not."""
        if self._under_way is None:
            return lambda tables: None
        future, changes = self._under_way

        def make_up(tables: Tables) -> None:
            # Not done, they are part of this very transaction.
            if future.done() and future.exception() is not None:
                for change in changes:
                    change(tables)

        return make_up

    def _stay_owed(self, group: Sequence[Wanted]) -> None:
        """Ask the tables again for what they refused, with the next transaction or by itself."""
        if self._closed:
            return  # the last transaction makes up for it, or the next start
        self._owed[:0] = group
        self.refused = True
        if self._again is None:
            self._again = self._loop.call_later(RETRY_SECONDS, self._retry)

    def _retry(self) -> None:
        self._again = None
        if (self._owed or self.refused) and not self.at_work:
            self.sync(())

    def _sync_too(self, wanted: Wanted) -> bool:
        """Commit what is owed with one more change, on the writer's thread; False if that is at work, or in vain."""
        if self.at_work or self.refused:
            return False
        owed, self._owed = self._owed, []
        self._have_synced(owed, [wanted], *self._left)
        return True

    def _tell_of_the_end(self) -> None:
        waiting, self._next_end = self._next_end, None
        if waiting is not None:
            waiting.set_result(None)


def _noted(number: int) -> Change:
    """Return what has the tables know that they have what was confirmed up to a number."""
    return lambda tables: tables.save_redone(number)
