"""The broker without a network: what each request does to memory and to disk.

An answer means that the change is on disk. Everything here runs on one event loop; only ``writer.Writer`` has a thread.
Requests that change something must be carried to their end once begun (the server shields them from cancellation),
because memory follows the disk.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from transports.local import ackids
from transports.local.ackids import AckId
from transports.local.backlog import Backlog
from transports.local.catalog import Attached, Catalog
from transports.local.database import Database, StorageError, Tables
from transports.local.delivery import Consumer, Dispatcher
from transports.local.errors import InvalidArgumentError, NotFoundError, UnavailableError
from transports.local.model import DELETED_TOPIC, Delivery, Pending, StoredMessage, Subscription, Topic
from transports.local.writer import Change, Writer

logger = logging.getLogger(__name__)

#: Deliveries that one run of the broker can number; the tokens of the next run are all higher.
_TOKENS_PER_START = 1 << 40


class Engine:
    """Topics, subscriptions, messages and leases of one data directory."""

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer
        self.catalog = Catalog()
        self._changing = asyncio.Lock()
        self._counters: dict[str, int] = defaultdict(int)
        self._tokens: Iterator[int] = iter(())
        self._first_token = 0
        self._last_published_us = 0

    async def start(self) -> None:
        """Take up what lies on disk; everything that was not acknowledged is ready."""
        contents = self._database.contents()
        self._counters.update(contents.counters)
        starts = self._counters["starts"] = self._counters["starts"] + 1
        await self._commit(lambda tables: tables.save_counter("starts", starts))
        self._first_token = starts * _TOKENS_PER_START
        self._tokens = itertools.count(self._first_token)
        for topic in contents.topics:
            self.catalog.put_topic(topic)
        for number, settings in contents.subscriptions.items():
            attached = self._attach(number, settings, contents.pending[number])
            self.catalog.put_subscription(attached)

    def close(self) -> None:
        """Serve nobody any more."""
        for attached in self.catalog.everything():
            attached.dispatcher.close(UnavailableError("The broker is stopping."))

    async def create_topic(self, topic: Topic) -> Topic:
        async with self._changing:
            self.catalog.require_new_topic(topic.name)
            await self._commit(lambda tables: tables.save_topic(topic))
            self.catalog.put_topic(topic)
        logger.info("created topic %s", topic.name)
        return topic

    async def set_topic_labels(self, name: str, labels: Mapping[str, str]) -> Topic:
        async with self._changing:
            topic = replace(self.catalog.topic(name), labels=labels)
            await self._commit(lambda tables: tables.save_topic(topic))
            self.catalog.put_topic(topic)
        return topic

    async def delete_topic(self, name: str) -> None:
        """Delete a topic; its subscriptions stay, with their backlog, and get nothing more."""
        async with self._changing:
            self.catalog.topic(name)
            orphans = self.catalog.subscriptions_of(name)

            def change(tables: Tables) -> None:
                tables.remove_topic(name)
                for each in orphans:
                    tables.save_subscription(each.number, replace(each.settings, topic=DELETED_TOPIC))

            await self._commit(change)
            self.catalog.forget_topic(name)
            for each in orphans:
                each.settings = replace(each.settings, topic=DELETED_TOPIC)
        logger.info("deleted topic %s", name)

    async def create_subscription(self, settings: Subscription) -> Subscription:
        async with self._changing:
            self.catalog.require_new_subscription(settings.name)
            self.catalog.topic(settings.topic)
            number = self._next("subscriptions")

            def change(tables: Tables) -> None:
                tables.save_counter("subscriptions", number)
                tables.save_subscription(number, settings)

            await self._commit(change)
            self.catalog.put_subscription(self._attach(number, settings, ()))
        logger.info("created subscription %s of %s", settings.name, settings.topic)
        return settings

    async def update_subscription(self, name: str, revise: Callable[[Subscription], Subscription]) -> Subscription:
        """Replace a subscription's settings by what ``revise`` makes of them."""
        async with self._changing:
            attached = self.catalog.subscription(name)
            settings = revise(attached.settings)
            await self._commit(lambda tables: tables.save_subscription(attached.number, settings))
            attached.settings = settings
            attached.dispatcher.set_retention(settings.retention_seconds)
        return settings

    async def delete_subscription(self, name: str) -> None:
        """Delete a subscription with its backlog; who waits for its messages is told."""
        async with self._changing:
            attached = self.catalog.subscription(name)
            # First from memory, so that no message is published to it after it has gone from the disk.
            self.catalog.forget_subscription(name)
            try:
                await self._commit(lambda tables: tables.remove_subscription(attached.number))
            except UnavailableError:
                self.catalog.put_subscription(attached)
                raise
            attached.dispatcher.close(NotFoundError(f"Subscription deleted: {name}."))
        logger.info("deleted subscription %s", name)

    async def publish(self, topic: str, payloads: Sequence[bytes]) -> list[int]:
        """Store messages for every subscription that the topic has now; return their ids."""
        self.catalog.topic(topic)
        targets = self.catalog.subscriptions_of(topic)
        published_us = self._publish_time_us()
        messages = [StoredMessage(self._next("messages"), published_us, payload) for payload in payloads]
        last = self._counters["messages"]

        def change(tables: Tables) -> None:
            tables.save_counter("messages", last)
            if targets:
                tables.add_messages(messages, [each.number for each in targets])

        await self._commit(change)
        pending = [Pending(each.id, each.published_us, len(each.payload)) for each in messages]
        for each in targets:
            each.dispatcher.add(pending)
        return [each.id for each in messages]

    async def deliveries(self, attached: Attached, consumer: Consumer) -> list[Delivery]:
        """Wait for messages; if this is cancelled, nothing stays leased."""
        while True:
            batch = await attached.dispatcher.next_batch(consumer)
            try:
                found = self._database.messages([each.message_id for each in batch])
            except StorageError as exc:
                attached.dispatcher.give_back(batch)
                raise UnavailableError(str(exc)) from exc
            tokens = {each.message_id: each.token for each in batch}
            if found:
                return [Delivery(self._ack_id(attached, each.id, tokens[each.id]), each) for each in found]

    async def acknowledge(self, name: str, ack_ids: Sequence[str]) -> None:
        """Remove messages for good; stale ack ids do nothing."""
        attached = self.catalog.subscription(name)
        found = (attached.dispatcher.settle(each.message, each.token) for each in self._parse(attached, ack_ids))
        settled = [pending for pending in found if pending is not None]
        if not settled:
            return
        try:
            await self._commit(lambda tables: tables.settle(attached.number, [each.message_id for each in settled]))
        except UnavailableError:
            attached.dispatcher.add(settled)
            raise

    def modify_ack_deadline(self, name: str, ack_ids: Sequence[str], seconds: int) -> None:
        """Lease messages for so many seconds from now, or give them back (0); stale ack ids do nothing."""
        attached = self.catalog.subscription(name)
        for ack_id in self._parse(attached, ack_ids):
            attached.dispatcher.extend(ack_id.message, ack_id.token, seconds)

    def give_back(self, attached: Attached, deliveries: Sequence[Delivery]) -> None:
        """Make messages ready that did not reach their consumer."""
        for each in deliveries:
            attached.dispatcher.extend(each.message.id, ackids.parse(each.ack_id).token, seconds=0)

    async def seek(self, name: str, published_us: int) -> None:
        """Drop what was published until then, leased or not."""
        attached = self.catalog.subscription(name)
        backlog = attached.dispatcher.backlog
        if dropped := backlog.published_until(published_us):
            await self._commit(lambda tables: tables.settle(attached.number, dropped))
            backlog.drop(dropped)
        logger.info("dropped %d messages of %s", len(dropped), name)

    def _attach(self, number: int, settings: Subscription, pending: Sequence[Pending]) -> Attached:
        backlog = Backlog(first_token=self._first_token)
        for each in pending:
            backlog.add(each)
        dispatcher = Dispatcher(
            backlog,
            tokens=self._tokens,
            on_delivered=lambda batch: self._write_later(lambda tables: tables.note_tokens(number, batch)),
            on_dropped=lambda dropped: self._write_later(lambda tables: tables.settle(number, dropped)),
            retention_seconds=settings.retention_seconds,
        )
        return Attached(number, settings, dispatcher)

    def _parse(self, attached: Attached, ack_ids: Sequence[str]) -> list[AckId]:
        """Read ack ids, all or none; leave out those of an earlier subscription of the same name."""
        found = [ackids.parse(each) for each in ack_ids]
        strange = {each.subscription for each in found} - {attached.number}
        if strange and any(each.number in strange for each in self.catalog.everything()):
            raise InvalidArgumentError(f"Some ack ids are those of another subscription than {attached.settings.name}.")
        return [each for each in found if each.subscription == attached.number]

    async def _commit(self, change: Change) -> None:
        try:
            await asyncio.wrap_future(self._writer.submit(change))
        except StorageError as exc:
            raise UnavailableError(str(exc)) from exc

    def _write_later(self, change: Change) -> None:
        """Write without waiting; the writer logs what fails, and nothing breaks if it is lost."""
        self._writer.submit(change)

    def _next(self, counter: str) -> int:
        self._counters[counter] += 1
        return self._counters[counter]

    def _publish_time_us(self) -> int:
        """Return the time, never earlier than before, so that the order of ids is the order of times."""
        self._last_published_us = max(self._last_published_us, time.time_ns() // 1000)
        return self._last_published_us

    @staticmethod
    def _ack_id(attached: Attached, message: int, token: int) -> str:
        return str(AckId(attached.number, message, token))
