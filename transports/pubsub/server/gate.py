"""A gate through which every call to the server goes, so that a process can fork while none is under way.

gRPC survives a fork only if no thread is inside of it: after `Gate.shut` nobody comes in until `Gate.open`, and
`Gate.wait_until_empty` waits for those who are inside.
"""

from __future__ import annotations

import threading
from types import TracebackType


class Gate:
    """Counts who is inside; ``with gate:`` is to be inside."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # How often this thread has come in: who is inside may come in again although the gate is shut.
        self._mine = threading.local()
        self._inside = 0
        self._shut = False

    def __enter__(self) -> None:
        depth = getattr(self._mine, "depth", 0)
        self._mine.depth = depth + 1
        if depth:
            return
        with self._changed:
            self._changed.wait_for(lambda: not self._shut)
            self._inside += 1

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._mine.depth -= 1
        if self._mine.depth:
            return
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def shut(self) -> None:
        """Let nobody in any more."""
        with self._changed:
            self._shut = True

    def open(self) -> None:
        with self._changed:
            self._shut = False
            self._changed.notify_all()

    def wait_until_empty(self, timeout_seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self._inside, timeout_seconds)
