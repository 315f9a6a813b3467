"""A kombu channel: declares, publishes, consumes and settles messages."""

from __future__ import annotations

import threading
from collections.abc import Callable, MutableMapping
from itertools import count
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from weakref import WeakValueDictionary

from kombu.transport.base import StdChannel, to_rabbitmq_queue_arguments
from kombu.transport.virtual.base import queue_declare_ok_t

from transports.errors import ConnectionFailed, QueueNotFound
from transports.pubsub.leases.ledger import Lease
from transports.pubsub.message import Message
from transports.pubsub.receiving.consumer import Consumer, Request
from transports.pubsub.receiving.intake import Intake
from transports.pubsub.receiving.parcel import Parcel
from transports.pubsub.receiving.prefetch import Prefetch
from transports.pubsub.server.sizes import Size
from transports.pubsub.topology.queue import Declaration

if TYPE_CHECKING:
    from transports.pubsub.session import Session

#: What is given for a number that nobody knows.
_UNKNOWN = -1


class Channel(StdChannel):
    """One channel of a session. Messages can be settled from any thread, also after the channel was closed."""

    def __init__(self, session: Session, channel_id: int) -> None:
        self.session = session
        self.link = session.link
        #: What kombu finds its `Connection` through; None once closed.
        self.connection: Session | None = session
        self.channel_id = channel_id
        options = self.link.options
        self.qos = Prefetch(
            ceiling=options.prefetch_ceiling,
            on_full=self._end_streams,
            settle_seconds=options.priority_settle_seconds,
            limits_are_kept=lambda: self.link.limits_are_kept,
        )
        self.closed = False
        self._closing = threading.Lock()
        self._consumers: dict[str, Consumer] = {}
        self._unacked: MutableMapping[int, Message] = {}
        self._tags = count(1)
        # Temporary queues that were declared here and not bound yet.
        self._unbound: set[str] = set()

    # -- what there is ------------------------------------------------------------------------------------------------

    def exchange_declare(self, exchange: str = "", type: str = "direct", passive: bool = False, **kwargs: Any) -> None:
        """Note an exchange; Pub/Sub has none, so nothing is created."""
        if passive and not self.link.topology.has_exchange(exchange):
            raise QueueNotFound(f"exchange {exchange!r} was not declared by this process: declare it first")
        if not passive:
            self.link.topology.declare_exchange(exchange, type or "direct")

    def exchange_delete(self, exchange: str, if_unused: bool = False, **kwargs: Any) -> None:
        self.link.topology.forget_exchange(exchange)

    def exchange_bind(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("Pub/Sub cannot bind an exchange to an exchange")

    exchange_unbind = exchange_bind

    def queue_declare(
        self,
        queue: str = "",
        passive: bool = False,
        durable: bool = True,
        exclusive: bool = False,
        auto_delete: bool = False,
        arguments: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> queue_declare_ok_t:
        """Create a queue, or with `passive` look at it: its size is given if it can be known, else as -1."""
        self._check_usable()
        queue = queue or f"amq.gen-{uuid4()}"
        if passive:
            if not self.link.topology.has_queue(queue):
                raise QueueNotFound(f"queue {queue!r} does not exist: declare it or start its worker")
            size = self.link.upkeep.size(queue) or Size(_UNKNOWN)
            consumers = _UNKNOWN if size.consumers is None else size.consumers
            return queue_declare_ok_t(queue, size.messages, consumers)
        declaration = Declaration.of(durable=durable, exclusive=exclusive, auto_delete=auto_delete, arguments=arguments)
        self.link.topology.declare_queue(queue, declaration, owner=self)
        if declaration.temporary:
            self._unbound.add(queue)
        return queue_declare_ok_t(queue, _UNKNOWN, 0)  # with others, kombu warns of a second worker of the same name

    def prepare_queue_arguments(self, arguments: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return dict(to_rabbitmq_queue_arguments(arguments, **kwargs))

    def queue_bind(self, queue: str, exchange: str = "", routing_key: str = "", **kwargs: Any) -> None:
        self._check_usable()
        self.link.topology.bind(queue, self.link.topology.route(exchange or "", routing_key or ""), routing_key or "")
        self._unbound.discard(queue)
        for consumer in list(self._consumers.values()):
            if consumer.request.queue == queue:
                self._read(consumer)

    def queue_unbind(self, queue: str, exchange: str = "", routing_key: str = "", **kwargs: Any) -> None:
        route = self.link.topology.route(exchange or "", routing_key or "")
        self.link.topology.unbind(queue, route, routing_key or "")

    def queue_purge(self, queue: str, **kwargs: Any) -> int:
        """Drop everything in a queue, also what is leased; return how much was waiting, or 0 if that is not known."""
        self._check_usable()
        return self.link.upkeep.purge(queue)

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any) -> int:
        """Delete a queue; where its size is not known, `if_unused` and `if_empty` are refused."""
        self._check_usable()
        self.link.upkeep.delete(queue, if_unused=if_unused, if_empty=if_empty)
        return 0

    def after_reply_message_received(self, queue: str) -> None:
        """Delete a reply queue: kombu's remote control names a new one for each request, and never deletes any."""
        self.link.topology.discard(queue)

    # -- publishing ---------------------------------------------------------------------------------------------------

    def prepare_message(
        self,
        body: str | bytes,
        priority: int | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        headers: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return what `basic_publish` takes."""
        properties = {"priority": priority or 0, "delivery_info": {}, **(properties or {})}
        return {
            "body": body,
            "content-encoding": content_encoding,
            "content-type": content_type,
            "headers": headers or {},
            "properties": properties,
        }

    def basic_publish(self, message: dict[str, Any], exchange: str = "", routing_key: str = "", **kwargs: Any) -> None:
        """Publish; on return the server has stored the message, or a `bulk` has taken it."""
        self._check_usable()
        self._bind_unbound()
        self.link.publisher.publish(
            message, exchange=exchange or "", routing_key=routing_key or "", timeout_seconds=kwargs.get("timeout") or 0
        )

    # -- consuming ----------------------------------------------------------------------------------------------------

    def basic_qos(self, prefetch_size: int = 0, prefetch_count: int = 0, apply_global: bool = False) -> None:
        """Hold at most so many unsettled messages, over all queues of this channel; 0 means no limit."""
        self.qos.set_limit(prefetch_count)

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Message], Any], consumer_tag: str = "", **kwargs: Any
    ) -> str:
        """Begin to receive from a queue."""
        self._check_usable()
        self._bind_unbound()
        tag = consumer_tag or str(uuid4())
        consumer = self._consumers[tag] = Consumer(self, Request(queue, tag, no_ack, callback))
        self._read(consumer)
        return tag

    def basic_cancel(self, consumer_tag: str, **kwargs: Any) -> None:
        """Stop receiving; what was received and not dispatched is given back at once."""
        consumer = self._consumers.pop(consumer_tag, None)
        if consumer is not None:
            self._cancel(consumer)

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Message | None:
        """Return one message, or None if none comes within `get_timeout_seconds`."""
        self._check_usable()
        self._bind_unbound()
        sources = self.link.topology.sources(queue)
        seconds = self.link.options.get_timeout_seconds / max(1, len(sources))
        for source in sorted(sources, key=lambda source: -source.route.step):
            parcel = Intake(self.link, queue, source).pull(seconds)
            if parcel is not None:
                return self.accept(parcel, no_ack=no_ack)
        return None

    def accept(self, parcel: Parcel, *, no_ack: bool, tag: str | None = None) -> Message:
        """Make a message of a delivery; with a consumer `tag` it takes up a slot until it is settled."""
        requeues = self.link.requeues.count(parcel.lease.key)
        delivery_count = parcel.received.delivery_attempt or None
        properties = parcel.payload["properties"]
        properties["delivery_info"] = {
            **(properties.get("delivery_info") or {}),
            "redelivered": bool(requeues) or (delivery_count or 1) > 1,
            "delivery_count": delivery_count,
            "consumer_tag": tag,
        }
        message = Message(parcel, channel=self, tag=next(self._tags), counted=tag is not None)
        if no_ack:
            self._settle(message)
            self.link.keeper.ack(parcel.lease)
        else:
            message.give_back_when_forgotten(self.link.keeper)
            self._unacked[message.delivery_tag] = message
        return message

    # -- settling -----------------------------------------------------------------------------------------------------

    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> None:
        """Note that a message is done: the keeper tells the server, and repeats it until the server has confirmed."""
        tags = [tag for tag in list(self._unacked) if tag <= delivery_tag] if multiple else [delivery_tag]
        for message in self._taken(tags):
            self._ack(message.lease)

    def basic_reject(self, delivery_tag: int, requeue: bool = False) -> None:
        """Give a message back, or drop it."""
        for message in self._taken([delivery_tag]):
            if requeue:
                self.link.requeues.note(message.lease.key)
                self.link.keeper.nack(message.lease)
            else:
                self._ack(message.lease)

    def basic_defer(self, delivery_tag: int, seconds: float) -> None:
        """Let a message come back after so many seconds."""
        for message in self._taken([delivery_tag], put_off=True):
            self.link.keeper.defer(message.lease, seconds)

    def basic_recover(self, requeue: bool = True, **kwargs: Any) -> None:
        """Give back all messages that are not settled."""
        for message in self._taken(list(self._unacked)):
            self.link.keeper.nack(message.lease)

    def close(self) -> None:
        """Stop receiving, give back what was not dispatched; messages that are still referred to stay leased."""
        with self._closing:
            if self.closed:
                return
            self.closed = True
        consumers = list(self._consumers.values())
        self._consumers.clear()
        self.connection = None
        if self in self.session.channels:
            self.session.channels.remove(self)
        if not self.session.is_here:
            return
        self.qos.close()
        for consumer in consumers:
            self._cancel(consumer)
        for consumer in consumers:
            consumer.join(self.link.options.shutdown_timeout_seconds)
        self._unacked = WeakValueDictionary(dict(self._unacked))
        self.link.topology.release(self)

    def _check_usable(self) -> None:
        """Have kombu connect again if this channel was closed, or made by the process that this one was forked from."""
        if self.closed or not self.session.is_here:
            raise ConnectionFailed("this channel was closed, or belongs to a parent process: open another one")

    def _taken(self, tags: list[int], *, put_off: bool = False) -> list[Message]:
        """Take messages out of the unsettled ones; who comes second with the same tag gets nothing."""
        messages = [message for message in (self._unacked.pop(tag, None) for tag in tags) if message is not None]
        for message in messages:
            self._settle(message, put_off=put_off)
        return messages

    def _settle(self, message: Message, *, put_off: bool = False) -> None:
        if message.counted:
            self.qos.release()
        message.settle(put_off=put_off)
        if message.counted and self.qos.can_consume():
            for consumer in list(self._consumers.values()):
                consumer.widen()

    def _cancel(self, consumer: Consumer) -> None:
        for delivery in consumer.stop():
            self.link.keeper.nack(delivery.parcel.lease)
            delivery.parcel.settle()
            self.qos.release()

    def _end_streams(self) -> None:
        for consumer in list(self._consumers.values()):
            consumer.end_streams()

    def _bind_unbound(self) -> None:
        while self._unbound:
            self.link.topology.bind_if_unbound(self._unbound.pop())

    def _read(self, consumer: Consumer) -> None:
        for source in self.link.topology.sources(consumer.request.queue):
            consumer.read(source)

    def _ack(self, lease: Lease) -> None:
        self.link.requeues.forget(lease.key)
        self.link.keeper.ack(lease)
