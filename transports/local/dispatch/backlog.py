"""The messages of one subscription and who holds them: without clock, disk or network of its own.

Times are seconds of a monotonic clock that the caller reads. A message is *ready*, *leased* to a holder until a
deadline, or *delayed* by the retry policy. A lease that ran out makes it ready again, yet its last delivery may be
acknowledged or extended until the message is delivered anew; not so with exactly-once delivery, where only a running
lease counts.

Most of a long backlog stays on disk: what has an id up to the *cursor* is in memory, what lies between it and the
newest id is read, page by page, when somebody takes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from transports.local.dispatch.entries import Entry, Holder, Lease, Policy, Source, State
from transports.local.dispatch.memory import Memory
from transports.local.dispatch.ordering import LINE_MESSAGES
from transports.local.errors import UnavailableError
from transports.local.model import Pending
from transports.local.storage.reading import Tally

__all__ = ["Backlog", "Holder", "Lease", "Policy", "Source"]

_LEASED, _DEAD = State.LEASED, State.DEAD
#: Messages in one page, and most ready ones that publishing leaves in memory: some milliseconds to read, some 300 KB.
PAGE_MESSAGES = 1000
#: Pages that one take reads at most; between takes the event loop serves others.
_PAGES_PER_TAKE = 4


class Backlog:
    """Order, leases and staleness of one subscription's messages."""

    def __init__(self, source: Source, *, first_token: int, tally: Tally | None = None, floor: int = 0) -> None:
        """Start with what ``tally`` says is on disk above ``floor``.

        Tokens from ``first_token`` on are given out by this process, lower ones were by earlier.
        """
        self._source = source
        self._first_token = first_token
        self._memory = Memory()
        self._total, self._newest = (tally.total, tally.newest) if tally else (0, 0)
        self._cursor = self._floor = floor
        self._pages_left = 0
        #: Acknowledged, and perhaps still on disk; with the end of the lease, for the case that they stay.
        self._leaving: dict[int, float] = {}
        #: What was added since a change on disk began, and is still there; None while there is no change.
        self._added: set[int] | None = None
        #: Whether who holds messages keeps them when the change ends.
        self.keeps_leases = True

    def __len__(self) -> int:
        return self._total

    @property
    def policy(self) -> Policy:
        """How messages are delivered."""
        return self._memory.policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._memory.policy = policy

    @property
    def ready(self) -> int:
        """How many messages nobody holds, in memory or not."""
        return self._total - self._memory.held

    @property
    def in_memory(self) -> int:
        """How many messages are in memory."""
        return len(self._memory)

    @property
    def unfinished(self) -> bool:
        """Whether the last take stopped reading before it had seen everything."""
        return self._unread and self._pages_left == 0 and self._added is None

    def oldest_published_us(self) -> int | None:
        """Return the publish time of the oldest message; None if there is none."""
        return self._source.oldest_published_us()

    @property
    def has_room(self) -> bool:
        """Whether what is published now comes into memory, and does not wait on disk until somebody takes it."""
        return self._cursor == self._newest and self._memory.ready < PAGE_MESSAGES

    def add(self, pending: Pending) -> None:
        """Add a message that was published, ready."""
        room = self.has_room
        if self.leave([pending.message_id]) and room:
            self._cursor = pending.message_id
            self._admit(pending)

    def leave(self, message_ids: Sequence[int]) -> bool:
        """Count messages that were published, and leave them on disk; False if a change has counted them meanwhile."""
        if message_ids[-1] <= self._newest:
            return False
        self._total += len(message_ids)
        if self._added is not None:
            self._added.update(message_ids)
        self._newest = message_ids[-1]
        return True

    def hold(self, pending: Pending, deadline: float) -> None:
        """Take up a lease that an earlier process gave."""
        self._memory.lease(self._memory.insert(pending), deadline)

    def take(self, lease: Lease, tokens: Iterator[int]) -> list[Pending]:
        """Lease the oldest ready messages; each gets the next of ``tokens``."""
        owner = lease if lease.holder is None else lease.holder
        # While the backlog is changed on disk, who takes gets what is in memory.
        self._pages_left = _PAGES_PER_TAKE if self._added is None else 0
        self._memory.unpark(self._memory.lines.parked_for(owner))
        self._read_short_lines()
        taken: list[Pending] = []
        room = lease.max_bytes
        while len(taken) < lease.max_messages and (entry := self._next_for(owner, bool(taken))) is not None:
            if entry.size > room and (taken or not lease.oversize):
                break
            room -= entry.size
            entry.token, entry.holder, entry.attempts = next(tokens), lease.holder, entry.attempts + 1
            self._memory.lease(entry, lease.deadline, owner)
            taken.append(entry.pending())
        return taken

    def settle(self, message_id: int, token: int, now: float = -math.inf) -> Entry | None:
        """Remove an acknowledged message; None if its ack id is good no longer.

        It must be followed by ``settled`` once it is gone from the disk, or by ``restore``.
        """
        entry = self._current(message_id, token, now)
        if entry is None:
            return None
        self._remove(entry)
        return entry

    def settled(self, message_ids: Iterable[int]) -> None:
        """Forget what is gone from the disk."""
        for each in message_ids:
            self._leaving.pop(each, None)

    def restore(self, messages: Iterable[Pending]) -> None:
        """Take back what could not be removed: leased as it was, else ready."""
        for each in messages:
            due = self._leaving.pop(each.message_id, math.inf)
            self._total += 1
            if self._added is not None:
                self._added.add(each.message_id)
            entry = self._memory.insert(each)
            if due < math.inf:
                self._memory.lease(entry, due)

    def extend(self, message_id: int, token: int, deadline: float, now: float = -math.inf) -> bool:
        """Lease a delivered message until another time; False if its ack id is good no longer."""
        entry = self._current(message_id, token, now)
        if entry is None:
            return False
        entry.token = token
        self._memory.lease(entry, deadline)
        return True

    def lease_ends(self, message_ids: Iterable[int]) -> list[tuple[Pending, float]]:
        """Return, of those messages that are leased, until when."""
        found = [self._memory.get(each) for each in message_ids]
        return [(each.pending(), each.due) for each in found if each is not None and each.state is State.LEASED]

    def give_back(self, message_id: int, token: int, now: float = 0.0) -> bool:
        """End the lease of a delivered message; False if its ack id is good no longer."""
        entry = self._current(message_id, token, now)
        if entry is None:
            return False
        if entry.state is State.LEASED:
            self._memory.give_back(entry, now)
        return True

    def undo(self, message_id: int, token: int) -> None:
        """Make a message ready, as if never taken, that did not reach its consumer."""
        entry = self._memory.get(message_id)
        if entry is not None and entry.token == token and entry.state is State.LEASED:
            self._memory.undo(entry)

    def drop(self, message_id: int, token: int) -> None:
        """Forget a message that was taken, and is no longer on disk."""
        entry = self._memory.get(message_id)
        if entry is not None and entry.token == token:
            self._forget(entry)

    def lapse(self, now: float) -> None:
        """End the leases that have run out, and the delays that are over."""
        self._memory.lapse(now)

    @property
    def earliest_deadline(self) -> float:
        """A time before which no lease or delay ends; infinity if there is none."""
        return self._memory.earliest_deadline

    def next_deadline(self) -> float | None:
        """Return when a lease or a delay may end; None if there is none."""
        return self._memory.next_deadline()

    def take_returned(self) -> list[Pending]:
        """Return, once, the messages whose leases have ended, and that somebody may get."""
        return self._memory.take_returned()

    def take_dead(self) -> list[Pending]:
        """Return, once, the messages that were delivered as often as the policy allows; nobody gets them."""
        return self._memory.take_dead()

    def bury(self, message_id: int) -> Pending | None:
        """Remove a dead message as ``settle`` does; None if it is gone."""
        entry = self._memory.get(message_id)
        if entry is None or entry.state is not State.DEAD:
            return None
        self._remove(entry)
        return entry.pending()

    @property
    def changing(self) -> bool:
        """Whether a change on disk has begun and not ended."""
        return self._added is not None

    def begin_change(self, *, keep_leases: bool = True) -> None:
        """Note what is published while the backlog is changed on disk, and read nothing of it meanwhile.

        A change may begin before the last one has ended: then they end together, and leases are kept if both do so.
        """
        self.keeps_leases = keep_leases and (self._added is None or self.keeps_leases)
        self._added = self._added or set()

    def end_change(self, tally: Tally | None = None, floor: int = 0) -> None:
        """Follow a change on disk: nothing is left at or below ``floor``, the rest is read anew; None is no change."""
        added, self._added = self._added or set(), None
        if tally is None:
            return
        self._memory.forget_most(floor, keep_leases=self.keeps_leases)
        self._total = tally.total + sum(each > tally.newest for each in added)
        self._newest, self._cursor, self._floor = max(self._newest, tally.newest), floor, floor

    def _current(self, message_id: int, token: int, now: float) -> Entry | None:
        """Find a message by its latest delivery.

        A token of an earlier process that is later than the remembered one is the latest: the process was killed
        before it could write it down.
        """
        entry = self._memory.get(message_id) or self._fetch(message_id, token)
        if entry is None or (token != entry.token and not entry.token < token < self._first_token):
            return None
        state = entry.state
        if state is not _LEASED and (state is _DEAD or self._memory.policy.exactly_once):
            return None
        return None if entry.due <= now and self._memory.policy.exactly_once else entry

    def _fetch(self, message_id: int, token: int) -> Entry | None:
        """Read a message that an earlier process delivered, so that its ack id is understood."""
        if token >= self._first_token or message_id in self._leaving or not self._floor < message_id <= self._newest:
            return None
        found = self._source.page(after=message_id - 1, until=message_id, at_most=1)
        return self._memory.insert(found[0]) if found else None

    @property
    def _unread(self) -> bool:
        return self._cursor < self._newest

    def _next_for(self, owner: object, content: bool) -> Entry | None:
        """Find the next message for somebody; who has some is content with them if no more can be read."""
        while (entry := self._memory.first_ready(owner)) is None and self._unread and self._pages_left > 0:
            try:
                self._read_page()
            except UnavailableError:
                if content:
                    return None
                raise
        return entry

    def _read_page(self) -> None:
        self._pages_left -= 1
        page = self._source.page(after=self._cursor, until=self._newest, at_most=PAGE_MESSAGES)
        self._cursor = page[-1].message_id if len(page) == PAGE_MESSAGES else self._newest
        for each in self._unknown(page):
            self._admit(each)

    def _read_short_lines(self) -> None:
        if self._added is not None:
            return
        for key, since in self._memory.lines.short():
            page = self._source.page_of_key(key, since=since, until=self._cursor, at_most=LINE_MESSAGES)
            for each in self._unknown(page):
                self._memory.insert(each)
            self._memory.lines.read_until(key, page[-1].message_id + 1 if len(page) == LINE_MESSAGES else None)

    def _unknown(self, page: Sequence[Pending]) -> Iterable[Pending]:
        return [each for each in page if each.message_id not in self._memory and each.message_id not in self._leaving]

    def _admit(self, pending: Pending) -> None:
        """Take a message into memory, unless too many of its key are there."""
        if self._memory.orders(pending) and self._memory.lines.spills(pending.ordering_key, pending.message_id):
            return
        self._memory.insert(pending)

    def _remove(self, entry: Entry) -> None:
        self._leaving[entry.message_id] = entry.due if entry.state is _LEASED else math.inf
        self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        self._total -= 1
        if self._added is not None:
            self._added.discard(entry.message_id)
        self._memory.forget(entry)
