"""Publish thousands of messages in a few calls.

    with transports.bulk():
        for number in range(10_000):
            add.delay(number, number)

Inside of the block a publish returns at once; when the block has ended, every message was confirmed, or `NotConfirmed`
is raised and says how many were not. That holds for what this thread publishes through this transport; broadcasts and
transient messages, and other transports, are not concerned.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol

from transports.errors import NotConfirmed, ServerUnavailable, TransportError

if TYPE_CHECKING:
    from transports.pubsub.server.messages import Outgoing
    from transports.pubsub.topology.names import Route

logger = logging.getLogger(__name__)

#: Most messages in one call: Pub/Sub's limit is 1,000, and smaller calls are sent while the next one is filled.
_BATCH_MESSAGES = 250
#: Most bytes in one call; Pub/Sub's limit is 10 MB.
_BATCH_BYTES = 4_000_000

_current: ContextVar[Bulk | None] = ContextVar("transports_bulk", default=None)


class Sender(Protocol):
    """What a bulk needs of a publisher."""

    def send(self, route: Route, messages: list[Outgoing]) -> None: ...


class Batch:
    """Messages for one route, to go in one call."""

    def __init__(self, publisher: Sender, route: Route) -> None:
        self.publisher = publisher
        self.route = route
        self.messages: list[Outgoing] = []
        self._size_bytes = 0

    def fits(self, message: Outgoing) -> bool:
        fits = self._size_bytes + message.size_bytes <= _BATCH_BYTES and len(self.messages) < _BATCH_MESSAGES
        return fits or not self.messages

    def add(self, message: Outgoing) -> None:
        self.messages.append(message)
        self._size_bytes += message.size_bytes

    def send(self) -> None:
        self.publisher.send(self.route, self.messages)


class Bulk:
    """Collects messages and sends them in batches, by a thread of its own, in order for each route."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, Route], Batch] = {}
        self._batches: SimpleQueue[Batch | None] = SimpleQueue()
        self._failed: list[tuple[Batch, TransportError]] = []
        self._thread: threading.Thread | None = None
        self._begun_by = os.getpid(), threading.get_ident()
        self._confirmed = False

    @property
    def is_here(self) -> bool:
        """Say whether this thread, and no forked child of it, began it: others publish for themselves."""
        return self._begun_by == (os.getpid(), threading.get_ident())

    @property
    def is_open(self) -> bool:
        """Say whether it takes messages: also what outlives the block publishes for itself."""
        return self.is_here and not self._confirmed

    def add(self, publisher: Sender, route: Route, message: Outgoing) -> None:
        key = id(publisher), route
        batch = self._open.get(key)
        if batch is not None and not batch.fits(message):
            self._send(batch)
            batch = None
        if batch is None:
            batch = self._open[key] = Batch(publisher, route)
        batch.add(message)

    def confirm(self) -> None:
        """Send what is left and wait until everything was confirmed.

        Raises:
            NotConfirmed: some of it was not; its cause is the first error.
        """
        self._confirmed = True
        for batch in self._open.values():
            self._send(batch)
        self._open.clear()
        if self._thread is not None:
            self._batches.put(None)
            self._thread.join()
        if self._failed:
            count = sum(len(batch.messages) for batch, _ in self._failed)
            first = self._failed[0][1]
            raise NotConfirmed(
                f"{count} messages of a bulk were not confirmed, publish them again: {first}", count
            ) from first

    def _send(self, batch: Batch) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="pubsub-bulk", daemon=True)
            self._thread.start()
        self._batches.put(batch)

    def _run(self) -> None:
        unavailable: TransportError | None = None
        while (batch := self._batches.get()) is not None:
            try:
                if unavailable is not None:
                    raise unavailable
                batch.send()
            except TransportError as exc:
                self._failed.append((batch, exc))
                # Each batch would wait for the server as long as this one did.
                unavailable = exc if isinstance(exc, ServerUnavailable) else unavailable
            except Exception as exc:
                logger.exception("publishing a batch failed")
                failure = NotConfirmed(f"publishing met an error of its own: {exc!r}", len(batch.messages))
                self._failed.append((batch, failure))


def current() -> Bulk | None:
    """Return the bulk that this thread is in."""
    found = _current.get()
    return found if found is not None and found.is_open else None


@contextmanager
def bulk() -> Iterator[None]:
    """Confirm all messages that are published in the block together, at its end."""
    if current() is not None:
        yield  # the outer one confirms
        return
    collected = Bulk()
    token = _current.set(collected)
    try:
        yield
    finally:
        _current.reset(token)
        # What was published before an error in the block was published all the same.
        if collected.is_here:
            collected.confirm()
