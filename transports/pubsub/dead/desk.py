"""Look at what was set aside from a queue, publish it again, or drop it.

with app.connection_for_write() as connection:
    desk = DeadLetterDesk(connection, "gpu")
    for letter in desk.letters():
        print(letter.message_id, letter.reason)
    desk.replay(lambda letter: "given back" in letter.reason)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from kombu import Connection

from transports.errors import QueueNotFound
from transports.pubsub.dead.letter import DeadLetter
from transports.pubsub.leases.ledger import batches
from transports.pubsub.server.messages import Outgoing, Received
from transports.pubsub.topology.names import Route

#: Messages asked for at a time.
_PAGE = 100
#: Seconds for which letters are leased while they are looked at.
_LEASE_SECONDS = 60


class DeadLetterDesk:
    """The dead letters of one queue. Letters are hidden from other desks while one looks at them."""

    def __init__(self, connection: Connection, queue: str) -> None:
        """Take a kombu connection over this transport; it is connected if it is not."""
        self._link = connection.default_channel.link
        self._queue = queue
        self._name = self._link.names.dead(queue)

    def letters(self) -> list[DeadLetter]:
        """Return what was set aside, and leave it there; nothing was if there is no dead-letter topic."""
        found = [received for page in self._pages() for received in page]
        self._give_back(found)
        return [DeadLetter.from_message(received) for received in found]

    def replay(self, wanted: Callable[[DeadLetter], Any] = lambda _: True) -> int:
        """Publish letters to their queue again and return how many; each is removed once that was confirmed."""
        topic = self._link.names.topic(Route("", self._queue))
        timeout = self._link.options.publish_timeout_seconds
        return self._settle(
            wanted, lambda letter: self._link.client.publish(topic, [Outgoing(letter.data)], timeout_seconds=timeout)
        )

    def drop(self, wanted: Callable[[DeadLetter], Any]) -> int:
        """Remove letters for good and return how many."""
        return self._settle(wanted, lambda _: None)

    def _settle(self, wanted: Callable[[DeadLetter], Any], how: Callable[[DeadLetter], Any]) -> int:
        left: dict[str, Received] = {}
        count = 0
        try:
            for page in self._pages():
                left.update({received.ack_id: received for received in page})
                for received in page:
                    letter = DeadLetter.from_message(received)
                    if not wanted(letter):
                        continue
                    how(letter)
                    self._link.client.acknowledge(self._name, [received.ack_id])
                    del left[received.ack_id]
                    count += 1
        finally:
            self._give_back(left.values())
        return count

    def _pages(self) -> Iterator[list[Received]]:
        """Lease letters, some at a time, until there are no more."""
        try:
            while page := self._link.client.pull(self._name, max_messages=_PAGE):
                ack_ids = [received.ack_id for received in page]
                self._link.client.modify_ack_deadline(self._name, ack_ids, _LEASE_SECONDS)
                yield page
        except QueueNotFound:
            return

    def _give_back(self, letters: Iterable[Received]) -> None:
        for ack_ids in batches(received.ack_id for received in letters):
            self._link.client.modify_ack_deadline(self._name, ack_ids, 0)
