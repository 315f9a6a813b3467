"""Names of queues, exchanges and routes in Pub/Sub, and back. Pure.

| what | topic | subscription |
| --- | --- | --- |
| a queue, its default exchange, and an exchange and key of its own name | ``{prefix}{queue}`` | the same |
| another direct route | ``{prefix}direct~{exchange}~{key}`` | ``{topic}~{queue}`` |
| a fanout exchange | ``{prefix}fanout~{exchange}`` | ``{topic}~{queue}`` |

Everything outside ``[A-Za-z0-9-_.+]`` is percent-encoded; ``~`` therefore only ever separates.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from transports.errors import BadName

#: Longest name of a topic or subscription that Pub/Sub accepts, in characters.
MAX_LENGTH = 255
#: Shortest such name.
MIN_LENGTH = 3

_SEPARATOR = "~"
_OUTSIDE = re.compile(rb"[^A-Za-z0-9\-_.+]")


@dataclass(frozen=True)
class Route:
    """The way from a publisher to queues: an exchange and a routing key; a fanout exchange has no key."""

    exchange: str
    key: str = ""
    fanout: bool = False

    @property
    def is_plain(self) -> bool:
        """Say whether this is the way by a queue's own name."""
        return not self.fanout and self.exchange in ("", self.key)


@dataclass(frozen=True)
class Names:
    """The translation for one prefix."""

    prefix: str

    def topic(self, route: Route) -> str:
        """Return the topic to which a message for this route is published."""
        return _checked(self.prefix + self._path(route), route)

    def subscription(self, queue: str, route: Route) -> str:
        """Return the subscription from which a queue gets what is published to this route."""
        if route.is_plain and route.key == queue:
            return self.topic(route)
        parts = [_encode(queue, "queue"), *_parts(route)]
        return _checked(self.prefix + _SEPARATOR.join([*parts[1:], parts[0]]), route)

    def route(self, topic: str) -> Route:
        """Return the route of a topic: the inverse of `topic`, but for the default exchange's second name."""
        kind, *rest = self._split(topic)
        if not rest:
            return Route("", kind)
        return _route([kind, *rest], topic)

    def queue(self, subscription: str) -> tuple[str, Route]:
        """Return queue and route of a subscription."""
        kind, *rest = self._split(subscription)
        if not rest:
            return kind, Route("", kind)
        return rest[-1], _route([kind, *rest[:-1]], subscription)

    def _path(self, route: Route) -> str:
        return _encode(route.key, "queue") if route.is_plain else _SEPARATOR.join(_parts(route))

    def _split(self, name: str) -> list[str]:
        if not name.startswith(self.prefix):
            raise BadName(f"{name} does not begin with the prefix {self.prefix!r}: it belongs to another application")
        return [unquote(part) for part in name.removeprefix(self.prefix).split(_SEPARATOR)]


def _parts(route: Route) -> list[str]:
    if route.fanout:
        return ["fanout", _encode(route.exchange, "exchange")]
    return ["direct", _encode(route.exchange, "exchange", empty=True), _encode(route.key, "routing key", empty=True)]


def _route(parts: list[str], name: str) -> Route:
    match parts:
        case ["fanout", exchange]:
            return Route(exchange, fanout=True)
        case ["direct", exchange, key]:
            return Route(exchange, key)
    raise BadName(f"{name} is not a name that this transport gives")


def _encode(text: str, what: str, *, empty: bool = False) -> str:
    if not text and not empty:
        raise BadName(f"the {what} has no name: give it one")
    return _OUTSIDE.sub(lambda found: b"%%%02X" % found.group()[0], text.encode("utf-8")).decode("ascii")


def _checked(name: str, route: Route) -> str:
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
