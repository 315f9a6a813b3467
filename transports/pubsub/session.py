"""What kombu calls a connection: channels, and the inbox that serves them all."""

from __future__ import annotations

import os
import time
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import ref

from transports.errors import ConnectionFailed
from transports.pubsub.channel import Channel
from transports.pubsub.receiving.inbox import Inbox

if TYPE_CHECKING:
    from transports.pubsub.link import Link


class Session:
    """From `establish_connection` to `close`."""

    def __init__(self, client: Any, link: Link) -> None:
        #: The kombu `Connection` that owns us.
        self.client = client
        self.link = link
        self.inbox = Inbox()
        self.channels: list[Channel] = []
        self.closed = False
        self._channel_ids = count(1)
        self._loop: Any = None
        self._pid = os.getpid()
        link.sessions.add(self)

    @property
    def is_here(self) -> bool:
        """Say whether this process made it: a forked child leaves its parent's alone."""
        return self._pid == os.getpid()

    @property
    def usable(self) -> bool:
        return not self.closed and self.is_here

    def channel(self) -> Channel:
        channel = Channel(self, next(self._channel_ids))
        self.channels.append(channel)
        return channel

    def retention_seconds(self, queue: str) -> float:
        """For how long the server keeps a message of a lasting queue: `connection.connection.retention_seconds`."""
        return self.link.upkeep.retention_seconds(queue)

    def register(self, loop: Any) -> None:
        """Have an event loop dispatch what comes; to be repeated after the loop was reset."""
        self._loop = ref(loop)
        loop.add_reader(self.inbox, self.dispatch_ready)

    def unregister(self) -> None:
        loop = self._loop() if self._loop is not None else None
        if loop is not None and self.inbox.fileno() in loop.readers:
            loop.remove_reader(self.inbox.fileno())
        self._loop = None

    def drain(self, timeout_seconds: float | None) -> None:
        """Dispatch one message; raise `socket.timeout` when none comes in time, None waits for ever."""
        ends_at = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while not self._dispatch_next():
            if self.closed:
                raise ConnectionFailed("this connection was closed: open another one")
            left = None if ends_at is None else ends_at - time.monotonic()
            if not self.inbox.wait(left):
                raise TimeoutError("no message came in time")

    def dispatch_ready(self) -> None:
        """Dispatch what is there now, and no more, so that an event loop gets its turn."""
        for _ in range(len(self.inbox)):
            self._dispatch_next()

    def close(self, *, flush: bool = True) -> None:
        """Close all channels; what was settled is told to the server within `shutdown_timeout_seconds`."""
        if self.closed:
            return
        self.closed = True
        if self.is_here:
            self.unregister()
            for channel in list(self.channels):
                channel.close()
            if flush:
                self.link.keeper.flush(self.link.options.shutdown_timeout_seconds)
        self.inbox.close()

    def _dispatch_next(self) -> bool:
        """Dispatch one delivery; False: there was none, or it came to nothing."""
        delivery = self.inbox.pop()
        if delivery is None:
            return False
        request = delivery.consumer.request
        message = delivery.consumer.channel.accept(delivery.parcel, no_ack=request.no_ack, tag=request.tag)
        request.callback(message)
        return True
