"""What of a backlog is in memory: the state of each message, and which one is next.

Ids are in the order of publishing, so the lowest ready one goes first; with an order to keep, unless its key is busy.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable

from transports.local.dispatch.entries import Entry, Policy, State
from transports.local.dispatch.ordering import Lines
from transports.local.dispatch.timetable import Timetable
from transports.local.model import Pending

_READY, _GONE = State.READY, State.GONE
_HELD = (State.LEASED, State.DEAD)
#: States of which the disk does not tell.
_BUSY = (*_HELD, State.DELAYED)


class Memory:
    """Entries by message id."""

    def __init__(self) -> None:
        self.policy = Policy()
        self.lines = Lines()
        #: How many somebody holds, and how many anybody could take.
        self.held = 0
        self.ready = 0
        self._entries: dict[int, Entry] = {}
        #: Finds a message by its id.
        self.get = self._entries.get
        self._heap: list[int] = []
        self._timetable = Timetable(self._entries)
        self._returned: list[Pending] = []
        self._dead: list[Pending] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, message_id: int) -> bool:
        return message_id in self._entries

    def orders(self, message: Pending | Entry) -> bool:
        """Say whether a message has to wait for others of its key."""
        return self.policy.ordered and bool(message.ordering_key)

    def insert(self, pending: Pending) -> Entry:
        """Add a message, ready."""
        entry = self._entries[pending.message_id] = Entry.of(pending)
        if self.orders(entry):
            self.lines.join(entry.ordering_key)
        self.make_ready(entry)
        return entry

    def first_ready(self, owner: object) -> Entry | None:
        """Return the oldest message that somebody may have; it stays where it is until it is leased."""
        while self._heap:
            entry = self._entries.get(self._heap[0])
            if entry is not None and entry.state is State.READY:
                if not self.orders(entry) or self.lines.permits(entry.ordering_key, owner):
                    return entry
                self._set_state(entry, State.PARKED)
                self.lines.park(entry.ordering_key, entry.message_id)
            heapq.heappop(self._heap)
        return None

    def unpark(self, message_ids: Iterable[int]) -> None:
        """Make messages ready that waited for others of their key."""
        for message_id in message_ids:
            self._set_state(self._entries[message_id], State.READY)
            heapq.heappush(self._heap, message_id)

    def lease(self, entry: Entry, deadline: float, owner: object | None = None) -> None:
        """Hide a message until a time; ``owner`` is who takes it, None leaves that as it is."""
        if self._heap and self._heap[0] == entry.message_id:
            heapq.heappop(self._heap)  # else the same message, given back again and again, would pile up
        self._set_state(entry, State.LEASED)
        if self.orders(entry):
            self.lines.lease(entry.ordering_key, entry.message_id, owner)
        self._timetable.set(entry, deadline)

    def give_back(self, entry: Entry, now: float) -> None:
        """End a lease in vain; of a key in order, those of the later messages too."""
        later = self.lines.later(entry.ordering_key, entry.message_id) if self.orders(entry) else []
        for each in (entry, *(self._entries[message_id] for message_id in later)):
            if each.state is State.LEASED:
                self._give_back_one(each, now)

    def undo(self, entry: Entry) -> None:
        """End a lease as if it had never been."""
        entry.attempts -= 1
        self._release(entry)
        self._returned.append(entry.pending())
        self.make_ready(entry)

    def lapse(self, now: float) -> None:
        """End the leases that have run out, and the delays that are over."""
        for entry in self._timetable.pop_due(now):
            if entry.state is State.LEASED:
                self.give_back(entry, now)
            else:
                self.make_ready(entry)

    @property
    def earliest_deadline(self) -> float:
        return self._timetable.earliest

    def next_deadline(self) -> float | None:
        return self._timetable.next()

    def make_ready(self, entry: Entry) -> None:
        self._set_state(entry, State.READY)
        heapq.heappush(self._heap, entry.message_id)
        if self.orders(entry):
            self.unpark(self.lines.release(entry.ordering_key, entry.message_id))

    def forget(self, entry: Entry) -> None:
        """Remove a message from memory."""
        del self._entries[entry.message_id]
        self._set_state(entry, _GONE)
        if entry.holder is not None:
            self._release(entry)
        if self.policy.ordered and self.orders(entry):
            self.unpark(self.lines.leave(entry.ordering_key, entry.message_id))

    def forget_most(self, floor: int, *, keep_leases: bool) -> None:
        """Remove all messages but those above ``floor`` that somebody holds, or that wait for their next try."""
        for entry in list(self._entries.values()):
            if entry.message_id <= floor or entry.state not in _BUSY or not keep_leases:
                self.forget(entry)
        self._heap.clear()
        self.lines.unspill()

    def take_returned(self) -> list[Pending]:
        returned, self._returned = self._returned, []
        return returned

    def take_dead(self) -> list[Pending]:
        dead, self._dead = self._dead, []
        return dead

    def _give_back_one(self, entry: Entry, now: float) -> None:
        self._release(entry)
        delay = self.policy.delay_seconds(entry.attempts)
        if self.policy.is_worn_out(entry.attempts):
            # On disk it stays leased until it is forwarded: nobody gets it after a restart between.
            self._set_state(entry, State.DEAD)
            self._dead.append(entry.pending())
            return
        self._returned.append(entry.pending())
        if delay > 0:
            self._set_state(entry, State.DELAYED)
            self._timetable.set(entry, now + delay)
            if self.orders(entry):
                self.lines.delay(entry.ordering_key, entry.message_id)
        else:
            self.make_ready(entry)

    def _set_state(self, entry: Entry, state: State) -> None:
        before = entry.state
        if before is _READY:
            self.ready -= 1
        elif before in _HELD:
            self.held -= 1
        if state is _READY:
            self.ready += 1
        elif state in _HELD:
            self.held += 1
        entry.state, entry.due = state, math.inf

    @staticmethod
    def _release(entry: Entry) -> None:
        if entry.holder is not None:
            entry.holder.release(entry.size)
            entry.holder = None
