"""The queues of a broker: how full they are, and what they are called where access is given."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from studio_celery.errors import BrokerError, SettingsError
from studio_celery.settings import Settings
from studio_celery.world import resolve
from transports.errors import BadName, BadURL, NotAuthenticated
from transports.local import QueueStatistics, StatisticsError, statistics
from transports.pubsub.server.token import token_of
from transports.pubsub.server.url import DEFAULT_PREFIX, Address, parse
from transports.pubsub.topology.names import Kind, Names, Route


@dataclass(frozen=True)
class Queue:
    """One queue at one moment."""

    queue: str
    #: Messages that would be delivered now if somebody asked.
    waiting: int
    #: Messages that a consumer holds.
    leased: int
    #: Seconds since the oldest of both was published; None if there is none.
    oldest_age_seconds: float | None
    consumers: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def list_queues(
    settings: Settings, *, everything: bool = False, environ: Mapping[str, str] | None = None
) -> list[Queue]:
    """The queues of this broker by name; with `everything` also those over which workers talk among themselves.

    Raises:
        BrokerError: The broker does not answer, refuses, or is of a kind that tells no sizes.
    """
    environment = os.environ if environ is None else environ
    url = resolve(settings, environment).broker_url
    if urlsplit(url).scheme != "pubsub":
        raise BrokerError(f"The broker is not Pub/Sub but {urlsplit(url).scheme}: ask it with its own tools.")
    try:
        address = parse(url, environ=environment)
    except BadURL as exc:
        raise SettingsError(str(exc)) from exc
    if address.server is None:
        raise BrokerError(
            "Google Pub/Sub does not tell how full a queue is: its sizes need the Monitoring API (role Monitoring "
            "Viewer), metric pubsub.googleapis.com/subscription/num_undelivered_messages."
        )
    try:
        token = token_of(address)
        found = statistics(
            address.server,
            address.project or "",
            token=token.secret if token else None,
            ca=Path(address.ca) if address.ca else None,
        )
    except (StatisticsError, NotAuthenticated) as exc:
        raise BrokerError(str(exc)) from exc
    return _by_queue(found, address, everything)


def resources_of(queue: str, prefix: str = DEFAULT_PREFIX) -> list[str]:
    """The ids, in patterns with `*`, of the topics and subscriptions by which a queue is reached; it may have `*`s.

    Raises:
        SettingsError: No queue can have this name.
    """
    names = Names(prefix)
    try:
        found = [names.topic(Route("", queue)), names.topic(Route("", queue).at(1)), names.dead(queue)]
    except BadName as exc:
        raise SettingsError(f"{queue!r} cannot be a queue's name: {exc}.") from exc
    found[1] = found[1].replace("~1~", "~*~", 1)
    return [each.replace("%2A", "*") for each in found]


def _by_queue(found: Iterable[QueueStatistics], address: Address, everything: bool) -> list[Queue]:
    """Join the subscriptions of each queue; those of other applications are left out."""
    groups: dict[str, list[QueueStatistics]] = {}
    for each in found:
        try:
            queue, route = Names(address.prefix).queue(each.name.rpartition("/")[2])
        except BadName:
            continue
        if everything or route.kind is not Kind.FANOUT:
            groups.setdefault(queue, []).append(each)
    return [_joined(queue, group) for queue, group in sorted(groups.items())]


def _joined(queue: str, group: list[QueueStatistics]) -> Queue:
    ages = [each.oldest_age_seconds for each in group if each.oldest_age_seconds is not None]
    return Queue(
        queue=queue,
        waiting=sum(each.waiting for each in group),
        leased=sum(each.leased for each in group),
        oldest_age_seconds=max(ages, default=None),
        # A consumer of a queue reads all its subscriptions.
        consumers=max(each.consumers for each in group),
    )
