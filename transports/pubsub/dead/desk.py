"""Look at what was set aside from a queue, publish it again, or drop it.

with app.connection_for_write() as connection:
    desk = DeadLetterDesk(connection, "gpu")
    for letter in desk.letters():
        print(letter.message_id, letter.reason)
    desk.replay(lambda letter: "given back" in letter.reason)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from kombu import Connection

from transports.errors import QueueNotFound
from transports.pubsub.dead.letter import DeadLetter
from transports.pubsub.server.client import Outgoing
from transports.pubsub.server.stream import Received
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
        with_ids = list(self._taken())
        self._give_back([received for received, _ in with_ids])
        return [letter for _, letter in with_ids]

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
        others, count = [], 0
        try:
            for received, letter in self._taken():
                if not wanted(letter):
                    others.append(received)
                    continue
                how(letter)
                self._link.client.acknowledge(self._name, [received.ack_id])
                count += 1
        finally:
            self._give_back(others)
        return count

    def _taken(self) -> Iterator[tuple[Received, DeadLetter]]:
        """Lease one letter after the other until there are no more."""
        try:
            while batch := self._link.client.pull(self._name, max_messages=_PAGE):
                ack_ids = [received.ack_id for received in batch]
                self._link.client.modify_ack_deadline(self._name, ack_ids, _LEASE_SECONDS)
                yield from ((received, DeadLetter.from_message(received)) for received in batch)
        except QueueNotFound:
            return

    def _give_back(self, batch: list[Received]) -> None:
        if batch:
            self._link.client.modify_ack_deadline(self._name, [received.ack_id for received in batch], 0)
