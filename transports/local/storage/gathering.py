"""Gathering: what little is left in old segments comes to lie in the tables, so that the files can go."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from transports.local.storage.segments import Segments
from transports.local.storage.tables import Tables
from transports.local.throttle import LogThrottle

logger = logging.getLogger(__name__)

#: Bytes up to which what is left of a segment is little; as many are gathered at a time.
LITTLE_BYTES = 4 << 20
#: Segments that are looked at at a time.
_TOGETHER = 32
#: The same at a start.
_AT_START = 8


class Gathering:
    """Looks at some segments at a time; what lies in one is not moved while others come to fetch it."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        #: Bytes that were needed of a segment when it was looked at last.
        self._needed: dict[int, int] = {}
        self._latest = 0
        self._changed = False
        #: Whether nothing had changed, and nothing was to be done, in the whole of the last round.
        self.is_done = True
        self._refusals = LogThrottle(logger, logging.ERROR)

    def gather_last(self, tables: Tables) -> None:
        """Gather what little is left in the latest segments at a start, which begins another: many would pile up."""
        room = LITTLE_BYTES
        for number in self._segments.numbers[-_AT_START:]:
            needed = tables.bytes_in(number)
            if 0 < needed <= room and self._take_home(number, tables):
                room -= needed

    def gather(self, tables: Tables) -> None:
        """Go on with the next segments; a change of the tables."""
        room = LITTLE_BYTES
        for number in self._next():
            needed = tables.bytes_in(number)
            if self._needed.get(number) != needed:
                self._needed[number], self._changed = needed, True
            elif needed > LITTLE_BYTES or not needed:
                continue
            elif needed > room:
                self._changed = True  # it is the next time's
            elif self._take_home(number, tables):
                room -= needed
                self._changed = True
        self.is_done = not self._latest and not self._changed
        self._changed = self._changed and bool(self._latest)

    def _next(self) -> Sequence[int]:
        retired = self._segments.retired
        self._needed = {number: self._needed[number] for number in retired if number in self._needed}
        found = [each for each in retired if each > self._latest][:_TOGETHER]
        self._latest = found[-1] if len(found) == _TOGETHER else 0
        return found

    def _take_home(self, number: int, tables: Tables) -> bool:
        try:
            tables.take_home(number)
        except OSError as exc:
            path = self._segments.path(number)
            self._refusals.log(str(path), f"what is needed of {path} cannot be read: {exc.strerror}")
            return False
        return True
