"""The service ``google.pubsub.v1.Publisher``: requests in, answers out, no network."""

from __future__ import annotations

from transports.local import paging, resources, rules, wire
from transports.local.engine import Engine
from transports.local.promises import Promise
from transports.local.publications import Publication
from transports.local.wire import Message


class PublisherService:
    """Each method takes a request message and returns the response message, or raises a ``RequestError``.

    ``publish`` returns a ``Promise`` of ids, at once.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def create_topic(self, request: Message) -> Message:
        return resources.write_topic(await self._engine.administration.create_topic(resources.read_topic(request)))

    async def get_topic(self, request: Message) -> Message:
        rules.check_topic_name(request.topic)
        return resources.write_topic(self._engine.catalog.topic(request.topic).settings)

    async def update_topic(self, request: Message) -> Message:
        wanted, paths = request.topic, list(request.update_mask.paths)
        rules.check_topic_name(wanted.name)
        revised = await self._engine.administration.update_topic(
            wanted.name, lambda settings: resources.revise_topic(settings, wanted, paths)
        )
        return resources.write_topic(revised)

    async def list_topics(self, request: Message) -> Message:
        rules.check_project(request.project)
        found = {each.name: each for each in self._engine.catalog.topics(request.project)}
        page = paging.page(list(found), request)
        return wire.request_type("ListTopicsResponse")(
            topics=[resources.write_topic(found[name]) for name in page.names], next_page_token=page.next_token
        )

    async def list_topic_subscriptions(self, request: Message) -> Message:
        rules.check_topic_name(request.topic)
        self._engine.catalog.topic(request.topic)
        names = [each.settings.name for each in self._engine.catalog.subscriptions_of(request.topic)]
        page = paging.page(names, request)
        return wire.request_type("ListTopicSubscriptionsResponse")(
            subscriptions=page.names, next_page_token=page.next_token
        )

    async def list_topic_snapshots(self, request: Message) -> Message:
        rules.check_topic_name(request.topic)
        self._engine.catalog.topic(request.topic)
        names = [each.settings.name for each in self._engine.catalog.snapshots_of(request.topic)]
        page = paging.page(names, request)
        return wire.request_type("ListTopicSnapshotsResponse")(snapshots=page.names, next_page_token=page.next_token)

    async def detach_subscription(self, request: Message) -> Message:
        rules.check_subscription_name(request.subscription)
        await self._engine.administration.detach_subscription(request.subscription)
        return wire.request_type("DetachSubscriptionResponse")()

    async def delete_topic(self, request: Message) -> Message:
        rules.check_topic_name(request.topic)
        await self._engine.administration.delete_topic(request.topic)
        return wire.EMPTY()

    def publish(self, request: Publication) -> Promise:
        """Begin to publish; what was begun is carried to its end."""
        rules.check_topic_name(request.topic)
        return Promise(self._engine.publish(request.topic, request.drafts()), list)
