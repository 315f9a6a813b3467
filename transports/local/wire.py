"""The one door to Google's message types: what travels, to and from what we keep.

What the broker does not do is refused here by name, never ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from google.iam.v1 import iam_policy_pb2
from google.protobuf import empty_pb2
from google.pubsub_v1 import types

from transports.local import rules
from transports.local.errors import InvalidArgumentError, NotSupportedError
from transports.local.model import Delivery, Subscription, Topic

#: A generated protobuf message; Google's library has no types for them.
Message = Any

#: Fields of a topic that the broker keeps.
_TOPIC_FIELDS = frozenset({"name", "labels"})
#: Fields of a subscription that the broker keeps, or that only the service sets.
_SUBSCRIPTION_FIELDS = frozenset(
    {
        "name",
        "topic",
        "ack_deadline_seconds",
        "message_retention_duration",
        "expiration_policy",
        "enable_exactly_once_delivery",
        "labels",
        "state",
    }
)
#: Fields of a subscription that an update may name, and the one of our model that each changes.
_UPDATABLE = {
    "ack_deadline_seconds": "ack_deadline_seconds",
    "message_retention_duration": "retention_seconds",
    "expiration_policy": "expiration_seconds",
    "expiration_policy.ttl": "expiration_seconds",
    "enable_exactly_once_delivery": "exactly_once",
    "labels": "labels",
}
#: Fields of a subscription that cannot be changed, here or at Google.
_IMMUTABLE = frozenset({"name", "topic", "filter", "enable_message_ordering"})


def request_type(name: str) -> Any:
    """Return the protobuf class of a Pub/Sub request or response."""
    return getattr(types, name).pb()


#: Classes that are not Pub/Sub's own.
EMPTY = empty_pb2.Empty
TEST_PERMISSIONS_REQUEST = iam_policy_pb2.TestIamPermissionsRequest
TEST_PERMISSIONS_RESPONSE = iam_policy_pb2.TestIamPermissionsResponse


def read_topic(message: Message) -> Topic:
    rules.check_topic_name(message.name)
    _refuse_others(message, _TOPIC_FIELDS, "topic")
    return Topic(message.name, dict(message.labels))


def write_topic(topic: Topic) -> Message:
    return request_type("Topic")(name=topic.name, labels=topic.labels, state="ACTIVE")


def read_subscription(message: Message) -> Subscription:
    """Read a subscription with the service's defaults for what it leaves open."""
    rules.check_subscription_name(message.name)
    rules.check_topic_name(message.topic)
    if message.HasField("push_config") and not message.push_config.ByteSize():
        message.ClearField("push_config")  # an empty one asks for pull
    _refuse_others(message, _SUBSCRIPTION_FIELDS, "subscription")
    settings = Subscription(
        name=message.name,
        topic=message.topic,
        ack_deadline_seconds=message.ack_deadline_seconds or rules.DEFAULT_ACK_DEADLINE_SECONDS,
        retention_seconds=_retention(message),
        expiration_seconds=_expiration(message),
        exactly_once=message.enable_exactly_once_delivery,
        labels=dict(message.labels),
    )
    _check_subscription(settings)
    return settings


def revise_subscription(settings: Subscription, message: Message, paths: Sequence[str]) -> Subscription:
    """Return the settings with the fields that an update mask names taken from ``message``."""
    if not paths:
        raise InvalidArgumentError("The update mask is empty: it must name the fields to change.")
    for path in paths:
        if path in _IMMUTABLE:
            raise InvalidArgumentError(f"The field {path!r} of a subscription cannot be changed.")
        if path not in _UPDATABLE:
            raise _unknown_path(path)
    wanted = {
        "ack_deadline_seconds": message.ack_deadline_seconds or rules.DEFAULT_ACK_DEADLINE_SECONDS,
        "retention_seconds": _retention(message),
        "expiration_seconds": _expiration(message),
        "exactly_once": message.enable_exactly_once_delivery,
        "labels": dict(message.labels),
    }
    revised = replace(settings, **{_UPDATABLE[path]: wanted[_UPDATABLE[path]] for path in paths})
    _check_subscription(revised)
    return revised


