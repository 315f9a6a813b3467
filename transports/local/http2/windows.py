"""Flow control of what comes (RFC 9113, section 5.2): how much clients may send."""

from __future__ import annotations

#: What each window is before anybody says otherwise.
DEFAULT_WINDOW_BYTES = 65_535
#: Bytes that a client may send on a stream, and on a connection, before we let it send more. Most batches fit into a
#: stream's; what does not is let in as far as there is room for it.
STREAM_WINDOW_BYTES = 1 << 20
CONNECTION_WINDOW_BYTES = 64 << 20


class ReceiveWindow:
    """How much a client may send on a stream; it is widened again in large steps."""

    __slots__ = ("_size", "left")

    def __init__(self, size_bytes: int) -> None:
        self._size = size_bytes
        #: Bytes that may still come.
        self.left = size_bytes

    def receive(self, size_bytes: int) -> bool:
        """Count what has come; False if it was more than allowed."""
        self.left -= size_bytes
        return self.left >= 0

    def lack(self, kept_bytes: int) -> int:
        """Return by how much to widen for it to be whole but for what is kept: 0 as long as half of it is there."""
        short = self._size - self.left - kept_bytes
        return short if short >= self._size // 2 else 0

    def widen(self, increment: int) -> None:
        self.left += increment
