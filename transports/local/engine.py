"""The broker without a network: what each request does to memory and to disk.

An answer means that the change is on disk; of an acknowledgement without exactly-once delivery, that it outlives the
broker, and 50 ms later the machine. Everything here runs on one event loop; only ``writer.Writer`` has a thread.
Requests that change something must be carried to their end once begun (the server shields them from cancellation),
because memory follows the disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from transports.local import ackids
from transports.local.ackids import AckId
from transports.local.administration import Administration
from transports.local.catalog import Attached, Catalog, KnownSnapshot, KnownTopic
from transports.local.deadletters import DeadLetters
from transports.local.dispatch.backlog import Backlog, Policy
from transports.local.dispatch.delivery import Consumer, Dispatcher
from transports.local.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from transports.local.housekeeping import Housekeeper
from transports.local.ledger import Ledger
from transports.local.model import Delivery, Draft, Pending, Subscription
from transports.local.publishing import Publishing
from transports.local.replay import Replays
from transports.local.rules import MAX_ACK_DEADLINE_SECONDS
from transports.local.settling import Asked, Settling
from transports.local.source import DiskSource
from transports.local.storage.database import Database, StorageError
from transports.local.storage.reading import Tally
from transports.local.storage.writer import Writer

logger = logging.getLogger(__name__)

#: Least seconds for which messages stay leased that were so when the broker ended, so that whoever lives can renew.
GRACE_SECONDS = 10.0


class Engine:
    """Topics, subscriptions, messages and leases of one data directory."""

    def __init__(self, database: Database, writer: Writer, *, grace_seconds: float = GRACE_SECONDS) -> None:
        self._database = database
        self._ledger = Ledger(database, writer)
        self._grace_seconds = grace_seconds
        self.catalog = Catalog()
        self._housekeeper = Housekeeper(self._ledger, self.catalog)
        self._settling = Settling(self._ledger, self._housekeeper)
        self._publishing = Publishing(self._ledger, self.catalog, self._housekeeper)
        self._dead_letters = DeadLetters(self._ledger, self._publishing)
        self.replays = Replays(self._ledger, self.catalog, self._housekeeper)
        self.administration = Administration(
            self._ledger, self.catalog, self._housekeeper, self.replays, self._attach_new
        )

    async def start(self) -> None:
        """Take up what lies on disk; what was leased stays so to its end, for a moment at least, the rest is ready."""
        contents = self._database.contents()
        await self._ledger.start(contents.counters)
        for number, topic in contents.topics.items():
            self.catalog.put_topic(KnownTopic(number, topic))
        for number, snapshot in contents.snapshots.items():
            self.catalog.put_snapshot(KnownSnapshot(number, snapshot))
        for number, stored in contents.subscriptions.items():
            attached = self._attach(number, stored.settings, self._database.tally(number), stored.floor)
            attached.used_us = stored.used_us
            for pending, until_us in self._database.leased(number, stored.floor):
                attached.dispatcher.hold([pending], self._seconds_left(until_us))
            self.catalog.put_subscription(attached)
        self._housekeeper.start(self.administration, list(contents.condemned))

    def _seconds_left(self, until_us: int) -> float:
        """Return for how long a lease of before goes on; a clock that was set back does not make it longer."""
        return min(
            max((until_us - self._ledger.clock.now_us()) / 1_000_000, self._grace_seconds), MAX_ACK_DEADLINE_SECONDS
        )

    def close(self) -> None:
        """Serve nobody any more; requests under way go on to their end, but for long ones, then ``finish``."""
        self.replays.stop()
        for attached in self.catalog.everything():
            attached.dispatcher.close(UnavailableError("The broker is stopping."))
        self._housekeeper.stop()
        self._ledger.close()

    def finish(self) -> None:
        """Write down what was given back while consumers were ended; nobody may ask for anything any more."""
        for attached in self.catalog.everything():
            attached.dispatcher.report()
        self._ledger.close()

    def publish(self, topic: str, drafts: Sequence[Draft]) -> asyncio.Future[list[int]]:
        """Begin to store messages for every subscription that the topic has now; the future is their ids.

        They are stored whatever becomes of the future.
        """
        return self._publishing.publish(topic, drafts)

    async def followed(self) -> None:
        """Wait until what was confirmed can be delivered, unless the disk refuses that."""
        await self._ledger.followed()

    async def deliveries(self, attached: Attached, consumer: Consumer) -> list[Delivery]:
        """Wait for messages; if this is cancelled, nothing stays leased."""
        while True:
            self._housekeeper.used(attached)
            batch = await attached.dispatcher.next_batch(consumer)
            try:
                found = self._database.messages(attached.number, batch)
            except StorageError as exc:
                attached.dispatcher.undo((each.message_id, each.token) for each in batch)
                raise UnavailableError(str(exc)) from exc
            taken = {each.message_id: each for each in batch}
            for each in taken.keys() - {each.id for each in found}:
                attached.dispatcher.backlog.drop(each, taken[each].token)
            counts = attached.settings.dead_letter is not None
            if found:
                return [
                    Delivery(
                        str(AckId(attached.number, each.id, taken[each.id].token)),
                        each,
                        taken[each.id].attempts if counts else 0,
                    )
                    for each in found
                ]

    def acknowledge(self, name: str, ack_ids: Sequence[str]) -> asyncio.Future[list[str]]:
        """Begin to remove messages for good; the future is the ack ids that are good no longer.

        They are removed whatever becomes of the future.
        """
        attached = self.catalog.subscription(name)
        parsed = self._parse(attached, ack_ids)
        self._housekeeper.used(attached)
        return self._settling.acknowledge(attached, parsed)

    def modify_ack_deadline(self, name: str, ack_ids: Sequence[str], seconds: int) -> list[str]:
        """Lease messages for so many seconds from now, or give them back (0); return the ack ids that are stale."""
        attached = self.catalog.subscription(name)
        parsed = self._parse(attached, ack_ids)
        self._housekeeper.used(attached)
        # The latest first: of an ordering key, giving back a message gives back those after it.
        parsed.sort(key=lambda each: each[1].message if each[1] else 0, reverse=seconds == 0)
        dispatcher = attached.dispatcher
        return [
            text
            for text, ack_id in parsed
            if ack_id is None or not dispatcher.extend(ack_id.message, ack_id.token, seconds)
        ]

    def undo(self, attached: Attached, ack_ids: Sequence[str]) -> None:
        """Make messages ready, as if never delivered, that did not reach their consumer."""
        parsed = ackids.parse(ack_ids)
        attached.dispatcher.undo((each.message, each.token) for each in parsed if each.subscription == attached.number)

    def require_attached(self, name: str) -> Attached:
        """Return a subscription that can be consumed.

        Raises:
            FailedPreconditionError: It is detached from its topic.
        """
        attached = self.catalog.subscription(name)
        if attached.settings.detached:
            raise FailedPreconditionError(f"Subscription is detached: {name}.")
        return attached

    def _attach_new(self, number: int, settings: Subscription) -> Attached:
        return self._attach(number, settings, Tally(0, 0), 0)

    def _attach(self, number: int, settings: Subscription, tally: Tally, floor: int) -> Attached:
        source = DiskSource(self._database, number)
        backlog = Backlog(source, first_token=self._ledger.first_token, tally=tally, floor=floor)
        backlog.policy = Policy.of(settings)
        observer = _Observer(self._ledger, self._dead_letters, self._housekeeper)
        dispatcher = Dispatcher(backlog, tokens=self._ledger.tokens, observer=observer)
        attached = observer.attached = source.attached = Attached(number, settings, dispatcher, floor)
        return attached

    def _parse(self, attached: Attached, ack_ids: Sequence[str]) -> list[Asked]:
        """Read ack ids, all or none; those of an earlier subscription of the same name are None."""
        found = ackids.parse(ack_ids)
        numbers = {each.subscription for each in found}
        if numbers == {attached.number}:
            return list(zip(ack_ids, found, strict=True))
        if any(each.number in numbers for each in self.catalog.everything() if each is not attached):
            raise InvalidArgumentError(f"Some ack ids are those of another subscription than {attached.settings.name}.")
        pairs = zip(ack_ids, found, strict=True)
        return [(text, ack_id if ack_id.subscription == attached.number else None) for text, ack_id in pairs]


class _Observer:
    """Writes down what a subscription's dispatcher does."""

    attached: Attached

    def __init__(self, ledger: Ledger, dead_letters: DeadLetters, housekeeper: Housekeeper) -> None:
        self._ledger = ledger
        self._dead_letters = dead_letters
        self._housekeeper = housekeeper

    def awaited(self) -> None:
        self._ledger.hurry()

    def delivered(self, batch: Sequence[Pending], seconds: float) -> None:
        number, until_us = self.attached.number, self._after(seconds)
        self._housekeeper.used(self.attached)  # who has it may have waited for long, and waits no more
        self._ledger.write_later(self._ledger.timed(lambda tables: tables.note_deliveries(number, batch, until_us)))

    def extended(self, leases: Sequence[tuple[Pending, float]]) -> None:
        number, ends = self.attached.number, [(each, self._after(seconds)) for each, seconds in leases]
        self._ledger.write_later(self._ledger.timed(lambda tables: tables.note_extensions(number, ends)))

    def returned(self, messages: Sequence[Pending]) -> None:
        number = self.attached.number
        self._ledger.write_later(lambda tables: tables.note_returns(number, messages))

    def died(self, messages: Sequence[Pending]) -> None:
        self._dead_letters.forward(self.attached, messages)

    def _after(self, seconds: float) -> int:
        return self._ledger.clock.now_us() + round(seconds * 1_000_000)
