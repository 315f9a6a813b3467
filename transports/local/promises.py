"""A change on its way to the disk, and the response that will tell of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transports.local.errors import UnavailableError


@dataclass(frozen=True, slots=True)
class Promise:
    """What was begun, and goes on whoever waits for it."""

    done: asyncio.Future[Any]
    #: Makes the response from what was done; may raise a ``RequestError``.
    respond: Callable[[Any], Any]

    def response(self) -> Any:
        """Return the response, once it is done; raise what went wrong."""
        if self.done.cancelled():
            raise UnavailableError("The broker is stopping.")
        return self.respond(self.done.result())
