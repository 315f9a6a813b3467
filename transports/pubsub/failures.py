"""Answers of a Pub/Sub server that are no success, as errors of ours. Pure."""

from __future__ import annotations

from transports.errors import (
    AlreadyExists,
    NotAuthenticated,
    PermissionMissing,
    QueueNotFound,
    RequestRefused,
    ServerUnavailable,
    TimedOut,
    TransportError,
)
from transports.pubsub.url import Address

#: gRPC codes after which the same call may succeed.
TRANSIENT = frozenset(
    {"UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "INTERNAL", "UNKNOWN", "CANCELLED", "RESOURCE_EXHAUSTED"}
)
#: The permission that each call needs, and on what.
_PERMISSIONS = {
    "publish": "pubsub.topics.publish on the topic",
    "create_topic": "pubsub.topics.create on the project",
    "delete_topic": "pubsub.topics.delete on the topic",
    "list_topic_subscriptions": "pubsub.topics.get on the topic",
    "create_subscription": "pubsub.subscriptions.create on the project, pubsub.topics.attachSubscription on the topic",
    "get_subscription": "pubsub.subscriptions.get on the subscription",
    "delete_subscription": "pubsub.subscriptions.delete on the subscription",
}
_CONSUME = "pubsub.subscriptions.consume on the subscription"
#: What google-auth says inside UNAVAILABLE when a key is revoked or wrong, rather than out of reach.
_BAD_CREDENTIALS = ("invalid_grant", "RefreshError", "invalid_client", "DefaultCredentialsError")


def failure(code: str, details: str, *, method: str, name: str, address: Address) -> TransportError:
    """Return the error for a gRPC code that a call of `method` on the topic or subscription `name` ended with."""
    if code == "UNAUTHENTICATED" or any(word in details for word in _BAD_CREDENTIALS):
        return not_authenticated(address, details)
    if code in TRANSIENT:
        kind = TimedOut if code == "DEADLINE_EXCEEDED" else ServerUnavailable
        return kind(_unavailable(code, details or code, address))
    if code == "PERMISSION_DENIED":
        permission = _PERMISSIONS.get(method, _CONSUME)
        return PermissionMissing(f"{name}: these credentials may not {method}: grant {permission} ({details})")
    if code == "NOT_FOUND":
        return QueueNotFound(f"{name} does not exist at {address}: declare its queue or start its worker ({details})")
    if code == "ALREADY_EXISTS":
        return AlreadyExists(f"{name} exists already ({details})")
    return RequestRefused(f"{name}: the server refused {method}: {details or code}")


def not_authenticated(address: Address, details: str) -> NotAuthenticated:
    """Return the error for credentials that are missing or refused."""
    source = address.credentials or "Application Default Credentials"
    step = "check the key file, or run `gcloud auth application-default login`"
    return NotAuthenticated(f"{address} does not accept {source}: {step} ({details})")


def _unavailable(code: str, details: str, address: Address) -> str:
    if code == "RESOURCE_EXHAUSTED":
        return f"{address} allows no more calls at the moment: try later or raise the quota ({details})"
    if address.server:
        return f"No Pub/Sub server answers at {address}: start it or check the URL ({details})"
    return f"Google Pub/Sub does not answer at {address}: check the network ({details})"
