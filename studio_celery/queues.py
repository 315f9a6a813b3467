"""The queues of a broker: how full they are, and what they are called where access is given."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from studio_celery.errors import BrokerError, SettingsError
from studio_celery.settings import Settings
from studio_celery.world import resolve
from transports.errors import BadName, BadURL, NotAuthenticated, TransportError
from transports.local import QueueStatistics, StatisticsError, statistics
from transports.pubsub.options import Options
from transports.pubsub.server.calls import Calls
from transports.pubsub.server.sizes import Sizes
from transports.pubsub.server.token import token_of
from transports.pubsub.server.url import DEFAULT_PREFIX, Address, parse
from transports.pubsub.topology.names import Kind, Names, Route

T = TypeVar("T")


@dataclass(frozen=True)
class Queue:
    """One queue at one moment."""

    queue: str
    #: Messages that would be delivered now if somebody asked; on Google's servers with those that a consumer holds.
    waiting: int
    #: Messages that a consumer holds; None: not known.
    leased: int | None
    #: Seconds since the oldest of both was published; None if there is none.
    oldest_age_seconds: float | None
    #: None: not known.
    consumers: int | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def list_queues(
    settings: Settings, *, everything: bool = False, environ: Mapping[str, str] | None = None
) -> list[Queue]:
    """The queues of this broker by name; with `everything` also those over which workers talk among themselves.

    Raises:
        BrokerError: The broker does not answer, refuses, or is of a kind that tells no sizes; on Google's servers also
            if the package for Monitoring is missing.
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
        return queues_at_google(Sizes(Calls(address, Options())), address, everything=everything)
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


def queues_at_google(sizes: Sizes, address: Address, *, everything: bool = False) -> list[Queue]:
    """The queues of a project of Google's by name, as Monitoring knew them up to two minutes ago.

    Raises:
        BrokerError: Monitoring does not answer, or refuses, or its package is missing.
    """
    try:
        found = sizes.monitored(address.prefix)
    except ImportError as exc:
        raise BrokerError(
            "Google tells how full a queue is by its Monitoring API only: install studio-celery[monitoring]."
        ) from exc
    except NotAuthenticated as exc:
        raise BrokerError(str(exc)) from exc
    except TransportError as exc:
        raise BrokerError(
            f"Google's Monitoring API does not tell how full the queues are ({exc}): enable it in the project, "
            "and give this key the role Monitoring Viewer."
        ) from exc
    groups = _grouped(found.items(), address.prefix, everything)
    return [
        Queue(
            queue=queue,
            waiting=sum(each.messages for each in group),
            leased=None,
            oldest_age_seconds=_oldest(each.oldest_age_seconds for each in group),
            consumers=None,
        )
        for queue, group in groups
    ]


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
    named = [(each.name.rpartition("/")[2], each) for each in found]
    return [_joined(queue, group) for queue, group in _grouped(named, address.prefix, everything)]


def _grouped(found: Iterable[tuple[str, T]], prefix: str, everything: bool) -> list[tuple[str, list[T]]]:
    """Group what is known of subscriptions by queue; subscriptions of other applications are left out."""
    groups: dict[str, list[T]] = {}
    for subscription, known in found:
        try:
            queue, route = Names(prefix).queue(subscription)
        except BadName:
            continue
        if everything or route.kind is not Kind.FANOUT:
            groups.setdefault(queue, []).append(known)
    return sorted(groups.items(), key=lambda each: each[0])


def _oldest(ages: Iterable[float | None]) -> float | None:
    return max((each for each in ages if each is not None), default=None)


def _joined(queue: str, group: list[QueueStatistics]) -> Queue:
    return Queue(
        queue=queue,
        waiting=sum(each.waiting for each in group),
        leased=sum(each.leased for each in group),
        oldest_age_seconds=_oldest(each.oldest_age_seconds for each in group),
        # A consumer of a queue reads all its subscriptions.
        consumers=max(each.consumers for each in group),
    )
