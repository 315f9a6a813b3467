"""What one stream sends: messages that wait for their turn, and the trailers after them."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Piece:
    """A message on its way out, and who waits until all of it is."""

    rest: memoryview
    sent: asyncio.Future[None] | None
    begun: bool = False


class Flow:
    """What one stream sends."""

    __slots__ = ("broken", "ended", "opened", "pieces", "stream", "trailers", "window")

    def __init__(self, stream: int, window: int) -> None:
        self.stream = stream
        self.window = window
        #: Messages that wait.
        self.pieces: deque[Piece] | None = None
        #: The header block that ends the stream, once the messages are out.
        self.trailers = b""
        #: The response's headers have been sent.
        self.opened = False
        #: Part of a message was sent and the rest withdrawn: none can follow.
        self.broken = False
        #: Everything was sent, or nothing more can be.
        self.ended = False

    def on_sent(self) -> None:
        """Take note that everything was sent."""
