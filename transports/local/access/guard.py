"""The guard at the broker's door: who comes, what he may do, and when he has to leave."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from transports.local.access.permissions import Message, needs
from transports.local.access.tokens import Token, TokenError, TokenFile
from transports.local.errors import PermissionDeniedError, UnauthenticatedError
from transports.local.throttle import LogThrottle

logger = logging.getLogger(__name__)
T = TypeVar("T")

#: Seconds between two looks at the tokens on behalf of streams that are open; new requests look by themselves.
WATCH_SECONDS = 1.0
_SCHEME = "bearer "
_HOW = "Expected `authorization: Bearer TOKEN` with a token of this broker; `studio broker token create` makes one."


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks; without a token it is anybody, who may do everything."""

    token: Token | None = None

    def may(self, permission: str, resource: str) -> bool:
        """Say whether the caller has a permission on a resource."""
        return self.token is None or self.token.permits(permission, resource)

    def check(self, method: str, request: Message) -> None:
        """Raise ``PermissionDeniedError`` unless the caller may ask this of a method."""
        if self.token is None:
            return
        for need in needs(method, request):
            self.require(need.permission, need.resource)

    def require(self, permission: str, resource: str) -> None:
        """Raise ``PermissionDeniedError`` unless the caller has a permission on a resource."""
        if not self.may(permission, resource):
            raise PermissionDeniedError(permission, resource)

    def permitted(self, permissions: Sequence[str], resource: str) -> list[str]:
        """Return those of the permissions that the caller has on a resource."""
        return [each for each in permissions if self.may(each, resource)]

    def __str__(self) -> str:
        return "anybody" if self.token is None else f"token {self.token.name} ({self.token.role.value})"


ANYBODY = Caller()


@dataclass(slots=True)
class Guard:
    """Decides by the tokens on disk as they are now; without ``required`` it lets everybody do everything."""

    tokens: TokenFile
    required: bool
    _leaving: dict[str, set[asyncio.Future[None]]] = field(default_factory=dict)
    _refusals: LogThrottle = field(default_factory=lambda: LogThrottle(logger, logging.WARNING))
    _failures: LogThrottle = field(default_factory=lambda: LogThrottle(logger, logging.ERROR))

    def admit(self, metadata: Iterable[tuple[str, str | bytes]]) -> Caller:
        """Find out who asks.

        Raises:
            UnauthenticatedError: There is no token, it is unknown, or the tokens cannot be read.
        """
        if not self.required:
            return ANYBODY
        secret = _secret(metadata)
        if secret is None:
            raise UnauthenticatedError(f"Request is missing required authentication credential. {_HOW}")
        try:
            token = self.tokens.find(secret)
        except TokenError as exc:
            self._failures.log(str(exc), f"{exc} Everybody is refused.")
            raise UnauthenticatedError("The broker cannot read its tokens; its log says why.") from exc
        if token is None:
            raise UnauthenticatedError(f"Request had invalid authentication credentials. {_HOW}")
        return Caller(token)

    async def while_admitted(self, caller: Caller, work: Awaitable[T]) -> T:
        """Do something that may last, and stop it when the caller's token is revoked."""
        if caller.token is None:
            return await work
        task = asyncio.ensure_future(work)
        with self._told_to_leave(caller.token) as leaving:
            either: set[asyncio.Future[Any]] = {task, leaving}
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not task.done():
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
        if task.cancelled():
            raise UnauthenticatedError("The token was revoked.")
        return task.result()

    async def watch(self) -> None:
        """Tell those to leave whose token is gone; runs until it is cancelled, if tokens matter at all."""
        while self.required:
            await asyncio.sleep(WATCH_SECONDS)
            with suppress(TokenError):  # logged with the next request; who was admitted stays until it is known
                known = self.tokens.by_digest()
                for sha256 in self._leaving.keys() - known.keys():
                    for each in self._leaving[sha256]:
                        if not each.done():
                            each.set_result(None)

    def note_refusal(self, kind: str, sentence: str) -> None:
        """Log a refusal, unless another of its kind was logged a moment ago."""
        self._refusals.log(kind, f"refused: {sentence}")

    @contextmanager
    def _told_to_leave(self, token: Token) -> Iterator[asyncio.Future[None]]:
        leaving: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        group = self._leaving.setdefault(token.sha256, set())
        group.add(leaving)
        try:
            yield leaving
        finally:
            group.discard(leaving)
            if not group:
                self._leaving.pop(token.sha256, None)


def _secret(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    for key, value in metadata:
        if key.lower() == "authorization" and isinstance(value, str) and value[: len(_SCHEME)].lower() == _SCHEME:
            return value[len(_SCHEME) :].strip()
    return None
