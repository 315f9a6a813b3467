"""The connection to a server: the gRPC channel, its credentials, and Google's stubs on it.

With `client` the only module that imports ``grpc`` and ``google``, and only when a wire is opened.
"""

from __future__ import annotations

from typing import Any

from transports.errors import NotAuthenticated
from transports.pubsub.failures import not_authenticated
from transports.pubsub.url import Address

#: OAuth scope of Pub/Sub.
_SCOPES = ("https://www.googleapis.com/auth/pubsub",)
#: Milliseconds between pings on an idle connection to Google: a dead network is noticed.
_KEEPALIVE_MS = 30_000
#: The same for a server without TLS: gRPC servers hang up on clients that ping more often than every five minutes.
_PLAIN_KEEPALIVE_MS = 310_000
#: Channel options; reconnecting stays quick after a long outage, and no message is too large for the client.
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


class Wire:
    """An open gRPC channel with the stubs of publisher and subscriber, and the project's id."""

    def __init__(self, address: Address) -> None:
        from google.pubsub_v1.services.publisher.transports.grpc import PublisherGrpcTransport
        from google.pubsub_v1.services.subscriber.transports.grpc import SubscriberGrpcTransport

        self.channel, self.project = _plain(address) if address.server else _secure(address)
        self._publisher = PublisherGrpcTransport(channel=self.channel)
        self._subscriber = SubscriberGrpcTransport(channel=self.channel)

    def stub(self, method: str) -> Any:
        """Return the callable for one method of Pub/Sub."""
        owner = self._subscriber if hasattr(type(self._subscriber), method) else self._publisher
        return getattr(owner, method)

    def close(self) -> None:
        self.channel.close()


def _plain(address: Address) -> tuple[Any, str]:
    import grpc

    options = [*_OPTIONS, ("grpc.keepalive_time_ms", _PLAIN_KEEPALIVE_MS), ("grpc.enable_http_proxy", 0)]
    return grpc.insecure_channel(address.server, options=options), address.project or ""


def _secure(address: Address) -> tuple[Any, str]:
    from google.pubsub_v1.services.publisher.transports.grpc import PublisherGrpcTransport

    credentials, project = _credentials(address)
    project = address.project or project
    if not project:
        raise NotAuthenticated(
            "the broker URL names no project and the credentials belong to none: write pubsub://PROJECT"
        )
    channel = PublisherGrpcTransport.create_channel(
        address.endpoint, credentials=credentials, options=[*_OPTIONS, ("grpc.keepalive_time_ms", _KEEPALIVE_MS)]
    )
    return channel, project


def _credentials(address: Address) -> tuple[Any, str | None]:
    import google.auth
    from google.auth.exceptions import GoogleAuthError
    from google.oauth2 import service_account

    try:
        if address.credentials:
            key = service_account.Credentials.from_service_account_file(address.credentials, scopes=_SCOPES)
            return _self_signed(key), key.project_id
        credentials, project = google.auth.default(scopes=_SCOPES)
        return _self_signed(credentials), project
    except (GoogleAuthError, OSError, ValueError) as exc:
        raise not_authenticated(address, str(exc)) from exc


def _self_signed(credentials: Any) -> Any:
    """Have a service account's key sign its own tokens: nothing but Pub/Sub itself has to be reachable."""
    sign = getattr(credentials, "with_always_use_jwt_access", None)
    return credentials if sign is None else sign(True)
