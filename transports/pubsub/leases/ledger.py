"""Which messages this process holds, until when, and what the server has yet to be told about them.

No threads, no calls, no clock of its own: `keeper` drives it. Times are monotonic seconds.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field
from itertools import count

from transports.pubsub.options import Options

#: Message ids remembered after their acknowledgement: a late redelivery of one is acknowledged again, not delivered.
_REMEMBERED = 10_000
#: Deferred messages that are remembered before those are looked for that have come back meanwhile.
_PRUNE_AT_LEAST = 1000
#: Most ack ids in one call, and most bytes of them; Pub/Sub refuses calls of more than 512 KiB.
_BATCH_IDS = 1000
_BATCH_BYTES = 400_000

#: Longest lease Pub/Sub grants.
LONGEST_SECONDS = 600

#: Subscription, message id and time of publishing: what stays the same over redeliveries. The time is needed because a
#: server that lost its data counts its messages from 1 again.
Key = tuple[str, str, float]


@dataclass(slots=True, eq=False)
class Lease:
    """One message held by this process; `ack_id` changes with each delivery."""

    subscription: str
    message_id: str
    ack_id: str
    taken_at: float
    expires_at: float
    renew_at: float
    published_at: float = 0.0
    settled: bool = False
    lost: bool = False

    @property
    def key(self) -> Key:
        return self.subscription, self.message_id, self.published_at


@dataclass(frozen=True, slots=True)
class Deadline:
    """A lease to be set once: 0 seconds give the message back."""

    subscription: str
    message_id: str
    ack_id: str
    seconds: int
    #: When it is of no use any more, because the lease has ended by itself.
    until: float


@dataclass
class Ledger:
    """The book of leases."""

    options: Options
    held: dict[Key, Lease] = field(default_factory=dict)
    acks: dict[Key, Lease] = field(default_factory=dict)
    deadlines: deque[Deadline] = field(default_factory=deque)
    deferred: dict[Key, Deadline] = field(default_factory=dict)
    _acked: dict[Key, None] = field(default_factory=dict)
    _due: list[tuple[float, int, Lease]] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=count)
    _prune_at: int = _PRUNE_AT_LEAST

    @property
    def is_settled(self) -> bool:
        """Say whether the server knows everything it has to be told."""
        return not self.acks and not self.deadlines

    def hold(
        self, subscription: str, message_id: str, ack_id: str, now: float, published_at: float = 0.0
    ) -> Lease | None:
        """Take a delivery in; None: it is one of a message that is held or done here already, do not dispatch it."""
        key = subscription, message_id, published_at
        self.deferred.pop(key, None)
        known = self.held.get(key)
        lease = known or Lease(subscription, message_id, ack_id, now, now, now, published_at)
        lease.ack_id = ack_id
        lease.expires_at = now + self.options.stream_ack_deadline_seconds
        lease.lost = False
        # What is done within moments needs no lease of ours: the server's own is enough.
        self._schedule(lease, now if known else now + self.options.first_renewal_seconds)
        self.held[key] = lease
        if known is None and key in self._acked:
            self.ack(lease)
            return None
        return lease if known is None else None

    def ack(self, lease: Lease) -> None:
        """Note that a message is done; it stays leased until the server has confirmed."""
        if lease.settled:
            return
        lease.settled = True
        self.acks[lease.key] = lease
        self._acked[lease.key] = None
        if len(self._acked) > _REMEMBERED:
            del self._acked[next(iter(self._acked))]

    def set_deadline(self, lease: Lease, seconds: int, now: float, *, ours: bool = True) -> None:
        """Let go of a message: it comes back after so many seconds, 0 at once.

        What is `ours` is given back early when the process ends, because it was this process that could not use it.
        """
        if lease.settled:
            return
        lease.settled = True
        self.held.pop(lease.key, None)
        until = max(lease.expires_at, now + seconds)
        deadline = Deadline(lease.subscription, lease.message_id, lease.ack_id, seconds, until)
        self.deadlines.append(deadline)
        if seconds and ours:
            self._remember(deadline, lease.key, now)

    def _remember(self, deadline: Deadline, key: Key, now: float) -> None:
        self.deferred[key] = deadline
        if len(self.deferred) >= self._prune_at:
            self.deferred = {key: each for key, each in self.deferred.items() if each.until > now}
            self._prune_at = max(_PRUNE_AT_LEAST, 2 * len(self.deferred))

    def give_all_back(self, now: float) -> None:
        """Let go of everything that is not done, also of what was deferred."""
        for lease in list(self.held.values()):
            self.set_deadline(lease, 0, now)
        for later in self.deferred.values():
            if later.until > now:
                self.deadlines.append(Deadline(later.subscription, later.message_id, later.ack_id, 0, later.until))
        self.deferred.clear()

    def acked(self, leases: Iterable[Lease]) -> None:
        """Forget messages whose acknowledgement the server has confirmed, or will never accept."""
        for lease in leases:
            self.acks.pop(lease.key, None)
            if self.held.get(lease.key) is lease:
                del self.held[lease.key]

    def told(self, deadlines: Set[Deadline]) -> None:
        """Forget deadlines that the server knows, or that are of no use any more."""
        if deadlines:
            self.deadlines = deque(each for each in self.deadlines if each not in deadlines)

    def renewed(self, lease: Lease, seconds: float, now: float) -> None:
        """Note a renewal that the server confirmed; `now` is when it was asked for."""
        lease.expires_at = now + seconds
        self._schedule(lease, now + seconds * self.options.renew_fraction)

    def postpone(self, lease: Lease, until: float) -> None:
        """Renew later: the server did not answer."""
        self._schedule(lease, until)

    def postpone_all(self, until: float) -> None:
        """Renew everything at the same time: after an error nobody knows what was renewed."""
        for lease in self.held.values():
            self._schedule(lease, until)

    def next_due(self) -> float | None:
        """Return when the next lease has to be renewed."""
        while self._due and not self._is_current(self._due[0]):
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def take_due(self, now: float) -> list[Lease]:
        """Return the leases to renew now; each has to be `renewed` or `postpone`-d."""
        due = []
        while (at := self.next_due()) is not None and at <= now:
            due.append(heapq.heappop(self._due)[2])
        return due

    def _schedule(self, lease: Lease, at: float) -> None:
        lease.renew_at = at
        heapq.heappush(self._due, (at, next(self._order), lease))

    def _is_current(self, entry: tuple[float, int, Lease]) -> bool:
        at, _, lease = entry
        return lease.renew_at == at and self.held.get(lease.key) is lease


def batches(ack_ids: Iterable[str]) -> Iterator[list[str]]:
    """Split ack ids so that each call stays below the limits of Pub/Sub."""
    batch: list[str] = []
    size = 0
    for ack_id in ack_ids:
        if batch and (len(batch) == _BATCH_IDS or size + len(ack_id) > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(ack_id)
        size += len(ack_id)
    if batch:
        yield batch
