"""What is done with a delivery before any consumer sees it, in the thread that received it.

It is leased, decoded, and dealt with here if it is not to be delivered now: expired messages are dropped, unreadable
ones and those that were given back too often are set aside, and what is not due yet goes back under a lease that ends
when it is, so that it takes up neither memory nor a slot.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from transports.errors import TransportError
from transports.pubsub.leases.ledger import Lease
from transports.pubsub.payload import NotAMessage, decode
from transports.pubsub.receiving import schedule
from transports.pubsub.receiving.allotment import Allotment
from transports.pubsub.receiving.parcel import Parcel
from transports.pubsub.server.messages import Outgoing, Received

if TYPE_CHECKING:
    from transports.pubsub.link import Link
    from transports.pubsub.topology.declared import Source

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Intake:
    """The way in for one subscription of a queue."""

    link: Link
    queue: str
    source: Source

    def take_in(self, received: Received, allotment: Allotment | None = None) -> Parcel | None:
        """Lease a delivery, brought by a stream of this budget; None: it was dealt with and is not to be delivered."""
        name = self.source.subscription
        lease = self.link.keeper.hold(name, received.message_id, received.ack_id, received.published_at)
        if lease is None:
            _note(allotment, put_off=True)
            return None
        try:
            return self._opened(received, lease, allotment)
        except NotAMessage as exc:
            reason = f"it is not a kombu message: {exc}"
        except Exception as exc:
            # Whatever it is that the message has done to us: it must not be held for ever, nor end the reader.
            logger.exception("message %s of queue %s cannot be taken in", received.message_id, self.queue)
            reason = f"it cannot be taken in: {exc!r}"
        self._set_aside(received, lease, reason, allotment)
        return None

    def _opened(self, received: Received, lease: Lease, allotment: Allotment | None) -> Parcel | None:
        payload = decode(received.data)
        if self._is_unwanted(payload, received):
            self.link.keeper.ack(lease)
            _note(allotment)
            return None
        limit = self.link.options.max_requeues
        if limit and (count := self.link.requeues.count(lease.key)) >= limit:
            self._set_aside(received, lease, f"it was given back {count} times", allotment)
            return None
        return self._when_due(Parcel(received, lease, payload, allotment=allotment))

    def pull(self, seconds: float) -> Parcel | None:
        """Return a message that can be delivered now, or None if none comes within so many seconds."""
        ends_at = time.monotonic() + seconds
        while (left := ends_at - time.monotonic()) > 0:
            for received in self.link.client.pull(self.source.subscription, timeout_seconds=left):
                parcel = self.take_in(received)
                if parcel is not None and parcel.due_in_seconds <= 0:
                    return parcel
                if parcel is not None:
                    self.link.keeper.defer(parcel.lease, parcel.due_in_seconds, ours=False)
        return None

    def _is_unwanted(self, payload: dict[str, Any], received: Received) -> bool:
        """Say whether a message is too old, now or when it is due, or matches no binding of the queue."""
        if not self.link.topology.wants(self.queue, self.source.route, payload):
            return True
        ttl = schedule.time_to_live_seconds(payload, self.link.topology.message_ttl_seconds(self.queue))
        return ttl is not None and received.published_at + ttl <= max(time.time(), schedule.eta(payload) or 0.0)

    def _when_due(self, parcel: Parcel) -> Parcel | None:
        eta = schedule.eta(parcel.payload)
        if eta is None:
            return parcel
        wait = eta - time.time()
        if wait > self.link.options.eta_lead_seconds:
            renewed = self._renewed(parcel.received, parcel.lease, wait)
            if not renewed:
                self.link.keeper.defer(parcel.lease, schedule.steps_of(wait - 1), ours=False)
            _note(parcel.allotment, put_off=not renewed)
            return None
        schedule.deliver_now(parcel.payload)
        if wait <= 0:
            return parcel
        # While it is held the stream has to bring others.
        _note(parcel.allotment, put_off=True)
        return replace(parcel, due_in_seconds=wait, allotment=None)

    def _renewed(self, received: Received, lease: Lease, wait: float) -> bool:
        """Publish a message anew that would outlive the time for which Pub/Sub keeps it; return whether it was."""
        retention = self.link.topology.retention_seconds
        age = time.time() - received.published_at
        if age < retention / 2 or age + wait < retention:
            return False
        topic = self.link.topology.home(self.queue, self.source)
        try:
            self.link.client.publish(
                topic,
                [Outgoing(received.data, received.attributes)],
                timeout_seconds=self.link.options.publish_timeout_seconds,
            )
        except TransportError as exc:
            logger.warning("message %s cannot be kept until its ETA: %s", received.message_id, exc)
            return False
        self.link.keeper.ack(lease)
        return True

    def _set_aside(self, received: Received, lease: Lease, reason: str, allotment: Allotment | None) -> None:
        kept = self.link.dead_letters.set_aside(self.queue, received, lease, reason)
        _note(allotment, put_off=not kept)


def _note(allotment: Allotment | None, *, put_off: bool = False) -> None:
    """Note in the budget of a stream that a message was dealt with."""
    if allotment is not None and put_off:
        allotment.spend()
    elif allotment is not None:
        allotment.settle()
