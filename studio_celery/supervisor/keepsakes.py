"""What is kept of an attempt's directory: the files in `artifacts/`, and what `--capture` named in the workspace."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from studio_celery.experiment import Capture
from studio_celery.store import Store

logger = logging.getLogger(__name__)

#: Tag of files that lie in the artifacts directory itself and not in a folder of it.
LOOSE_FILES = "output"


def collect(artifacts: Path, workspace: Path, captures: tuple[Capture, ...]) -> Iterator[tuple[str, str, Path]]:
    """(tag, path below the tag, file) of all that is to be kept. Links are not followed: they could lead anywhere."""
    for path in _files(artifacts):
        parts = path.relative_to(artifacts).parts
        tag, rest = (parts[0], parts[1:]) if len(parts) > 1 else (LOOSE_FILES, parts)
        yield tag, "/".join(rest), path
    for capture in captures:
        yield from _captured(workspace, capture)


def _captured(workspace: Path, capture: Capture) -> Iterator[tuple[str, str, Path]]:
    source = workspace / capture.path
    if not source.resolve().is_relative_to(workspace.resolve()):
        return
    if source.is_dir():
        for path in _files(source):
            yield capture.tag, path.relative_to(source).as_posix(), path
    elif source.is_file() and not source.is_symlink():
        yield capture.tag, source.name, source


def _files(directory: Path) -> Iterator[Path]:
    for folder, _, names in sorted(os.walk(directory)):
        for name in sorted(names):
            path = Path(folder) / name
            if path.is_file() and not path.is_symlink():
                yield path


@dataclass
class Kept:
    """What was stored, and what could not be."""

    totals: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    #: `<tag>/<path>` of files that the worker may not read, or whose place another file has.
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
    found: Iterator[tuple[str, str, Path]],
    *,
    until_stored: Callable[[Callable[[], int | None]], int | None],
) -> Kept:
    """Store all files, each `until_stored`; one that cannot be kept is named and costs none of the others."""
    kept = Kept()
    for tag, path, source in found:
        key = f"{tag}/{path}"

        def put(tag: str = tag, path: str = path, source: Path = source) -> int | None:
            size = _size(source)
            if size is not None:
                store.put_artifact(experiment_id, attempt, tag, path, source)
            return size

        size = until_stored(put) if _size(source) is not None and kept.take(key) else None
        if size is None:
            logger.warning("Experiment %s: the artifact %r is left out.", experiment_id, key)
            kept.left_out.append(key.encode("utf-8", "backslashreplace").decode())
            continue
        kept.totals[tag][0] += 1
        kept.totals[tag][1] += size
    return kept


def _size(source: Path) -> int | None:
    """Bytes of a file, None if it cannot be read: that is not the store's fault, and does not pass."""
    try:
        with source.open("rb") as file:
            return os.fstat(file.fileno()).st_size
    except OSError as exc:
        logger.warning("%r cannot be read: %s.", str(source), exc.strerror)
        return None
