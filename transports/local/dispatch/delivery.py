"""Who gets the next message of a subscription, and when: consumers that wait, and one timer.

Nothing here polls. A consumer that waits is served the moment a message is ready and it has room; the timer is set to
the next lease that runs out or delay that is over, and to nothing when there is neither.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from transports.local.dispatch.backlog import Backlog, Lease
from transports.local.errors import UnavailableError
from transports.local.model import Pending
from transports.local.rules import MAX_MESSAGES
from transports.local.storage.bundles import Bundle, Part

#: Most bytes of messages in one response, so that a slow reader does not hold much; a single message may be larger.
RESPONSE_BYTES = 1_000_000
#: Seconds after which the extension of a lease is written down: most messages are done by then.
NOTE_SECONDS = 1.0


class Consumer:
    """One stream or one pull: its limits, what it holds, and the batch it waits for."""

    def __init__(self, *, ack_deadline_seconds: int, max_messages: int = 0, max_bytes: int = 0) -> None:
        """Limits of 0 or less are none."""
        self.ack_deadline_seconds = ack_deadline_seconds
        self._max_messages = max_messages if max_messages > 0 else math.inf
        self._max_bytes = max_bytes if max_bytes > 0 else math.inf
        self._held = 0
        self._held_bytes = 0
        self._on_room: Callable[[], None] | None = None
        self.batch: asyncio.Future[list[Pending]] | None = None

    @property
    def wants(self) -> bool:
        """Whether it waits for a batch and has room for one."""
        waits = self.batch is not None and not self.batch.done()
        return waits and self._held < self._max_messages and self._held_bytes < self._max_bytes

    def lease(self, now: float, at_most: int) -> Lease:
        """Return the terms on which this consumer takes messages now."""
        room = min(self._max_messages - self._held, at_most, MAX_MESSAGES)
        room_bytes = min(self._max_bytes - self._held_bytes, RESPONSE_BYTES)
        return Lease(
            deadline=now + self.ack_deadline_seconds,
            max_messages=int(max(room, 0)),
            max_bytes=int(max(room_bytes, 0)),
            oversize=self._held == 0 or (self._max_bytes == math.inf),
            holder=self,
        )

    def accept(self, batch: list[Pending]) -> None:
        """Hand over what was taken."""
        self._held += len(batch)
        self._held_bytes += sum(each.size for each in batch)
        if self.batch is not None and not self.batch.done():
            self.batch.set_result(batch)

    def watch_room(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called whenever something held is settled, given back or lost."""
        self._on_room = callback

    def release(self, size: int) -> None:
        self._held -= 1
        self._held_bytes -= size
        if self._on_room is not None:
            self._on_room()


class Observer(Protocol):
    """Who writes down what a dispatcher does, and forwards what nobody could handle."""

    def awaited(self) -> None:
        """Have come what is on its way: a consumer waits."""

    def delivered(self, batch: Sequence[Pending], seconds: float) -> None:
        """Remember that messages are leased from now on for so long."""

    def extended(self, leases: Sequence[tuple[Pending, float]]) -> None:
        """Remember for how many seconds from now messages are leased."""

    def returned(self, messages: Sequence[Pending]) -> None:
        """Remember that messages are leased no longer, and how often they were delivered."""

    def died(self, messages: Sequence[Pending]) -> None:
        """Take messages away that were delivered as often as the policy allows."""


