"""What is done with a delivery before any consumer sees it, in the thread that received it.

It is leased, decoded, and dealt with here if it is not to be delivered now: expired messages are dropped, unreadable
ones and those that were given back too often are set aside, and what is not due yet goes back under a lease that ends
when it is, so that it takes up neither memory nor a slot.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transports.errors import TransportError
from transports.pubsub.leases.ledger import LONGEST_SECONDS, Lease
from transports.pubsub.payload import NotAMessage, decode
from transports.pubsub.receiving import schedule
from transports.pubsub.receiving.parcel import Parcel
from transports.pubsub.server.client import Outgoing
from transports.pubsub.server.stream import Received

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

    def take_in(self, received: Received) -> Parcel | None:
        """Lease a delivery; None: it is not to be delivered, and was dealt with."""
        name = self.source.subscription
        lease = self.link.keeper.hold(name, received.message_id, received.ack_id, received.published_at)
        if lease is None:
            return None
        try:
            payload = decode(received.data)
        except NotAMessage as exc:
            self._set_aside(received, lease, f"it is not a kombu message: {exc}")
            return None
        if self._is_unwanted(payload, received):
            self.link.keeper.ack(lease)
            return None
        limit = self.link.options.max_requeues
        if limit and (count := self.link.requeues.count(lease.key)) >= limit:
            self._set_aside(received, lease, f"it was given back {count} times")
            return None
        return self._when_due(payload, received, lease)

    def _is_unwanted(self, payload: dict[str, Any], received: Received) -> bool:
        """Say whether a message is too old, or came by a topic exchange and matches no binding of the queue."""
        if not self.link.topology.wants(self.queue, self.source.route, payload):
            return True
        ttl = schedule.time_to_live_seconds(payload, self.link.topology.message_ttl_seconds(self.queue))
        return ttl is not None and received.published_at + ttl <= time.time()

    def _when_due(self, payload: dict[str, Any], received: Received, lease: Lease) -> Parcel | None:
        eta = schedule.eta(payload)
        wait = 0.0 if eta is None else eta - time.time()
        if wait > self.link.options.eta_lead_seconds:
            if not self._renewed(received, lease, wait):
                self.link.keeper.defer(lease, min(LONGEST_SECONDS, max(1, int(wait - 1))))
            return None
        if eta is not None:
            schedule.deliver_now(payload)
        return Parcel(received, lease, payload, wait)

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

    def _set_aside(self, received: Received, lease: Lease, reason: str) -> None:
        self.link.dead_letters.set_aside(self.queue, received, lease, reason)
