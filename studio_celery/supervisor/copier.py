"""Copies an attempt's output to the store as it grows, in a thread: a store that is away holds up nothing else."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from types import TracebackType

from studio_celery.errors import StoreError
from studio_celery.store import LogWriter
from studio_celery.store.logs import LAST_CHUNK
from studio_celery.supervisor.spool import Spool

logger = logging.getLogger(__name__)

#: How long a worker that is leaving waits for an answer of the store, seconds: it is to be gone within five.
LEAVE_SECONDS = 1.0

#: A file of this worker's own disk that cannot be read so many times in a row, after the end of the script, is lost.
TRIES_AT_END = 3


class Copier:
    """From the start of an attempt, or its adoption, until `finish`; who leaves before leaves the rest to others."""

    def __init__(
        self, writer: LogWriter, log: Path, spool: Spool, *, name: str, look_seconds: float, retry_seconds: float
    ) -> None:
        """`look_seconds` between two looks at the file; up to `retry_seconds` between two tries of the store."""
        self._writer = writer
        self._log = log
        self._spool = spool
        self._name = name
        self._look_seconds = look_seconds
        self._retry_seconds = retry_seconds
        self._failures = 0
        self._error: Exception | None = None
        self._left = threading.Event()
        self._ended = threading.Event()
        self._wake = threading.Event()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"log-{name}", daemon=True)

    def __enter__(self) -> Copier:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._wake.set()
        self._thread.join(LEAVE_SECONDS)

    def finish(self) -> threading.Event:
        """Nothing will be written any more: copy the rest, and set the event that is returned."""
        self._ended.set()
        self._wake.set()
        return self._done

    def check(self) -> None:
        """Raise the error, if there is one, for which the rest of the file will never be copied."""
        if self._error is not None and self._done.is_set():
            raise self._error

    def _run(self) -> None:
        """Outermost of a thread: a defect is told to whoever looks after the attempt."""
        try:
            self._copy_all()
        except Exception as exc:
            logger.exception("Log of %s", self._name)
            self._error = exc
        self._done.set()

    def _copy_all(self) -> None:
        while not self._left.is_set():
            ended = self._ended.is_set()  # asked before the file is: so it is whole
            more = self._copy(free=not ended)
            if self._failures:
                pause = min(self._retry_seconds, self._look_seconds * 2.0 ** min(self._failures, 30))
                if self._error is not None and ended and self._failures >= TRIES_AT_END:
                    return
                self._left.wait(pause)
            elif ended and not more:
                return
            elif not more:
                self._wake.wait(self._look_seconds)

    def _copy(self, *, free: bool) -> bool:
        """Copy up to a chunk, and free what is stored, if wanted; whether there may be more already.

        Who writes no more needs no room: the whole file goes soon, and no trouble with a part of it matters.
        """
        try:
            copied = self._writer.copy(self._log, LAST_CHUNK)
            if free:
                self._spool.free(self._log, self._writer.needed_from)
        except (StoreError, OSError) as exc:
            self._failures += 1
            self._error = exc if isinstance(exc, OSError) else None
            if self._failures == 1:
                logger.warning("Log of %s: %s It is kept on this host and copied later.", self._name, exc)
            return True
        if self._failures:
            logger.warning("Log of %s: it is copied again, from byte %d on.", self._name, self._writer.offset - copied)
        self._failures, self._error = 0, None
        return copied >= LAST_CHUNK
