"""What the broker has done since its start, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Counted on the event loop, by whom serves the requests."""

    #: Messages that were stored, also those of publishers that had gone meanwhile.
    published: int = 0
    #: Messages handed to consumers; one that is delivered twice counts twice.
    delivered: int = 0
    #: Acknowledgements taken; stale ones count too.
    acknowledged: int = 0
    #: Requests and streams that have ended, by method (``Publish``) and status code (``OK``).
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: Open streams and waiting pulls by subscription.
    consumers: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def consuming(self, subscription: str) -> Iterator[None]:
        """Count somebody who waits for a subscription's messages."""
        self.consumers[subscription] += 1
        try:
            yield
        finally:
            self.consumers[subscription] -= 1
            if not self.consumers[subscription]:
                del self.consumers[subscription]
