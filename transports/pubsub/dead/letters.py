"""Sets messages aside: by the application's hook, or on the queue's dead-letter topic.

No dead-letter policy of Pub/Sub is used: that would count every time a worker was drained as a failed delivery.
"""

from __future__ import annotations

import logging

from transports.errors import PermissionMissing, QueueNotFound
from transports.pubsub.dead.letter import DeadLetter
from transports.pubsub.leases.keeper import Keeper
from transports.pubsub.leases.ledger import LONGEST_SECONDS, Lease
from transports.pubsub.options import Options
from transports.pubsub.server.client import Client
from transports.pubsub.server.messages import Received
from transports.pubsub.topology.provision import Provision

logger = logging.getLogger(__name__)


class DeadLetters:
    """Safe to use from any thread."""

    def __init__(self, client: Client, keeper: Keeper, provision: Provision, options: Options) -> None:
        self._client = client
        self._keeper = keeper
        self._provision = provision
        self._options = options

    def set_aside(self, queue: str, received: Received, lease: Lease, reason: str) -> bool:
        """Put a message where it is kept, then acknowledge it; False: it cannot be kept now, and comes back later."""
        letter = DeadLetter.of(queue, received, reason)
        try:
            self._keep(letter)
        except Exception as exc:
            # The hook is the application's: whatever it raises, the message must not be lost.
            logger.error(
                "message %s of queue %s cannot be delivered (%s) nor set aside, it is tried again in %d s: %s",
                letter.message_id,
                queue,
                reason,
                LONGEST_SECONDS,
                exc,
                exc_info=not isinstance(exc, PermissionMissing),
            )
            self._keeper.defer(lease, LONGEST_SECONDS)
            return False
        logger.error("message %s of queue %s was set aside: %s", letter.message_id, queue, reason)
        self._keeper.ack(lease)
        return True

    def _keep(self, letter: DeadLetter) -> None:
        if self._options.on_dead_letter is not None:
            self._options.on_dead_letter(letter)
            return
        try:
            self._publish(letter, self._provision.ensure_dead(letter.queue))
        except QueueNotFound:
            # Somebody deleted it.
            self._publish(letter, self._provision.ensure_dead(letter.queue, anew=True))

    def _publish(self, letter: DeadLetter, topic: str) -> None:
        self._client.publish(topic, [letter.to_message()], timeout_seconds=self._options.publish_timeout_seconds)
