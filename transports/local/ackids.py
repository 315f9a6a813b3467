"""Ack ids: which subscription, which message, which delivery.

They are understood after a restart, so a consumer that held a message over one can still acknowledge it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from transports.local.errors import InvalidArgumentError

_FORM = re.compile(r"([0-9a-f]{1,15})\.([0-9a-f]{1,15})\.([0-9a-f]{1,15})")


@dataclass(frozen=True, slots=True)
class AckId:
    """Names one delivery; ``token`` grows with every delivery the broker ever makes."""

    subscription: int
    message: int
    token: int

    def __str__(self) -> str:
        return f"{self.subscription:x}.{self.message:x}.{self.token:x}"


def parse(text: str) -> AckId:
    """Read what ``str`` wrote."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise InvalidArgumentError(f"{text[:100]!r} is not an ack id of this broker.")
    subscription, message, token = (int(part, 16) for part in found.groups())
    return AckId(subscription, message, token)
