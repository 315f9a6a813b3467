"""What a worker keeps so that it need not be made again: `STUDIO_HOME/cache/<kind>/<name>`, a directory or a file.

    <name>           the thing itself, always complete; its last-modified time is that of its last use
    <name>.lock      held shared while it is used, exclusively while it is made or removed
    <name>.partial   half-made, or half-removed; nobody's while the lock is free

Many processes of a host share it. What a killed one leaves behind is a `.partial` under a free lock, which `tidy`
removes; what is complete goes by `Place.discard` only, and never while somebody uses it. What else lies below `cache/`
is somebody else's, and stays: `STUDIO_HOME` may be a directory with a `cache` of its own.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from studio_celery.locks import Lock, locked, try_lock
from studio_celery.runtimes import directory
from studio_celery.runtimes.contract import Cancelled

logger = logging.getLogger(__name__)

#: What there is; whoever keeps a kind says what it is.
KINDS = ("environments", "packages", "tools", "workspaces")

_LOCK = ".lock"
_PARTIAL = ".partial"

#: Makes a thing somewhere in the given empty directory, and returns where; it is moved to its place from there.
Make = Callable[[Path], Path]


def _never() -> bool:
    return False


def _nothing() -> None:
    return


class Place:
    """Where one thing is kept, or will be."""

    def __init__(self, kind: str, path: Path) -> None:
        self.kind = kind
        self.path = path
        self.partial = path.with_name(path.name + _PARTIAL)
        self._lock = path.with_name(path.name + _LOCK)

    @contextmanager
    def hold(self, make: Make, waiting: Callable[[], None] = _nothing, cancelled: Cancelled = _never) -> Iterator[Path]:
        """Use the thing, made first if it is missing; while the context lasts nobody removes it.

        `waiting` is told if another process is making it, `Cancellation` is raised if `cancelled()` by then.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with locked(self._lock, waiting, cancelled, shared=True):
                if self.path.exists():
                    os.utime(self.path)
                    yield self.path
                    return
            with locked(self._lock, waiting, cancelled) as lock:
                try:
                    if not self.path.exists():
                        self._make(make)
                finally:
                    self._remove_unless_needed(lock)

    def _make(self, make: Make) -> None:
        _remove(self.partial)
        self.partial.mkdir()
        try:
            make(self.partial).rename(self.path)
        finally:
            self._remove_partial()

    def _remove_partial(self) -> None:
        """Remove it, or else leave it to the janitor: how making ended matters more."""
        try:
            _remove(self.partial)
        except OSError as exc:
            logger.warning("%s stays behind: %s.", self.partial, exc.strerror)

    def tidy(self, forsake: Callable[[], None] = _nothing) -> None:
        """Remove what a killed process left half-made; nothing while somebody holds the lock.

        `forsake` is called first, under the lock: it ends whatever a killed process left at work here.
        """
        with self._unused() as free:
            if free:
                forsake()
                _remove(self.partial)

    def discard(self, in_use: Callable[[], bool] = _never) -> bool:
        """Remove the thing, unless somebody holds it or `in_use()`; whether it is gone."""
        with self._unused() as free:
            if not free or in_use():
                return False
            _remove(self.partial)
            if self.path.exists():
                self.path.rename(self.partial)  # never seen half-removed
                _remove(self.partial)
            return True

    @contextmanager
    def _unused(self) -> Iterator[bool]:
        """Whether the lock was free; held meanwhile, and removed with its file if nothing is left that it is for."""
        lock = try_lock(self._lock)
        if lock is None:
            yield False
            return
        with lock:
            yield True
            self._remove_unless_needed(lock)

    def _remove_unless_needed(self, lock: Lock) -> None:
        if not self.path.exists() and not self.partial.exists():
            lock.remove()


class Cache:
    """The cache of one `STUDIO_HOME`."""

    def __init__(self, home: Path) -> None:
        self.root = home / "cache"

    def place(self, kind: str, name: str) -> Place:
        """Where a thing of this kind and name is kept."""
        assert kind in KINDS, kind
        return Place(kind, self.root / kind / name)

    def places(self) -> list[Place]:
        """All places of which there is a trace."""
        found = {
            (kind, path.name.removesuffix(_LOCK).removesuffix(_PARTIAL))
            for kind in KINDS
            for path in self.root.glob(f"{kind}/*")
        }
        return [self.place(kind, name) for kind, name in sorted(found)]

    def tidy(self) -> None:
        """Remove everything that killed processes left half-made."""
        for place in self.places():
            if place.partial.exists() or not place.path.exists():
                place.tidy()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        directory.remove(path)
    else:
        path.unlink(missing_ok=True)
