"""Creating, changing and deleting topics and subscriptions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from transports.local.catalog import Attached, Catalog, KnownSnapshot, KnownTopic
from transports.local.clock import now_us
from transports.local.dispatch.backlog import Policy
from transports.local.errors import FailedPreconditionError, NotFoundError, UnavailableError
from transports.local.housekeeping import Housekeeper
from transports.local.ledger import Ledger, save_keeper
from transports.local.model import DELETED_TOPIC, Subscription, Topic
from transports.local.replay import Replays
from transports.local.storage.tables import Tables

logger = logging.getLogger(__name__)

_ALL = (1 << 63) - 1

#: Puts a new subscription to work.
Attach = Callable[[int, Subscription], Attached]


class Administration:
    """Changes one thing at a time: first the disk, then memory."""

    def __init__(
        self, ledger: Ledger, catalog: Catalog, housekeeper: Housekeeper, replays: Replays, attach: Attach
    ) -> None:
        self._ledger = ledger
        self._catalog = catalog
        self._housekeeper = housekeeper
        self._replays = replays
        self._attach = attach

    async def create_topic(self, topic: Topic) -> Topic:
        async with self._ledger.changing:
            self._catalog.require_new_topic(topic.name)
            known = KnownTopic(self._ledger.next_keeper(), topic)

            def change(tables: Tables) -> None:
                save_keeper(tables, known.number)
                tables.save_topic(known.number, topic)

            await self._ledger.commit(change)
            self._catalog.put_topic(known)
        logger.info("created topic %s", topic.name)
        return topic

    async def update_topic(self, name: str, revise: Callable[[Topic], Topic]) -> Topic:
        """Replace a topic's settings by what ``revise`` makes of them."""
        async with self._ledger.changing:
            known = self._catalog.topic(name)
            settings = revise(known.settings)

            await self._ledger.commit(lambda tables: tables.save_topic(known.number, settings))
            known.settings = settings
            self._housekeeper.watch_topic(known)
        return settings

    async def delete_topic(self, name: str) -> None:
        """Delete a topic; its subscriptions stay, with their backlog, and get nothing more."""
        async with self._ledger.changing:
            known = self._catalog.topic(name)
            orphans = [each for each in self._catalog.everything() if each.settings.topic == name]
            snapshots = self._catalog.snapshots_of(name)

            def change(tables: Tables) -> None:
                tables.condemn(known.number)
                for each in orphans:
                    tables.save_subscription(each.number, replace(each.settings, topic=DELETED_TOPIC))
                for snapshot in snapshots:
                    tables.save_snapshot(snapshot.number, replace(snapshot.settings, topic=DELETED_TOPIC))

            await self._ledger.commit(change)
            self._catalog.forget_topic(name)
            self._housekeeper.forget(known)
            self._housekeeper.sweep_condemned(known.number)
        logger.info("deleted topic %s", name)

    async def create_subscription(self, settings: Subscription) -> Subscription:
        async with self._ledger.changing:
            self._catalog.require_new_subscription(settings.name)
            self._catalog.topic(settings.topic)
            self._require_dead_letter_topic(settings)
            attached = self._attach(self._ledger.next_keeper(), settings)
            attached.used_us = now_us()

            def change(tables: Tables) -> None:
                save_keeper(tables, attached.number)
                tables.save_subscription(attached.number, settings)
                tables.note_use(attached.number, attached.used_us)

            await self._ledger.commit(change)
            self._catalog.put_subscription(attached)
            self._housekeeper.watch(attached)
        logger.info("created subscription %s of %s", settings.name, settings.topic)
        return settings

    async def update_subscription(self, name: str, revise: Callable[[Subscription], Subscription]) -> Subscription:
        """Replace a subscription's settings by what ``revise`` makes of them."""
        async with self._ledger.changing:
            attached = self._catalog.subscription(name)
            settings = revise(attached.settings)
            self._require_dead_letter_topic(settings)
            await self._ledger.commit(lambda tables: tables.save_subscription(attached.number, settings))
            attached.settings = settings
            attached.dispatcher.backlog.policy = Policy.of(settings)
            self._housekeeper.used(attached)
            self._housekeeper.watch(attached)
            self._housekeeper.sweep(attached)
        return settings

    async def delete_subscription(self, name: str) -> None:
        """Delete a subscription with its backlog; who waits for its messages is told."""
        async with self._ledger.changing:
            await self._delete(self._catalog.subscription(name))
        logger.info("deleted subscription %s", name)

    async def detach_subscription(self, name: str) -> None:
        """Have a subscription get nothing more of its topic, and drop what it has."""
        async with self._ledger.changing:
            attached = self._catalog.subscription(name)
            settings = replace(attached.settings, detached=True)

            # First from memory, so that no message is published to it after its backlog has gone.
            self._catalog.cut_off(attached)
            try:
                await self._ledger.commit(lambda tables: tables.save_subscription(attached.number, settings))
            except UnavailableError:
                self._catalog.put_subscription(attached)
                raise
            attached.settings = settings
            attached.dispatcher.close(FailedPreconditionError(f"Subscription is detached: {name}."))
        await self._replays.drop_until(attached, _ALL)
        self._housekeeper.sweep(attached)
        logger.info("detached subscription %s", name)

    async def drop_until(self, attached: Attached, message_id: int) -> None:
        await self._replays.drop_until(attached, message_id)

    async def follow(self, attached: Attached) -> None:
        await self._replays.follow(attached)

    async def expire_subscription(self, attached: Attached) -> None:
        """Delete a subscription that nobody has used for so long."""
        async with self._ledger.changing:
            if not self._catalog.has(attached):
                return
            await self._delete(attached)
        logger.warning("subscription %s expired: nobody used it, and it was deleted", attached.settings.name)

    async def expire_snapshot(self, snapshot: KnownSnapshot) -> None:
        await self._replays.delete_snapshot(snapshot.settings.name)

    async def _delete(self, attached: Attached) -> None:
        # First from memory, so that no message is published to it after it has gone from the disk.
        self._catalog.forget_subscription(attached)
        try:
            await self._ledger.commit(lambda tables: tables.condemn(attached.number))
        except UnavailableError:
            self._catalog.put_subscription(attached)
            raise
        attached.dispatcher.close(NotFoundError(f"Subscription deleted: {attached.settings.name}."))
        self._housekeeper.forget(attached)
        self._housekeeper.sweep_condemned(attached.number)

    def _require_dead_letter_topic(self, settings: Subscription) -> None:
        if settings.dead_letter is not None:
            self._catalog.topic(settings.dead_letter.topic)
