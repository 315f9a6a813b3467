"""The service ``google.pubsub.v1.Subscriber`` but for its stream: requests in, answers out, no network."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from functools import partial

from transports.local import paging, resources, rules, wire
from transports.local.dispatch.delivery import Consumer
from transports.local.engine import Engine
from transports.local.errors import InvalidArgumentError, NotFoundError, NotSupportedError, StaleAckIdsError
from transports.local.model import Delivery, Subscription
from transports.local.promises import Promise
from transports.local.wire import Message

logger = logging.getLogger(__name__)

#: Seconds that a pull waits at most for a first message; clients ask again, so it is no loss when it ends empty.
PULL_WAIT_SECONDS = 30.0


class SubscriberService:
    """Each method takes a request message and returns the response message, or raises a ``RequestError``.

    ``acknowledge`` returns a ``Promise``, at once; ``modify_ack_deadline`` is not waited for either.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def create_subscription(self, request: Message) -> Message:
        settings = resources.read_subscription(request)
        return self._describe(await self._engine.administration.create_subscription(settings))

    async def get_subscription(self, request: Message) -> Message:
        rules.check_subscription_name(request.subscription)
        return self._describe(self._engine.catalog.subscription(request.subscription).settings)

    async def update_subscription(self, request: Message) -> Message:
        wanted, paths = request.subscription, list(request.update_mask.paths)
        rules.check_subscription_name(wanted.name)
        revised = await self._engine.administration.update_subscription(
            wanted.name, lambda settings: resources.revise_subscription(settings, wanted, paths)
        )
        return self._describe(revised)

    async def list_subscriptions(self, request: Message) -> Message:
        rules.check_project(request.project)
        found = {each.settings.name: each.settings for each in self._engine.catalog.subscriptions(request.project)}
        page = paging.page(list(found), request)
        return wire.request_type("ListSubscriptionsResponse")(
            subscriptions=[self._describe(found[name]) for name in page.names],
            next_page_token=page.next_token,
        )

    async def delete_subscription(self, request: Message) -> Message:
        rules.check_subscription_name(request.subscription)
        await self._engine.administration.delete_subscription(request.subscription)
        return wire.EMPTY()

    async def pull(self, request: Message, wait_seconds: float) -> Message:
        """Return at once what is there, else wait for the first; cancelled, it leaves nothing leased."""
        rules.check_subscription_name(request.subscription)
        if request.max_messages < 1:
            raise InvalidArgumentError(f"A pull must ask for at least 1 message, not {request.max_messages}.")
        attached = self._engine.require_attached(request.subscription)
        consumer = Consumer(
            ack_deadline_seconds=attached.settings.ack_deadline_seconds, max_messages=request.max_messages
        )
        limit = 0.0 if request.return_immediately else min(wait_seconds, PULL_WAIT_SECONDS)
        found: list[Delivery] = []
        if request.return_immediately:
            await self._engine.followed()
        try:
            async with asyncio.timeout(limit):
                found = await self._engine.deliveries(attached, consumer)
        except TimeoutError:
            logger.debug("nothing to pull from %s", request.subscription)
        return wire.request_type("PullResponse")(received_messages=[wire.write_delivery(each) for each in found])

    def give_back(self, request: Message, response: Message) -> None:
        """Make ready again what a pull returned to a client that had gone."""
        ack_ids = [each.ack_id for each in response.received_messages]
        with suppress(NotFoundError):
            self._engine.undo(self._engine.catalog.subscription(request.subscription), ack_ids)

    def acknowledge(self, request: Message) -> Promise:
        """Begin to acknowledge; what was begun is carried to its end."""
        rules.check_subscription_name(request.subscription)
        rules.check_ack_request(len(request.ack_ids), request.ByteSize())
        stale = self._engine.acknowledge(request.subscription, request.ack_ids)
        return Promise(stale, partial(self._report, request))

    def modify_ack_deadline(self, request: Message) -> Message:
        rules.check_subscription_name(request.subscription)
        rules.check_ack_request(len(request.ack_ids), request.ByteSize())
        rules.check_extension(request.ack_deadline_seconds)
        stale = self._engine.modify_ack_deadline(request.subscription, request.ack_ids, request.ack_deadline_seconds)
        return self._report(request, stale)

    async def modify_push_config(self, request: Message) -> Message:
        """Leave a subscription as it is if it is asked to be pulled from; anything else is not implemented."""
        rules.check_subscription_name(request.subscription)
        self._engine.catalog.subscription(request.subscription)
        if request.push_config.ByteSize():
            raise NotSupportedError("The local broker does not push: pull from the subscription instead.")
        return wire.EMPTY()

    async def test_permissions(self, request: Message) -> Message:
        """Permit everything that is asked for: who reaches the broker may use it."""
        return wire.TEST_PERMISSIONS_RESPONSE(permissions=request.permissions)

    def _report(self, request: Message, stale: list[str]) -> Message:
        """Tell of ack ids that are good no longer, where Google does."""
        if stale:
            with suppress(NotFoundError):
                if self._engine.catalog.subscription(request.subscription).settings.exactly_once:
                    raise StaleAckIdsError(stale)
        return wire.EMPTY()

    def _describe(self, settings: Subscription) -> Message:
        return resources.write_subscription(settings, self._engine.catalog.retention_of(settings.topic))
