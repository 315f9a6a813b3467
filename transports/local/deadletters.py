"""Dead letters: messages that were delivered too often in vain go to another topic, once and durably."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from transports.local import wire
from transports.local.catalog import Attached
from transports.local.errors import NotFoundError, UnavailableError
from transports.local.ledger import Ledger
from transports.local.model import Draft, Pending, StoredMessage
from transports.local.publishing import Publishing
from transports.local.storage.bundles import bits_by_bundle
from transports.local.storage.database import StorageError

logger = logging.getLogger(__name__)


class DeadLetters:
    """Forwards dead messages; what cannot be forwarded is delivered again."""

    def __init__(self, ledger: Ledger, publishing: Publishing) -> None:
        self._ledger = ledger
        self._publishing = publishing
        self._under_way: set[asyncio.Task[None]] = set()

    def forward(self, attached: Attached, dead: Sequence[Pending]) -> None:
        """Begin to forward messages."""
        task = asyncio.get_running_loop().create_task(self._forward(attached, dead))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _forward(self, attached: Attached, dead: Sequence[Pending]) -> None:
        backlog = attached.dispatcher.backlog
        async with attached.gate:
            buried = [pending for each in dead if (pending := backlog.bury(each.message_id)) is not None]
        try:
            await self._publish(attached, buried)
        except (NotFoundError, UnavailableError, StorageError) as exc:
            logger.warning("dead letters of %s cannot be forwarded: %s", attached.settings.name, exc)
            self._revive(attached, buried)
        except BaseException:
            self._revive(attached, buried)
            raise
        else:
            backlog.settled(each.message_id for each in buried)

    async def _publish(self, attached: Attached, buried: Sequence[Pending]) -> None:
        policy, keep, snapshot = attached.settings.dead_letter, attached.settings.retain_acked, attached.snapshot
        if policy is None:
            raise NotFoundError("The subscription has no dead-letter policy any more.")
        attempts = {each.message_id: each.attempts for each in buried}
        found = self._ledger.database.messages(attached.number, buried)
        drafts = [_letter(attached, each, attempts[each.id]) for each in found]
        if drafts:
            await self._publishing.publish(
                policy.topic,
                drafts,
                lambda tables: tables.settle(attached.number, bits_by_bundle(buried), keep=keep, snapshot=snapshot),
            )

    @staticmethod
    def _revive(attached: Attached, buried: Sequence[Pending]) -> None:
        attached.dispatcher.backlog.restore(buried)
        attached.dispatcher.pump_soon()


def _letter(attached: Attached, message: StoredMessage, attempts: int) -> Draft:
    """Return a dead message with Google's attributes, which say where it comes from."""
    _, project, _, subscription = attached.settings.name.split("/")
    published = datetime.fromtimestamp(message.published_us / 1_000_000, UTC)
    return wire.add_attributes(
        message.payload,
        {
            "CloudPubSubDeadLetterSourceDeliveryCount": str(attempts),
            "CloudPubSubDeadLetterSourceSubscription": subscription,
            "CloudPubSubDeadLetterSourceSubscriptionProject": project,
            "CloudPubSubDeadLetterSourceTopicPublishTime": published.isoformat(timespec="milliseconds")[:-6] + "Z",
        },
    )
