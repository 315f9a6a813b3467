"""Names of queues, exchanges and routes in Pub/Sub, and back. Pure.

| what | topic | subscription |
| --- | --- | --- |
| a queue, its default exchange, and an exchange and key of its own name | ``{prefix}{queue}`` | the same |
| another direct route | ``{prefix}direct~{exchange}~{key}`` | ``{topic}~{queue}`` |
| a fanout exchange | ``{prefix}fanout~{exchange}`` | ``{topic}~{queue}`` |
| a topic exchange | ``{prefix}topic~{exchange}`` | ``{topic}~{queue}`` |
| any of these at a priority above 0 | ``{prefix}priority~{step}~…`` | the same |
| what was set aside from a queue | ``{prefix}dead~{queue}`` | the same |

Everything outside ``[A-Za-z0-9-_.+]`` is percent-encoded; ``~`` therefore only ever separates.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from urllib.parse import unquote

from transports.errors import BadName

#: Longest name of a topic or subscription that Pub/Sub accepts, in characters.
MAX_LENGTH = 255
#: Shortest such name.
MIN_LENGTH = 3

_SEPARATOR = "~"
_OUTSIDE = re.compile(rb"[^A-Za-z0-9\-_.+]")


class Kind(Enum):
    """Types of exchanges that topics and subscriptions can express."""

    #: To the queues bound with the message's routing key.
    DIRECT = "direct"
    #: To all queues bound.
    FANOUT = "fanout"
    #: To the queues bound with a pattern that the routing key matches.
    TOPIC = "topic"


@dataclass(frozen=True)
class Route:
    """The way from a publisher to queues: a topic of Pub/Sub; only a direct exchange has one for each routing key."""

    exchange: str
    key: str = ""
    kind: Kind = Kind.DIRECT
    #: The priority it is for: a message goes by the highest step that is not above its own.
    step: int = 0

    @property
    def is_plain(self) -> bool:
        """Say whether this is the way by a queue's own name."""
        return self.kind is Kind.DIRECT and self.exchange in ("", self.key)

    def at(self, step: int) -> Route:
        """Return the same way for another priority."""
        return replace(self, step=step)


@dataclass(frozen=True)
class Names:
    """The translation for one prefix."""

    prefix: str

    def topic(self, route: Route) -> str:
        """Return the topic to which a message for this route is published."""
        return self._checked(self._path(route), route)

    def subscription(self, queue: str, route: Route) -> str:
        """Return the subscription from which a queue gets what is published to this route."""
        if route.is_plain and route.key == queue:
            return self.topic(route)
        way = _SEPARATOR.join([*_parts(route), _encode(queue, "queue")])
        return self._checked(way, route)

    def dead(self, queue: str) -> str:
        """Return the topic, and the subscription, for what is set aside from a queue."""
        return _legal(f"{self.prefix}dead{_SEPARATOR}{_encode(queue, 'queue')}")

    def route(self, topic: str) -> Route:
        """Return the route of a topic: the inverse of `topic`, but for the default exchange's second name."""
        step, (kind, *rest) = self._split(topic)
        return _route([kind, *rest], topic).at(step) if rest else Route("", kind, step=step)

    def queue(self, subscription: str) -> tuple[str, Route]:
        """Return queue and route of a subscription."""
        step, (kind, *rest) = self._split(subscription)
        if not rest:
            return kind, Route("", kind, step=step)
        return rest[-1], _route([kind, *rest[:-1]], subscription).at(step)

    def _path(self, route: Route) -> str:
        return _encode(route.key, "queue") if route.is_plain else _SEPARATOR.join(_parts(route))

    def _checked(self, path: str, route: Route) -> str:
        step = f"priority{_SEPARATOR}{route.step}{_SEPARATOR}" if route.step else ""
        return _legal(f"{self.prefix}{step}{path}")

    def _split(self, name: str) -> tuple[int, list[str]]:
        if not name.startswith(self.prefix):
            raise BadName(f"{name} does not begin with the prefix {self.prefix!r}: it belongs to another application")
        parts = name.removeprefix(self.prefix).split(_SEPARATOR)
        step = int(parts[1]) if len(parts) > 2 and parts[0] == "priority" and parts[1].isdecimal() else 0
        return step, [unquote(part) for part in (parts[2:] if step else parts)]


def _parts(route: Route) -> list[str]:
    if route.kind is not Kind.DIRECT:
        return [route.kind.value, _encode(route.exchange, "exchange")]
    return ["direct", _encode(route.exchange, "exchange", empty=True), _encode(route.key, "routing key", empty=True)]


def _route(parts: list[str], name: str) -> Route:
    match parts:
        case ["fanout" | "topic" as kind, exchange]:
            return Route(exchange, kind=Kind(kind))
        case ["direct", exchange, key]:
            return Route(exchange, key)
    raise BadName(f"{name} is not a name that this transport gives")


def _encode(text: str, what: str, *, empty: bool = False) -> str:
    if not text and not empty:
        raise BadName(f"the {what} has no name: give it one")
    return _OUTSIDE.sub(lambda found: b"%%%02X" % found.group()[0], text.encode("utf-8")).decode("ascii")


def _legal(name: str) -> str:
    if len(name) > MAX_LENGTH:
        raise BadName(
            f"{name[:60]}… would have {len(name)} characters in Pub/Sub, which allows {MAX_LENGTH}: "
            f"shorten the queue, exchange or routing key"
        )
    if len(name) < MIN_LENGTH or not name[0].isascii() or not name[0].isalpha():
        raise BadName(f"{name!r} is too short for Pub/Sub or begins with no letter: use a prefix= that does")
    if name.startswith("goog"):
        raise BadName(f"{name!r} begins with 'goog', which Pub/Sub reserves: use another prefix=")
    return name
