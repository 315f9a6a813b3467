"""Which method of which service does what: full gRPC names, request types, our methods."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from transports.local import wire
from transports.local.engine import Engine
from transports.local.promises import Promise
from transports.local.publications import PublicationReader, write_ids
from transports.local.publisher import PublisherService
from transports.local.requests import parse
from transports.local.snapshots import SnapshotService
from transports.local.subscriber import SubscriberService
from transports.local.wire import Message

#: A method that is waited for.
Method = Callable[[Message], Awaitable[Message]]
PUBLISHER = "google.pubsub.v1.Publisher"
SUBSCRIBER = "google.pubsub.v1.Subscriber"
#: What is left of both services is answered with a refusal.
PREFIXES = ("/google.pubsub.v1.", "/google.iam.v1.")
PULL = f"/{SUBSCRIBER}/Pull"
STREAMING_PULL = f"/{SUBSCRIBER}/StreamingPull"
PUBLISH = f"/{PUBLISHER}/Publish"
ACKNOWLEDGE = f"/{SUBSCRIBER}/Acknowledge"
MODIFY_ACK_DEADLINE = f"/{SUBSCRIBER}/ModifyAckDeadline"
TEST_PERMISSIONS = "/google.iam.v1.IAMPolicy/TestIamPermissions"


@dataclass(frozen=True, slots=True)
class QuickMethod:
    """A method that does at once what there is to do, or begins what others carry to its end."""

    answer: Callable[[Any], Message | Promise]
    #: Reads the request that it takes; raises ``InvalidArgumentError``.
    read: Callable[[bytes], Any]
    #: Writes its response.
    write: Callable[[Any], bytes] = wire.serialize


def quick_methods(engine: Engine) -> Mapping[str, QuickMethod]:
    """Return the methods that messages come and go with by full name."""
    publisher, subscriber = PublisherService(engine), SubscriberService(engine)
    acknowledge, modify = wire.request_type("AcknowledgeRequest"), wire.request_type("ModifyAckDeadlineRequest")
    return {
        PUBLISH: QuickMethod(publisher.publish, PublicationReader().read, write_ids),
        ACKNOWLEDGE: QuickMethod(subscriber.acknowledge, partial(parse, acknowledge)),
        MODIFY_ACK_DEADLINE: QuickMethod(subscriber.modify_ack_deadline, partial(parse, modify)),
    }


def unary_methods(engine: Engine) -> Mapping[str, tuple[Method, Any]]:
    """Return our other methods and their request classes by full name, but for ``Pull`` and ``StreamingPull``."""
    publisher, subscriber = PublisherService(engine), SubscriberService(engine)
    published: dict[str, Method] = {
        "CreateTopic Topic": publisher.create_topic,
        "GetTopic GetTopicRequest": publisher.get_topic,
        "UpdateTopic UpdateTopicRequest": publisher.update_topic,
        "ListTopics ListTopicsRequest": publisher.list_topics,
        "ListTopicSubscriptions ListTopicSubscriptionsRequest": publisher.list_topic_subscriptions,
        "ListTopicSnapshots ListTopicSnapshotsRequest": publisher.list_topic_snapshots,
        "DetachSubscription DetachSubscriptionRequest": publisher.detach_subscription,
        "DeleteTopic DeleteTopicRequest": publisher.delete_topic,
    }
    snapshots = SnapshotService(engine)
    subscribed: dict[str, Method] = {
        "CreateSnapshot CreateSnapshotRequest": snapshots.create_snapshot,
        "GetSnapshot GetSnapshotRequest": snapshots.get_snapshot,
        "ListSnapshots ListSnapshotsRequest": snapshots.list_snapshots,
        "UpdateSnapshot UpdateSnapshotRequest": snapshots.update_snapshot,
        "DeleteSnapshot DeleteSnapshotRequest": snapshots.delete_snapshot,
        "Seek SeekRequest": snapshots.seek,
        "CreateSubscription Subscription": subscriber.create_subscription,
        "GetSubscription GetSubscriptionRequest": subscriber.get_subscription,
        "UpdateSubscription UpdateSubscriptionRequest": subscriber.update_subscription,
        "ListSubscriptions ListSubscriptionsRequest": subscriber.list_subscriptions,
        "DeleteSubscription DeleteSubscriptionRequest": subscriber.delete_subscription,
        "ModifyPushConfig ModifyPushConfigRequest": subscriber.modify_push_config,
    }
    return {
        **_named(PUBLISHER, published),
        **_named(SUBSCRIBER, subscribed),
        TEST_PERMISSIONS: (subscriber.test_permissions, wire.TEST_PERMISSIONS_REQUEST),
    }


def _named(service: str, methods: Mapping[str, Method]) -> dict[str, tuple[Method, Any]]:
    found = {}
    for key, method in methods.items():
        name, request = key.split()
        found[f"/{service}/{name}"] = (method, wire.request_type(request))
    return found
