"""The two kinds of methods that a server may have."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transports.local.http2.calls import Call


@dataclass(frozen=True, slots=True)
class Unary:
    """A method with one request: a function that is given the request's bytes, and answers or has a task do it."""

    begin: Callable[[Call, bytes], None]


@dataclass(frozen=True, slots=True)
class Streaming:
    """A method with a stream of requests: a coroutine, run as a task, that takes them from its call."""

    serve: Callable[[Call], Coroutine[Any, Any, None]]


Method = Unary | Streaming
