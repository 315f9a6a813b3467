"""The topics and subscriptions there are, in memory, and what depends on what."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from transports.local.delivery import Dispatcher
from transports.local.errors import AlreadyExistsError, NotFoundError
from transports.local.model import Subscription, Topic


@dataclass(slots=True)
class Attached:
    """A subscription, its number (never used twice), and its dispatcher."""

    number: int
    settings: Subscription
    dispatcher: Dispatcher


class Catalog:
    """Finds topics and subscriptions by name, and says what is missing in words."""

    def __init__(self) -> None:
        self._topics: dict[str, Topic] = {}
        self._subscriptions: dict[str, Attached] = {}

    def topic(self, name: str) -> Topic:
        if name not in self._topics:
            raise NotFoundError(f"Topic not found: {name}.")
        return self._topics[name]

    def subscription(self, name: str) -> Attached:
        if name not in self._subscriptions:
            raise NotFoundError(f"Subscription not found: {name}.")
        return self._subscriptions[name]

    def require_new_topic(self, name: str) -> None:
        if name in self._topics:
            raise AlreadyExistsError(f"Topic already exists: {name}.")

    def require_new_subscription(self, name: str) -> None:
        if name in self._subscriptions:
            raise AlreadyExistsError(f"Subscription already exists: {name}.")

    def topics(self, project: str) -> list[Topic]:
        """Return a project's topics by name."""
        return [topic for name, topic in sorted(self._topics.items()) if name.startswith(f"{project}/topics/")]

    def subscriptions(self, project: str) -> list[Attached]:
        """Return a project's subscriptions by name."""
        prefix = f"{project}/subscriptions/"
        return [each for name, each in sorted(self._subscriptions.items()) if name.startswith(prefix)]

    def subscriptions_of(self, topic: str) -> list[Attached]:
        """Return the subscriptions of a topic, by name."""
        return [each for _, each in sorted(self._subscriptions.items()) if each.settings.topic == topic]

    def everything(self) -> Iterable[Attached]:
        return list(self._subscriptions.values())

    def put_topic(self, topic: Topic) -> None:
        self._topics[topic.name] = topic

    def put_subscription(self, attached: Attached) -> None:
        self._subscriptions[attached.settings.name] = attached

    def forget_topic(self, name: str) -> None:
        del self._topics[name]

    def forget_subscription(self, name: str) -> None:
        del self._subscriptions[name]
