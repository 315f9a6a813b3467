"""Which method of which service does what: full gRPC names, request types, our methods."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from transports.local import wire
from transports.local.engine import Engine
from transports.local.publisher import PublisherService
from transports.local.snapshots import SnapshotService
from transports.local.subscriber import SubscriberService
from transports.local.wire import Message

Method = Callable[[Message], Awaitable[Message]]

PUBLISHER = "google.pubsub.v1.Publisher"
SUBSCRIBER = "google.pubsub.v1.Subscriber"
#: What is left of both services is answered with a refusal.
PREFIXES = ("/google.pubsub.v1.", "/google.iam.v1.")
PULL = f"/{SUBSCRIBER}/Pull"
STREAMING_PULL = f"/{SUBSCRIBER}/StreamingPull"
#: Methods that may be cancelled: what they change is carried to its end by whoever commits it, or changed at once.
SELF_CARRIED = frozenset((f"/{PUBLISHER}/Publish", f"/{SUBSCRIBER}/Acknowledge", f"/{SUBSCRIBER}/ModifyAckDeadline"))


def unary_methods(engine: Engine) -> Mapping[str, tuple[Method, Any]]:
    """Return our method and its request class by full name, for all but ``Pull`` and ``StreamingPull``."""
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
        "Publish PublishRequest": publisher.publish,
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
        "Acknowledge AcknowledgeRequest": subscriber.acknowledge,
        "ModifyAckDeadline ModifyAckDeadlineRequest": subscriber.modify_ack_deadline,
        "ModifyPushConfig ModifyPushConfigRequest": subscriber.modify_push_config,
    }
    return {
        **_named(PUBLISHER, published),
        **_named(SUBSCRIBER, subscribed),
        "/google.iam.v1.IAMPolicy/TestIamPermissions": (subscriber.test_permissions, wire.TEST_PERMISSIONS_REQUEST),
    }


def _named(service: str, methods: Mapping[str, Method]) -> dict[str, tuple[Method, Any]]:
    found = {}
    for key, method in methods.items():
        name, request = key.split()
        found[f"/{service}/{name}"] = (method, wire.request_type(request))
    return found
