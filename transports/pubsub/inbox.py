"""Where readers leave messages for the thread that consumes them; a socket tells an event loop that there is something.

The socket is readable exactly while the inbox is not empty.
"""

from __future__ import annotations

import select
import socket
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transports.pubsub.leases import Lease
from transports.pubsub.stream import Received

if TYPE_CHECKING:
    from transports.pubsub.consumer import Consumer


@dataclass(frozen=True)
class Delivery:
    """A message on its way to a consumer; it has its slot and its lease."""

    consumer: Consumer
    received: Received
    lease: Lease


class Inbox:
    """Deliveries and errors, first in, first out."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._items: deque[Delivery | Exception] = deque()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._signalled = False
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def fileno(self) -> int:
        return self._reader.fileno()

    def put(self, delivery: Delivery) -> bool:
        """Add a delivery; False: its consumer was cancelled."""
        with self._lock:
            if self._closed or not delivery.consumer.active:
                return False
            self._items.append(delivery)
            self._signal()
            return True

    def fail(self, exc: Exception) -> None:
        """Have the consuming thread raise an error."""
        with self._lock:
            if not self._closed:
                self._items.append(exc)
                self._signal()

    def pop(self) -> Delivery | None:
        """Return the next delivery, or None; raise the next error."""
        with self._lock:
            item = self._items.popleft() if self._items else None
            self._quiet_if_empty()
        if isinstance(item, Exception):
            raise item
        return item

    def cancel(self, consumer: Consumer) -> list[Delivery]:
        """Take out what is waiting for a consumer, which gets nothing any more."""
        with self._lock:
            consumer.active = False
            mine = [item for item in self._items if isinstance(item, Delivery) and item.consumer is consumer]
            others = (item for item in self._items if not isinstance(item, Delivery) or item.consumer is not consumer)
            self._items = deque(others)
            self._quiet_if_empty()
            return mine

    def wait(self, timeout_seconds: float | None) -> bool:
        """Wait until there is something; None waits for ever."""
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        return bool(poll.poll(None if timeout_seconds is None else max(0.0, timeout_seconds) * 1000))

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._items.clear()
                self._signalled = False
                self._reader.close()
                self._writer.close()

    def _quiet_if_empty(self) -> None:
        if not self._items and self._signalled:
            self._reader.recv(16)
            self._signalled = False

    def _signal(self) -> None:
        if not self._signalled:
            self._signalled = True
            self._writer.send(b"\0")
