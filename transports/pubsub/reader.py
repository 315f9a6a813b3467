"""A thread that reads one subscription, as long as its channel has room for messages.

A stream is open only while there is room, is told how much, and is ended as soon as there is none: no message lies
hidden in a buffer behind one that is worked on for days. What arrives beyond the room is given back at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

from transports.errors import (
    ConnectionFailed,
    NotAuthenticated,
    QueueNotFound,
    ServerUnavailable,
    TransportError,
)
from transports.pubsub.leases import Lease
from transports.pubsub.prefetch import Prefetch
from transports.pubsub.stream import Received, Stream

if TYPE_CHECKING:
    from transports.pubsub.link import Link

logger = logging.getLogger(__name__)

#: Seconds before a stream that failed is opened again; doubled each time.
_FIRST_PAUSE_SECONDS = 0.1
#: Seconds before a subscription that was deleted is created again.
_RECREATE_PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class Handlers:
    """What a reader asks of its consumer."""

    #: Take a message over; False: it is not wanted any more.
    deliver: Callable[[Received, Lease], bool]
    #: Raise an error where messages are consumed.
    fail: Callable[[TransportError], None]
    #: Create the subscription again; False: it is not ours to create.
    recreate: Callable[[], bool]


class Reader:
    """Reads from `start` to `stop`."""

    def __init__(self, subscription: str, handlers: Handlers, *, link: Link, prefetch: Prefetch) -> None:
        self._subscription = subscription
        self._handlers = handlers
        self._link = link
        self._prefetch = prefetch
        # The same for every stream of this reader: the server then prefers it for what it has sent before.
        self._client_id = str(uuid4())
        self._stream: Stream | None = None
        self._stopped = threading.Event()
        self._pause = 0.0
        self._thread = threading.Thread(target=self._run, name=f"pubsub-reader-{subscription}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask it to stop; what still arrives is given back."""
        self._stopped.set()
        self._prefetch.wake()
        self.end_stream()

    def join(self, timeout_seconds: float) -> None:
        self._thread.join(max(0.0, timeout_seconds))

    def end_stream(self) -> None:
        """End the stream that is open; another one is opened when there is room."""
        stream = self._stream
        if stream is not None:
            stream.finish()

    def _run(self) -> None:
        while room := self._prefetch.wait_for_room(unless=self._stopped.is_set):
            try:
                self._read(room)
            except ServerUnavailable as exc:
                self._wait_before_trying_again(exc)
            except QueueNotFound as exc:
                if not self._recreated(exc):
                    return
            except TransportError as exc:
                self._handlers.fail(exc)
                return
            except Exception as exc:
                logger.exception("reading %s met an error of its own", self._subscription)
                self._handlers.fail(ConnectionFailed(f"reading {self._subscription} stopped: {exc!r}; connect again"))
                return

    def _read(self, room: int) -> None:
        """Read one stream to its end; it brings at most as many messages as there was room for."""
        stream = self._stream = self._link.client.stream(
            self._subscription, client_id=self._client_id, max_messages=room
        )
        if self._stopped.is_set() or not self._prefetch.can_consume():
            stream.finish()
        brought = 0
        opened_at = time.monotonic()
        for batch in self._link.client.read(stream, self._subscription):
            self._pause = 0.0
            brought += sum(self._receive(message) for message in batch)
            if brought >= room or not self._prefetch.can_consume():
                stream.finish()
        self._stream = None
        if time.monotonic() - opened_at < _FIRST_PAUSE_SECONDS and not brought and not stream.finishing:
            self._stopped.wait(_FIRST_PAUSE_SECONDS)

    def _receive(self, message: Received) -> bool:
        """Take a message in and return whether it takes up room."""
        lease = self._link.keeper.hold(self._subscription, message.message_id, message.ack_id, message.published)
        if lease is None:
            return False
        if self._stopped.is_set() or not self._prefetch.take():
            self._link.keeper.nack(lease)
            return False
        if not self._handlers.deliver(message, lease):
            self._link.keeper.nack(lease)
            self._prefetch.release()
            return False
        return True

    def _wait_before_trying_again(self, exc: TransportError) -> None:
        if self._pause >= 1:
            logger.warning("%s cannot be read at the moment, trying again: %s", self._subscription, exc)
        self._stopped.wait(self._pause)
        self._pause = min(self._link.options.retry_ceiling_seconds, 2 * self._pause or _FIRST_PAUSE_SECONDS)

    def _recreated(self, exc: QueueNotFound) -> bool:
        self._wait_before_trying_again(exc)
        # Who deletes a queue deletes its topic next: let that happen first.
        self._stopped.wait(_RECREATE_PAUSE_SECONDS)
        try:
            if self._stopped.is_set() or self._handlers.recreate():
                return True
        except TransportError as why:
            if isinstance(why, ConnectionFailed) and not isinstance(why, NotAuthenticated):
                return True  # out of reach just now: found missing again, or there, at the next try
            exc.__cause__ = why
        self._handlers.fail(exc)
        return False
