"""The keeper of leases: one thread per process and server that renews, acknowledges and gives back.

It belongs to no connection, so messages that are being worked on stay leased over closed channels and reconnects. An
acknowledgement is repeated until the server confirms it, and the message is leased meanwhile.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from functools import partial
from queue import Empty, SimpleQueue
from typing import Protocol, TypeVar

from transports.errors import ConnectionFailed, LeasesRefused, PermissionMissing, QueueNotFound, TransportError
from transports.pubsub.leases.herald import Herald
from transports.pubsub.leases.ledger import LONGEST_SECONDS, Deadline, Lease, Ledger, batches
from transports.pubsub.options import Options

logger = logging.getLogger(__name__)

#: Seconds before something that failed is sent again; doubled each time up to a ceiling.
_FIRST_PAUSE_SECONDS = 0.1
#: Most seconds between two attempts: shorter than the shortest lease in use.
_PAUSE_CEILING_SECONDS = 5.0

Held = TypeVar("Held", Lease, Deadline)
Group = TypeVar("Group")


class Answer(Enum):
    """What became of a call."""

    #: The server has done it.
    YES = "yes"
    #: The server will never do it.
    NO = "no"
    #: It is of no use any more: the queue was deleted.
    GONE = "gone"
    #: Nobody knows; ask again.
    NONE = "none"


class Server(Protocol):
    """What a keeper needs of a client."""

    def acknowledge(self, subscription: str, ack_ids: Sequence[str]) -> None: ...

    def modify_ack_deadline(self, subscription: str, ack_ids: Sequence[str], seconds: int) -> None: ...


class Keeper:
    """Safe to use from any thread; its own thread runs from the first message to `close`."""

    def __init__(self, server: Server, options: Options) -> None:
        self._server = server
        self._options = options
        self._ledger = Ledger(options)
        self._herald = Herald(options.on_lease_lost)
        self._lock = threading.RLock()
        # Only this queue is touched by finalizers: its put() may interrupt anything, even itself.
        self._orders: SimpleQueue[Lease | threading.Event | None] = SimpleQueue()
        self._flushes: list[threading.Event] = []
        self._thread: threading.Thread | None = None
        self._closed = False
        self._pause = 0.0
        self._resume_at = 0.0

    def hold(self, subscription: str, message_id: str, ack_id: str, published_at: float = 0.0) -> Lease | None:
        """Take a delivery in; None: this message is held or done here already, do not dispatch it."""
        with self._lock:
            lease = self._ledger.hold(subscription, message_id, ack_id, time.monotonic(), published_at)
            self._start()
        self._orders.put(None)
        return lease

    def ack(self, lease: Lease) -> None:
        with self._lock:
            self._ledger.ack(lease)
        self._orders.put(None)

    def nack(self, lease: Lease) -> None:
        """Give a message back: it is redelivered at once."""
        self.defer(lease, 0)

    def defer(self, lease: Lease, seconds: float, *, ours: bool = True) -> None:
        """Let a message come back after so many seconds, at most 600; what is `ours` earlier, if this process ends."""
        seconds = min(LONGEST_SECONDS, math.ceil(seconds))
        with self._lock:
            self._ledger.set_deadline(lease, seconds, time.monotonic(), ours=ours)
        self._orders.put(None)

    def forget(self, lease: Lease) -> None:
        """Give a message back, asked for by a finalizer: takes no lock."""
        if not lease.settled:
            self._orders.put(lease)

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until the server knows what was settled; return whether it does."""
        if self._thread is None or not self._thread.is_alive():
            return True
        done = threading.Event()
        self._orders.put(done)
        return done.wait(timeout_seconds)

    def close(self, timeout_seconds: float) -> None:
        """Give back what is still held, tell the server, and end the thread."""
        ends_at = time.monotonic() + timeout_seconds
        with self._lock:
            thread = self._thread
            self._ledger.give_all_back(time.monotonic())
        if thread is None:
            return
        if not self.flush(timeout_seconds):
            logger.warning("the Pub/Sub server did not answer in time: what was not acknowledged will be redelivered")
        self._closed = True
        self._orders.put(None)
        thread.join(max(0.0, ends_at - time.monotonic()) + 0.1)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="pubsub-keeper", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._closed:
            try:
                self._obey(self._seconds_to_wait())
                self._send()
            except Exception:
                logger.exception("the keeper of Pub/Sub leases met an error of its own, and goes on")
                self._back_off()
                with self._lock:
                    self._ledger.postpone_all(self._resume_at)

    def _seconds_to_wait(self) -> float | None:
        now = time.monotonic()
        with self._lock:
            due = self._ledger.next_due()
            settled = self._ledger.is_settled
        if not settled:
            return max(0.0, self._resume_at - now)
        return None if due is None else max(0.0, due - now)

    def _obey(self, timeout_seconds: float | None) -> None:
        """Wait for orders at most so long, and carry them out."""
        try:
            order = self._orders.get(timeout=timeout_seconds)
            while True:
                if isinstance(order, Lease):
                    self.nack(order)
                elif order is not None:
                    self._flushes.append(order)
                order = self._orders.get_nowait()
        except Empty:
            return

    def _send(self) -> None:
        if time.monotonic() >= self._resume_at:
            self._send_acks()
            self._send_deadlines()
        self._renew()
        with self._lock:
            settled = self._ledger.is_settled
        while settled and self._flushes:
            self._flushes.pop().set()

    def _send_acks(self) -> None:
        with self._lock:
            acks = list(self._ledger.acks.values())
        for subscription, leases in _grouped(acks, lambda lease: lease.subscription):
            call = partial(self._server.acknowledge, subscription)
            for told, answer in self._tell(call, leases):
                if answer is Answer.NONE:
                    continue
                with self._lock:
                    self._ledger.acked(told)
                for lease in told if answer is Answer.NO else ():
                    self._lose(lease, "its acknowledgement was refused")
            # However much there is to tell, and however long a call takes: what is held comes first.
            self._renew()

    def _send_deadlines(self) -> None:
        with self._lock:
            waiting = list(self._ledger.deadlines)
        done: set[Deadline] = {each for each in waiting if each.until < time.monotonic()}
        for (subscription, seconds), group in _grouped(waiting, lambda each: (each.subscription, each.seconds)):
            call = partial(self._server.modify_ack_deadline, subscription, seconds=seconds)
            answers = set()
            for told, answer in self._tell(call, group):
                answers.add(answer)
                if answer is not Answer.NONE:
                    done.update(told)
            self._renew()
            if Answer.NONE in answers:
                break
        with self._lock:
            self._ledger.told(done)

    def _renew(self) -> None:
        now = time.monotonic()
        with self._lock:
            due = self._ledger.take_due(now)
        for lease in due:
            if now > lease.expires_at and not lease.lost:
                self._lose(lease, "it could not be renewed in time")
        for (subscription, seconds), leases in _grouped(
            due, lambda lease: (lease.subscription, self._wanted(lease, now))
        ):
            asked_at = time.monotonic()
            call = partial(self._server.modify_ack_deadline, subscription, seconds=seconds)
            for told, answer in self._tell(call, leases):
                self._note_renewal(told, answer, seconds, asked_at)

    def _note_renewal(self, leases: Sequence[Lease], answer: Answer, seconds: int, asked_at: float) -> None:
        for lease in leases:
            with self._lock:
                if answer is Answer.YES:
                    self._ledger.renewed(lease, seconds, asked_at)
                elif answer is Answer.NONE:
                    self._ledger.postpone(lease, time.monotonic() + max(self._pause, _FIRST_PAUSE_SECONDS))
            if answer in (Answer.NO, Answer.GONE) and not lease.settled:
                self._lose(lease, "the server refused to renew it")

    def _wanted(self, lease: Lease, now: float) -> int:
        return min(LONGEST_SECONDS, math.ceil(self._options.lease_seconds(now - lease.taken_at)))

    def _tell(
        self, call: Callable[[Sequence[str]], None], items: Sequence[Held]
    ) -> Iterator[tuple[list[Held], Answer]]:
        """Make a call in batches; a batch that is refused for one of its messages is told one by one."""
        by_id = {item.ack_id: item for item in items}
        for batch in batches(by_id):
            for ack_ids, answer in self._asked(call, batch):
                yield [by_id[ack_id] for ack_id in ack_ids], answer

    def _asked(
        self, call: Callable[[Sequence[str]], None], batch: Sequence[str]
    ) -> Iterator[tuple[Sequence[str], Answer]]:
        try:
            answer = self._ask(call, batch)
        except LeasesRefused as exc:
            # The server says which: the others are done.
            yield [ack_id for ack_id in batch if ack_id in exc.lost], Answer.NO
            yield [ack_id for ack_id in batch if ack_id in exc.again], Answer.NONE
            yield [ack_id for ack_id in batch if ack_id not in exc.lost | exc.again], Answer.YES
            if exc.again:
                self._back_off()
            return
        if answer is Answer.NO and len(batch) > 1:
            yield from (each for ack_id in batch for each in self._asked(call, [ack_id]))
        else:
            yield batch, answer

    def _ask(self, call: Callable[[Sequence[str]], None], ack_ids: Sequence[str]) -> Answer:
        try:
            call(ack_ids)
        except (ConnectionFailed, PermissionMissing) as exc:
            # A permission can come back, as when a policy is being changed: giving up would lose work for good.
            if not self._pause:
                logger.warning("the lease of %d message(s) waits for the server: %s", len(ack_ids), exc)
            self._back_off()
            return Answer.NONE
        except LeasesRefused:
            raise
        except QueueNotFound as exc:
            # Its messages went with the queue: nothing is redelivered.
            logger.info("%d message(s) need not be settled any more: %s", len(ack_ids), exc)
            return Answer.GONE
        except TransportError as exc:
            if len(ack_ids) == 1:
                logger.error("Pub/Sub did not accept what became of a message: %s", exc)
            return Answer.NO
        self._pause = 0.0
        return Answer.YES

    def _back_off(self) -> None:
        self._pause = min(_PAUSE_CEILING_SECONDS, 2 * self._pause or _FIRST_PAUSE_SECONDS)
        self._resume_at = time.monotonic() + self._pause

    def _lose(self, lease: Lease, why: str) -> None:
        lease.lost = True
        logger.error(
            "the lease of message %s from %s was lost, %s: it may be delivered elsewhere while it is worked on here",
            lease.message_id,
            lease.subscription,
            why,
        )
        self._herald.tell(lease.message_id)


def _grouped(items: Iterable[Held], by: Callable[[Held], Group]) -> list[tuple[Group, list[Held]]]:
    groups: defaultdict[Group, list[Held]] = defaultdict(list)
    for item in items:
        groups[by(item)].append(item)
    return list(groups.items())
