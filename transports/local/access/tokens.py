"""Tokens on disk: ``tokens.json`` in the broker's data directory, hashes only.

Commands write it, the broker reads it again whenever it has changed. A secret is shown once, when its token is made;
it has 256 random bits, so that a plain SHA-256 of it tells nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

from transports.local.access.roles import Role
from transports.local.errors import BrokerError
from transports.local.folders import sync_folder

#: The file's name inside the data directory.
NAME = "tokens.json"
#: Version of the file's form; a broker refuses later ones.
SCHEMA = 1
#: What secrets begin with, so that tools that look for leaked ones can know them.
SECRET_PREFIX = "sbt_"

_PATTERN = re.compile(r"[A-Za-z*][A-Za-z0-9\-_.~+%*]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-_.@]{0,62}")


class TokenError(BrokerError):
    """A token cannot be made, found or read; the text says why."""


@dataclass(frozen=True, slots=True)
class Token:
    """A right to ask the broker for something; who has the secret has it."""

    id: str
    name: str
    role: Role
    #: Ids of topics, subscriptions and snapshots that it is for; ``*`` is any characters. Empty: it is for everything.
    resources: tuple[str, ...]
    #: SHA-256 of the secret, in hex.
    sha256: str
    #: UTC, ISO 8601.
    created_at: str

    def permits(self, permission: str, resource: str) -> bool:
        """Say whether the role has a permission and the patterns fit the resource."""
        return permission in self.role.permissions and self.covers(resource)

    def covers(self, resource: str) -> bool:
        """Say whether a resource is one of those that the token is for; a project is so for none but all."""
        if not self.resources:
            return True
        parts = resource.split("/")
        return len(parts) == 4 and any(fnmatchcase(parts[3], pattern) for pattern in self.resources)

    def to_dict(self) -> dict[str, Any]:
        """Return what is stored."""
        return {**self.to_public(), "sha256": self.sha256}

    def to_public(self) -> dict[str, Any]:
        """Return what people may see."""
        return {
            "id": self.id,
            "name": self.name,
            "role": self.role.value,
            "resources": list(self.resources),
            "created_at": self.created_at,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        return cls(
            id=str(data["id"]),
            name=str(data["name"]),
            role=Role(data["role"]),
            resources=tuple(map(str, data["resources"])),
            sha256=str(data["sha256"]),
            created_at=str(data["created_at"]),
        )


def digest(secret: str) -> str:
    """Return what is stored of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


class TokenFile:
    """The tokens of one data directory; every call reads what is on disk now."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._path = data / NAME
        self._seen: tuple[int, int, int] | None = None
        self._by_digest: Mapping[str, Token] = {}

    @property
    def path(self) -> Path:
        return self._path

    def create(self, role: Role, resources: Sequence[str] = (), name: str = "") -> tuple[Token, str]:
        """Make a token; return it and its secret, which is kept nowhere."""
        for pattern in resources:
            if not _PATTERN.fullmatch(pattern):
                raise TokenError(
                    f"{pattern!r} is no id of a topic or subscription, nor a pattern of such ids with '*'."
                )
        secret = SECRET_PREFIX + secrets.token_urlsafe(32)
        id = secrets.token_hex(4)
        name = name or f"{role.value}-{id}"
        if not _NAME.fullmatch(name):
            raise TokenError(f"{name!r} cannot be a token's name: use up to 63 letters, digits and any of - _ . @.")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        token = Token(id, name, role, tuple(resources), digest(secret), now)
        with self._changing() as tokens:
            if any(each.name == name for each in tokens):
                raise TokenError(f"There is a token named {name!r} already: choose another name, or revoke that one.")
            tokens.append(token)
        return token, secret

    def revoke(self, reference: str) -> Token:
        """Remove the token that has this id or name; running brokers refuse it from now on."""
        with self._changing() as tokens:
            found = [each for each in tokens if reference in (each.id, each.name)]
            if not found:
                raise TokenError(f"There is no token {reference!r}: `token list` shows those there are.")
            tokens.remove(found[0])
        return found[0]

    def tokens(self) -> Sequence[Token]:
        """Return all tokens, the oldest first."""
        return list(self.by_digest().values())

    def find(self, secret: str) -> Token | None:
        """Return the token of a secret."""
        return self.by_digest().get(digest(secret))

    def by_digest(self) -> Mapping[str, Token]:
        """Return all tokens by what is stored of their secrets; read the file if it has changed.

        Raises:
            TokenError: The file cannot be read, or not understood.
        """
        try:
            status = self._path.stat()
        except FileNotFoundError:
            self._seen, self._by_digest = None, {}
            return self._by_digest
        except OSError as exc:
            raise TokenError(f"Cannot read {self._path}: {exc.strerror}.") from exc
        # Writers rename a new file into place, so that a change is always another inode.
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen != self._seen:
            self._by_digest = {each.sha256: each for each in self._read()}
            self._seen = seen
        return self._by_digest

    def _read(self) -> list[Token]:
        try:
            document = json.loads(self._path.read_bytes())
            if document["schema"] > SCHEMA:
                raise TokenError(f"{self._path} was written by a newer broker: upgrade.")
            return [Token.from_dict(each) for each in document["tokens"]]
        except OSError as exc:
            raise TokenError(f"Cannot read {self._path}: {exc.strerror}.") from exc
        except (ValueError, KeyError, TypeError) as exc:
            raise TokenError(
                f"{self._path} is damaged ({type(exc).__name__}): put a copy back, or remove it and make new tokens."
            ) from exc

    @contextmanager
    def _changing(self) -> Iterator[list[Token]]:
        """Give the tokens to change, and store what became of them; one writer at a time."""
        try:
            self._data.mkdir(parents=True, exist_ok=True, mode=0o700)
            with (self._data / f"{NAME}.lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                tokens = self._read() if self._path.exists() else []
                yield tokens
                self._write(tokens)
        except OSError as exc:
            raise TokenError(f"Cannot write to the data directory {self._data}: {exc.strerror}.") from exc

    def _write(self, tokens: Sequence[Token]) -> None:
        document = {"schema": SCHEMA, "tokens": [each.to_dict() for each in tokens]}
        fresh = self._path.with_name(f"{NAME}.new")
        with open(fresh, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            json.dump(document, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        sync_folder(self._data)  # a revoked token stays so over a power cut
