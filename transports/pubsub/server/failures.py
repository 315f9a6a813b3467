"""Answers of a Pub/Sub server that are no success, as errors of ours. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from transports.errors import (
    AlreadyExists,
    LeasesRefused,
    NotAuthenticated,
    PermissionMissing,
    QueueNotFound,
    RequestRefused,
    ServerUnavailable,
    TimedOut,
    TransportError,
)
from transports.pubsub.server.url import Address

#: gRPC codes after which the same call may succeed.
TRANSIENT = frozenset(
    {"UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "INTERNAL", "UNKNOWN", "CANCELLED", "RESOURCE_EXHAUSTED"}
)
#: The permission that each call needs, and on what.
_PERMISSIONS = {
    "Publish": "pubsub.topics.publish on the topic",
    "ListTopics": "pubsub.topics.list on the project",
    "CreateTopic": "pubsub.topics.create on the project",
    "DeleteTopic": "pubsub.topics.delete on the topic",
    "ListTopicSubscriptions": "pubsub.topics.get on the topic",
    "CreateSubscription": "pubsub.subscriptions.create on the project, pubsub.topics.attachSubscription on the topic",
    "GetSubscription": "pubsub.subscriptions.get on the subscription",
    "DeleteSubscription": "pubsub.subscriptions.delete on the subscription",
    "ListTimeSeries": "monitoring.timeSeries.list on the project",
    "List": "pubsub.subscriptions.list on the project",
}
#: What each call is for, in the sentence about a missing permission.
_WORDS = {
    "Publish": "publish",
    "CreateTopic": "create topics",
    "DeleteTopic": "delete topics",
    "ListTopics": "list topics",
    "ListTopicSubscriptions": "list a topic's subscriptions",
    "CreateSubscription": "create subscriptions",
    "GetSubscription": "look at subscriptions",
    "DeleteSubscription": "delete subscriptions",
    "ListTimeSeries": "see queue sizes",
    "List": "see queue sizes",
}
_CONSUME = "pubsub.subscriptions.consume on the subscription"
#: How the reasons begin that a server gives for ack ids which may succeed later.
_TRANSIENT_ACK = "TRANSIENT_FAILURE"
#: What google-auth says inside UNAVAILABLE when a key is revoked or wrong, rather than out of reach.
_BAD_CREDENTIALS = ("invalid_grant", "RefreshError", "invalid_client", "DefaultCredentialsError")


def failure(
    code: str, details: str, *, method: str, name: str, address: Address, acks: Mapping[str, str] | None = None
) -> TransportError:
    """Return the error for a gRPC code that a call of `method` on the topic or subscription `name` ended with.

    `acks` says what became of single ack ids, in Google's words, where the server says that.
    """
    if acks:
        return _leases_refused(name, acks)
    if code == "UNAUTHENTICATED" or any(word in details for word in _BAD_CREDENTIALS):
        return not_authenticated(address, details)
    if code in TRANSIENT:
        kind = TimedOut if code == "DEADLINE_EXCEEDED" else ServerUnavailable
        return kind(_unavailable(code, details or code, address))
    if code == "PERMISSION_DENIED":
        permission = _PERMISSIONS.get(method, _CONSUME)
        text = f"{name}: these credentials may not {_WORDS.get(method, 'consume')}: grant {permission} ({details})"
        return PermissionMissing(text, permission)
    if code == "NOT_FOUND":
        return QueueNotFound(f"{name} does not exist at {address}: declare its queue or start its worker ({details})")
    if code == "ALREADY_EXISTS":
        return AlreadyExists(f"{name} exists already ({details})")
    return RequestRefused(f"{name}: the server refused {method}: {details or code}")


def _leases_refused(name: str, acks: Mapping[str, str]) -> LeasesRefused:
    again = frozenset(ack_id for ack_id, why in acks.items() if why.startswith(_TRANSIENT_ACK))
    lost = frozenset(acks) - again
    return LeasesRefused(f"{name}: {len(lost)} ack id(s) are not valid any more, {len(again)} not yet", lost, again)


def not_authenticated(address: Address, details: str) -> NotAuthenticated:
    """Return the error for credentials that are missing or refused."""
    if address.server:
        shown = "this token" if address.token or address.token_file else "clients without a token"
        step = "set PUBSUB_TOKEN or PUBSUB_TOKEN_FILE to one that `studio broker token create` made there"
        return NotAuthenticated(f"{address} does not accept {shown}: {step} ({details})")
    source = address.credentials or "Application Default Credentials"
    step = "check the key file, or run `gcloud auth application-default login`"
    return NotAuthenticated(f"{address} does not accept {source}: {step} ({details})")


def _unavailable(code: str, details: str, address: Address) -> str:
    if code == "RESOURCE_EXHAUSTED":
        return f"{address} allows no more calls at the moment: try later or raise the quota ({details})"
    if address.server:
        return f"No Pub/Sub server answers at {address}: start it or check the URL ({details})"
    return f"Google Pub/Sub does not answer at {address}: check the network ({details})"
