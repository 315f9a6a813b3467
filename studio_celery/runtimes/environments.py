"""Requirements, installed once and kept: `STUDIO_HOME/cache/environments/<key>`.

The key is the SHA-256 of what the result depends on (image or interpreter, user) and of the requirements' text. An
environment is built beside its place and renamed when it is complete, under a lock, so that two attempts install once
and a killed worker leaves nothing that looks finished.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from studio_celery.runtimes.contract import Cancellation, Cancelled, Launch, Progress
from studio_celery.runtimes.installer import Outcome, redact

#: How often a lock that another worker holds is tried, in seconds.
LOCK_SECONDS = 0.25

#: Installs a requirements file into an empty directory: (environment, requirements file, cancelled).
Install = Callable[[Path, Path, Cancelled], Outcome]


@dataclass(frozen=True)
class Recipe:
    """What an environment is made of."""

    #: What the result depends on besides the requirements.
    base: tuple[str, ...]
    requirements: str

    @property
    def key(self) -> str:
        """Name of the environment."""
        parts = (*self.base, self.requirements)
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:32]


class Environments:
    """The environments of one `STUDIO_HOME`."""

    def __init__(self, home: Path) -> None:
        self.cache = home / "cache"
        self._directory = self.cache / "environments"

    def path(self, recipe: Recipe) -> Path:
        """Where the environment is, or will be."""
        return self._directory / recipe.key

    def package_cache(self, user: str) -> Path:
        """The cache of downloads for one user; it is made if missing. Users do not trust each other's."""
        path = self.cache / "packages" / user
        path.mkdir(parents=True, exist_ok=True)
        return path

    def ensure(
        self, recipe: Recipe, launch: Launch, install: Install, progress: Progress, cancelled: Cancelled
    ) -> Path:
        """Install unless that was done before; on failure the output becomes the attempt's log."""
        path = self.path(recipe)
        if not path.exists():
            self._directory.mkdir(parents=True, exist_ok=True)
            with _locked(path.with_suffix(".lock"), progress, cancelled):
                if not path.exists():
                    progress("installing requirements")
                    self._build(path, recipe, launch, install, cancelled)
        os.utime(path)  # the last use, for whoever cleans up
        return path

    def _build(self, path: Path, recipe: Recipe, launch: Launch, install: Install, cancelled: Cancelled) -> None:
        partial = path.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        environment, requirements = partial / "environment", partial / "requirements.txt"
        environment.mkdir(parents=True)
        requirements.write_text(recipe.requirements, encoding="utf-8", errors="surrogateescape")
        requirements.chmod(0o644)
        try:
            outcome = install(environment, requirements, cancelled)
            if outcome.exit_code:
                (launch.io / "log").write_bytes(redact(outcome.output))
                raise outcome.failure()
            environment.rename(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _locked(path: Path, progress: Progress, cancelled: Cancelled) -> Iterator[None]:
    """Hold the lock file; say so if another worker is at it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        waited = False
        while not _try_lock(fd):
            if cancelled():
                raise Cancellation
            if not waited:
                progress("waiting for another attempt that installs the same requirements")
            waited = True
            time.sleep(LOCK_SECONDS)
        yield
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
