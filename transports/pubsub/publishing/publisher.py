"""Publishes to routes: now, one message at a time, or many at once inside of `bulk`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from transports.errors import PermissionMissing, QueueNotFound
from transports.pubsub.options import Options
from transports.pubsub.payload import encode
from transports.pubsub.publishing.bulk import current
from transports.pubsub.server.client import Client
from transports.pubsub.server.messages import Outgoing
from transports.pubsub.topology.declared import Topology
from transports.pubsub.topology.names import Kind, Route
from transports.pubsub.topology.provision import Provision

logger = logging.getLogger(__name__)

#: kombu's delivery mode of messages that need not survive anything.
_TRANSIENT = 1
#: Longest value that is shown as an attribute; Pub/Sub allows 1024 bytes.
_SHOWN_CHARACTERS = 250


class Publisher:
    """Safe to use from any thread."""

    def __init__(self, client: Client, topology: Topology, provision: Provision, options: Options) -> None:
        self._client = client
        self._topology = topology
        self._provision = provision
        self._options = options
        # Broadcasts that these credentials may not send.
        self._silent: set[Route] = set()

    def publish(self, message: dict[str, Any], *, exchange: str, routing_key: str, timeout_seconds: float = 0) -> None:
        """Publish; on return the server has stored the message, or a bulk has taken it.

        A broadcast that nobody listens to is dropped, as in AMQP, and so is an answer that nobody waits for any more.
        Any other message without a queue raises.
        """
        properties = message["properties"]
        route = self._topology.route(exchange, routing_key, int(properties.get("priority") or 0))
        data = encode(message, exchange=exchange, routing_key=routing_key)
        outgoing = Outgoing(data, _attributes(message["headers"]))
        lasting = route.kind is not Kind.FANOUT and properties.get("delivery_mode") != _TRANSIENT
        bulk = current()
        if bulk is not None and lasting:
            bulk.add(self, route, outgoing)
            return
        options = self._options
        limit = options.publish_timeout_seconds if lasting else options.connect_timeout_seconds
        try:
            self.send(route, [outgoing], timeout_seconds=min(limit, timeout_seconds or limit))
        except QueueNotFound as exc:
            if lasting or not _is_answer(properties):
                raise
            logger.info("an answer is dropped, who asked has gone: %s", exc)

    def send(self, route: Route, messages: list[Outgoing], *, timeout_seconds: float = 0) -> None:
        """Publish to a route, and create its queues again if somebody deleted them."""
        if route in self._silent:
            return
        timeout_seconds = timeout_seconds or self._options.publish_timeout_seconds
        topic = self._topology.topic(route)
        try:
            self._client.publish(topic, messages, timeout_seconds=timeout_seconds)
        except QueueNotFound:
            if self._topology.recreate_route(route):
                self._client.publish(topic, messages, timeout_seconds=timeout_seconds)
            elif route.kind is Kind.DIRECT and not self._sent_by_another_kind(route, messages, timeout_seconds):
                raise
        except PermissionMissing as exc:
            if route.kind is not Kind.FANOUT:
                raise
            self._silent.add(route)
            self._provision.warn(exc.permission, "nothing is published; events and remote control are off")

    def _sent_by_another_kind(self, route: Route, messages: list[Outgoing], timeout_seconds: float) -> bool:
        """Publish to an exchange that only others have declared, as fanout or topic; Celery's `Broadcast` needs it."""
        if not route.exchange or self._topology.has_exchange(route.exchange):
            return False
        for kind in (Kind.FANOUT, Kind.TOPIC):
            topic = self._topology.topic(Route(route.exchange, kind=kind))
            try:
                self._client.publish(topic, messages, timeout_seconds=timeout_seconds)
            except QueueNotFound:
                continue
            self._topology.declare_exchange(route.exchange, kind.value)
            return True
        return False


def _is_answer(properties: dict[str, Any]) -> bool:
    """Say whether this answers a message: what asks for an answer says where to."""
    return bool(properties.get("correlation_id")) and "reply_to" not in properties


def _attributes(headers: Mapping[str, Any] | None) -> dict[str, str]:
    """Return what is to be seen of a message from outside: by filters, and in Google's console."""
    if not headers:
        return {}
    shown = {key: str(headers[key]) for key in ("task", "id") if headers.get(key)}
    return {key: value for key, value in shown.items() if len(value) <= _SHOWN_CHARACTERS}
