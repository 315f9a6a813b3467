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
from transports.pubsub.consumer import Consumer, Request
from transports.pubsub.leases import Lease
from transports.pubsub.message import Message
from transports.pubsub.names import Route
from transports.pubsub.payload import encode
from transports.pubsub.prefetch import Prefetch
from transports.pubsub.stream import Received

if TYPE_CHECKING:
    from transports.pubsub.session import Session

#: kombu's delivery mode of messages that need not survive anything.
_TRANSIENT = 1


class Channel(StdChannel):
    """One channel of a session. Messages can be settled from any thread, also after the channel was closed."""

    def __init__(self, session: Session, channel_id: int) -> None:
        self.session = session
        self.link = session.link
        #: What kombu finds its `Connection` through; None once closed.
        self.connection: Session | None = session
        self.channel_id = channel_id
        self.qos = Prefetch(ceiling=self.link.options.prefetch_ceiling, on_full=self._end_streams)
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

    def exchange_unbind(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("Pub/Sub cannot bind an exchange to an exchange")

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
        """Create a queue; the numbers of messages and consumers are not known and given as 0."""
        self._check_usable()
        queue = queue or f"amq.gen-{uuid4()}"
        if passive:
            if not self.link.topology.has_queue(queue):
                raise QueueNotFound(f"queue {queue!r} does not exist: declare it or start its worker")
            return queue_declare_ok_t(queue, 0, 0)
        expires = not durable and "x-expires" in (arguments or {})
        temporary = bool(exclusive or auto_delete or expires)
        self.link.topology.declare_queue(queue, temporary=temporary, owner=self)
        if temporary:
            self._unbound.add(queue)
        return queue_declare_ok_t(queue, 0, 0)

    def prepare_queue_arguments(self, arguments: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return dict(to_rabbitmq_queue_arguments(arguments, **kwargs))

    def queue_bind(self, queue: str, exchange: str = "", routing_key: str = "", **kwargs: Any) -> None:
        self._check_usable()
        route = self._route(exchange, routing_key)
        self.link.topology.bind(queue, route)
        self._unbound.discard(queue)
        for consumer in list(self._consumers.values()):
            if consumer.request.queue == queue:
                consumer.read(self.link.names.subscription(queue, route), route)

    def queue_unbind(self, queue: str, exchange: str = "", routing_key: str = "", **kwargs: Any) -> None:
        self.link.topology.unbind(queue, self._route(exchange, routing_key))

    def queue_purge(self, queue: str, **kwargs: Any) -> int:
        """Drop everything in a queue, also what is leased; how much that was is not known, so 0."""
        self._check_usable()
        for subscription in self.link.topology.subscriptions(queue):
            self.link.client.seek_to_now(subscription)
        return 0

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any) -> int:
        """Delete a queue; not with `if_empty`, because whether it is empty cannot be known."""
        self._check_usable()
        if not if_empty:
            self.link.topology.delete_queue(queue)
        return 0

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
        """Publish; on return the server has stored the message.

        A broadcast that nobody listens to is dropped, as in AMQP. A direct message without a queue raises.
        """
        self._check_usable()
        self._bind_unbound()
        route = self._route(exchange, routing_key)
        data = encode(message, exchange=exchange, routing_key=routing_key)
        fleeting = route.fanout or message["properties"].get("delivery_mode") == _TRANSIENT
        options = self.link.options
        limit = options.connect_timeout_seconds if fleeting else options.publish_timeout_seconds
        timeout = min(limit, kwargs.get("timeout") or limit)
        try:
            self._publish(route, data, timeout)
        except QueueNotFound:
            if route.fanout:
                return
            if not self.link.topology.recreate_route(route):
                raise
            self._publish(route, data, timeout)

    def _publish(self, route: Route, data: bytes, timeout_seconds: float) -> None:
        self.link.client.publish(self.link.names.topic(route), data, timeout_seconds=timeout_seconds)

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
        for subscription, route in self.link.topology.subscriptions(queue).items():
            consumer.read(subscription, route)
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
        for subscription in self.link.topology.subscriptions(queue):
            received = self.link.client.pull(subscription)
            if received is None:
                continue
            lease = self.link.keeper.hold(subscription, received.message_id, received.ack_id, received.published)
            payload = self.session.read(received, lease) if lease is not None else None
            if lease is not None and payload is not None:
                return self.accept(payload, received, lease, no_ack=no_ack)
        return None

    def accept(
        self, payload: dict[str, Any], received: Received, lease: Lease, *, no_ack: bool, tag: str | None = None
    ) -> Message:
        """Make a message of a delivery; with a consumer `tag` it takes up a slot until it is settled."""
        info = {"redelivered": received.delivery_attempt > 1, "consumer_tag": tag}
        payload["properties"]["delivery_info"] = {**(payload["properties"].get("delivery_info") or {}), **info}
        message = Message(payload, channel=self, tag=next(self._tags), lease=lease, counted=tag is not None)
        if no_ack:
            self._settle(message)
            self.link.keeper.ack(lease)
        else:
            message.give_back_when_forgotten(self.link.keeper)
            self._unacked[message.delivery_tag] = message
        return message

    # -- settling -----------------------------------------------------------------------------------------------------

    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> None:
        """Note that a message is done: the keeper tells the server, and repeats it until the server has confirmed."""
        tags = [tag for tag in list(self._unacked) if tag <= delivery_tag] if multiple else [delivery_tag]
        for message in self._taken(tags):
            self.link.keeper.ack(message.lease)

    def basic_reject(self, delivery_tag: int, requeue: bool = False) -> None:
        """Give a message back, or drop it."""
        for message in self._taken([delivery_tag]):
            if requeue:
                self.link.keeper.nack(message.lease)
            else:
                self.link.keeper.ack(message.lease)

    def basic_defer(self, delivery_tag: int, seconds: float) -> None:
        """Let a message come back after so many seconds."""
        for message in self._taken([delivery_tag]):
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
        self._unacked = WeakValueDictionary(self._unacked)
        self.link.topology.release(self)

    def _check_usable(self) -> None:
        """Have kombu connect again if this channel was closed, or made by the process that this one was forked from."""
        if self.closed or not self.session.is_here:
            raise ConnectionFailed("this channel was closed, or belongs to a parent process: open another one")

    def _taken(self, tags: list[int]) -> list[Message]:
        """Take messages out of the unsettled ones; who comes second with the same tag gets nothing."""
        messages = [message for message in (self._unacked.pop(tag, None) for tag in tags) if message is not None]
        for message in messages:
            self._settle(message)
        return messages

    def _settle(self, message: Message) -> None:
        message.settle()
        if message.counted:
            self.qos.release()

    def _cancel(self, consumer: Consumer) -> None:
        for delivery in consumer.stop():
            self.link.keeper.nack(delivery.lease)
            self.qos.release()

    def _end_streams(self) -> None:
        for consumer in list(self._consumers.values()):
            consumer.end_streams()

    def _bind_unbound(self) -> None:
        while self._unbound:
            self.link.topology.bind_if_unbound(self._unbound.pop())

    def _route(self, exchange: str, routing_key: str) -> Route:
        return self.link.topology.route(exchange or "", routing_key or "")
