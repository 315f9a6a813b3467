"""The messages of one subscription and who holds them: pure, without clock, disk or network.

Times are seconds of a monotonic clock that the caller reads. A message is *ready*, or *leased* to a holder until a
deadline. A lease that ran out makes it ready again, yet its last delivery may be acknowledged or extended until the
message is delivered anew. After a restart everything is ready in the same sense: tokens are remembered, leases are not.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from transports.local.model import Pending


class Holder(Protocol):
    """Somebody to whom messages are leased and who is told when one is his no longer."""

    def release(self, size: int) -> None:
        """Forget a message of ``size`` bytes."""


@dataclass(slots=True)
class _Entry:
    """A pending message; ``deadline`` is None while it is ready."""

    pending: Pending
    token: int
    deadline: float | None = None
    holder: Holder | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """Terms on which messages are taken: until when, by whom, how many, how large."""

    deadline: float
    max_messages: int
    max_bytes: int
    #: Take a first message even if it is larger than ``max_bytes``.
    oversize: bool = False
    holder: Holder | None = None


class Backlog:
    """Order, leases and staleness of one subscription's messages."""

    def __init__(self, *, first_token: int) -> None:
        """Start empty; tokens from ``first_token`` on are given out by this process, lower ones were by earlier."""
        self._first_token = first_token
        self._entries: dict[int, _Entry] = {}
        self._ready: list[int] = []
        self._ready_count = 0
        self._deadlines: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def ready(self) -> int:
        """How many messages could be taken."""
        return self._ready_count

    def add(self, pending: Pending) -> None:
        """Add a message, ready."""
        self._entries[pending.message_id] = _Entry(pending, pending.token)
        heapq.heappush(self._ready, pending.message_id)
        self._ready_count += 1

    def take(self, lease: Lease, tokens: Iterable[int]) -> list[Pending]:
        """Lease the oldest ready messages; each gets the next of ``tokens``."""
        taken: list[Pending] = []
        room = lease.max_bytes
        for token in tokens:
            if len(taken) >= lease.max_messages or (entry := self._oldest_ready()) is None:
                break
            size = entry.pending.size
            if size > room and (taken or not lease.oversize):
                break
            room -= size
            heapq.heappop(self._ready)
            entry.token, entry.holder = token, lease.holder
            self._set_deadline(entry, lease.deadline)
            taken.append(replace(entry.pending, token=token))
        return taken

    def settle(self, message_id: int, token: int) -> Pending | None:
        """Remove an acknowledged message; None if the token is stale."""
        entry = self._current(message_id, token)
        if entry is None:
            return None
        self._remove(entry)
        return replace(entry.pending, token=entry.token)

    def extend(self, message_id: int, token: int, deadline: float) -> bool:
        """Lease a delivered message until another time; False if the token is stale."""
        entry = self._current(message_id, token)
        if entry is None:
            return False
        entry.token = token
        self._set_deadline(entry, deadline)
        return True

    def give_back(self, message_id: int, token: int) -> bool:
        """Make a delivered message ready; False if the token is stale."""
        entry = self._current(message_id, token)
        if entry is None:
            return False
        self._make_ready(entry)
        return True

    def lapse(self, now: float) -> None:
        """Make those messages ready whose lease has run out."""
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, message_id = heapq.heappop(self._deadlines)
            entry = self._entries.get(message_id)
            if entry is not None and entry.deadline == deadline:
                self._make_ready(entry)

    def next_deadline(self) -> float | None:
        """Return when a lease may run out; None if there is none."""
        return self._deadlines[0][0] if self._deadlines else None

    def published_until(self, published_us: int) -> list[int]:
        """Return the ids of what was published at or before that time, leased or not."""
        return [each for each, entry in self._entries.items() if entry.pending.published_us <= published_us]

    def drop(self, message_ids: Iterable[int]) -> None:
        """Remove messages, leased or not; ids that are gone are passed over."""
        for message_id in message_ids:
            if (entry := self._entries.get(message_id)) is not None:
                self._remove(entry)

    def oldest_published_us(self) -> int | None:
        """Return the publish time of the oldest message; None if there is none."""
        return min((entry.pending.published_us for entry in self._entries.values()), default=None)

    def _current(self, message_id: int, token: int) -> _Entry | None:
        """Find a message by its latest delivery.

        A token of an earlier process that is later than the remembered one is the latest: the process was killed
        before it could write it down.
        """
        entry = self._entries.get(message_id)
        if entry is None or token < entry.token or (token > entry.token and token >= self._first_token):
            return None
        return entry

    def _oldest_ready(self) -> _Entry | None:
        while self._ready:
            entry = self._entries.get(self._ready[0])
            if entry is not None and entry.deadline is None:
                return entry
            heapq.heappop(self._ready)
        return None

    def _set_deadline(self, entry: _Entry, deadline: float) -> None:
        if entry.deadline is None:
            self._ready_count -= 1
        entry.deadline = deadline
        heapq.heappush(self._deadlines, (deadline, entry.pending.message_id))

    def _make_ready(self, entry: _Entry) -> None:
        if entry.deadline is None:
            return
        entry.deadline = None
        self._ready_count += 1
        heapq.heappush(self._ready, entry.pending.message_id)
        self._release(entry)

    def _remove(self, entry: _Entry) -> None:
        del self._entries[entry.pending.message_id]
        if entry.deadline is None:
            self._ready_count -= 1
        self._release(entry)

    def _release(self, entry: _Entry) -> None:
        if entry.holder is not None:
            entry.holder.release(entry.pending.size)
            entry.holder = None
