"""One consumer of a queue: its readers, one for each subscription of the queue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transports.errors import QueueNotFound, TransportError
from transports.pubsub.receiving.inbox import Delivery
from transports.pubsub.receiving.intake import Intake
from transports.pubsub.receiving.parcel import Parcel
from transports.pubsub.receiving.reader import Handlers, Reader
from transports.pubsub.topology.declared import Source

if TYPE_CHECKING:
    from transports.pubsub.channel import Channel


@dataclass(frozen=True)
class Request:
    """What `basic_consume` asked for."""

    queue: str
    tag: str
    no_ack: bool
    callback: Callable[[Any], Any]


class Consumer:
    """Reads from `read` to `stop`; `active` is guarded by the inbox."""

    def __init__(self, channel: Channel, request: Request) -> None:
        self.channel = channel
        self.request = request
        self.active = True
        self._readers: dict[str, Reader] = {}

    def read(self, source: Source) -> None:
        """Begin to read a subscription of the queue, if that was not begun before."""
        if source.subscription in self._readers:
            return
        link = self.channel.link
        handlers = Handlers(
            deliver=self._deliver,
            fail=lambda exc: self._fail(source, exc),
            recreate=lambda: link.topology.recreate(self.request.queue, source.route),
        )
        intake = Intake(link, self.request.queue, source)
        reader = Reader(intake, handlers, link=link, prefetch=self.channel.qos)
        self._readers[source.subscription] = reader
        reader.start()

    def end_streams(self) -> None:
        for reader in list(self._readers.values()):
            reader.end_stream()

    def widen(self) -> None:
        """Have streams renewed that are too small by now."""
        for reader in list(self._readers.values()):
            reader.widen()

    def stop(self) -> list[Delivery]:
        """Stop reading; return what was received and not dispatched."""
        for reader in list(self._readers.values()):
            reader.stop()
        return self.channel.session.inbox.cancel(self)

    def join(self, timeout_seconds: float) -> None:
        for reader in list(self._readers.values()):
            reader.join(timeout_seconds)

    def _fail(self, source: Source, exc: TransportError) -> None:
        if isinstance(exc, QueueNotFound) and source not in self.channel.link.topology.sources(self.request.queue):
            # It was unbound, which is no error; bound again it gets another reader.
            self._readers.pop(source.subscription, None)
        else:
            self.channel.session.inbox.fail(exc)

    def _deliver(self, parcel: Parcel, priority: int) -> bool:
        return self.channel.session.inbox.put(Delivery(self, parcel, priority))
