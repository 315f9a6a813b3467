"""TLS: a certificate and its key, for gRPC and for the page of metrics; a renewed one is served without a restart."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transports.local.errors import CertificateError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with what leads to its authority, and the key; both PEM files, read again when they change."""

    chain: Path
    key: Path

    def context(self, protocols: Sequence[str] = ()) -> ssl.SSLContext:
        """Return what the standard library serves TLS with; each new connection gets the files as they are then.

        ``protocols`` are those that clients may choose from (ALPN).

        Raises:
            CertificateError: A file cannot be read, or key and certificate do not belong together.
        """
        context, renewal = self._loaded(protocols), _Renewal(self, protocols)

        def choose(connection: ssl.SSLObject, name: str | None, initial: ssl.SSLContext) -> None:
            if (renewed := renewal.take()) is not None:
                renewal.context = renewed
            connection.context = renewal.context

        renewal.context = context
        context.sni_callback = choose
        return context

    def state(self) -> tuple[int, ...]:
        """Return what is different once a file was changed."""
        found = [path.stat() for path in (self.chain, self.key)]
        return tuple(number for each in found for number in (each.st_ino, each.st_mtime_ns, each.st_size))

    def _loaded(self, protocols: Sequence[str]) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        if protocols:
            context.set_alpn_protocols(list(protocols))
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


class _Renewal:
    """Notices that a certificate's files were changed; while they cannot be used, the former ones are served on."""

    context: ssl.SSLContext

    def __init__(self, certificate: Certificate, protocols: Sequence[str]) -> None:
        self._certificate = certificate
        self._protocols = protocols
        self._seen = certificate.state()

    def take(self) -> ssl.SSLContext | None:
        """Return the changed certificate, once; None if it has not changed, or cannot be used."""
        try:
            found = self._certificate.state()
        except OSError:
            return None  # one of the files is just being replaced
        if found == self._seen:
            return None
        self._seen = found
        try:
            renewed = self._certificate._loaded(self._protocols)
        except CertificateError as exc:
            logger.error("%s The former certificate is served on.", exc)
            return None
        logger.info("the renewed certificate %s is served from now on", self._certificate.chain)
        return renewed


def _no_password() -> str:
    raise ValueError("the key has a password")
