"""Ordering keys: of each key, messages go out one after the other, and to one consumer at a time.

A key's *line* is what of it is in memory. While some of its messages are out, only the consumer that has them gets
more; while one waits for its next try, nobody does. A long line is not held in memory: it *spills* at an id, and what
comes after is read again once the line has become short.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

#: Most messages of one key in memory; enough for a batch, little enough for many busy keys.
LINE_MESSAGES = 64


@dataclass(slots=True)
class Line:
    """One key: ids of its messages in memory, by what holds the others back."""

    members: int = 0
    #: Who has the messages that are out.
    owner: object | None = None
    leased: set[int] = field(default_factory=set)
    delayed: set[int] = field(default_factory=set)
    parked: set[int] = field(default_factory=set)
    #: From this id on, the line is on disk only.
    spilled_from: int | None = None

    @property
    def free(self) -> bool:
        return not self.leased and not self.delayed


class Lines:
    """All keys of one subscription that have something in memory; without an order to keep, there are none."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}
        #: Keys with parked messages that this owner could have; by the owner's id.
        self._wanted: dict[int, set[str]] = {}
        #: Keys that are short in memory and go on on disk.
        self._short: set[str] = set()

    def spills(self, key: str, message_id: int) -> bool:
        """Say whether a line is so long that this next message of it stays on disk."""
        line = self._lines.get(key)
        if line is None or (line.spilled_from is None and line.members < LINE_MESSAGES):
            return False
        if line.spilled_from is None:
            line.spilled_from = message_id
        return True

    def join(self, key: str) -> None:
        self._lines.setdefault(key, Line()).members += 1

    def leave(self, key: str, message_id: int) -> list[int]:
        """Forget a message that left memory; return the ids that may go out because of it."""
        line = self._lines[key]
        line.members -= 1
        line.parked.discard(message_id)
        freed = self._free(key, line, message_id)
        if line.spilled_from is not None:
            if line.members <= LINE_MESSAGES // 2:
                self._short.add(key)
        elif line.members == 0:
            del self._lines[key]
        return freed

    def permits(self, key: str, owner: object) -> bool:
        """Say whether the next message of a key may go to somebody."""
        line = self._lines[key]
        return line.free or (not line.delayed and line.owner is owner)

    def park(self, key: str, message_id: int) -> None:
        """Hold a message back until its line is free, or its owner asks."""
        line = self._lines[key]
        line.parked.add(message_id)
        if line.owner is not None and line.leased:
            self._wanted.setdefault(id(line.owner), set()).add(key)

    def parked_for(self, owner: object) -> list[int]:
        """Return what was parked of the lines that somebody owns."""
        found: list[int] = []
        for key in self._wanted.pop(id(owner), ()):
            line = self._lines.get(key)
            if line is not None and line.owner is owner:
                found += line.parked
                line.parked.clear()
        return found

    def lease(self, key: str, message_id: int, owner: object | None) -> None:
        line = self._lines[key]
        line.delayed.discard(message_id)
        line.parked.discard(message_id)
        if owner is not None or not line.leased:
            line.owner = owner
        line.leased.add(message_id)

    def delay(self, key: str, message_id: int) -> None:
        line = self._lines[key]
        line.leased.discard(message_id)
        line.delayed.add(message_id)

    def release(self, key: str, message_id: int) -> list[int]:
        """Note that a message is out no longer; return the ids that may go out because of it."""
        return self._free(key, self._lines[key], message_id)

    def later(self, key: str, message_id: int) -> list[int]:
        """Return what is out of a line behind a message."""
        return sorted(each for each in self._lines[key].leased if each > message_id)

    def short(self) -> Iterable[tuple[str, int]]:
        """Return the keys to read more of, and since which id; ``read_until`` takes them off."""
        found = [(key, self._lines[key].spilled_from) for key in self._short if key in self._lines]
        return [(key, since) for key, since in found if since is not None]

    def read_until(self, key: str, spilled_from: int | None) -> None:
        """Note how far a line was read; None is to its end."""
        line = self._lines[key]
        line.spilled_from = spilled_from
        self._short.discard(key)
        if spilled_from is None and line.members == 0:
            del self._lines[key]

    def unspill(self) -> None:
        """Note that everything will be read anew."""
        for key, line in list(self._lines.items()):
            line.spilled_from = None
            if line.members == 0:
                del self._lines[key]
        self._short.clear()

    def _free(self, key: str, line: Line, message_id: int) -> list[int]:
        line.leased.discard(message_id)
        line.delayed.discard(message_id)
        if not line.free:
            return []
        if line.owner is not None:
            self._forget_wish(id(line.owner), key)
            line.owner = None
        freed = list(line.parked)
        line.parked.clear()
        return freed

    def _forget_wish(self, owner: int, key: str) -> None:
        wanted = self._wanted.get(owner)
        if wanted is not None:
            wanted.discard(key)
            if not wanted:
                del self._wanted[owner]
