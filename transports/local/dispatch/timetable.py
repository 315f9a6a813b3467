"""When which lease or delay ends: a heap whose outdated lines are skipped, and thrown out when they are too many."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping

from transports.local.dispatch.entries import Entry

#: Outdated lines that are left lying whatever the number of entries.
_SLACK = 1000


class Timetable:
    """Finds, of those entries that it was told of, the ones that are due."""

    def __init__(self, entries: Mapping[int, Entry]) -> None:
        self._entries = entries
        self._heap: list[tuple[float, int]] = []

    def set(self, entry: Entry, due: float) -> None:
        """Note when an entry is due; what was noted of it before counts no longer."""
        entry.due = due
        heapq.heappush(self._heap, (due, entry.message_id))
        if len(self._heap) > 2 * len(self._entries) + _SLACK:
            self._heap = [line for line in self._heap if self._holds(line)]
            heapq.heapify(self._heap)

    @property
    def earliest(self) -> float:
        """A time before which nothing is due, found without a look at what is outdated; infinity if there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def next(self) -> float | None:
        """Return when the next entry is due; None if there is none."""
        while self._heap and not self._holds(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> Iterator[Entry]:
        """Give the entries that are due, the first first."""
        while (due := self.next()) is not None and due <= now:
            yield self._entries[heapq.heappop(self._heap)[1]]

    def _holds(self, line: tuple[float, int]) -> bool:
        entry = self._entries.get(line[1])
        return entry is not None and entry.due == line[0]
