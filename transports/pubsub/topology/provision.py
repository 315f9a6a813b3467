"""Creates topics and subscriptions that are missing, once per process, and takes down those that were temporary.

Where the credentials do not permit it, what lasts is assumed to be there, and what is temporary does without: one
warning names the permission.
"""

from __future__ import annotations

import logging
import time

from transports.errors import AlreadyExists, PermissionMissing, QueueNotFound, RequestRefused, TransportError
from transports.pubsub.options import Options
from transports.pubsub.server.client import Client, SubscriptionSettings
from transports.pubsub.topology.names import Kind, Names, Route
from transports.pubsub.topology.queue import Queue

logger = logging.getLogger(__name__)

#: How often a topic is created that somebody else keeps deleting.
_ATTEMPTS = 3
#: Label of topics that serve temporary queues: when they were created, in seconds since 1970.
TEMPORARY_SINCE = "celery-temporary-since"


class Provision:
    """What was created, or found, on one server. Calls that change the same queue are made one at a time."""

    def __init__(self, client: Client, names: Names, options: Options) -> None:
        self._client = client
        self._names = names
        self._options = options
        self._ensured: set[str] = set()
        self._absent: set[str] = set()
        self._created_topics: set[str] = set()
        self._warned: set[str] = set()
        #: For how long the server keeps messages of lasting queues, in seconds; less than was wished on some servers.
        self.retention_seconds = options.retention_seconds

    def ensure(self, queue: Queue, route: Route, *, anew: bool = False) -> bool:
        """Make sure that a queue gets what is published to a route; `anew`: it was there, and is not any more.

        Return False if these credentials may not: then it is only assumed.
        """
        subscription = self._names.subscription(queue.name, route)
        if anew:
            self._ensured.discard(subscription)
        if subscription in self._ensured:
            return True
        # Broadcasts to a process of the same name that was killed are not for this one.
        emptied = queue.temporary and route.kind is Kind.FANOUT and not anew
        for _ in range(_ATTEMPTS):
            try:
                is_certain = self._create(subscription, self._names.topic(route), queue, emptied=emptied)
            except QueueNotFound as exc:
                # Somebody deleted the topic between our two calls.
                gone = exc
            else:
                self._ensured.add(subscription)
                return is_certain
        raise gone

    def ensure_dead(self, queue: str, *, anew: bool = False) -> str:
        """Make sure that there is a place for what is set aside from a queue, and return its name."""
        name = self._names.dead(queue)
        if anew or name not in self._ensured:
            self._create(name, name, Queue(queue))
            self._ensured.add(name)
        return name

    def is_absent(self, subscription: str) -> bool:
        """Say whether a temporary queue does without its subscription, because it could not be created."""
        return subscription in self._absent

    def exists(self, subscription: str) -> bool:
        return self._client.has_subscription(subscription)

    def take_down(self, queue: Queue) -> None:
        """Delete a temporary queue, and the topics that this process created for it."""
        for route in queue.sources():
            self.delete_subscription(self._names.subscription(queue.name, route))
            if self._names.topic(route) in self._created_topics:
                self.delete_topic(route)

    def delete_subscription(self, subscription: str) -> None:
        self._ensured.discard(subscription)
        if subscription in self._absent:
            return
        try:
            self._client.delete_subscription(subscription)
        except QueueNotFound:
            logger.debug("%s was deleted before", subscription)

    def delete_topic(self, route: Route) -> None:
        """Delete the topic of a direct route when no other queue gets anything from it."""
        if route.kind is not Kind.DIRECT:
            return
        topic = self._names.topic(route)
        try:
            if not self._client.has_subscribers(topic):
                self._client.delete_topic(topic)
                self._created_topics.discard(topic)
        except QueueNotFound:
            logger.debug("%s was deleted before", topic)
        except PermissionMissing as exc:
            self.warn(exc.permission, "topics that nobody uses any more stay")

    def warn(self, permission: str, consequence: str) -> None:
        """Say once what these credentials lack."""
        if permission not in self._warned:
            self._warned.add(permission)
            logger.warning("these credentials lack %s: %s", permission, consequence)

    def _create(self, subscription: str, topic: str, queue: Queue, *, emptied: bool = False) -> bool:
        """Create what is missing; return False if that was not permitted."""
        missing = []
        topic_is_new = is_new = False
        try:
            topic_is_new = self._create_topic(topic, queue)
        except PermissionMissing as exc:
            missing.append(exc.permission)
        try:
            is_new = self._create_subscription(subscription, topic, queue)
        except PermissionMissing as exc:
            missing.append(exc.permission)
            if queue.temporary:
                self._absent.add(subscription)
        except QueueNotFound:
            # The topic is not there, and may not be created: it is another's to create, together with this.
            if not missing:
                raise
            if queue.temporary:
                self._absent.add(subscription)
        if missing:
            self.warn(
                " and ".join(missing),
                "queues are taken to exist, and remote control, events and rpc:// results do not work",
            )
        elif not is_new and not self._is_attached(subscription, topic):
            self._reattach(subscription, topic, queue, topic_is_new=topic_is_new)
        elif emptied and not is_new:
            self._client.seek_to_now(subscription)
        return not missing

    def _create_topic(self, topic: str, queue: Queue) -> bool:
        labels = {TEMPORARY_SINCE: str(int(time.time()))} if queue.temporary else {}
        is_new = self._client.create_topic(topic, labels)
        if is_new:
            self._created_topics.add(topic)
        return is_new

    def _create_subscription(self, subscription: str, topic: str, queue: Queue) -> bool:
        try:
            return self._client.create_subscription(subscription, topic, self._settings(queue))
        except AlreadyExists:
            return False
        except RequestRefused:
            fallback = self._options.retention_fallback_seconds
            if queue.temporary or self.retention_seconds <= fallback:
                raise
            logger.info("this server keeps messages for %d days at most", fallback // 86400)
            self.retention_seconds = fallback
        return self._client.create_subscription(subscription, topic, self._settings(queue))

    def _settings(self, queue: Queue) -> SubscriptionSettings:
        options = self._options
        if queue.temporary:
            return SubscriptionSettings(
                options.ack_deadline_seconds, options.temporary_retention_seconds, options.temporary_expiration_seconds
            )
        return SubscriptionSettings(
            options.ack_deadline_seconds, self.retention_seconds, exactly_once=options.exactly_once
        )

    def _is_attached(self, subscription: str, topic: str) -> bool:
        """Say whether a subscription that was found gets what is published to the topic of its name."""
        try:
            return self._client.is_attached(subscription, topic)
        except PermissionMissing as exc:
            self.warn(exc.permission, "whether a queue outlived its topic cannot be seen")
            return True

    def _reattach(self, subscription: str, topic: str, queue: Queue, *, topic_is_new: bool) -> None:
        """See to it that a subscription that outlived its topic gets what is published to the new one."""
        if not queue.temporary:
            if topic_is_new:
                # Else the next publisher would find all in order, and its messages would go nowhere.
                self._client.delete_topic(topic)
            raise RequestRefused(
                f"{subscription} still holds messages of a topic that was deleted and would get none of the new one: "
                f"pull what it holds (gcloud pubsub subscriptions pull), then delete the subscription"
            )
        self._client.delete_subscription(subscription)
        self._create_subscription(subscription, topic, queue)


def sweep(client: Client, prefix: str, *, older_than_seconds: float = 3600.0) -> int:
    """Delete topics of temporary queues whose subscriptions have expired, and return how many.

    They are left behind by processes that were killed: Pub/Sub deletes subscriptions that nobody uses, never topics.
    Those of fanout and topic exchanges stay: they are few, and somebody may be about to subscribe again.
    """
    try:
        return sum(_swept(client, topic) for topic in _abandoned(client, prefix, time.time() - older_than_seconds))
    except TransportError as exc:
        logger.info("what killed processes left behind is not looked for: %s", exc)
        return 0


def _abandoned(client: Client, prefix: str, before: float) -> list[str]:
    """Return the topics that were made for direct routes to temporary queues before a given time."""
    found = ((topic, labels.get(TEMPORARY_SINCE, "")) for topic, labels in client.topics() if topic.startswith(prefix))
    old = (topic for topic, since in found if since.isdecimal() and int(since) < before)
    return [topic for topic in old if Names(prefix).route(topic).kind is Kind.DIRECT]


def _swept(client: Client, topic: str) -> bool:
    try:
        if client.has_subscribers(topic):
            return False
        client.delete_topic(topic)
    except QueueNotFound:
        return False
    return True
