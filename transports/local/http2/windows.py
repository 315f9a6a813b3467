"""Flow control of what comes (RFC 9113, section 5.2): how much clients may send, and what is held of it."""

from __future__ import annotations

#: What each window is before anybody says otherwise.
DEFAULT_WINDOW_BYTES = 65_535
#: Bytes that a client may send on a stream, and on a connection, before we have taken them.
STREAM_WINDOW_BYTES = 16 << 20
CONNECTION_WINDOW_BYTES = 64 << 20


class ReceiveWindow:
    """How much a client may send; it is widened again in large steps, when half of it was used and taken."""

    __slots__ = ("_left", "_size", "_taken")

    def __init__(self, size_bytes: int) -> None:
        self._size = size_bytes
        self._left = size_bytes
        self._taken = 0

    def receive(self, size_bytes: int) -> bool:
        """Count what has come; False if it was more than allowed."""
        self._left -= size_bytes
        return self._left >= 0

    def take(self, size_bytes: int) -> int:
        """Count what is held no longer; return by how much to widen the window now, mostly 0."""
        self._taken += size_bytes
        if self._taken < self._size // 2:
            return 0
        increment, self._taken = self._taken, 0
        self._left += increment
        return increment
