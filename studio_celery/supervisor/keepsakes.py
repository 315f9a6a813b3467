"""What is kept of an attempt's directory: the files in `artifacts/`, and what `--capture` named in the workspace."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from studio_celery.errors import StoreRefusal
from studio_celery.experiment import Capture
from studio_celery.store import Store
from studio_celery.supervisor.leftovers import Leftover

logger = logging.getLogger(__name__)

#: Tag of files that lie in the artifacts directory itself and not in a folder of it.
LOOSE_FILES = "output"


def collect(artifacts: Path, workspace: Path, captures: tuple[Capture, ...]) -> Iterator[tuple[str, str, Leftover]]:
    """(tag, path below the tag, file) of all that is to be kept. Links are not followed: they could lead anywhere."""
    for file in Leftover(artifacts).files():
        tag, rest = (file.parts[0], file.parts[1:]) if len(file.parts) > 1 else (LOOSE_FILES, file.parts)
        yield tag, "/".join(rest), file
    for capture in captures:
        yield from _captured(workspace, capture)


def _captured(workspace: Path, capture: Capture) -> Iterator[tuple[str, str, Leftover]]:
    """What was named lies in the workspace, and a link in its name leads to a folder of the workspace."""
    named, base = os.path.join(workspace, capture.path), Path(os.path.realpath(workspace))  # noqa: PTH118
    found = Path(os.path.realpath(named))
    if not found.is_relative_to(base):
        return
    source = Leftover(base, found.relative_to(base).parts)
    try:
        is_folder = source.is_folder()
    except FileNotFoundError:
        return
    except OSError as exc:
        logger.warning("The captured %r cannot be read: %s.", capture.path, exc.strerror)
        return
    if is_folder:
        for file in source.files():
            yield capture.tag, "/".join(file.parts[len(source.parts) :]), file
    elif not os.path.islink(named):  # noqa: PTH114
        yield capture.tag, found.name, source


@dataclass
class Kept:
    """What was stored, and what could not be."""

    totals: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    #: `<tag>/<path>` of files that the worker may not read, whose place is taken, or that the store can never hold.
    left_out: list[str] = field(default_factory=list)
    _taken: set[str] = field(default_factory=set)
    _folders: set[str] = field(default_factory=set)

    @property
    def summary(self) -> list[dict[str, Any]]:
        """One `{tag, files, bytes}` for each tag."""
        return [{"tag": tag, "files": files, "bytes": size} for tag, (files, size) in sorted(self.totals.items())]

    def take(self, key: str) -> bool:
        """Whether the place is free: no file may lie where another one or its folder lies."""
        above = {parent.as_posix() for parent in PurePosixPath(key).parents} - {"."}
        if key in self._taken or key in self._folders or above & self._taken:
            return False
        self._taken.add(key)
        self._folders |= above
        return True


def keep(
    store: Store,
    experiment_id: str,
    attempt: int,
    found: Iterator[tuple[str, str, Leftover]],
    *,
    until_stored: Callable[[Callable[[], int | None]], int | None],
) -> Kept:
    """Store all files, each `until_stored`; one that cannot be kept is named and costs none of the others."""
    kept = Kept()
    for tag, path, source in found:
        key = f"{tag}/{path}"

        def put(tag: str = tag, path: str = path, source: Leftover = source) -> int | None:
            file = _opened(source)
            if file is None:
                return None
            with file:
                try:
                    # By the name of the descriptor it is this very file, whatever lies at its path by now.
                    store.put_artifact(experiment_id, attempt, tag, path, Path(f"/dev/fd/{file.fileno()}"))
                except StoreRefusal as exc:
                    logger.warning("Experiment %s: %s", experiment_id, exc)
                    return None
                return os.fstat(file.fileno()).st_size

        size = until_stored(put) if _readable(source) and kept.take(key) else None
        if size is None:
            logger.warning("Experiment %s: the artifact %r is left out.", experiment_id, key)
            kept.left_out.append(key.encode("utf-8", "backslashreplace").decode())
            continue
        kept.totals[tag][0] += 1
        kept.totals[tag][1] += size
    return kept


def _opened(source: Leftover) -> BinaryIO | None:
    """The file, None if it cannot be read: that is not the store's fault, and does not pass."""
    try:
        return source.open()
    except OSError as exc:
        logger.warning("%r cannot be read: %s.", source.name, exc.strerror)
        return None


def _readable(source: Leftover) -> bool:
    file = _opened(source)
    if file is not None:
        file.close()
    return file is not None
