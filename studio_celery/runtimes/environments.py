"""Requirements, installed once and kept: `STUDIO_HOME/cache/environments/<key>`.

The key is the SHA-256 of what the result depends on (image or interpreter, user) and of the requirements' text. Two
attempts install once, and a killed worker leaves nothing that looks finished: see `studio_celery.cache`.

An attempt that was prepared names its environment in a file of its directory. As long as the directory is there, the
environment is in use, whether or not a worker lives that looks after the attempt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from studio_celery.cache import Cache, Place
from studio_celery.runtimes import directory
from studio_celery.runtimes.contract import Cancelled, Launch, Progress
from studio_celery.runtimes.installer import Outcome, redact

#: Kinds of things in the cache.
ENVIRONMENTS = "environments"
PACKAGES = "packages"

#: File of an attempt's directory with the key of its environment.
MARK = "environment"

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
        self._home = home
        self.cache = Cache(home)

    def path(self, recipe: Recipe) -> Path:
        """Where the environment is, or will be."""
        return self.place(recipe.key).path

    def place(self, key: str) -> Place:
        """The place of an environment in the cache."""
        return self.cache.place(ENVIRONMENTS, key)

    @contextmanager
    def packages(self, user: str, cancelled: Cancelled) -> Iterator[Path]:
        """The cache of downloads for one user, held while it is written. Users do not trust each other's."""
        with self.cache.place(PACKAGES, user).hold(_empty_directory, cancelled=cancelled) as path:
            yield path

    def ensure(
        self, recipe: Recipe, launch: Launch, install: Install, progress: Progress, cancelled: Cancelled
    ) -> Path:
        """Install unless that was done before; on failure the output becomes the attempt's log."""

        def make(partial: Path) -> Path:
            progress("installing requirements")
            return _build(partial, recipe, launch, install, cancelled)

        def waiting() -> None:
            progress("waiting for another attempt that installs the same requirements")

        with self.place(recipe.key).hold(make, waiting, cancelled) as path:
            (launch.directory / MARK).write_text(recipe.key)
            return path

    def in_use(self, key: str) -> bool:
        """Whether an attempt on this host was prepared with it and is not cleared away."""
        return any(_read(path) == key for path in directory.all_with(self._home, MARK))

    def unfinished(self) -> list[Place]:
        """Those that somebody installs, or was killed over."""
        return [place for place in self.cache.places() if place.kind == ENVIRONMENTS and place.partial.exists()]

    def end(self, key: str, forsake: Callable[[], None]) -> None:
        """If the worker that installed it was killed: `forsake`, which ends the installation, and remove what it made.

        Nothing while a living worker installs it.
        """
        place = self.place(key)
        place.path.parent.mkdir(parents=True, exist_ok=True)
        place.tidy(forsake)


def _build(partial: Path, recipe: Recipe, launch: Launch, install: Install, cancelled: Cancelled) -> Path:
    environment, requirements = partial / "environment", partial / "requirements.txt"
    environment.mkdir()
    requirements.write_text(recipe.requirements, encoding="utf-8", errors="surrogateescape")
    requirements.chmod(0o644)
    outcome = install(environment, requirements, cancelled)
    if outcome.exit_code:
        (launch.io / "log").write_bytes(redact(outcome.output))
        raise outcome.failure()
    return environment


def _empty_directory(partial: Path) -> Path:
    (partial / "new").mkdir()
    return partial / "new"


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