class Dispatcher:
    """One subscription at work: its backlog, the consumers that wait, the timer."""

    def __init__(self, backlog: Backlog, *, tokens: Iterator[int], observer: Observer) -> None:
        self.backlog = backlog
        self._tokens = tokens
        self._observer = observer
        self._waiting: dict[Consumer, None] = {}
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._pump_scheduled = False
        self._closed: Exception | None = None
        #: Whose leases were extended since the last report.
        self._extended: set[int] = set()

    @property
    def consumers(self) -> int:
        """How many wait for messages."""
        return len(self._waiting)

    @property
    def now(self) -> float:
        """The time of leases."""
        return self._loop.time()

    def add(self, published: Iterable[tuple[Bundle, Part]], *, ordered: bool) -> None:
        """Add published messages and serve who waits."""
        for bundle, part in published:
            if self.backlog.has_room:
                for each in bundle.pending(part, ordered=ordered):
                    self.backlog.add(each)
            else:
                self.backlog.leave(part.ids())
        self.pump()

    def hold(self, messages: Iterable[Pending], seconds: float) -> None:
        """Take up leases of an earlier process for some seconds."""
        for each in messages:
            self.backlog.hold(each, self.now + seconds)
        self._set_timer()

    async def next_batch(self, consumer: Consumer) -> list[Pending]:
        """Wait until there is something for a consumer; if it is cancelled, nothing stays leased.

        Raises:
            What the dispatcher was closed with.
        """
        if self._closed is not None:
            raise self._closed
        consumer.batch = self._loop.create_future()
        consumer.watch_room(self.pump_soon)
        self._waiting[consumer] = None
        self._observer.awaited()
        self.pump()
        try:
            return await consumer.batch
        except asyncio.CancelledError:
            self._take_back(consumer.batch)
            raise
        finally:
            self._waiting.pop(consumer, None)

    def extend(self, message_id: int, token: int, seconds: int) -> bool:
        """Lease a delivered message for so many seconds from now, 0 gives it back; False if its ack id is bad."""
        if seconds == 0:
            good = self.backlog.give_back(message_id, token, self.now)
            self.pump_soon()
        else:
            good = self.backlog.extend(message_id, token, self.now + seconds, self.now)
            self._set_timer()
            if good:
                self._note_extension(message_id)
        return good

    def undo(self, batch: Iterable[tuple[int, int]]) -> None:
        """Make messages ready, by id and token, that were taken and did not reach their consumer."""
        for message_id, token in batch:
            self.backlog.undo(message_id, token)
        self.pump_soon()

    def close(self, error: Exception) -> None:
        """Serve nobody any more; who waits, or asks later, gets ``error``."""
        self._closed = error
        self.report()
        if self._timer is not None:
            self._timer.cancel()
        self._fail(error)

    def report(self) -> None:
        """Have written down what has happened to leases and was not yet."""
        self._report_extensions()
        self._report_returned()

    def pump_soon(self) -> None:
        """Serve who waits, once, after everything of the current request was done."""
        if not self._pump_scheduled:
            self._pump_scheduled = True
            self._loop.call_soon(self.pump)

    def pump(self) -> None:
        """Serve the consumers that wait, longest first, in fair shares."""
        self._pump_scheduled = False
        if self._closed is not None:
            return
        self._report_returned()
        if dead := self.backlog.take_dead():
            self._observer.died(dead)
        with_room = [consumer for consumer in self._waiting if consumer.wants] if self.backlog.ready else []
        try:
            for served, consumer in enumerate(with_room):
                share = math.ceil(self.backlog.ready / (len(with_room) - served))
                self._serve(consumer, share)
        except UnavailableError as exc:
            self._fail(exc)
        if with_room and self.backlog.unfinished:
            self.pump_soon()
        self._set_timer()

    def _serve(self, consumer: Consumer, share: int) -> None:
        if batch := self.backlog.take(consumer.lease(self.now, share), self._tokens):
            del self._waiting[consumer]
            self._observer.delivered(batch, consumer.ack_deadline_seconds)
            consumer.accept(batch)

    def _report_returned(self) -> None:
        if returned := self.backlog.take_returned():
            self._observer.returned(returned)

    def _note_extension(self, message_id: int) -> None:
        """Have it written down, unless the message is done by then."""
        if not self._extended:
            self._loop.call_later(NOTE_SECONDS, self._report_extensions)
        self._extended.add(message_id)

    def _report_extensions(self) -> None:
        found = self.backlog.lease_ends(self._extended)
        self._extended.clear()
        if found:
            self._observer.extended([(each, due - self.now) for each, due in found])

    def _fail(self, error: Exception) -> None:
        for consumer in self._waiting:
            if consumer.batch is not None and not consumer.batch.done():
                consumer.batch.set_exception(error)

    def _take_back(self, batch: asyncio.Future[list[Pending]]) -> None:
        if batch.done() and not batch.cancelled() and batch.exception() is None:
            self.undo((each.message_id, each.token) for each in batch.result())

    def _set_timer(self) -> None:
        """Wake when the next lease or delay may end; too early does no harm."""
        if self._timer is not None and self._timer.when() <= self.backlog.earliest_deadline:
            return
        due = self.backlog.next_deadline()
        if due is None or self._closed is not None:
            return
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.backlog.lapse(self.now)
        self.pump()
