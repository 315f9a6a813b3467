"""What this process has declared on one server: exchanges, queues, and the ways between them.

Pub/Sub knows topics and subscriptions only. A publisher needs no table of bindings: it publishes to the topic of the
route, and the server copies the message to each subscription. So this is about creating what is missing, once per
process, and about taking down what was temporary.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field

from transports.errors import (
    AlreadyExists,
    PermissionMissing,
    QueueNotFound,
    RequestRefused,
    TransportError,
)
from transports.pubsub.client import Client, SubscriptionSettings
from transports.pubsub.names import Names, Route
from transports.pubsub.options import Options

logger = logging.getLogger(__name__)

#: How often a topic is created that somebody else keeps deleting.
_ATTEMPTS = 3
#: Types of exchanges that topics and subscriptions can express.
EXCHANGE_TYPES = frozenset({"direct", "fanout"})


@dataclass
class Queue:
    """A queue as this process declared it."""

    name: str
    #: Deleted by the last channel that declared it, and by the server when nobody uses it.
    temporary: bool = False
    routes: set[Route] = field(default_factory=set)
    owners: set[object] = field(default_factory=set)


class Topology:
    """Safe to use from any thread."""

    def __init__(self, client: Client, names: Names, options: Options) -> None:
        self._client = client
        self._names = names
        self._options = options
        self._lock = threading.RLock()
        self._exchanges: dict[str, str] = {}
        self._queues: dict[str, Queue] = {}
        self._ensured: set[str] = set()
        self._created_topics: set[str] = set()
        self._warned: set[str] = set()
        self._retention_seconds = options.retention_seconds

    def declare_exchange(self, exchange: str, kind: str) -> None:
        if kind not in EXCHANGE_TYPES:
            raise RequestRefused(f"exchange {exchange!r}: Pub/Sub has no {kind} exchanges, use direct or fanout")
        if self._exchanges.setdefault(exchange, kind) != kind:
            raise RequestRefused(f"exchange {exchange!r} is declared as {self._exchanges[exchange]}, not {kind}")

    def has_exchange(self, exchange: str) -> bool:
        return exchange in self._exchanges

    def forget_exchange(self, exchange: str) -> None:
        self._exchanges.pop(exchange, None)

    def route(self, exchange: str, key: str) -> Route:
        """Return the route of a message; an exchange nobody declared here is direct."""
        if self._exchanges.get(exchange) == "fanout":
            return Route(exchange, fanout=True)
        return Route("" if exchange == key else exchange, key)

    def declare_queue(self, queue: str, *, temporary: bool, owner: object) -> None:
        """Note a queue; a lasting one is created now, a temporary one with its first route."""
        with self._lock:
            known = self._queues.setdefault(queue, Queue(queue, temporary))
            known.owners.add(owner)
        if not temporary:
            self.bind(queue, Route("", queue))

    def bind(self, queue: str, route: Route) -> None:
        """Have a queue get what is published to a route from now on."""
        with self._lock:
            known = self._queues.setdefault(queue, Queue(queue))
            self._ensure(known, route)
            known.routes.add(route)

    def bind_if_unbound(self, queue: str) -> None:
        """Give a temporary queue that was bound to no exchange the default one."""
        with self._lock:
            known = self._queues.get(queue)
            if known is not None and not known.routes:
                self.bind(queue, Route("", queue))

    def unbind(self, queue: str, route: Route) -> None:
        with self._lock:
            if queue in self._queues:
                self._queues[queue].routes.discard(route)
            self._delete_subscription(self._names.subscription(queue, route))

    def subscriptions(self, queue: str) -> dict[str, Route]:
        """Return the subscriptions a queue is read from."""
        with self._lock:
            known = self._queues.get(queue)
            routes = set(known.routes) if known is not None else set()
        return {self._names.subscription(queue, route): route for route in routes or {Route("", queue)}}

    def has_queue(self, queue: str) -> bool:
        """Ask the server; a key that may not look is given the benefit of the doubt."""
        try:
            return all(self._client.has_subscription(name) for name in self.subscriptions(queue))
        except PermissionMissing:
            return True

    def recreate(self, queue: str, route: Route) -> bool:
        """Create again what somebody deleted; False: it was not declared here."""
        with self._lock:
            known = self._queues.get(queue)
            if known is None or route not in known.routes:
                return False
            self._ensured.discard(self._names.subscription(queue, route))
            self._ensure(known, route)
            return True

    def recreate_route(self, route: Route) -> bool:
        """Create the queues of a route again; False: none was declared here."""
        with self._lock:
            queues = [queue.name for queue in self._queues.values() if route in queue.routes]
            return sum(self.recreate(queue, route) for queue in queues) > 0

    def delete_queue(self, queue: str) -> None:
        for subscription, route in self.subscriptions(queue).items():
            self._delete_subscription(subscription)
            self._delete_topic(route)
        with self._lock:
            self._queues.pop(queue, None)

    def release(self, owner: object) -> None:
        """Take down the temporary queues that nobody but this owner has declared."""
        with self._lock:
            mine = [queue for queue in self._queues.values() if owner in queue.owners]
            for queue in mine:
                queue.owners.discard(owner)
                if queue.temporary and not queue.owners:
                    self._take_down(queue)

    def release_all(self) -> None:
        """Take down all temporary queues: the process ends."""
        with self._lock:
            for queue in [queue for queue in self._queues.values() if queue.temporary]:
                self._take_down(queue)

    def _take_down(self, queue: Queue) -> None:
        try:
            for route in queue.routes:
                subscription = self._names.subscription(queue.name, route)
                self._delete_subscription(subscription)
                if self._names.topic(route) in self._created_topics:
                    self._delete_topic(route)
        except TransportError as exc:
            logger.info("the temporary queue %s is left to the server to expire: %s", queue.name, exc)
        self._queues.pop(queue.name, None)

    def _ensure(self, queue: Queue, route: Route) -> None:
        subscription = self._names.subscription(queue.name, route)
        if subscription in self._ensured:
            return
        for _ in range(_ATTEMPTS):
            try:
                self._create(subscription, self._names.topic(route), queue)
            except QueueNotFound as exc:
                # Somebody deleted the topic between our two calls.
                gone = exc
            else:
                self._ensured.add(subscription)
                return
        raise gone

    def _create(self, subscription: str, topic: str, queue: Queue) -> None:
        """Create topic and subscription; what is not permitted is assumed to be there."""
        try:
            topic_is_new = self._client.create_topic(topic)
        except PermissionMissing as exc:
            self._warn_once("topic", exc)
            topic_is_new = False
        if topic_is_new:
            self._created_topics.add(topic)
        try:
            is_new = self._create_subscription(subscription, topic, queue)
        except PermissionMissing as exc:
            self._warn_once("subscription", exc)
            return
        if topic_is_new and not is_new:
            self._reattach(subscription, topic, queue)

    def _create_subscription(self, subscription: str, topic: str, queue: Queue) -> bool:
        settings = self._settings(queue)
        try:
            return self._client.create_subscription(subscription, topic, settings)
        except AlreadyExists:
            return False
        except RequestRefused:
            fallback = self._options.retention_fallback_seconds
            if queue.temporary or self._retention_seconds <= fallback:
                raise
            logger.info("this server keeps messages for %d days at most", fallback // 86400)
            self._retention_seconds = fallback
        return self._client.create_subscription(subscription, topic, self._settings(queue))

    def _settings(self, queue: Queue) -> SubscriptionSettings:
        options = self._options
        if queue.temporary:
            return SubscriptionSettings(
                options.ack_deadline_seconds, options.temporary_retention_seconds, options.temporary_expiration_seconds
            )
        return SubscriptionSettings(options.ack_deadline_seconds, self._retention_seconds)

    def _reattach(self, subscription: str, topic: str, queue: Queue) -> None:
        """See to it that a subscription that outlived its topic gets what is published to the new one."""
        try:
            if self._client.is_attached(subscription, topic):
                return
        except PermissionMissing as exc:
            self._warn_once("get", exc)
            return
        if not queue.temporary:
            raise RequestRefused(
                f"{subscription} still holds messages of a topic that was deleted and would get none of the new one: "
                f"let its worker read it empty, then delete the subscription"
            )
        self._client.delete_subscription(subscription)
        self._create_subscription(subscription, topic, queue)

    def _delete_subscription(self, subscription: str) -> None:
        self._ensured.discard(subscription)
        try:
            self._client.delete_subscription(subscription)
        except QueueNotFound:
            logger.debug("%s was deleted before", subscription)

    def _delete_topic(self, route: Route) -> None:
        """Delete the topic of a direct route when no other queue gets anything from it."""
        if route.fanout:
            return
        topic = self._names.topic(route)
        try:
            if not self._client.has_subscribers(topic):
                self._client.delete_topic(topic)
                self._created_topics.discard(topic)
        except QueueNotFound:
            logger.debug("%s was deleted before", topic)
        except PermissionMissing as exc:
            self._warn_once("delete", exc)

    def _warn_once(self, what: str, exc: TransportError) -> None:
        if what not in self._warned:
            self._warned.add(what)
            logger.warning("%s; going on as if it existed", exc)
