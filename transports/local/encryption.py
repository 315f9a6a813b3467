"""TLS: a certificate and its key, for gRPC and for the page of metrics."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from transports.local.errors import CertificateError


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with what leads to its authority, and the key; both PEM files, read when the broker starts."""

    chain: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """Return what the standard library serves TLS with.

        Raises:
            CertificateError: A file cannot be read, or key and certificate do not belong together.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            # A password would be asked for on the terminal.
            context.load_cert_chain(self.chain, self.key, password=_no_password)
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "reason", None) or getattr(exc, "strerror", None) or str(exc)
            raise CertificateError(
                f"Cannot use the certificate {self.chain} with the key {self.key} ({reason}): "
                "both must be PEM files that belong together, the key without a password."
            ) from exc
        return context

    def credentials(self) -> grpc.ServerCredentials:
        """Return what gRPC serves TLS with; ``context`` has checked the files."""
        self.context()
        return grpc.ssl_server_credentials([(self.key.read_bytes(), self.chain.read_bytes())])


def _no_password() -> str:
    raise ValueError("the key has a password")
