"""What ends a connection, a stream or a call before its method does."""

from __future__ import annotations

from enum import IntEnum

import grpc


class ErrorCode(IntEnum):
    """Why a stream or a connection is ended (RFC 9113, section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class Http2Error(Exception):
    """The root of this package's errors."""


class ConnectionFault(Http2Error):
    """The client broke a rule such that the connection cannot go on."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(f"{code.name}: {reason}")
        self.code = code
        self.reason = reason


class StreamFault(Http2Error):
    """The client broke a rule that concerns one stream; the others go on."""

    def __init__(self, stream: int, code: ErrorCode, reason: str) -> None:
        super().__init__(f"stream {stream}: {code.name}: {reason}")
        self.stream = stream
        self.code = code


class StatusError(Http2Error):
    """A call is answered with a status before its method sees it."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class GoneError(Http2Error):
    """The client has cancelled the call, or its connection is lost; what was written last has not reached it."""
