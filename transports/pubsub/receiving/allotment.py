"""What one stream may bring: the server counts what it sent and was not settled, and so do we."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Allotment:
    """The budget of one stream, in messages. Safe to use from any thread."""

    def __init__(self, size: int, *, renew: Callable[[], None], free: Callable[[], int]) -> None:
        """Take its size; `renew` has another stream opened, `free` says how many slots there are."""
        self.size = size
        self._renew = renew
        self._free = free
        self._lock = threading.Lock()
        self._outstanding = 0
        self._spent = 0

    @property
    def is_exceeded(self) -> bool:
        """Say whether the server has sent more than it was told: then it does not count."""
        return self._outstanding - self._spent > self.size

    @property
    def is_full(self) -> bool:
        """Say whether the server may send no more."""
        return self._outstanding >= self.size

    def receive(self, count: int) -> None:
        """Note messages that have come."""
        with self._lock:
            self._outstanding += count

    def settle(self) -> None:
        """Note that the server knows what became of a message; a stream that is too small by now is renewed."""
        with self._lock:
            self._outstanding -= 1
            idle = self._outstanding <= self._spent
        if idle and self._free() > self.size:
            self._renew()

    def spend(self) -> None:
        """Note a message that was put off: the server counts it until it comes back. One day nothing would be left."""
        with self._lock:
            self._spent += 1
            spent = 2 * self._spent >= self.size
        if spent:
            self._renew()
