"""Publishers and consumers that go on until the broker is gone, and what it had told them by then; for tests."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from google.api_core.exceptions import GoogleAPICallError
from google.pubsub_v1 import types
from pubsub_client import PubSub

#: Seconds a single request may take.
REQUEST_SECONDS = 20
#: Seconds that a thread of the load may take to notice that the broker is gone.
END_SECONDS = 60


@dataclass
class Account:
    """What a broker has said so far, over all its lives, by message id."""

    confirmed: set[str] = field(default_factory=set)
    delivered: set[str] = field(default_factory=set)
    #: Of these an acknowledgement was sent; whether it arrived is known of `acknowledged` only.
    asked: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)
    #: Delivered after their acknowledgement had been answered: there must be none.
    returned: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def owed(self) -> set[str]:
        """What must still be delivered: confirmed, and never asked to be forgotten."""
        return self.confirmed - self.asked

    def receive(self, ids: Iterable[str]) -> None:
        """Note a delivery."""
        with self.lock:
            self.delivered.update(ids)
            self.returned.update(self.acknowledged.intersection(ids))

    def __str__(self) -> str:
        return (
            f"{len(self.confirmed)} confirmed, {len(self.delivered)} delivered, {len(self.acknowledged)} acknowledged, "
            f"{len(self.owed)} owed, {len(self.returned)} came back"
        )


class Load:
    """Threads at work on one subscription, from the start until the broker is gone."""

    def __init__(self, server: PubSub, subscription: str, account: Account, seed: int) -> None:
        self._server = server
        self._subscription = subscription
        self._account = account
        self._changed = threading.Condition()
        self._steps = 0
        works = [self._publish, self._publish, self._publish, self._consume, self._consume]
        self._threads = [
            threading.Thread(target=self._until_it_fails, args=(work, random.Random(f"{seed} {number}")))
            for number, work in enumerate(works)
        ]
        for thread in self._threads:
            thread.start()

    def wait_for_steps(self, count: int) -> None:
        """Return as soon as so many requests have been answered."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._steps >= count, END_SECONDS), f"only {self._steps} steps"

    def join(self) -> None:
        """Wait until all threads have seen that the broker is gone."""
        for thread in self._threads:
            thread.join(END_SECONDS)
            assert not thread.is_alive()

    def _until_it_fails(self, work: Callable[[random.Random], None], chance: random.Random) -> None:
        try:
            while True:
                work(chance)
                with self._changed:
                    self._steps += 1
                    self._changed.notify_all()
        except GoogleAPICallError:
            return

    def _publish(self, chance: random.Random) -> None:
        messages = [{"data": chance.randbytes(chance.choice((10, 100, 20_000)))} for _ in range(chance.randint(1, 5))]
        request = {"topic": self._server.topic(), "messages": messages}
        answer = self._server.publisher.publish(request=request, retry=None, timeout=REQUEST_SECONDS)
        with self._account.lock:
            self._account.confirmed.update(answer.message_ids)

    def _consume(self, chance: random.Random) -> None:
        request = {"subscription": self._subscription, "max_messages": 4}
        answer = self._server.subscriber.pull(request=request, retry=None, timeout=REQUEST_SECONDS)
        received = list(answer.received_messages)
        self._account.receive(each.message.message_id for each in received)
        fate = chance.random()
        if fate < 0.8:
            self._acknowledge(received)
        elif fate < 0.9:
            self._server.modify(self._subscription, *received, seconds=0)

    def _acknowledge(self, received: list[types.ReceivedMessage]) -> None:
        ids = {each.message.message_id for each in received}
        with self._account.lock:
            self._account.asked.update(ids)
        self._server.subscriber.acknowledge(
            subscription=self._subscription,
            ack_ids=[each.ack_id for each in received],
            retry=None,
            timeout=REQUEST_SECONDS,
        )
        with self._account.lock:
            self._account.acknowledged.update(ids)
