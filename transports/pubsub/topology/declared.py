"""What this process has declared on one server: exchanges, queues, and the ways between them.

Pub/Sub knows topics and subscriptions only. A publisher needs no table of bindings: it publishes to the topic of the
route, and the server copies the message to each subscription. So this is about creating what is missing, once per
process, and about taking down what was temporary.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import Any

from transports.errors import PermissionMissing, RequestRefused, ServerUnavailable, TransportError
from transports.pubsub.options import Options
from transports.pubsub.topology import priorities
from transports.pubsub.topology.names import Kind, Names, Route
from transports.pubsub.topology.provision import Provision
from transports.pubsub.topology.queue import Declaration, Queue

logger = logging.getLogger(__name__)

#: Types of exchanges that topics and subscriptions can express, as kombu calls them.
EXCHANGE_TYPES = frozenset(kind.value for kind in Kind)


@dataclass(frozen=True)
class Source:
    """A subscription that a queue is read from, and the route that fills it."""

    subscription: str
    route: Route


class Topology:
    """Safe to use from any thread."""

    def __init__(self, provision: Provision, names: Names, options: Options) -> None:
        self._provision = provision
        self._names = names
        self._options = options
        # What was declared.
        self._lock = threading.RLock()
        # Calls to the server, one at a time; never taken inside of the other, so that nobody else waits for them.
        self._calling = threading.Lock()
        self._exchanges: dict[str, Kind] = {}
        self._queues: dict[str, Queue] = {}
        # Until when nothing is taken down, because the server did not answer; monotonic.
        self._silent_until = 0.0

    @property
    def retention_seconds(self) -> float:
        """For how long the server keeps a message of a lasting queue."""
        return self._provision.retention_seconds

    # -- exchanges and routes -----------------------------------------------------------------------------------------

    def declare_exchange(self, exchange: str, kind: str) -> None:
        if kind not in EXCHANGE_TYPES:
            raise RequestRefused(f"exchange {exchange!r}: Pub/Sub has no {kind} exchanges, use direct, fanout or topic")
        if (known := self._exchanges.setdefault(exchange, Kind(kind))) is not Kind(kind):
            raise RequestRefused(f"exchange {exchange!r} is declared as {known.value}, not {kind}")

    def has_exchange(self, exchange: str) -> bool:
        return exchange in self._exchanges

    def forget_exchange(self, exchange: str) -> None:
        self._exchanges.pop(exchange, None)

    def route(self, exchange: str, key: str, priority: int = 0) -> Route:
        """Return the route of a message; an exchange nobody declared here is direct."""
        kind = self._exchanges.get(exchange, Kind.DIRECT)
        if kind is not Kind.DIRECT:
            route = Route(exchange, kind=kind)
        else:
            route = Route("" if exchange == key else exchange, key)
        return route.at(self._step(route, priority)) if priority else route

    def topic(self, route: Route) -> str:
        """Return the topic to which a message for this route is published."""
        return self._names.topic(route)

    # -- queues -------------------------------------------------------------------------------------------------------

    def declare_queue(self, queue: str, declaration: Declaration, *, owner: object) -> None:
        """Note a queue; a lasting one is created now, a temporary one with its first route."""
        with self._lock:
            known = self._queues.setdefault(queue, Queue(queue, declaration.temporary))
            known.owners.add(owner)
            # Somebody who declares it without arguments takes none away: messages would wait where nobody looks.
            if declaration.message_ttl_seconds is not None:
                known.message_ttl_seconds = declaration.message_ttl_seconds
            if not known.temporary and (declaration.max_priority or self._options.priority_steps):
                known.steps = priorities.steps(declaration.max_priority, self._options.priority_steps)
        if not declaration.temporary:
            self.bind(queue, Route("", queue), queue)

    def bind(self, queue: str, route: Route, key: str) -> None:
        """Have a queue get what is published to a route from now on; `key` counts for topic exchanges."""
        with self._lock:
            known = self._queue(queue)
        with self._calling:
            for step in known.steps:
                self._provision.ensure(known, route.at(step))
        with self._lock:
            known.routes[route].add(key)

    def bind_if_unbound(self, queue: str) -> None:
        """Give a temporary queue that was bound to no exchange the default one."""
        with self._lock:
            known = self._queues.get(queue)
            unbound = known is not None and not known.routes
        if unbound:
            self.bind(queue, Route("", queue), queue)

    def unbind(self, queue: str, route: Route, key: str) -> None:
        """End a way to a queue, with what waits on it; the way by its own name, the default exchange's, stays."""
        with self._lock:
            known = self._queue(queue)
            if route.is_plain and route.key == queue:
                return
            known.routes[route].discard(key)
            if route.kind is Kind.TOPIC and known.routes[route]:
                return
            del known.routes[route]
        with self._calling:
            for step in known.steps:
                self._provision.delete_subscription(self._names.subscription(queue, route.at(step)))
                self._provision.delete_topic(route.at(step))

    def sources(self, queue: str) -> list[Source]:
        """Return the subscriptions a queue is read from, but those that these credentials could not create."""
        with self._lock:
            known = self._queues.get(queue)
            routes = known.sources() if known is not None else []
        found = (Source(self._names.subscription(queue, route), route) for route in routes or [Route("", queue)])
        return [source for source in found if not self._provision.is_absent(source.subscription)]

    def wants(self, queue: str, route: Route, payload: dict[str, Any]) -> bool:
        """Say whether a queue wants a message that came by this route."""
        known = self._queues.get(queue)
        if route.kind is not Kind.TOPIC or known is None:
            return True
        return known.wants(route, (payload["properties"].get("delivery_info") or {}).get("routing_key") or "")

    def message_ttl_seconds(self, queue: str) -> float | None:
        """Return how old a message of a queue may be; None: as old as it likes."""
        known = self._queues.get(queue)
        return known.message_ttl_seconds if known is not None else None

    def home(self, queue: str, source: Source) -> str:
        """Return the topic by which a queue gets a message of a source again, and no other queue does."""
        return self._names.topic(Route("", queue).at(source.route.step))

    def has_queue(self, queue: str) -> bool:
        """Ask the server; a key that may not look is given the benefit of the doubt."""
        try:
            return all(self._provision.exists(source.subscription) for source in self.sources(queue))
        except PermissionMissing:
            return True

    def recreate(self, queue: str, route: Route) -> bool:
        """Create again what somebody deleted; False: it was not declared here, or that is not permitted."""
        with self._lock:
            known = self._queues.get(queue)
            if known is None or route.at(0) not in known.routes:
                return False
        with self._calling:
            return self._provision.ensure(known, route, anew=True)

    def recreate_route(self, route: Route) -> bool:
        """Create the queues of a route again; False: none was declared here."""
        with self._lock:
            queues = [queue.name for queue in self._queues.values() if route.at(0) in queue.routes]
        return sum(self.recreate(queue, route) for queue in queues) > 0

    def delete_queue(self, queue: str) -> None:
        with self._lock:
            sources = self.sources(queue)
            # First of all, or a consumer that finds it missing would create it again.
            self._queues.pop(queue, None)
        with self._calling:
            for source in sources:
                self._provision.delete_subscription(source.subscription)
                self._provision.delete_topic(source.route)

    def release(self, owner: object) -> None:
        """Take down the temporary queues that nobody but this owner has declared."""
        with self._lock:
            mine = [queue for queue in self._queues.values() if owner in queue.owners]
            for queue in mine:
                queue.owners.discard(owner)
            over = [queue for queue in mine if not queue.owners]
        self._take_down(over)

    def discard(self, queue: str) -> None:
        """Take down a temporary queue, whoever has declared it here."""
        known = self._queues.get(queue)
        self._take_down([known] if known is not None else [])

    def release_all(self) -> None:
        """Take down all temporary queues: the process ends."""
        with self._lock:
            queues = list(self._queues.values())
        self._take_down(queues)

    def _take_down(self, queues: list[Queue]) -> None:
        temporary = [queue for queue in queues if queue.temporary]
        with self._lock:
            for queue in temporary:
                self._queues.pop(queue.name, None)
        for queue in temporary:
            try:
                with self._calling:
                    if time.monotonic() >= self._silent_until:
                        self._provision.take_down(queue)
            except TransportError as exc:
                logger.info("the temporary queue %s is left to the server to expire: %s", queue.name, exc)
                if isinstance(exc, ServerUnavailable):
                    # Each further one would wait as long.
                    self._silent_until = time.monotonic() + self._options.connect_timeout_seconds

    def _queue(self, queue: str) -> Queue:
        """Return what is known of a queue; one that was only bound here is lasting."""
        steps = priorities.steps(0, self._options.priority_steps)
        return self._queues.setdefault(queue, Queue(queue, steps=steps))

    def _step(self, route: Route, priority: int) -> int:
        """Return the step for a message: one that every queue of the route has, as far as is known here."""
        with self._lock:
            queues = [queue for queue in self._queues.values() if route in queue.routes]
        if not queues:
            known = self._options.priority_steps if route.kind is Kind.DIRECT else ()
            return priorities.step(priority, known)
        return priorities.step(priority, set.intersection(*(set(queue.steps) for queue in queues)))
