"""Workspace archives that a worker fetched, so that the next attempt with the same workspace needs not fetch it again.

`STUDIO_HOME/cache/workspaces/<sha256>`: see `studio_celery.cache`. One that the disk damaged is fetched anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from studio_celery.cache import Cache
from studio_celery.runtimes.contract import Cancelled
from studio_celery.store import Store

#: Kind of archives in the cache.
WORKSPACES = "workspaces"


class Archives:
    """The archives of one `STUDIO_HOME`."""

    def __init__(self, store: Store, home: Path) -> None:
        self._store = store
        self._cache = Cache(home)

    @contextmanager
    def hold(self, digest: str, cancelled: Cancelled) -> Iterator[Path]:
        """The archive with this SHA-256, fetched if it is not here; `KeyError` if the store has none.

        It stays while the context lasts. Its content may still be another if the store's is: who unpacks it looks.
        """
        place = self._cache.place(WORKSPACES, digest)
        if place.path.exists() and _digest(place.path) != digest:
            place.discard()

        def fetch(partial: Path) -> Path:
            self._store.get_blob(digest, partial / digest)
            return partial / digest

        with place.hold(fetch, cancelled=cancelled) as path:
            yield path


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""
