"""What a broker can be asked for beyond directory and address."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transports.local.encryption import Certificate
from transports.local.engine import GRACE_SECONDS
from transports.local.errors import CertificateError, StartError

#: Seconds after which a client that does not answer has gone.
SILENCE_SECONDS = 30.0
_MAX_SILENCE_SECONDS = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of a broker; without any it is open, unencrypted, and on loopback only.

    Raises ``StartError`` for ``silence_seconds`` that are not from 1 to 3600.
    """

    #: PEM file of the certificate, and what leads to its authority; needs ``tls_key``.
    tls_cert: Path | None = None
    #: PEM file of its key, without a password.
    tls_key: Path | None = None
    #: Ask for tokens also on loopback; elsewhere they always are.
    require_tokens: bool = False
    #: Least seconds for which messages stay leased that were so when the broker ended.
    grace_seconds: float = GRACE_SECONDS
    #: Seconds after which a client's connection is closed whose machine does not answer, or that is frozen.
    silence_seconds: float = SILENCE_SECONDS
    #: Port of the page for Prometheus, on the same host; 0 takes a free one, None has no such page.
    metrics_port: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.silence_seconds <= _MAX_SILENCE_SECONDS:
            raise StartError(
                f"Clients cannot be taken for gone after {self.silence_seconds:g} seconds of silence: "
                f"choose from 1 to {_MAX_SILENCE_SECONDS} (--silence-seconds)."
            )

    @property
    def certificate(self) -> Certificate | None:
        """The certificate to serve TLS with; None is no TLS.

        Raises:
            CertificateError: Only one of the two files is named.
        """
        if self.tls_cert is None and self.tls_key is None:
            return None
        if self.tls_cert is None or self.tls_key is None:
            raise CertificateError("TLS needs both a certificate and its key: name both files (--tls-cert, --tls-key).")
        return Certificate(self.tls_cert, self.tls_key)
