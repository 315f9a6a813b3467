"""A thread that reads one subscription, as long as its channel has room for messages.

A stream is opened only when there is room, and is told how much: no message lies hidden in a buffer behind one that is
worked on for days. On a server that keeps to that it stays open, and brings the next message when one is settled.
Google's emulator does not keep to it: there, a stream is ended as soon as there is no room. What arrives beyond the
room goes back within a moment.
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
from transports.pubsub.receiving.allotment import Allotment
from transports.pubsub.receiving.intake import Intake
from transports.pubsub.receiving.parcel import Parcel
from transports.pubsub.receiving.prefetch import Prefetch
from transports.pubsub.server.messages import Received
from transports.pubsub.server.stream import Stream

if TYPE_CHECKING:
    from transports.pubsub.link import Link

logger = logging.getLogger(__name__)

#: Seconds before a stream that failed is opened again; doubled each time.
_FIRST_PAUSE_SECONDS = 0.1
#: Seconds that opening a stream waits at most until the server knows what was given back from the one before.
_GIVE_BACK_SECONDS = 0.1
#: Seconds that a message waits for a slot at most before it is given back.
_PATIENCE_SECONDS = 0.05
#: Most messages that a stream is told when the one before it brought only what is not to be delivered now.
_LONGEST_STRETCH = 200
#: Seconds before a subscription that was deleted is created again.
_RECREATE_PAUSE_SECONDS = 0.5

#: How often in a row a subscription is created again that is missing again.
_MOST_MISSED = 5


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
        self._allotment: Allotment | None = None
        self._stopped = threading.Event()
        self._pause = 0.0
        # How often in a row the subscription was missing.
        self._missed = 0
        # How many messages the next stream may bring at least: ever more while none is to be delivered now.
        self._stretch = 0
        self._delivered = False
        self._gave_back = False
        self._surplus = False
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

    def widen(self) -> None:
        """Have a stream renewed that may bring no more although there are slots: they were taken when it was opened."""
        stream, allotment = self._stream, self._allotment
        if stream is not None and allotment is not None and allotment.is_full:
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
        """Read one stream to its end."""
        size = max(room, self._stretch)
        stream = self._stream = self._link.client.stream(
            self._subscription, client_id=self._client_id, max_messages=size
        )
        allotment = self._allotment = Allotment(size, renew=stream.finish, free=lambda: self._prefetch.free)
        self._delivered = False
        if self._stopped.is_set() or not self._prefetch.can_consume():
            stream.finish()
        brought = 0
        began_at = time.monotonic()
        if not stream.finishing:
            self._prefetch.opened(self)
        try:
            for batch in self._link.client.read(stream, self._subscription):
                self._pause = 0.0
                self._missed = 0
                brought += len(batch)
                self._receive_all(batch, allotment, stream)
        finally:
            self._prefetch.ended(self)
        self._stream = None
        self._stretch = min(_LONGEST_STRETCH, 2 * size) if brought and not self._delivered else 0
        if self._gave_back:
            # What was given back comes first again only if the server knows it before another stream is opened.
            self._gave_back = False
            self._link.keeper.flush(_GIVE_BACK_SECONDS)
        if time.monotonic() - began_at < _FIRST_PAUSE_SECONDS and not brought and not stream.finishing:
            self._stopped.wait(_FIRST_PAUSE_SECONDS)

    def _receive_all(self, batch: list[Received], allotment: Allotment, stream: Stream) -> None:
        allotment.receive(len(batch))
        if allotment.is_exceeded and not stream.finishing and self._link.limits_are_kept:
            logger.info(
                "%s sends more than a stream is told: streams are ended when there is no room", self._link.address
            )
            self._link.limits_are_kept = False
        patient = self._link.limits_are_kept and not stream.finishing
        until = time.monotonic() + _PATIENCE_SECONDS if patient else 0.0
        self._surplus = False
        for message in self._leased(batch):
            self._receive(message, allotment, until)
        if self._surplus:
            self._prefetch.end_streams()
        elif self._prefetch.ends_when_full and (allotment.is_full or not self._prefetch.can_consume()):
            stream.finish()

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

    def _receive(self, message: Received, allotment: Allotment, until: float) -> None:
        parcel = self._intake.take_in(message, allotment)
        if parcel is None:
            return
        self._delivered = True
        if parcel.due_in_seconds > 0:
            self._link.alarm.call_in(parcel.due_in_seconds, lambda: self._offer(parcel))
        elif not self._offer(parcel, until):
            self._surplus = True

    def _offer(self, parcel: Parcel, until: float = 0.0) -> bool:
        """Deliver a message if there is a slot for it until then, else give it back."""
        if self._stopped.is_set() or not self._prefetch.take(self._priority, until=until):
            self._give_back(parcel)
            return False
        if not self._handlers.deliver(parcel, self._priority):
            self._give_back(parcel)
            self._prefetch.release()
        return True

    def _give_back(self, parcel: Parcel) -> None:
        self._gave_back = True
        self._link.keeper.nack(parcel.lease)
        parcel.settle()

    def _wait_before_trying_again(self, exc: TransportError) -> None:
        if self._pause >= 1:
            logger.warning("%s cannot be read at the moment, trying again: %s", self._subscription, exc)
        self._stopped.wait(self._pause)
        self._pause = min(self._link.options.retry_ceiling_seconds, 2 * self._pause or _FIRST_PAUSE_SECONDS)

    def _recreated(self, exc: QueueNotFound) -> bool:
        self._wait_before_trying_again(exc)
        # Who deletes a queue deletes its topic next: let that happen first.
        self._stopped.wait(_RECREATE_PAUSE_SECONDS)
        self._missed += 1
        try:
            if self._stopped.is_set() or (self._missed <= _MOST_MISSED and self._handlers.recreate()):
                return True
        except TransportError as why:
            if isinstance(why, ConnectionFailed) and not isinstance(why, NotAuthenticated):
                return True  # out of reach just now: found missing again, or there, at the next try
            exc.__cause__ = why
        self._handlers.fail(exc)
        return False
