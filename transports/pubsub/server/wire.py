"""The connection to a server: the gRPC channel, its credentials, and a stub for each method.

Stubs take plain dictionaries and give protobuf messages. Google's own stubs wrap both in proto-plus, which costs more
than the rest of a publish together; the messages underneath are the same.

With `client` and `bearer` the only module that imports ``grpc`` and ``google``, and only when a wire is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transports.errors import NotAuthenticated
from transports.pubsub.server.failures import not_authenticated
from transports.pubsub.server.token import token_of
from transports.pubsub.server.url import Address

#: OAuth scope of Pub/Sub.
_SCOPES = ("https://www.googleapis.com/auth/pubsub",)
#: Milliseconds between pings on an idle connection to Google: a dead network is noticed.
_KEEPALIVE_MS = 30_000
#: The same for other servers: gRPC servers hang up on clients that ping more often than every five minutes.
_PLAIN_KEEPALIVE_MS = 310_000
#: Channel options; reconnecting stays quick after a long outage, and no message is too large for the client.
_OPTIONS = (
    # Else the next channel to the same server takes over a connection that may be dead.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # With exactly-once delivery the ack ids that were refused come in the metadata, up to a thousand at a time.
    ("grpc.max_metadata_size", 4 * 1024 * 1024),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


#: The methods of Pub/Sub that this transport calls, with the types of request and answer; no answer is None.
_PUBLISHER = {
    "Publish": ("PublishRequest", "PublishResponse"),
    "CreateTopic": ("Topic", "Topic"),
    "DeleteTopic": ("DeleteTopicRequest", None),
    "ListTopics": ("ListTopicsRequest", "ListTopicsResponse"),
    "ListTopicSubscriptions": ("ListTopicSubscriptionsRequest", "ListTopicSubscriptionsResponse"),
}
_SUBSCRIBER = {
    "Acknowledge": ("AcknowledgeRequest", None),
    "CreateSubscription": ("Subscription", "Subscription"),
    "DeleteSubscription": ("DeleteSubscriptionRequest", None),
    "GetSubscription": ("GetSubscriptionRequest", "Subscription"),
    "ModifyAckDeadline": ("ModifyAckDeadlineRequest", None),
    "Pull": ("PullRequest", "PullResponse"),
    "Seek": ("SeekRequest", "SeekResponse"),
    "StreamingPull": ("StreamingPullRequest", "StreamingPullResponse"),
}


class Wire:
    """An open gRPC channel, a stub for each method of Pub/Sub, and the project's id."""

    def __init__(self, address: Address) -> None:
        self.channel, self.project = _ours(address) if address.server else _secure(address)
        self._stubs = {
            method: self._made(f"/google.pubsub.v1.{service}/{method}", *types)
            for service, methods in (("Publisher", _PUBLISHER), ("Subscriber", _SUBSCRIBER))
            for method, types in methods.items()
        }

    def stub(self, method: str) -> Any:
        """Return the callable for one method, called as Pub/Sub calls it; it takes a dictionary."""
        return self._stubs[method]

    def probe(self, resource: str) -> Any:
        """Return a call that needs no permission: it takes a timeout, and fails if the server does not know us."""
        from google.iam.v1 import iam_policy_pb2 as iam

        request = iam.TestIamPermissionsRequest(resource=resource, permissions=["pubsub.topics.publish"])
        stub = self.channel.unary_unary(
            "/google.iam.v1.IAMPolicy/TestIamPermissions",
            request_serializer=iam.TestIamPermissionsRequest.SerializeToString,
            response_deserializer=iam.TestIamPermissionsResponse.FromString,
        )
        return lambda **how: stub(request, **how)

    def _made(self, path: str, request: str, answer: str | None) -> Any:
        from google.protobuf.empty_pb2 import Empty
        from google.pubsub_v1 import types

        kind, result = getattr(types, request).pb(), getattr(types, answer).pb() if answer else Empty
        method = self.channel.stream_stream if path.endswith("/StreamingPull") else self.channel.unary_unary
        return method(
            path,
            request_serializer=lambda fields: kind(**fields).SerializeToString(),
            response_deserializer=result.FromString,
        )

    def close(self) -> None:
        self.channel.close()


def _ours(address: Address) -> tuple[Any, str]:
    """Return the channel to a server that is not Google's."""
    import grpc

    options = [*_OPTIONS, ("grpc.keepalive_time_ms", _PLAIN_KEEPALIVE_MS), ("grpc.enable_http_proxy", 0)]
    if address.ca is None:
        channel = grpc.insecure_channel(address.server, options=options)
    else:
        channel = grpc.secure_channel(
            address.server, grpc.ssl_channel_credentials(_trusted(address.ca)), options=options
        )
    if (token := token_of(address)) is None:
        return channel, address.project or ""
    from transports.pubsub.server.bearer import Bearer

    return grpc.intercept_channel(channel, Bearer(token)), address.project or ""


def _trusted(ca: str) -> bytes:
    try:
        return Path(ca).read_bytes()
    except OSError as exc:
        raise NotAuthenticated(f"cannot read the certificate {ca} that the broker URL names: {exc.strerror}") from exc


def _secure(address: Address) -> tuple[Any, str]:
    from google.pubsub_v1.services.publisher.transports.grpc import PublisherGrpcTransport

    found, project = credentials(address)
    project = address.project or project
    if not project:
        raise NotAuthenticated(
            "the broker URL names no project and the credentials belong to none: write pubsub://PROJECT"
        )
    channel = PublisherGrpcTransport.create_channel(
        address.endpoint, credentials=found, options=[*_OPTIONS, ("grpc.keepalive_time_ms", _KEEPALIVE_MS)]
    )
    return channel, project


def credentials(address: Address, scopes: Sequence[str] = _SCOPES) -> tuple[Any, str | None]:
    """Return the credentials that an address names, and their project."""
    import google.auth
    from google.auth.exceptions import GoogleAuthError
    from google.oauth2 import service_account

    try:
        if address.credentials:
            key = service_account.Credentials.from_service_account_file(address.credentials, scopes=scopes)
            return _self_signed(key), key.project_id
        found, project = google.auth.default(scopes=scopes)
        return _self_signed(found), project
    except (GoogleAuthError, OSError, ValueError) as exc:
        raise not_authenticated(address, str(exc)) from exc


def _self_signed(credentials: Any) -> Any:
    """Have a service account's key sign its own tokens: nothing but Pub/Sub itself has to be reachable."""
    sign = getattr(credentials, "with_always_use_jwt_access", None)
    return credentials if sign is None else sign(True)
