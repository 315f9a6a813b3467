"""How many messages a channel may hold: exact over all its queues, because a slot is taken before a message is.

Streams stay open when there is no slot, if the server keeps to what a stream is told; a message that comes all the same
waits a moment for a slot. If there is none, or the server keeps no limits, all streams are ended until there is room.

Among queues of different priority the higher one comes first: when a channel begins to receive, a message of lower
priority gets its slot only after every stream of higher priority has been open for a moment and brought nothing.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable


class Prefetch:
    """The slots of one channel. Safe to use from any thread; a limit of 0 means that only the ceiling counts."""

    def __init__(
        self,
        *,
        ceiling: int,
        on_full: Callable[[], None],
        settle_seconds: float = 0.0,
        limits_are_kept: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take what ends all streams (`on_full`), and whether the server sends no more than a stream is told."""
        self._ceiling = ceiling
        self._on_full = on_full
        self._limits_are_kept = limits_are_kept
        self._settle_seconds = settle_seconds
        self._changed = threading.Condition()
        self._limit = 0
        self._taken = 0
        self._closed = False
        # Who reads, at which priority, and since when its stream is open; infinite: it is not.
        self._readers: dict[object, tuple[int, float]] = {}
        # The priorities of messages that are there and wait for a slot.
        self._waiting: Counter[int] = Counter()

    @property
    def free(self) -> int:
        return max(0, (self._limit or self._ceiling) - self._taken)

    @property
    def prefetch_count(self) -> int:
        return self._limit

    def can_consume(self) -> bool:
        """Say whether another message may be taken; kombu's name for it."""
        return self.free > 0

    @property
    def ends_when_full(self) -> bool:
        """Say whether streams are ended as soon as there is no slot: else priorities could not be kept."""
        with self._changed:
            return not self._limits_are_kept() or len({priority for priority, _ in self._readers.values()}) > 1

    def set_limit(self, limit: int) -> None:
        with self._changed:
            changed, self._limit = limit != self._limit, limit
            self._changed.notify_all()
        if changed:
            # They were told another one.
            self.end_streams()

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

    def take(self, priority: int = 0, *, until: float = 0.0) -> bool:
        """Take a slot, once no higher priority is about to; False: there was none until that (monotonic) time."""
        with self._changed:
            while not self._closed and (self.free or time.monotonic() < until):
                self._wait_for_higher(priority)
                if self.free:
                    break
                self._changed.wait(max(0.0, until - time.monotonic()))
            if self._closed or not self.free:
                return False
            self._taken += 1
            ends = not self.free and self.ends_when_full
            self._changed.notify_all()
        if ends:
            self.end_streams()
        return True

    def end_streams(self) -> None:
        """Have all streams ended; another one is opened by each reader when there is room."""
        with self._changed:
            # Whenever their readers notice: none counts as open until it is opened anew.
            self._readers = {reader: (priority, math.inf) for reader, (priority, _) in self._readers.items()}
            self._changed.notify_all()
        self._on_full()

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
        self._waiting[priority] += 1
        # A stream that cannot be opened must not hold up the others for ever: hence the second limit.
        gives_up_at = time.monotonic() + 2 * self._settle_seconds
        while self.free and not self._closed:
            left = None
            if all(each <= priority for each in self._waiting):
                above = (opened_at for at, opened_at in self._readers.values() if at > priority)
                settled_at = max(above, default=-math.inf) + self._settle_seconds
                left = min(settled_at, gives_up_at) - time.monotonic()
                if left <= 0:
                    break
            self._changed.wait(left)
        self._waiting[priority] -= 1
        self._waiting += Counter()  # drops what is at 0

    def _mark(self, reader: object, opened_at: float) -> None:
        with self._changed:
            if reader in self._readers:
                self._readers[reader] = self._readers[reader][0], opened_at
                self._changed.notify_all()
