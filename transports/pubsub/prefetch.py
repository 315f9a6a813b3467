"""How many messages a channel may hold: exact over all its queues, because a slot is taken before a message is."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Prefetch:
    """The slots of one channel. Safe to use from any thread; a limit of 0 means that only the ceiling counts."""

    def __init__(self, *, ceiling: int, on_full: Callable[[], None]) -> None:
        self._ceiling = ceiling
        self._on_full = on_full
        self._changed = threading.Condition()
        self._limit = 0
        self._taken = 0
        self._closed = False

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

    def take(self) -> bool:
        """Take a slot; False: there is none."""
        with self._changed:
            if self._closed or not self.free:
                return False
            self._taken += 1
            full = not self.free
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
