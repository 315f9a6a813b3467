"""Where readers leave messages for the thread that consumes them; a socket tells an event loop that there is something.

The socket is readable exactly while the inbox is not empty.
"""

from __future__ import annotations

import math
import select
import socket
import threading
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

from transports.pubsub.receiving.parcel import Parcel

if TYPE_CHECKING:
    from transports.pubsub.receiving.consumer import Consumer


@dataclass(frozen=True)
class Delivery:
    """A message on its way to a consumer; it has its slot and its lease."""

    consumer: Consumer
    parcel: Parcel
    priority: int = 0


class Inbox:
    """Deliveries and errors: errors first, then by priority, then first in, first out."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._items: list[tuple[float, int, Delivery | Exception]] = []
        self._order = count()
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
            self._add(-delivery.priority, delivery)
            return True

    def fail(self, exc: Exception) -> None:
        """Have the consuming thread raise an error."""
        with self._lock:
            if not self._closed:
                self._add(-math.inf, exc)

    def pop(self) -> Delivery | None:
        """Return the next delivery, or None; raise the next error."""
        with self._lock:
            item = heappop(self._items)[2] if self._items else None
            self._quiet_if_empty()
        if isinstance(item, Exception):
            raise item
        return item

    def cancel(self, consumer: Consumer) -> list[Delivery]:
        """Take out what is waiting for a consumer, which gets nothing any more."""
        with self._lock:
            consumer.active = False
            entries, self._items = self._items, []
            mine = []
            for entry in entries:
                if isinstance(entry[2], Delivery) and entry[2].consumer is consumer:
                    mine.append(entry[2])
                else:
                    self._items.append(entry)
            heapify(self._items)
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

    def _add(self, rank: float, item: Delivery | Exception) -> None:
        heappush(self._items, (rank, next(self._order), item))
        self._signal()

    def _quiet_if_empty(self) -> None:
        if not self._items and self._signalled:
            self._reader.recv(16)
            self._signalled = False

    def _signal(self) -> None:
        if not self._signalled:
            self._signalled = True
            self._writer.send(b"\0")
