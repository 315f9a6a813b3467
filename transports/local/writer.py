"""Group commit: whoever asks for a change while a transaction is under way shares the next one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue

from transports.local.database import Database, StorageError
from transports.local.tables import Tables

logger = logging.getLogger(__name__)

Change = Callable[[Tables], None]

#: Most changes in one transaction, so that the first of them does not wait for too many others.
_MAX_CHANGES = 1000


class Writer:
    """The thread that writes. Changes are committed in the order in which they were submitted."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue: SimpleQueue[tuple[Change, Future[None]] | None] = SimpleQueue()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="broker-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, change: Change) -> Future[None]:
        """Ask for a change; the future is done when it is on disk, and fails with ``StorageError``."""
        future: Future[None] = Future()
        # A commit that somebody stopped waiting for happens all the same.
        future.set_running_or_notify_cancel()
        if self._stopped:
            future.set_exception(StorageError("The broker is stopping."))
        else:
            self._queue.put((change, future))
        return future

    def stop(self) -> None:
        """Commit what was submitted, then end."""
        self._stopped = True
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        going_on = True
        while going_on:
            group, going_on = self._next_group()
            if group:
                self._commit(group)

    def _next_group(self) -> tuple[list[tuple[Change, Future[None]]], bool]:
        """Wait for a change; return it with all that are there, and False after the last one ever."""
        group = []
        item = self._queue.get()
        while item is not None:
            group.append(item)
            if len(group) >= _MAX_CHANGES:
                return group, True
            try:
                item = self._queue.get_nowait()
            except Empty:
                return group, True
        return group, False

    def _commit(self, group: list[tuple[Change, Future[None]]]) -> None:
        try:
            with self._database.transaction() as tables:
                for change, _ in group:
                    change(tables)
        except StorageError as exc:
            logger.error("%s", exc)
            _fail(group, exc)
        except Exception as exc:
            # The thread must outlive a bug in one change, else every later request would hang.
            logger.exception("a change could not be made")
            _fail(group, exc)
        else:
            for _, future in group:
                future.set_result(None)


def _fail(group: list[tuple[Change, Future[None]]], error: Exception) -> None:
    for _, future in group:
        future.set_exception(error)
