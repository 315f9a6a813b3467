"""Publish requests and their responses, read and written without protobuf where they are plain.

Many messages have data and nothing else. Their bytes are taken as they came, which are those that protobuf would write.
A request with any other message, or of any other form, is read by protobuf: what is accepted, and what is refused how,
does not depend on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from transports.local import rules, wire
from transports.local.model import Draft, PlainDrafts
from transports.local.requests import parse

_REQUEST = wire.request_type("PublishRequest")
_RESPONSE = wire.request_type("PublishResponse")
#: What stands before a request's topic, each of its messages, and a message's data; then follows the size.
_TOPIC, _MESSAGE, _DATA = 0x0A, 0x12, 0x0A
#: How far the bytes of a size are shifted after the first; what has a fifth is larger than any plain request.
_SHIFTS = (7, 14, 21)
#: Bytes before the data of a message with 128 bytes to 16 KiB of it: tag and size of the message, and of the data.
_HEAD_BYTES = 6
#: Where a field is that is not there.
_NOWHERE = (0, 0)


class Publication(NamedTuple):
    """A publish request."""

    topic: str
    #: Returns what is published of each message; raises ``InvalidArgumentError`` if one cannot be.
    drafts: Callable[[], Sequence[Draft]]


class PublicationReader:
    """Reads publish requests."""

    def __init__(self) -> None:
        #: How far it is from one message to the next, by the bytes before its data; one entry for each size there is.
        self._steps: dict[bytes, int] = {}

    def read(self, data: bytes) -> Publication:
        """Read a request.

        Raises:
            InvalidArgumentError: The bytes are none.
        """
        try:
            plain = self._plain(data)
        except IndexError:
            plain = None  # it is cut off
        if plain is not None:
            return plain
        request = parse(_REQUEST, data)
        return Publication(request.topic, partial(wire.read_drafts, request, len(data)))

    def _plain(self, data: bytes) -> Publication | None:
        """Read a request of one topic, then plain messages, all within the limits; None for any other."""
        start, at = _field(data, 0, _TOPIC)
        topic, end = data[start:at], len(data)
        if not start or end > rules.MAX_MESSAGE_BYTES or not topic.isascii():
            return None
        payloads: list[bytes] = []
        step_of, add = self._steps.get, payloads.append
        for _ in range(rules.MAX_MESSAGES):
            step = step_of(data[at : at + _HEAD_BYTES])
            if step is None:
                start, at = self._message(data, at)
                if not at:
                    return None
            else:
                start, at = at + _HEAD_BYTES // 2, at + step
            add(data[start:at])
            if at >= end:
                break
        return Publication(topic.decode("ascii"), partial(PlainDrafts, payloads)) if at == end else None

    def _message(self, data: bytes, at: int) -> tuple[int, int]:
        """Return where a message begins and ends that has data and nothing else."""
        start, end = _field(data, at, _MESSAGE)
        content, last = _field(data, start, _DATA)
        if not content < last == end:
            return _NOWHERE
        if content - at == _HEAD_BYTES:
            self._steps[data[at:content]] = end - at
        return start, end


def write_ids(ids: Sequence[int]) -> bytes:
    """Return the response with the ids of what was published, one or more in their order."""
    digits = len(str(ids[0]))
    if digits == len(str(ids[-1])):
        return (f"\n{chr(digits)}%d" * len(ids) % tuple(ids)).encode()
    response: bytes = _RESPONSE(message_ids=map(str, ids)).SerializeToString()
    return response


def _field(data: bytes, at: int, tag: int) -> tuple[int, int]:
    """Return where the content of a field begins and ends if its size is written in no more bytes than it needs.

    Raises:
        IndexError: It is cut off.
    """
    if data[at] != tag:
        return _NOWHERE
    size, at = data[at + 1], at + 2
    if size >= 0x80:
        for shift in _SHIFTS:
            byte, at = data[at], at + 1
            size += byte - 1 << shift  # less the bit of the byte before that says that there is more
            if byte < 0x80:
                break
        if not byte:
            return _NOWHERE
    return at, at + size
