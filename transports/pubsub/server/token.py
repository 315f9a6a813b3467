"""The token that a server of ours asks for: from the environment or a file, never from the URL."""

from __future__ import annotations

import re
from pathlib import Path

from transports.errors import NotAuthenticated
from transports.pubsub.server.url import Address

_TOKEN = re.compile(r"[!-~]+")


class Token:
    """A secret as it is now: a file is read again when it has changed, so that it can be replaced under way."""

    def __init__(self, address: Address) -> None:
        """Read the secret; `address` names one."""
        self._file = Path(address.token_file) if address.token_file else None
        self._seen = self._stamp()
        self._secret = self._read() if self._file else _checked(address.token or "", "PUBSUB_TOKEN")

    @property
    def secret(self) -> str:
        """The secret; of a file that cannot be read any more, the last one."""
        try:
            seen = self._stamp()
            if seen != self._seen:
                self._secret, self._seen = self._read(), seen
        except NotAuthenticated:
            return self._secret
        return self._secret

    def _stamp(self) -> tuple[int, int] | None:
        if self._file is None:
            return None
        try:
            status = self._file.stat()
        except OSError as exc:
            raise _unreadable(self._file, exc) from exc
        return status.st_ino, status.st_mtime_ns

    def _read(self) -> str:
        assert self._file is not None
        try:
            return _checked(self._file.read_text(encoding="ascii", errors="replace").strip(), str(self._file))
        except OSError as exc:
            raise _unreadable(self._file, exc) from exc


def token_of(address: Address) -> Token | None:
    """Return the token that an address names.

    Raises:
        NotAuthenticated: It cannot be read, or cannot be a token.
    """
    return Token(address) if address.token or address.token_file else None


def _checked(secret: str, place: str) -> str:
    # gRPC would try again and again to send what cannot be a header.
    if not _TOKEN.fullmatch(secret):
        raise NotAuthenticated(f"{place} holds no token: put in what `studio broker token create` printed")
    return secret


def _unreadable(file: Path, error: OSError) -> NotAuthenticated:
    return NotAuthenticated(f"cannot read the token file {file}: {error.strerror}")
