"""How many experiments one worker process looks after at a time, and for how many more it may begin."""

from __future__ import annotations

import threading

from studio_celery.gpus import Cards
from studio_celery.settings import Settings


def concurrency_of(settings: Settings, cards: Cards) -> int:
    """Experiments at a time: as set, else one for each card, else one."""
    return settings.concurrency or max(1, len(cards.ids))


class Places:
    """Counted under a lock: several deliveries may ask at once."""

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        #: Attempts that may still be begun here; None for any number.
        self.allowance: int | None = None
        self._taken = 0
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Take a place for an attempt that begins here; False if there is none."""
        with self._lock:
            free = self._taken < self.concurrency and self.allowance != 0
            if free:
                self._taken += 1
                self.allowance = None if self.allowance is None else self.allowance - 1
            return free

    def take_back(self) -> None:
        """The attempt for which a place was taken was not begun: another one may be, in its stead."""
        with self._lock:
            self.allowance = None if self.allowance is None else self.allowance + 1

    def take_anyway(self) -> None:
        """Take one for an attempt that runs already and is adopted, whether or not there is room."""
        with self._lock:
            self._taken += 1

    def give_back(self) -> None:
        """Leave a place."""
        with self._lock:
            self._taken -= 1
