"""What is to be done at a time: one timer for all of it, and none while there is nothing."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Generic, TypeVar

from transports.local.clock import now_us

K = TypeVar("K")

#: Outdated lines that are left lying whatever the number of items.
_SLACK = 100


class Agenda(Generic[K]):
    """Carries out each item once, at its time or soon after, one after the other."""

    def __init__(self, carry_out: Callable[[K], Awaitable[None]]) -> None:
        self._carry_out = carry_out
        self._times: dict[K, int] = {}
        self._heap: list[tuple[int, int, K]] = []
        self._order = 0
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    def note(self, item: K, at_us: int) -> None:
        """Have something done at a time, or earlier if it is noted for earlier."""
        if self._times.get(item, at_us + 1) <= at_us:
            return
        self._times[item] = at_us
        self._order += 1
        heapq.heappush(self._heap, (at_us, self._order, item))
        self._compact()
        if self._heap[0][2] == item:
            self._news.set()

    def forget(self, item: K) -> None:
        """Have something not done, and hold on to nothing of it."""
        if self._times.pop(item, None) is not None:
            self._compact()

    def stop(self) -> None:
        """Do nothing any more."""
        if self._task is not None:
            self._task.cancel()

    def _compact(self) -> None:
        """Throw out the lines of items that were forgotten, or noted for another time, when they are too many."""
        if len(self._heap) > 2 * len(self._times) + _SLACK:
            self._heap = [(at_us, order, item) for order, (item, at_us) in enumerate(self._times.items())]
            self._order = len(self._heap)
            heapq.heapify(self._heap)

    async def _run(self) -> None:
        while True:
            await self._carry_out(await self._next())
            # Many things can be due at once; others have their turn between them.
            await asyncio.sleep(0)

    async def _next(self) -> K:
        while True:
            self._news.clear()
            while self._heap and self._times.get(self._heap[0][2]) != self._heap[0][0]:
                heapq.heappop(self._heap)
            if not self._heap:
                await self._news.wait()
                continue
            wait_seconds = (self._heap[0][0] - now_us()) / 1_000_000
            if wait_seconds <= 0:
                item = heapq.heappop(self._heap)[2]
                del self._times[item]
                return item
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_seconds):
                    await self._news.wait()
