"""How often messages were given back by whom they were delivered to: a start that failed.

Counted here, because Pub/Sub counts only under a dead-letter policy, and then everything: drained workers, deferrals,
surplus. Each process counts for itself.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from transports.pubsub.leases.ledger import Key

#: Messages whose count is remembered; the longest untouched are forgotten first.
_REMEMBERED = 10_000


class Requeues:
    """Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: OrderedDict[Key, int] = OrderedDict()

    def note(self, key: Key) -> None:
        with self._lock:
            self._counts[key] = self._counts.pop(key, 0) + 1
            if len(self._counts) > _REMEMBERED:
                self._counts.popitem(last=False)

    def count(self, key: Key) -> int:
        return self._counts.get(key, 0)

    def forget(self, key: Key) -> None:
        """Forget a message that is done."""
        with self._lock:
            self._counts.pop(key, None)
