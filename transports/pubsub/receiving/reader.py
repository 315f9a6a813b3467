"""A thread that reads one subscription, as long as its channel has room for messages.

A stream is open only while there is room, is told how much, and is ended as soon as there is none: no message lies
hidden in a buffer behind one that is worked on for days. What arrives beyond the room is given back at once.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

from transports.errors import (
    ConnectionFailed,
    LeasesRefused,
    NotAuthenticated,
    QueueNotFound,
    ServerUnavailable,
    TransportError,
)
from transports.pubsub.receiving.intake import Intake
from transports.pubsub.receiving.parcel import Parcel
from transports.pubsub.receiving.prefetch import Prefetch
from transports.pubsub.server.stream import Received, Stream

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

    #: Take a message over, of this priority; False: it is not wanted any more.
    deliver: Callable[[Parcel, int], bool]
    #: Raise an error where messages are consumed.
    fail: Callable[[TransportError], None]
    #: Create the subscription again; False: it is not ours to create.
    recreate: Callable[[], bool]


class Reader:
    """Reads from `start` to `stop`."""

    def __init__(self, intake: Intake, handlers: Handlers, *, link: Link, prefetch: Prefetch) -> None:
        self._subscription = intake.source.subscription
        self._priority = intake.source.route.step
        self._intake = intake
        self._handlers = handlers
        self._link = link
        self._prefetch = prefetch
        prefetch.join(self, self._priority)
        # The same for every stream of this reader: the server then prefers it for what it has sent before.
        self._client_id = str(uuid4())
        self._stream: Stream | None = None
        self._stopped = threading.Event()
        self._pause = 0.0
        self._thread = threading.Thread(target=self._run, name=f"pubsub-reader-{self._subscription}", daemon=True)

    def start(self) -> None:
        self._link.watchdog.start()
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
        try:
            self._read_while_there_is_room()
        finally:
            self._prefetch.leave(self)

    def _read_while_there_is_room(self) -> None:
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
        """Read one stream to its end; it brings at most as many messages as there was room for.

        What was dealt with on the way in counts too: the server reckons it to this stream, and a new one starts afresh.
        """
        stream = self._stream = self._link.client.stream(
            self._subscription, client_id=self._client_id, max_messages=room
        )
        if self._stopped.is_set() or not self._prefetch.can_consume():
            stream.finish()
        brought = 0
        began_at = time.monotonic()
        self._prefetch.opened(self)
        try:
            for batch in self._link.client.read(stream, self._subscription):
                self._pause = 0.0
                brought += len(batch)
                for message in self._leased(batch):
                    self._receive(message)
                if brought >= room or not self._prefetch.can_consume():
                    stream.finish()
        finally:
            self._prefetch.ended(self)
        self._stream = None
        if time.monotonic() - began_at < _FIRST_PAUSE_SECONDS and not brought and not stream.finishing:
            self._stopped.wait(_FIRST_PAUSE_SECONDS)

    def _leased(self, batch: list[Received]) -> list[Received]:
        """With exactly-once delivery, leave out what is not ours any more: only a confirmed lease counts."""
        if not self._link.options.exactly_once:
            return batch
        ack_ids = [message.ack_id for message in batch]
        try:
            self._link.client.modify_ack_deadline(
                self._subscription, ack_ids, math.ceil(self._link.options.lease_seconds(0))
            )
        except LeasesRefused as exc:
            return [message for message in batch if message.ack_id not in exc.lost | exc.again]
        return batch

    def _receive(self, message: Received) -> None:
        parcel = self._intake.take_in(message)
        if parcel is None:
            return
        if parcel.due_in_seconds > 0:
            self._link.alarm.call_in(parcel.due_in_seconds, lambda: self._offer(parcel))
        else:
            self._offer(parcel)

    def _offer(self, parcel: Parcel) -> None:
        """Deliver a message if there is a slot for it, else give it back."""
        if self._stopped.is_set() or not self._prefetch.take(self._priority):
            self._link.keeper.nack(parcel.lease)
        elif not self._handlers.deliver(parcel, self._priority):
            self._link.keeper.nack(parcel.lease)
            self._prefetch.release()

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
