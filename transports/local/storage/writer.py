"""Who writes to the database: a thread of its own, or whoever asks for it while that thread has nothing to do.

Whoever asks the thread for changes while a transaction is under way shares the next one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import NamedTuple

from transports.local.storage.database import Database, StorageError
from transports.local.storage.tables import Tables
from transports.local.throttle import LogThrottle

logger = logging.getLogger(__name__)

Change = Callable[[Tables], object]


class _Asked(NamedTuple):
    changes: Sequence[Change]
    synced: bool
    future: Future[None]


#: Most requests that share a transaction, so that the first of them does not wait for too many others.
_MAX_ASKED = 1000


class Writer:
    """Makes changes in the order in which they were submitted; those of one call are all made, or none is."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue: SimpleQueue[_Asked | None] = SimpleQueue()
        self._stopped = False
        #: Held by whoever writes.
        self._writing = threading.Lock()
        self._refusals = LogThrottle(logger, logging.ERROR)
        self._thread = threading.Thread(target=self._run, name="broker-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, *changes: Change, synced: bool = True) -> Future[None]:
        """Ask the thread for changes; the future is done when they are made, and fails with ``StorageError``.

        Those that are ``synced`` are on disk then.
        """
        future: Future[None] = Future()
        # A commit that somebody stopped waiting for happens all the same.
        future.set_running_or_notify_cancel()
        if self._stopped:
            future.set_exception(_stopping())
        else:
            self._queue.put(_Asked(changes, synced, future))
        return future

    def commit_here(self, changes: Sequence[Change], *, synced: bool = True) -> bool:
        """Make changes on the caller's thread, unless the other is at work; say whether that was done.

        Raises:
            StorageError: The disk refused, and nothing has changed.
        """
        if not self._queue.empty() or not self._writing.acquire(blocking=False):
            return False
        try:
            if self._stopped:
                raise _stopping()
            self._commit(changes, synced=synced)
        finally:
            self._writing.release()
        return True

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
                self._commit_group(group)

    def _next_group(self) -> tuple[list[_Asked], bool]:
        """Wait for a request; return it with all that are there, and False after the last one ever."""
        group: list[_Asked] = []
        item = self._queue.get()
        while item is not None:
            group.append(item)
            if len(group) >= _MAX_ASKED:
                return group, True
            try:
                item = self._queue.get_nowait()
            except Empty:
                return group, True
        return group, False

    def _commit_group(self, group: list[_Asked]) -> None:
        try:
            with self._writing:
                changes = (change for asked in group for change in asked.changes)
                self._commit(changes, synced=any(asked.synced for asked in group))
        except Exception as exc:  # noqa: BLE001 - logged; the thread must outlive it, else later requests would hang
            for asked in group:
                asked.future.set_exception(exc)
        else:
            for asked in group:
                asked.future.set_result(None)

    def _commit(self, changes: Iterable[Change], *, synced: bool) -> None:
        try:
            with self._database.transaction(synced=synced) as tables:
                for change in changes:
                    change(tables)
        except StorageError as exc:
            self._refusals.log(str(exc), str(exc))
            raise
        except Exception:
            logger.exception("a change could not be made")
            raise


def _stopping() -> StorageError:
    return StorageError("The broker is stopping.")
