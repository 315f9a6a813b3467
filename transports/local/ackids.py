"""Ack ids: which subscription, which message, which delivery.

They are understood after a restart, so a consumer that held a message over one can still acknowledge it.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from transports.local.errors import InvalidArgumentError

_FORM = struct.Struct(">QQQ")
_CHARACTERS = 2 * _FORM.size


class AckId(NamedTuple):
    """Names one delivery; ``token`` grows with every delivery the broker ever makes."""

    subscription: int
    message: int
    token: int

    def __str__(self) -> str:
        return _FORM.pack(*self).hex()


def parse(text: str) -> AckId:
    """Read what ``str`` wrote."""
    try:
        # Spaces, which ``fromhex`` skips, would leave too few bytes of so many characters.
        if len(text) == _CHARACTERS:
            return AckId._make(_FORM.unpack(bytes.fromhex(text)))
    except (ValueError, struct.error) as exc:
        raise _wrong(text) from exc
    raise _wrong(text)


def _wrong(text: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{text[:100]!r} is not an ack id of this broker.")
