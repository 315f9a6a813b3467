"""A queue as this process declared it. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transports.pubsub.topology.names import Route
from transports.pubsub.topology.patterns import matches


@dataclass
class Queue:
    """Its properties, and the routes by which messages come to it."""

    name: str
    #: Deleted by the last channel that declared it, and by the server when nobody uses it.
    temporary: bool = False
    #: The priorities it tells apart.
    steps: tuple[int, ...] = (0,)
    #: Seconds after which its messages are not wanted any more; None: never.
    message_ttl_seconds: float | None = None
    #: Routes at priority 0, each with the routing keys it was bound with: they matter for topic exchanges.
    routes: defaultdict[Route, set[str]] = field(default_factory=lambda: defaultdict(set))
    owners: set[object] = field(default_factory=set)

    def sources(self) -> list[Route]:
        """Return the ways it is read by: each route at each priority."""
        return [route.at(step) for step in self.steps for route in self.routes]

    def wants(self, route: Route, routing_key: str) -> bool:
        """Say whether a message that came by a topic exchange matches one of the bindings."""
        patterns = self.routes.get(route.at(0))
        return patterns is None or any(matches(pattern, routing_key) for pattern in patterns)


@dataclass(frozen=True)
class Declaration:
    """What `queue_declare` says of a queue."""

    temporary: bool = False
    max_priority: int = 0
    message_ttl_seconds: float | None = None

    @classmethod
    def of(
        cls, *, durable: bool, exclusive: bool, auto_delete: bool, arguments: Mapping[str, Any] | None
    ) -> Declaration:
        """Read AMQP's flags and arguments, those of RabbitMQ; what Pub/Sub cannot do (lengths) has no effect."""
        given = arguments or {}
        ttl = given.get("x-message-ttl")
        return cls(
            temporary=bool(exclusive or auto_delete or (not durable and "x-expires" in given)),
            max_priority=int(given.get("x-max-priority") or 0),
            message_ttl_seconds=None if ttl is None else float(ttl) / 1000,
        )
