"""Who gets the next message of a subscription, and when: consumers that wait, and one timer.

Nothing here polls. A consumer that waits is served the moment a message is ready and it has room; the timer is set to
the next lease that runs out or message that becomes too old, and to nothing when there is neither.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence

from transports.local.backlog import Backlog, Lease
from transports.local.model import Pending
from transports.local.rules import MAX_MESSAGES

#: Most bytes of messages in one response, so that a slow reader does not hold much; a single message may be larger.
RESPONSE_BYTES = 1_000_000


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
    def has_room(self) -> bool:
        return self._held < self._max_messages and self._held_bytes < self._max_bytes

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


class Dispatcher:
    """One subscription at work: its backlog, the consumers that wait, the timer."""

    def __init__(
        self,
        backlog: Backlog,
        *,
        tokens: Iterator[int],
        on_delivered: Callable[[Sequence[Pending]], None],
        on_dropped: Callable[[Sequence[int]], None],
        retention_seconds: int,
    ) -> None:
        self.backlog = backlog
        self._tokens = tokens
        self._on_delivered = on_delivered
        self._on_dropped = on_dropped
        self._retention_us = retention_seconds * 1_000_000
        self._waiting: dict[Consumer, None] = {}
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._oldest_us: int | None = None
        self._pump_scheduled = False
        self._closed: Exception | None = None
        self.drop_expired()

    def add(self, messages: Sequence[Pending]) -> None:
        """Add published messages and serve who waits."""
        for each in messages:
            self.backlog.add(each)
        if self._oldest_us is None and messages:
            self._oldest_us = messages[0].published_us
        self.pump()

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
        self.pump()
        try:
            return await consumer.batch
        except asyncio.CancelledError:
            self._take_back(consumer.batch)
            raise
        finally:
            self._waiting.pop(consumer, None)

    def settle(self, message_id: int, token: int) -> Pending | None:
        """Remove an acknowledged message from memory; the caller makes that durable, or adds it again."""
        return self.backlog.settle(message_id, token)

    def extend(self, message_id: int, token: int, seconds: int) -> None:
        """Lease a delivered message for so many seconds from now; 0 gives it back. Stale tokens do nothing."""
        if seconds == 0:
            self.backlog.give_back(message_id, token)
            self.pump_soon()
        else:
            self.backlog.extend(message_id, token, self._loop.time() + seconds)
            self._set_timer()

    def give_back(self, batch: Sequence[Pending]) -> None:
        """Make messages ready that were taken and not handed on."""
        for each in batch:
            self.backlog.give_back(each.message_id, each.token)
        self.pump_soon()

    def set_retention(self, seconds: int) -> None:
        self._retention_us = seconds * 1_000_000
        self.drop_expired()

    def drop_expired(self) -> None:
        """Drop what is older than the retention."""
        if expired := self.backlog.published_until(_wall_us() - self._retention_us):
            self.backlog.drop(expired)
            self._on_dropped(expired)
        self._oldest_us = self.backlog.oldest_published_us()
        self._set_timer()

    def close(self, error: Exception) -> None:
        """Serve nobody any more; who waits, or asks later, gets ``error``."""
        self._closed = error
        if self._timer is not None:
            self._timer.cancel()
        for consumer in self._waiting:
            if consumer.batch is not None and not consumer.batch.done():
                consumer.batch.set_exception(error)

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
        with_room = [consumer for consumer in self._waiting if consumer.has_room] if self.backlog.ready else []
        for served, consumer in enumerate(with_room):
            share = math.ceil(self.backlog.ready / (len(with_room) - served))
            batch = self.backlog.take(consumer.lease(self._loop.time(), share), self._tokens)
            if batch:
                del self._waiting[consumer]
                self._on_delivered(batch)
                consumer.accept(batch)
        self._set_timer()

    def _take_back(self, batch: asyncio.Future[list[Pending]]) -> None:
        if batch.done() and not batch.cancelled() and batch.exception() is None:
            self.give_back(batch.result())

    def _set_timer(self) -> None:
        """Wake for the next lease that runs out or message that becomes too old; too early does no harm."""
        times = [self.backlog.next_deadline()]
        if self._oldest_us is not None:
            times.append(self._loop.time() + (self._oldest_us + self._retention_us - _wall_us()) / 1_000_000)
        known = [each for each in times if each is not None]
        if not known or self._closed is not None:
            return
        if self._timer is not None:
            if self._timer.when() <= min(known):
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(min(known), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.backlog.lapse(self._loop.time())
        if self._oldest_us is not None and self._oldest_us + self._retention_us <= _wall_us():
            self.drop_expired()
        self.pump()


def _wall_us() -> int:
    return time.time_ns() // 1000
