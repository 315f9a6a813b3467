"""Ack ids: which subscription, which message, which delivery.

They are understood after a restart, so a consumer that held a message over one can still acknowledge it.
"""

from __future__ import annotations

import struct
from binascii import a2b_base64, b2a_base64
from collections.abc import Sequence
from typing import NamedTuple

from transports.local.errors import InvalidArgumentError

_FORM = struct.Struct(">QQQ")
#: Short, because a refusal of many exactly-once acknowledgements names them all in its metadata.
_CHARACTERS = _FORM.size * 4 // 3


class AckId(NamedTuple):
    """Names one delivery; ``token`` grows with every delivery the broker ever makes."""

    subscription: int
    message: int
    token: int

    def __str__(self) -> str:
        return b2a_base64(_FORM.pack(*self), newline=False).decode()


def parse(texts: Sequence[str]) -> list[AckId]:
    """Read what ``str`` wrote.

    Raises:
        InvalidArgumentError: One of them is something else.
    """
    for each in texts:
        if len(each) != _CHARACTERS:
            raise _wrong(each)
    try:
        # Together, as each is whole groups of characters and of bytes.
        return list(map(AckId._make, _FORM.iter_unpack(a2b_base64("".join(texts), strict_mode=True))))
    except (ValueError, struct.error) as exc:
        if len(texts) == 1:
            raise _wrong(texts[0]) from exc
    return [found for each in texts for found in parse([each])]


def _wrong(text: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{text[:100]!r} is not an ack id of this broker.")
