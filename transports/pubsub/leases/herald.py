"""Tells the application of lost leases, from a thread of its own: what it does then must not hold up other leases."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

logger = logging.getLogger(__name__)


class Herald:
    """One thread, from the first thing to tell to the end of the process."""

    def __init__(self, listener: Callable[[str], None] | None) -> None:
        self._listener = listener
        self._lost: SimpleQueue[str] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def tell(self, message_id: str) -> None:
        """Tell that the lease of a message was lost; to be called from one thread."""
        if self._listener is None:
            return
        self._lost.put(message_id)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=[self._listener], name="pubsub-herald", daemon=True)
            self._thread.start()

    def _run(self, listener: Callable[[str], None]) -> None:
        while True:
            message_id = self._lost.get()
            try:
                listener(message_id)
            except Exception:
                logger.exception("on_lease_lost failed for message %s", message_id)
