"""What every part of the broker needs of the disk: to commit, to count, to number and to tell the time.

``changing`` is held by whoever creates, changes or deletes something, so that memory follows the disk in one order.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from transports.local.clock import Clock
from transports.local.errors import UnavailableError
from transports.local.storage.commits import Commits
from transports.local.storage.database import Database, StorageError
from transports.local.storage.operations import Operation
from transports.local.storage.tables import TIME, Tables
from transports.local.storage.wanted import Then
from transports.local.storage.writer import Change, Writer

#: Deliveries that one run of the broker can number; the tokens of the next run are all higher.
_TOKENS_PER_START = 1 << 40
#: Message ids of which the disk learns at a time; those that a run leaves over are never used.
_IDS_IN_BLOCK = 1000

T = TypeVar("T")


class Ledger:
    """The disk as the event loop sees it."""

    def __init__(self, database: Database, writer: Writer) -> None:
        self.database = database
        self.changing = asyncio.Lock()
        self.tokens: Iterator[int] = iter(())
        self.first_token = 0
        self._commits = Commits(writer, database.redo)
        self._counters: dict[str, int] = defaultdict(int)
        self.clock = Clock()
        self._reserved = 0

    async def start(self, counters: Mapping[str, int]) -> None:
        """Go on counting where the last run ended."""
        self._counters.update(counters)
        # What was acknowledged has left no publish time; it was delivered before, and that was written down.
        self.clock = Clock(max(self.database.newest_published_us(), counters.get(TIME, 0)))
        starts = self.next("starts")
        await self.commit(lambda tables: tables.save_counter("starts", starts))
        self.first_token = starts * _TOKENS_PER_START
        self.tokens = itertools.count(self.first_token)

    async def commit(self, change: Change) -> None:
        """Return when a change is on disk.

        Raises:
            UnavailableError: The disk refused, and nothing has changed.
        """
        await self.begin(change, lambda: None)

    def begin(
        self,
        change: Change,
        then: Callable[[], T],
        applied: Callable[[], None] = lambda: None,
        otherwise: Callable[[BaseException], None] = lambda error: None,
    ) -> asyncio.Future[T]:
        """Begin a change that is carried to its end, even if nobody awaits the future, which is what ``then`` returns.

        On the event loop, ``applied`` and then ``then`` are called when the change is on disk, ``otherwise`` if it
        failed, with what the future raises then, too: ``UnavailableError`` if it was the disk that refused.
        """
        return self._commits.begin(change, _either(then, otherwise), applied)

    def operate(
        self,
        operation: Operation,
        then: Callable[[], T],
        applied: Callable[[], None],
        otherwise: Callable[[BaseException], None] = lambda error: None,
        *,
        lasting: bool = True,
        awaited: Callable[[], bool] = lambda: False,
    ) -> asyncio.Future[T]:
        """Begin an operation as ``begin`` does a change; ``then`` is called when it cannot be lost any more.

        One that is not ``lasting`` may still be lost by a power cut in the next milliseconds. ``applied`` is called
        when the tables have it, which may be a moment later, if nobody has ``awaited`` it; they have them in order.
        """
        ended = _either(then, otherwise)
        return self._commits.operate(operation, ended, applied, lasting=lasting, awaited=awaited)

    def hurry(self) -> None:
        """Somebody waits for what the tables will have."""
        self._commits.hurry()

    async def ask(self, change: Callable[[Tables], T]) -> T:
        """Return what a change returned, once it is on disk.

        Raises:
            UnavailableError: The disk refused, and nothing has changed.
        """
        results: list[T] = []
        await self.commit(lambda tables: results.append(change(tables)))
        return results[0]

    async def followed(self) -> None:
        """Wait until the tables have what was confirmed, unless they refuse it."""
        await self._commits.followed()

    def write_later(self, change: Change) -> None:
        """Write without waiting; the writer logs what fails, and nothing breaks if it is lost."""
        self._commits.later(change)

    def close(self) -> None:
        """Write what was to be written later, and the time."""
        self.write_later(self.timed(lambda tables: None))
        self._commits.close()

    def timed(self, change: Change) -> Change:
        """Return a change that also writes down the time of this moment, for the clock of the next run."""
        time_us = self.clock.now_us()

        def both(tables: Tables) -> None:
            change(tables)
            tables.save_time(time_us)

        return both

    def next(self, counter: str) -> int:
        """Return the next number of a kind; it is the caller's to save it."""
        self._counters[counter] += 1
        return self._counters[counter]

    def next_messages(self, count: int) -> range:
        """Return the ids of so many new messages; it is the caller's to ``reserve`` the last."""
        first = self._counters["messages"] + 1
        self._counters["messages"] += count
        return range(first, first + count)

    @property
    def last_message(self) -> int:
        """The highest id that was given to a message; all up to it are on disk for whatever is asked from now on."""
        return self._counters["messages"]

    def reserve(self, message_id: int) -> int | None:
        """Return the counter that has to be saved with a message, as ids are taken by the block; None if it was."""
        return None if message_id <= self._reserved else message_id + _IDS_IN_BLOCK

    def reserved(self, counter: int | None) -> None:
        """Note that what ``reserve`` returned is on disk: ids up to it are not given out by a later run."""
        self._reserved = max(self._reserved, counter or 0)

    def next_keeper(self) -> int:
        return self.next("keepers")


def save_keeper(tables: Tables, number: int) -> None:
    """Remember that a number is taken, so that it is never used twice."""
    tables.save_counter("keepers", number)


def _either(then: Callable[[], T], otherwise: Callable[[BaseException], None]) -> Then[T]:
    def ended(error: BaseException | None) -> T:
        if error is None:
            return then()
        told = UnavailableError(str(error)) if isinstance(error, StorageError) else error
        otherwise(told)
        raise told

    return ended
