"""kombu's way in: what it asks of every transport, handed on to sessions."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any

from kombu.transport import base
from kombu.utils.compat import detect_environment

from transports.errors import ChannelFailed, ConnectionFailed, RequestRefused
from transports.pubsub.channel import Channel
from transports.pubsub.link import links
from transports.pubsub.options import Options
from transports.pubsub.server.url import Address, parse
from transports.pubsub.session import Session
from transports.pubsub.topology.declared import EXCHANGE_TYPES


class Transport(base.Transport):
    """Google Cloud Pub/Sub; `transports.pubsub` is the manual."""

    can_parse_url = True
    #: Celery broadcasts events and synchronises workers for transports of this type.
    driver_type = "gcpubsub"
    driver_name = "google-cloud-pubsub"
    #: `defer` says that messages have a method `defer`, see `transports.defer`.
    implements = base.Transport.implements.extend(
        asynchronous=True, exchange_type=EXCHANGE_TYPES, heartbeats=False, defer=True
    )
    connection_errors = (ConnectionFailed, base.RecoverableConnectionError)
    channel_errors = (ChannelFailed,)
    recoverable_connection_errors = connection_errors
    #: A refused request is refused again: nothing is repeated on the same channel.
    recoverable_channel_errors = ()

    def establish_connection(self) -> Session:
        """Connect, and make sure that the server answers and accepts the credentials."""
        if (environment := detect_environment()) != "default":
            raise RequestRefused(f"gRPC does not know the threads of {environment}: use another pool (-P threads)")
        options = Options.from_mapping(self.client.transport_options)
        link = links.get(self._address(), options)
        link.client.probe()
        return Session(self.client, link)

    def close_connection(self, connection: Session) -> None:
        connection.close()

    def create_channel(self, connection: Session) -> Channel:
        return connection.channel()

    def close_channel(self, channel: Channel) -> None:
        channel.close()

    def drain_events(self, connection: Session, timeout: float | None = None) -> None:
        connection.drain(timeout)

    def verify_connection(self, connection: Session) -> bool:
        return connection.usable

    def register_with_event_loop(self, connection: Session, loop: Any) -> None:
        connection.register(loop)

    def unregister_from_event_loop(self, connection: Session, loop: Any) -> None:
        connection.unregister()

    def on_readable(self, connection: Session, loop: Any) -> None:
        connection.dispatch_ready()

    def driver_version(self) -> str:
        return version("google-cloud-pubsub")

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return the URL as it is: it holds no secret."""
        return uri

    def _address(self) -> Address:
        client = self.client
        url = client.hostname or "pubsub://"
        if "://" not in url:
            # kombu takes a URL apart itself when it switches to the next of several.
            place = f"{url}:{client.port}/{client.virtual_host}" if client.port else url
            url = f"pubsub://{'' if place == 'localhost' else place}"
        return parse(url, options=client.transport_options, environ=os.environ)
