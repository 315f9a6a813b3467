"""What is kept of an attempt's directory: the files in `artifacts/`, and what `--capture` named in the workspace."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from studio_celery.experiment import Capture
from studio_celery.store import Store

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


def keep(
    store: Store, experiment_id: str, attempt: int, found: Iterator[tuple[str, str, Path]]
) -> list[dict[str, Any]]:
    """Store all files; a summary for the journal, one `{tag, files, bytes}` for each tag."""
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for tag, path, source in found:
        store.put_artifact(experiment_id, attempt, tag, path, source)
        totals[tag][0] += 1
        totals[tag][1] += source.stat().st_size
    return [{"tag": tag, "files": files, "bytes": size} for tag, (files, size) in sorted(totals.items())]
