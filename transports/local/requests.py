"""Requests as they arrive: bytes that are a message, or are not."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from google.protobuf import timestamp_pb2
from google.protobuf.message import DecodeError

from transports.local.errors import InvalidArgumentError
from transports.local.wire import Message


def parse(request_class: Any, data: bytes) -> Message:
    """Read a request.

    Raises:
        InvalidArgumentError: The bytes are not such a message.
    """
    try:
        request = request_class.FromString(data)
        for name in _times(request_class):
            getattr(request, name).ToMicroseconds()  # which refuses what is no time
    except (DecodeError, ValueError) as exc:
        raise InvalidArgumentError(f"The request is not a valid {request_class.DESCRIPTOR.full_name}.") from exc
    return request


@cache
def _times(request_class: Any) -> Sequence[str]:
    """Return the names of a request's fields that are times."""
    fields = [each for each in request_class.DESCRIPTOR.fields if each.message_type is not None]
    return [each.name for each in fields if each.message_type.full_name == timestamp_pb2.Timestamp.DESCRIPTOR.full_name]
