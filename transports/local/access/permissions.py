"""What each request needs: permissions, each on a resource. Pure.

Google checks a creation against the project. Here it is checked against the name of what is to be created, so that a
token for some queues may create those and no others, as with an IAM condition on the resource's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

#: A generated protobuf message; Google's library has no types for them.
Message = Any


@dataclass(frozen=True, slots=True)
class Need:
    """A permission on a resource; ``resource`` is ``projects/P`` or ``projects/P/topics/T`` and the like."""

    permission: str
    resource: str


def needs(method: str, request: Message) -> list[Need]:
    """Return what a request to a method (``/service/Method``) needs; an unknown method needs what nobody has."""
    name = method.rpartition("/")[2]
    if name not in _NEEDS:
        return [Need(f"pubsub.{name}", "")]
    wanted = dict(_NEEDS[name])
    if name == "Seek" and request.snapshot:
        wanted["snapshots.seek"] = "snapshot"
    if field := _dead_letters(name, request):
        # Whoever has the broker publish somewhere must be allowed to publish there himself.
        wanted["topics.publish"] = field
    return [Need(f"pubsub.{permission}", _read(request, field)) for permission, field in wanted.items()]


def _dead_letters(name: str, request: Message) -> str:
    """Return the field that names where a subscription's dead letters go; empty if they go nowhere."""
    field = {
        "CreateSubscription": "dead_letter_policy.dead_letter_topic",
        "UpdateSubscription": "subscription.dead_letter_policy.dead_letter_topic",
    }.get(name, "")
    return field if field and _read(request, field) else ""


def is_known(method: str) -> bool:
    """Say whether ``needs`` knows a method."""
    return method.rpartition("/")[2] in _NEEDS


def _read(request: Message, field: str) -> str:
    return str(reduce(getattr, field.split("."), request))


_CONSUME = {"subscriptions.consume": "subscription"}
#: Permissions by method, each with the request's field that names the resource.
_NEEDS: Mapping[str, Mapping[str, str]] = {
    "Publish": {"topics.publish": "topic"},
    "CreateTopic": {"topics.create": "name"},
    "GetTopic": {"topics.get": "topic"},
    "UpdateTopic": {"topics.update": "topic.name"},
    "ListTopics": {"topics.list": "project"},
    "ListTopicSubscriptions": {"topics.get": "topic"},
    "ListTopicSnapshots": {"topics.get": "topic"},
    "DeleteTopic": {"topics.delete": "topic"},
    "DetachSubscription": {"topics.detachSubscription": "subscription"},
    "CreateSubscription": {"subscriptions.create": "name", "topics.attachSubscription": "topic"},
    "GetSubscription": {"subscriptions.get": "subscription"},
    "UpdateSubscription": {"subscriptions.update": "subscription.name"},
    "ListSubscriptions": {"subscriptions.list": "project"},
    "DeleteSubscription": {"subscriptions.delete": "subscription"},
    "Pull": _CONSUME,
    "StreamingPull": _CONSUME,
    "Acknowledge": _CONSUME,
    "ModifyAckDeadline": _CONSUME,
    "ModifyPushConfig": {"subscriptions.update": "subscription"},
    "Seek": _CONSUME,
    "CreateSnapshot": {"snapshots.create": "name", **_CONSUME},
    "GetSnapshot": {"snapshots.get": "snapshot"},
    "ListSnapshots": {"snapshots.list": "project"},
    "UpdateSnapshot": {"snapshots.update": "snapshot.name"},
    "DeleteSnapshot": {"snapshots.delete": "snapshot"},
    "TestIamPermissions": {},
}