def write_subscription(settings: Subscription) -> Message:
    message = request_type("Subscription")(
        name=settings.name,
        topic=settings.topic,
        ack_deadline_seconds=settings.ack_deadline_seconds,
        enable_exactly_once_delivery=settings.exactly_once,
        labels=settings.labels,
        state="ACTIVE",
    )
    message.push_config.SetInParent()
    message.message_retention_duration.seconds = settings.retention_seconds
    message.expiration_policy.SetInParent()
    if settings.expiration_seconds is not None:
        message.expiration_policy.ttl.seconds = settings.expiration_seconds
    return message


def read_payloads(messages: Sequence[Message]) -> list[bytes]:
    """Check a publish request's messages and return what is stored of each."""
    if not 1 <= len(messages) <= rules.MAX_MESSAGES:
        raise InvalidArgumentError(f"A publish request has 1 to {rules.MAX_MESSAGES} messages, not {len(messages)}.")
    if sum(len(each.data) for each in messages) > rules.MAX_MESSAGE_BYTES:
        raise InvalidArgumentError(f"A publish request has at most {rules.MAX_MESSAGE_BYTES} bytes of data.")
    return [_read_payload(each) for each in messages]


def write_delivery(delivery: Delivery) -> Message:
    received = request_type("ReceivedMessage")(ack_id=delivery.ack_id)
    received.message.ParseFromString(delivery.message.payload)
    received.message.message_id = str(delivery.message.id)
    received.message.publish_time.FromMicroseconds(delivery.message.published_us)
    return received


def _read_payload(message: Message) -> bytes:
    if not message.data and not message.attributes:
        raise InvalidArgumentError("A message must have data or at least one attribute.")
    _check_attributes(message.attributes)
    stored = request_type("PubsubMessage")(
        data=message.data, attributes=message.attributes, ordering_key=message.ordering_key
    )
    payload: bytes = stored.SerializeToString()
    return payload


def _check_attributes(attributes: Mapping[str, str]) -> None:
    if len(attributes) > rules.MAX_ATTRIBUTES:
        raise InvalidArgumentError(f"A message can have {rules.MAX_ATTRIBUTES} attributes, not {len(attributes)}.")
    for name, value in attributes.items():
        if not 1 <= len(name.encode()) <= rules.MAX_ATTRIBUTE_NAME_BYTES or name.lower().startswith("goog"):
            raise InvalidArgumentError(
                f"The attribute name {name[:50]!r} must have 1 to {rules.MAX_ATTRIBUTE_NAME_BYTES} bytes"
                " and not begin with 'goog'."
            )
        if len(value.encode()) > rules.MAX_ATTRIBUTE_VALUE_BYTES:
            raise InvalidArgumentError(f"The attribute {name!r} has more than {rules.MAX_ATTRIBUTE_VALUE_BYTES} bytes.")


def _retention(message: Message) -> int:
    if not message.HasField("message_retention_duration"):
        return rules.DEFAULT_RETENTION_SECONDS
    return int(message.message_retention_duration.seconds)


def _expiration(message: Message) -> int | None:
    if not message.HasField("expiration_policy"):
        return rules.DEFAULT_EXPIRATION_SECONDS
    if not message.expiration_policy.HasField("ttl"):
        return None
    return int(message.expiration_policy.ttl.seconds)


def _check_subscription(settings: Subscription) -> None:
    rules.check_ack_deadline(settings.ack_deadline_seconds)
    rules.check_retention(settings.retention_seconds)
    rules.check_expiration(settings.expiration_seconds)


def _refuse_others(message: Message, known: frozenset[str], kind: str) -> None:
    for field, _ in message.ListFields():
        if field.name not in known:
            raise NotSupportedError(f"The local broker does not implement {field.name!r} of a {kind}.")


def _unknown_path(path: str) -> InvalidArgumentError | NotSupportedError:
    known = request_type("Subscription").DESCRIPTOR.fields_by_name
    if path.partition(".")[0] in known:
        return NotSupportedError(f"The local broker does not implement changing {path!r} of a subscription.")
    return InvalidArgumentError(f"A subscription has no field {path!r}.")
