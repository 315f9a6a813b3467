"""One StreamingPull: batches of messages come down, signs of life go up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from transports.pubsub.server.messages import Received


def received(message: Any) -> Received:
    """Take over what Google's `ReceivedMessage` holds."""
    inner = message.message
    published_at = inner.publish_time.seconds + inner.publish_time.nanos / 1e9
    attributes = dict(inner.attributes)
    return Received(inner.message_id, message.ack_id, inner.data, message.delivery_attempt, published_at, attributes)


class Requests:
    """What goes up a stream: the first request, then an empty one now and then, until `end`."""

    def __init__(self, first: dict[str, Any], *, heartbeat_seconds: float) -> None:
        self._first: dict[str, Any] | None = first
        self._heartbeat_seconds = heartbeat_seconds
        self._ended = threading.Event()

    def __iter__(self) -> Requests:
        return self

    def __next__(self) -> dict[str, Any]:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if self._ended.wait(self._heartbeat_seconds):
            raise StopIteration
        return {}

    def end(self) -> None:
        self._ended.set()


class Stream:
    """Iterate to read; any other thread may end it.

    It is ended from this side by saying that nothing more goes up, upon which a server sends what it had on the way and
    closes. Cutting it off at once would strand those messages until their lease ends, and Google's emulator even goes
    on delivering to a stream that was cut off.
    """

    def __init__(self, start: Callable[[Requests], Any], requests: Requests, *, grace_seconds: float) -> None:
        self._start = start
        self._requests = requests
        self._grace_seconds = grace_seconds
        self._lock = threading.Lock()
        self._call: Any = None
        self._timer: threading.Timer | None = None
        self._over = False
        #: Whether this side ended it.
        self.finishing = False
        #: When it was opened, in monotonic seconds; None before.
        self.opened_at: float | None = None

    def batches(self, around: AbstractContextManager[None]) -> Iterator[list[Received]]:
        """Yield batches until the stream ends; `around` surrounds the call and translates its errors."""
        with around:
            try:
                with self._lock:
                    self._call = self._start(self._requests)
                    self.opened_at = time.monotonic()
                for response in self._call:
                    yield [received(message) for message in response.received_messages]
            finally:
                self._ended()

    def finish(self) -> None:
        """Ask the server to end the stream, and cut it off if it does not."""
        with self._lock:
            if self.finishing or self._over:
                return
            self.finishing = True
            self._requests.end()
            self._timer = threading.Timer(self._grace_seconds, self.cancel)
            self._timer.daemon = True
            try:
                self._timer.start()
            except RuntimeError:
                # The interpreter is ending and starts no more threads: there is no time to be polite.
                self._end_call()

    def cancel(self) -> None:
        """Cut it off."""
        self.finishing = True
        self._end_call()

    def _ended(self) -> None:
        with self._lock:
            self._over = True
            if self._timer is not None:
                self._timer.cancel()
        self._end_call()

    def _end_call(self) -> None:
        self._requests.end()
        if self._call is not None:
            self._call.cancel()
