"""The topics, subscriptions and snapshots there are, in memory, and what depends on what."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from transports.local import filters
from transports.local.dispatch.delivery import Dispatcher
from transports.local.errors import AlreadyExistsError, NotFoundError
from transports.local.filters import Filter
from transports.local.model import DELETED_TOPIC, Snapshot, Subscription, Topic


@dataclass(slots=True, eq=False)
class KnownTopic:
    """A topic and its number (never used twice)."""

    number: int
    settings: Topic


@dataclass(slots=True, eq=False)
class KnownSnapshot:
    """A snapshot and its number."""

    number: int
    settings: Snapshot
    #: Held while it is sought to, or deleted.
    gate: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(slots=True, eq=False)
class Attached:
    """A subscription, its number, and its dispatcher."""

    number: int
    settings: Subscription
    dispatcher: Dispatcher
    #: Ids at or below count as acknowledged.
    floor: int = 0
    #: When it was last in use, in microseconds since 1970.
    used_us: int = 0
    #: Number of the snapshot that is being made of it: what is acknowledged meanwhile is taken out of that, too.
    snapshot: int | None = None
    #: Held while its backlog is changed or swept piece by piece, as by a seek; before all other locks.
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: Held for a moment in which nothing is acknowledged.
    gate: asyncio.Lock = field(default_factory=asyncio.Lock)
    accepts: Filter = field(init=False)

    def __post_init__(self) -> None:
        self.accepts = filters.parse(self.settings.filter)

    @property
    def waiting(self) -> int:
        """How many messages nobody holds."""
        return self.dispatcher.backlog.ready

    @property
    def leased(self) -> int:
        """How many messages somebody holds."""
        return len(self.dispatcher.backlog) - self.dispatcher.backlog.ready

    @property
    def oldest_published_us(self) -> int | None:
        """When the oldest of both was published, in microseconds since 1970; None if there is none."""
        return self.dispatcher.backlog.oldest_published_us()

    @property
    def consumers(self) -> int:
        """How many streams and pulls wait for messages."""
        return self.dispatcher.consumers


class Catalog:
    """Finds what there is by name, and says what is missing in words."""

    def __init__(self) -> None:
        self._topics: dict[str, KnownTopic] = {}
        self._subscriptions: dict[str, Attached] = {}
        self._snapshots: dict[str, KnownSnapshot] = {}
        #: Snapshots that are being made: they keep what is published, and nobody sees them yet.
        self._begun: dict[str, KnownSnapshot] = {}
        self._by_topic: dict[str, dict[str, Attached]] = {}

    def topic(self, name: str) -> KnownTopic:
        if name not in self._topics:
            raise NotFoundError(f"Topic not found: {name}.")
        return self._topics[name]

    def subscription(self, name: str) -> Attached:
        if name not in self._subscriptions:
            raise NotFoundError(f"Subscription not found: {name}.")
        return self._subscriptions[name]

    def snapshot(self, name: str) -> KnownSnapshot:
        if name not in self._snapshots:
            raise NotFoundError(f"Snapshot not found: {name}.")
        return self._snapshots[name]

    def require_new_topic(self, name: str) -> None:
        if name in self._topics:
            raise AlreadyExistsError(f"Topic already exists: {name}.")

    def require_new_subscription(self, name: str) -> None:
        if name in self._subscriptions:
            raise AlreadyExistsError(f"Subscription already exists: {name}.")

    def require_new_snapshot(self, name: str) -> None:
        if name in self._snapshots or name in self._begun:
            raise AlreadyExistsError(f"Snapshot already exists: {name}.")

    def topics(self, project: str) -> list[Topic]:
        """Return a project's topics by name."""
        return [each.settings for name, each in sorted(self._topics.items()) if name.startswith(f"{project}/topics/")]

    def subscriptions(self, project: str) -> list[Attached]:
        """Return a project's subscriptions by name."""
        prefix = f"{project}/subscriptions/"
        return [each for name, each in sorted(self._subscriptions.items()) if name.startswith(prefix)]

    def snapshots(self, project: str) -> list[Snapshot]:
        """Return a project's snapshots by name."""
        prefix = f"{project}/snapshots/"
        return [each.settings for name, each in sorted(self._snapshots.items()) if name.startswith(prefix)]

    def subscriptions_of(self, topic: str) -> list[Attached]:
        """Return the subscriptions that get a topic's messages, by name."""
        return [each for _, each in sorted(self._by_topic.get(topic, {}).items())]

    def snapshots_of(self, topic: str) -> list[KnownSnapshot]:
        """Return the snapshots of a topic, by name."""
        return [each for _, each in sorted(self._snapshots.items()) if each.settings.topic == topic]

    def keepers_of(self, topic: KnownTopic) -> list[int]:
        """Return the numbers of those that keep a topic's messages for replays."""
        snapshots = [*self._snapshots.values(), *self._begun.values()]
        numbers = [each.number for each in snapshots if each.settings.topic == topic.settings.name]
        return [topic.number, *numbers] if topic.settings.retention_seconds is not None else numbers

    def retention_of(self, topic: str) -> int | None:
        """Return for how many seconds a topic keeps messages for replays; None if not, or if it is gone."""
        return self._topics[topic].settings.retention_seconds if topic in self._topics else None

    def require(self, keeper: Attached | KnownSnapshot) -> None:
        """Raise ``NotFoundError`` if something has been deleted meanwhile."""
        if not self.has(keeper):
            kind = "Subscription" if isinstance(keeper, Attached) else "Snapshot"
            raise NotFoundError(f"{kind} not found: {keeper.settings.name}.")

    def has(self, keeper: Attached | KnownTopic | KnownSnapshot) -> bool:
        """Say whether something has not been deleted meanwhile."""
        name = keeper.settings.name
        found = (self._subscriptions.get(name), self._topics.get(name), self._snapshots.get(name))
        return any(each is keeper for each in found)

    def everything(self) -> list[Attached]:
        """Return all subscriptions."""
        return list(self._subscriptions.values())

    def all_topics(self) -> list[KnownTopic]:
        return list(self._topics.values())

    def all_snapshots(self) -> list[KnownSnapshot]:
        return list(self._snapshots.values())

    def put_topic(self, topic: KnownTopic) -> None:
        self._topics[topic.settings.name] = topic

    def begin_snapshot(self, snapshot: KnownSnapshot) -> None:
        """Have a snapshot keep what is published from now on, and its name taken; ``put_snapshot`` shows it."""
        self._begun[snapshot.settings.name] = snapshot

    def abandon_snapshot(self, snapshot: KnownSnapshot) -> None:
        """Forget a snapshot that was begun."""
        self._begun.pop(snapshot.settings.name, None)

    def put_snapshot(self, snapshot: KnownSnapshot) -> None:
        self.abandon_snapshot(snapshot)
        self._snapshots[snapshot.settings.name] = snapshot

    def put_subscription(self, attached: Attached) -> None:
        settings = attached.settings
        self._subscriptions[settings.name] = attached
        if settings.topic != DELETED_TOPIC and not settings.detached:
            self._by_topic.setdefault(settings.topic, {})[settings.name] = attached

    def forget_topic(self, name: str) -> None:
        """Forget a topic; its subscriptions and snapshots have none any more."""
        del self._topics[name]
        for attached in self._by_topic.pop(name, {}).values():
            attached.settings = replace(attached.settings, topic=DELETED_TOPIC)
        for snapshot in (*self.snapshots_of(name), *self._begun.values()):
            if snapshot.settings.topic == name:
                snapshot.settings = replace(snapshot.settings, topic=DELETED_TOPIC)

    def forget_subscription(self, attached: Attached) -> None:
        del self._subscriptions[attached.settings.name]
        self.cut_off(attached)

    def cut_off(self, attached: Attached) -> None:
        """Have a subscription get no more messages of its topic."""
        self._by_topic.get(attached.settings.topic, {}).pop(attached.settings.name, None)

    def forget_snapshot(self, name: str) -> None:
        del self._snapshots[name]
