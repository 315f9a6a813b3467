"""Topics, subscriptions and snapshots as Google's message types, to and from what we keep.

What the broker does not do is refused here by name, never ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from transports.local import filters, rules
from transports.local.errors import InvalidArgumentError, NotSupportedError
from transports.local.model import DeadLetterPolicy, RetryPolicy, Snapshot, Subscription, Topic
from transports.local.wire import Message, request_type

#: Fields of a topic that the broker keeps, or that only the service sets.
_TOPIC_FIELDS = frozenset({"name", "labels", "message_retention_duration", "state", "satisfies_pzs"})
#: Fields of a topic that an update may name, and the one of our model that each changes.
_UPDATABLE_OF_TOPIC = {"labels": "labels", "message_retention_duration": "retention_seconds"}
#: Fields of a subscription that the broker keeps, or that only the service sets.
_SUBSCRIPTION_FIELDS = frozenset(
    {
        "name",
        "topic",
        "ack_deadline_seconds",
        "message_retention_duration",
        "retain_acked_messages",
        "expiration_policy",
        "enable_exactly_once_delivery",
        "enable_message_ordering",
        "filter",
        "dead_letter_policy",
        "retry_policy",
        "labels",
        "detached",
        "topic_message_retention_duration",
        "state",
    }
)
#: Fields of a subscription that an update may name, and the one of our model that each changes.
_UPDATABLE = {
    "ack_deadline_seconds": "ack_deadline_seconds",
    "message_retention_duration": "retention_seconds",
    "retain_acked_messages": "retain_acked",
    "expiration_policy": "expiration_seconds",
    "expiration_policy.ttl": "expiration_seconds",
    "enable_exactly_once_delivery": "exactly_once",
    "dead_letter_policy": "dead_letter",
    "retry_policy": "retry",
    "labels": "labels",
}
#: Fields of a subscription that cannot be changed, here or at Google.
_IMMUTABLE = frozenset(
    {"name", "topic", "filter", "enable_message_ordering", "detached", "topic_message_retention_duration", "state"}
)


def read_topic(message: Message) -> Topic:
    rules.check_topic_name(message.name)
    _refuse_others(message, _TOPIC_FIELDS, "topic")
    topic = Topic(message.name, dict(message.labels), _topic_retention(message))
    _check_topic(topic)
    return topic


def revise_topic(settings: Topic, message: Message, paths: Sequence[str]) -> Topic:
    """Return the settings with the fields that an update mask names taken from ``message``."""
    _check_paths(paths, _UPDATABLE_OF_TOPIC, frozenset({"name", "state"}), "Topic")
    wanted = {"labels": dict(message.labels), "retention_seconds": _topic_retention(message)}
    changes = {_UPDATABLE_OF_TOPIC[path]: wanted[_UPDATABLE_OF_TOPIC[path]] for path in paths}
    revised = replace(settings, **changes)  # type: ignore[arg-type]
    _check_topic(revised)
    return revised


def write_topic(topic: Topic) -> Message:
    message = request_type("Topic")(name=topic.name, labels=topic.labels, state="ACTIVE")
    if topic.retention_seconds is not None:
        message.message_retention_duration.seconds = topic.retention_seconds
    return message


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
        ordered=message.enable_message_ordering,
        filter=message.filter,
        **_changeable(message),  # type: ignore[arg-type]
    )
    filters.parse(settings.filter)
    _check_subscription(settings)
    return settings


def revise_subscription(settings: Subscription, message: Message, paths: Sequence[str]) -> Subscription:
    """Return the settings with the fields that an update mask names taken from ``message``."""
    if "push_config" in paths and not message.push_config.ByteSize():
        paths = [path for path in paths if path != "push_config"]  # it asks for pull, which is what it does
        if not paths:
            return settings
    _check_paths(paths, _UPDATABLE, _IMMUTABLE, "Subscription")
    wanted = _changeable(message)
    changes = {_UPDATABLE[path]: wanted[_UPDATABLE[path]] for path in paths}
    revised = replace(settings, **changes)  # type: ignore[arg-type]
    _check_subscription(revised)
    return revised


def write_subscription(settings: Subscription, topic_retention_seconds: int | None) -> Message:
    message = request_type("Subscription")(
        name=settings.name,
        topic=settings.topic,
        ack_deadline_seconds=settings.ack_deadline_seconds,
        retain_acked_messages=settings.retain_acked,
        enable_exactly_once_delivery=settings.exactly_once,
        enable_message_ordering=settings.ordered,
        filter=settings.filter,
        labels=settings.labels,
        detached=settings.detached,
        state="ACTIVE",
    )
    message.push_config.SetInParent()
    message.message_retention_duration.seconds = settings.retention_seconds
    message.expiration_policy.SetInParent()
    if settings.expiration_seconds is not None:
        message.expiration_policy.ttl.seconds = settings.expiration_seconds
    if settings.dead_letter is not None:
        message.dead_letter_policy.dead_letter_topic = settings.dead_letter.topic
        message.dead_letter_policy.max_delivery_attempts = settings.dead_letter.max_attempts
    if settings.retry is not None:
        message.retry_policy.minimum_backoff.FromNanoseconds(round(settings.retry.min_seconds * 1e9))
        message.retry_policy.maximum_backoff.FromNanoseconds(round(settings.retry.max_seconds * 1e9))
    if topic_retention_seconds is not None:
        message.topic_message_retention_duration.seconds = topic_retention_seconds
    return message


def write_snapshot(snapshot: Snapshot) -> Message:
    message = request_type("Snapshot")(name=snapshot.name, topic=snapshot.topic, labels=snapshot.labels)
    message.expire_time.FromMicroseconds(snapshot.expires_us)
    return message


def _changeable(message: Message) -> dict[str, object]:
    """Read the fields of a subscription that can be changed."""
    return {
        "ack_deadline_seconds": message.ack_deadline_seconds or rules.DEFAULT_ACK_DEADLINE_SECONDS,
        "retention_seconds": _retention(message),
        "retain_acked": message.retain_acked_messages,
        "expiration_seconds": _expiration(message),
        "exactly_once": message.enable_exactly_once_delivery,
        "dead_letter": _dead_letter(message),
        "retry": _retry(message),
        "labels": dict(message.labels),
    }


def _topic_retention(message: Message) -> int | None:
    if not message.HasField("message_retention_duration"):
        return None
    return int(message.message_retention_duration.seconds)


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


def _dead_letter(message: Message) -> DeadLetterPolicy | None:
    if not message.HasField("dead_letter_policy"):
        return None
    policy = message.dead_letter_policy
    return DeadLetterPolicy(policy.dead_letter_topic, policy.max_delivery_attempts or rules.MIN_ATTEMPTS)


def _retry(message: Message) -> RetryPolicy | None:
    if not message.HasField("retry_policy"):
        return None
    policy, low, high = message.retry_policy, rules.DEFAULT_MIN_BACKOFF_SECONDS, rules.DEFAULT_MAX_BACKOFF_SECONDS
    return RetryPolicy(
        policy.minimum_backoff.ToNanoseconds() / 1e9 if policy.HasField("minimum_backoff") else low,
        policy.maximum_backoff.ToNanoseconds() / 1e9 if policy.HasField("maximum_backoff") else high,
    )


def _check_topic(topic: Topic) -> None:
    rules.check_labels(topic.labels)
    if topic.retention_seconds is not None:
        rules.check_retention(topic.retention_seconds)


def _check_subscription(settings: Subscription) -> None:
    rules.check_ack_deadline(settings.ack_deadline_seconds)
    rules.check_retention(settings.retention_seconds)
    rules.check_expiration(settings.expiration_seconds)
    rules.check_labels(settings.labels)
    if settings.dead_letter is not None:
        rules.check_attempts(settings.dead_letter.max_attempts)
    if settings.retry is not None:
        rules.check_backoff(settings.retry.min_seconds, settings.retry.max_seconds)


def _check_paths(paths: Sequence[str], updatable: dict[str, str], immutable: frozenset[str], kind: str) -> None:
    """Refuse an update mask that names nothing, what cannot be changed, or what is not implemented."""
    if not paths:
        raise InvalidArgumentError("The update mask is empty: it must name the fields to change.")
    known = request_type(kind).DESCRIPTOR.fields_by_name
    for path in paths:
        if path in updatable:
            continue
        if path in immutable:
            raise InvalidArgumentError(f"The field {path!r} of a {kind.lower()} cannot be changed.")
        name = path.partition(".")[0]
        if name not in known or name in updatable:
            raise InvalidArgumentError(f"A {kind.lower()} has no field {path!r} that an update can name.")
        raise NotSupportedError(f"The local broker does not implement changing {path!r} of a {kind.lower()}.")


def _refuse_others(message: Message, known: frozenset[str], kind: str) -> None:
    for field, _ in message.ListFields():
        if field.name not in known:
            raise NotSupportedError(f"The local broker does not implement {field.name!r} of a {kind}.")
