"""How many messages a channel may hold: exact over all its queues, because a slot is taken before a message is.

Among queues of different priority the higher one comes first: when a channel begins to receive, a message of lower
priority gets its slot only after every stream of higher priority has been open for a moment and brought nothing.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable


class Prefetch:
    """The slots of one channel. Safe to use from any thread; a limit of 0 means that only the ceiling counts."""

    def __init__(self, *, ceiling: int, on_full: Callable[[], None], settle_seconds: float = 0.0) -> None:
        self._ceiling = ceiling
        self._on_full = on_full
        self._settle_seconds = settle_seconds
        self._changed = threading.Condition()
        self._limit = 0
        self._taken = 0
        self._closed = False
        # Who reads, at which priority, and since when its stream is open; infinite: it is not.
        self._readers: dict[object, tuple[int, float]] = {}

    @property
    def free(self) -> int:
        return max(0, (self._limit or self._ceiling) - self._taken)

    @property
    def prefetch_count(self) -> int:
        return self._limit

    def can_consume(self) -> bool:
        """Say whether another message may be taken; kombu's name for it."""
        return self.free > 0

    def set_limit(self, limit: int) -> None:
        with self._changed:
            self._limit = limit
            self._changed.notify_all()

    def join(self, reader: object, priority: int) -> None:
        """Note who reads at which priority, before it opens its first stream."""
        with self._changed:
            self._readers[reader] = priority, math.inf

    def opened(self, reader: object) -> None:
        """Note that a reader's stream is open."""
        self._mark(reader, time.monotonic())

    def ended(self, reader: object) -> None:
        """Note that a reader's stream is not open any more."""
        self._mark(reader, math.inf)

    def leave(self, reader: object) -> None:
        with self._changed:
            self._readers.pop(reader, None)
            self._changed.notify_all()

    def take(self, priority: int = 0) -> bool:
        """Take a slot, once no higher priority is about to; False: there is none."""
        with self._changed:
            self._wait_for_higher(priority)
            if self._closed or not self.free:
                return False
            self._taken += 1
            full = not self.free
            self._changed.notify_all()
        if full:
            self._on_full()
        return True

    def release(self) -> None:
        with self._changed:
            self._taken -= 1
            self._changed.notify_all()

    def wait_for_room(self, unless: Callable[[], bool]) -> int:
        """Wait until there is a free slot and return how many; 0 as soon as `unless` holds or the channel is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or unless() or self.free)
            return 0 if self._closed or unless() else self.free

    def wake(self) -> None:
        """Make those who wait look again."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _wait_for_higher(self, priority: int) -> None:
        # A stream that cannot be opened must not hold up the others for ever: hence the second limit.
        gives_up_at = time.monotonic() + 2 * self._settle_seconds
        while self.free and not self._closed:
            above = (opened_at for at, opened_at in self._readers.values() if at > priority)
            settled_at = max(above, default=-math.inf) + self._settle_seconds
            left = min(settled_at, gives_up_at) - time.monotonic()
            if left <= 0:
                return
            self._changed.wait(left)

    def _mark(self, reader: object, opened_at: float) -> None:
        with self._changed:
            if reader in self._readers:
                self._readers[reader] = self._readers[reader][0], opened_at
                self._changed.notify_all()
