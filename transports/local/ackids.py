"""Ack ids: which subscription, which message, which delivery.

They are understood after a restart, so a consumer that held a message over one can still acknowledge it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from transports.local.errors import InvalidArgumentError

_FORM = re.compile(r"([0-9a-f]{1,15})\.([0-9a-f]{1,15})\.([0-9a-f]{1,15})")


class AckId(NamedTuple):
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
    subscription, message, token = found.groups()
    return AckId(int(subscription, 16), int(message, 16), int(token, 16))
