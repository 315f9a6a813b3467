"""The size of a worker's cache: over the limit the least recently used goes first, and never what is in use."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path

from studio_celery.cache import Cache, Place
from studio_celery.runtimes.environments import ENVIRONMENTS, Environments
from studio_celery.units import format_bytes

logger = logging.getLogger(__name__)


class Trimmer:
    """Keeps one `STUDIO_HOME/cache` below a limit."""

    def __init__(self, home: Path, limit_bytes: int) -> None:
        self._cache = Cache(home)
        self._environments = Environments(home)
        self._limit_bytes = limit_bytes
        #: Sizes by path and time of last use: walking a large environment is not free.
        self._sizes: dict[tuple[Path, int], int] = {}

    def trim(self) -> None:
        """Remove half-made things that are nobody's, then what is over the limit."""
        self._cache.tidy()
        places = {place.path: place for place in self._cache.places()}
        used = sorted((self._last_used(path), path) for path in places)
        sizes = {path: self._size(path, at) for at, path in used}
        self._sizes = {key: size for key, size in self._sizes.items() if key[0] in sizes}
        total = sum(sizes.values())
        for _, path in used:
            if total <= self._limit_bytes:
                return
            if sizes[path] and self._discard(places[path]):
                logger.info("%s (%s) was not used for longest: removed.", path, format_bytes(sizes[path]))
                total -= sizes[path]
                self._sizes.clear()  # of files that were linked to it, the others now have more

    def _discard(self, place: Place) -> bool:
        try:
            return place.discard(self._in_use(place))
        except OSError as exc:
            logger.warning("%s cannot be removed: %s.", place.path, exc.strerror)
            return False

    def _in_use(self, place: Place) -> Callable[[], bool]:
        return lambda: place.kind == ENVIRONMENTS and self._environments.in_use(place.path.name)

    def _last_used(self, path: Path) -> int:
        """Nanoseconds since 1970; 0 for what is gone."""
        try:
            return path.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _size(self, path: Path, used_at: int) -> int:
        key = path, used_at
        if key not in self._sizes:
            self._sizes[key] = disk_bytes(path)
        return self._sizes[key]


def disk_bytes(path: Path) -> int:
    """Bytes on the disk of a file or of all that is below a directory; of a file with many names, one share."""
    files = [str(path)]
    for folder, names, others in os.walk(path):
        files += (f"{folder}/{name}" for name in (*names, *others))
    return sum(map(_share, files))


def _share(file: str) -> int:
    try:
        status = os.lstat(file)
    except FileNotFoundError:
        return 0
    shared_by = 1 if stat.S_ISDIR(status.st_mode) else status.st_nlink
    return status.st_blocks * 512 // shared_by
