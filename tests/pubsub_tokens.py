"""Clients that show a token, and certificates for brokers that serve TLS; for tests."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from pubsub_client import PubSub

from transports.local import Options


class _Bearer(grpc.UnaryUnaryClientInterceptor, grpc.StreamStreamClientInterceptor):
    """Adds a token to every call."""

    def __init__(self, secret: str) -> None:
        self._pair = ("authorization", f"Bearer {secret}")

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(self._with_token(details), request)

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return continuation(self._with_token(details), requests)

    def _with_token(self, details: Any) -> Any:
        return details._replace(metadata=[*(details.metadata or ()), self._pair])


@contextmanager
def connected(address: str, secret: str | None, project: str, ca: Path | None = None) -> Iterator[PubSub]:
    """Connect to a broker with a token, and with TLS if there is a certificate to trust."""
    if ca is None:
        channel = grpc.insecure_channel(address)
    else:
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(ca.read_bytes()))
    with PubSub(address, grpc.intercept_channel(channel, _Bearer(secret)) if secret else channel) as pubsub:
        pubsub.project = f"projects/{project}"
        yield pubsub
    channel.close()


@dataclass(frozen=True)
class Certificate:
    """A certificate for this machine that it signed itself."""

    path: Path
    key: Path

    @property
    def options(self) -> Options:
        """What a broker serves it with."""
        return Options(tls_cert=self.path, tls_key=self.key)


def make_certificate(folder: Path) -> Certificate:
    """Make a certificate with the command that the broker's manual gives."""
    made = Certificate(folder / "broker.pem", folder / "broker.key")
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
        -addext {names} -keyout {made.key} -out {made.path}"
    subprocess.run(command.split(), check=True, capture_output=True)
    return made
