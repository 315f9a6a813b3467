"""A line: a connection, as its calls see it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from transports.local.http2.credit import Credit
from transports.local.http2.outbound import Outbound

if TYPE_CHECKING:
    from transports.local.http2.calls import Call


class Line(Protocol):
    """What a call needs of its connection."""

    outbound: Outbound
    credit: Credit
    peer: str
    #: Bytes of a header list that the client takes.
    max_list_bytes: int
    #: Calls whose methods are at work, also those that the client has given up.
    handling: int
    #: The tasks of those methods.
    tasks: set[asyncio.Task[None]]

    def is_alone(self) -> bool:
        """Say whether no more than one call is open."""

    def forget(self, call: Call) -> None:
        """Let go of a call that everything was sent of."""
