"""Publishes to routes: now, one message at a time, or many at once inside of `bulk`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transports.errors import PermissionMissing, QueueNotFound
from transports.pubsub.payload import encode
from transports.pubsub.publishing.bulk import current
from transports.pubsub.server.client import Outgoing
from transports.pubsub.topology.names import Kind, Route

if TYPE_CHECKING:
    from transports.pubsub.link import Link

#: kombu's delivery mode of messages that need not survive anything.
_TRANSIENT = 1


class Publisher:
    """Safe to use from any thread."""

    def __init__(self, link: Link) -> None:
        self._link = link
        # Broadcasts that these credentials may not send.
        self._silent: set[Route] = set()

    def publish(self, message: dict[str, Any], *, exchange: str, routing_key: str, timeout_seconds: float = 0) -> None:
        """Publish; on return the server has stored the message, or a bulk has taken it.

        A broadcast that nobody listens to is dropped, as in AMQP. A direct message without a queue raises.
        """
        properties = message["properties"]
        route = self._link.topology.route(exchange, routing_key, int(properties.get("priority") or 0))
        data = encode(message, exchange=exchange, routing_key=routing_key)
        outgoing = Outgoing(data, _attributes(message, routing_key))
        lasting = route.kind is not Kind.FANOUT and properties.get("delivery_mode") != _TRANSIENT
        bulk = current()
        if bulk is not None and lasting:
            bulk.add(self, route, outgoing)
            return
        options = self._link.options
        limit = options.publish_timeout_seconds if lasting else options.connect_timeout_seconds
        self.send(route, [outgoing], timeout_seconds=min(limit, timeout_seconds or limit))

    def send(self, route: Route, messages: list[Outgoing], *, timeout_seconds: float = 0) -> None:
        """Publish to a route, and create its queues again if somebody deleted them."""
        if route in self._silent:
            return
        timeout_seconds = timeout_seconds or self._link.options.publish_timeout_seconds
        topic = self._link.topology.topic(route)
        try:
            self._link.client.publish(topic, messages, timeout_seconds=timeout_seconds)
        except QueueNotFound:
            if route.kind is not Kind.DIRECT:
                return
            if not self._link.topology.recreate_route(route):
                raise
            self._link.client.publish(topic, messages, timeout_seconds=timeout_seconds)
        except PermissionMissing as exc:
            if route.kind is not Kind.FANOUT:
                raise
            self._silent.add(route)
            self._link.provision.warn(exc.permission, "nothing is published; events and remote control are off")


def _attributes(message: dict[str, Any], routing_key: str) -> dict[str, str]:
    """Return what is to be seen of a message from outside, by filters and in Google's console."""
    headers, properties = message["headers"] or {}, message["properties"]
    shown = {
        "task": headers.get("task"),
        "id": headers.get("id"),
        "routing_key": routing_key,
        "priority": properties.get("priority"),
        "eta": headers.get("eta"),
    }
    return {key: text for key, value in shown.items() if value and len((text := str(value)).encode()) <= 1024}
