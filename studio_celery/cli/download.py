"""Artifacts to files, inside the directory that was named and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from studio_celery.errors import StudioError


def download(pieces: Iterator[bytes], directory: Path, key: str) -> Path:
    """Write one file below `directory`."""
    target = directory.joinpath(*key.split("/"))
    if not target.resolve().is_relative_to(directory.resolve()):
        raise StudioError(f"The artifact {key!r} would be written outside {directory}: it is left out.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        for piece in pieces:
            file.write(piece)
    return target
