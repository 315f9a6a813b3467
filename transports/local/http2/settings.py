"""SETTINGS (RFC 9113, section 6.5): ours, and the client's."""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct

from transports.local.http2.blocks import MAX_LIST_BYTES
from transports.local.http2.errors import ConnectionFault, ErrorCode
from transports.local.http2.frames import MAX_31_BITS, MAX_FRAME_BYTES, SETTINGS, frame, window_update
from transports.local.http2.windows import CONNECTION_WINDOW_BYTES, DEFAULT_WINDOW_BYTES, STREAM_WINDOW_BYTES

#: Most streams of a connection at a time, and most calls of it whose methods go on although the client has gone.
MAX_STREAMS = 10_000

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
    range(1, 7)
)
_SETTING = Struct(">HI")
#: Most settings of one frame; there are less than ten.
_MAX_SETTINGS = 100
_SMALLEST_MAX_FRAME_SIZE, _LARGEST_MAX_FRAME_SIZE = 1 << 14, (1 << 24) - 1

#: What we send first: our settings, and what of the connection's window its default has not.
GREETING = frame(
    SETTINGS,
    0,
    0,
    b"".join(
        _SETTING.pack(*each)
        for each in (
            (MAX_CONCURRENT_STREAMS, MAX_STREAMS),
            (INITIAL_WINDOW_SIZE, STREAM_WINDOW_BYTES),
            (MAX_FRAME_SIZE, MAX_FRAME_BYTES),
            (MAX_HEADER_LIST_SIZE, MAX_LIST_BYTES),
        )
    ),
) + window_update(0, CONNECTION_WINDOW_BYTES - DEFAULT_WINDOW_BYTES)


def read_settings(payload: bytes) -> Mapping[int, int]:
    """Return the client's settings by number: the last value of each, but the smallest size of the header table.

    Raises:
        ConnectionFault: One has no such value, or they are too many.
    """
    if len(payload) % _SETTING.size:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a setting is cut off")
    if len(payload) > _MAX_SETTINGS * _SETTING.size:
        raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many settings")
    found: dict[int, int] = {}
    for number, value in _SETTING.iter_unpack(payload):
        if number == ENABLE_PUSH and value > 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH is {value}")
        if number == INITIAL_WINDOW_SIZE and value > MAX_31_BITS:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE is {value}")
        if number == MAX_FRAME_SIZE and not _SMALLEST_MAX_FRAME_SIZE <= value <= _LARGEST_MAX_FRAME_SIZE:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"MAX_FRAME_SIZE is {value}")
        found[number] = min(value, found.get(number, value)) if number == HEADER_TABLE_SIZE else value
    return found
