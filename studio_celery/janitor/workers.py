"""Workers that ended without saying so: their heartbeat in the store, their lock file on this host."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from pathlib import Path

from studio_celery.locks import try_lock
from studio_celery.store import Store

logger = logging.getLogger(__name__)

#: Lock file of a worker; others in its directory have no such end.
_LOCK_FILE = re.compile(r"(.+-[0-9a-f]{8})\.(?:lock|new)")


class Roll:
    """The workers that are known, in the store and on this host."""

    def __init__(self, store: Store, home: Path, forget_seconds: float) -> None:
        self._store = store
        self._locks = home / "run" / "workers"
        self._forget_seconds = forget_seconds

    def call(self, needed: Callable[[], set[str]]) -> None:
        """Forget who was silent for long, by the store's clock.

        The lock file of a worker that has ended proves that it did, so it stays while the id is among the `needed`,
        and until the worker is off the list.
        """
        times = self._store.worker_times()
        now = self._store.now()
        for worker_id, at in sorted(times.items()):
            if now - at > self._forget_seconds:
                logger.info("Worker %s was silent for %.0f s: forgotten.", worker_id, now - at)
                self._store.forget_worker(worker_id)
                del times[worker_id]
        old = [(worker, path) for worker, path in self._lock_files() if worker not in times]
        if old:
            kept = needed()
            for worker, path in old:
                if worker not in kept:
                    self._remove(path)

    def _lock_files(self) -> list[tuple[str, Path]]:
        """Of workers that began long ago: one that begins now may not have locked its file yet."""
        found = []
        for path in sorted(self._locks.iterdir()):
            name = _LOCK_FILE.fullmatch(path.name)
            if name and time.time() - path.stat().st_mtime > self._forget_seconds:
                found.append((name[1], path))
        return found

    def _remove(self, path: Path) -> None:
        lock = try_lock(path)
        if lock is not None:
            with lock:
                lock.remove()
