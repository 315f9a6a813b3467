"""Log lines that would come with every request: of each kind one in a while is written, with the number of the rest."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

#: Seconds during which lines of one kind are logged once.
QUIET_SECONDS = 60.0
#: Most kinds that are told apart; beyond, the one that came first is forgotten.
_MAX_KINDS = 1000


@dataclass(slots=True)
class _Kind:
    """Lines that say the same."""

    next_log: float = 0.0
    unlogged: int = 0


class LogThrottle:
    """Logs on one level; used by one thread at a time."""

    def __init__(self, logger: logging.Logger, level: int) -> None:
        self._logger = logger
        self._level = level
        self._kinds: dict[str, _Kind] = {}

    def log(self, kind: str, sentence: str) -> None:
        """Log a sentence, unless another of its kind was logged a moment ago."""
        found, now = self._found(kind), time.monotonic()
        if now < found.next_log:
            found.unlogged += 1
            return
        more = f" ({found.unlogged} more since the last such line)" if found.unlogged else ""
        self._logger.log(self._level, "%s%s", sentence, more)
        found.next_log, found.unlogged = now + QUIET_SECONDS, 0

    def _found(self, kind: str) -> _Kind:
        if kind not in self._kinds:
            if len(self._kinds) >= _MAX_KINDS:
                del self._kinds[next(iter(self._kinds))]
            self._kinds[kind] = _Kind()
        return self._kinds[kind]
