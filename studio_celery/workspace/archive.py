"""Packing a workspace: one gzipped tar whose bytes depend on nothing but the content.

Sorted names, no owners, no times; of the mode only the executable bit is kept. Names that are not UTF-8 survive (PAX).
"""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from studio_celery.errors import WorkspaceError
from studio_celery.units import format_bytes
from studio_celery.workspace.names import shown
from studio_celery.workspace.scan import Entry, Inventory, Kind, scan

#: The archive's name in the destination directory.
ARCHIVE_NAME = "workspace.tar.gz"

#: How many of the biggest files are named, in an `Archive` and in the refusal of a workspace.
LARGEST = 5

#: gzip's fastest level: code is small, and data is mostly compressed already.
COMPRESSION_LEVEL = 1

_TYPES = {Kind.FILE: tarfile.REGTYPE, Kind.DIRECTORY: tarfile.DIRTYPE, Kind.LINK: tarfile.SYMTYPE}


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A packed workspace."""

    path: Path
    #: Hex digest of the archive.
    sha256: str
    archive_bytes: int
    #: Number of regular files, and their bytes before compression.
    files: int
    bytes: int
    #: (path, bytes) of the biggest files, biggest first. Paths here and in `skipped` are for people: escaped.
    largest: tuple[tuple[str, int], ...]
    #: Sockets, pipes and devices, which cannot be packed.
    skipped: tuple[str, ...]


def capture(
    root: Path, *, script: str, limit_bytes: int, destination: Path, leave_out: tuple[Path, ...] = ()
) -> Archive:
    """Pack the workspace into a file in the directory `destination`, which must exist.

    `script` is the path that `locate` gave; it is packed even if an ignore file names it. Directories in `leave_out`
    are not looked into. Raises `WorkspaceError`, and if the files together are over `limit_bytes` it does so before
    anything is read or written.
    """
    inventory = scan(root, script=script, leave_out=leave_out)
    total = sum(entry.size for entry in inventory.files)
    if total > limit_bytes:
        raise WorkspaceError(_too_big(inventory, total, limit_bytes))
    path = destination / ARCHIVE_NAME
    pack(inventory, path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Archive(
        path=path,
        sha256=digest,
        archive_bytes=path.stat().st_size,
        files=len(inventory.files),
        bytes=total,
        largest=_largest(inventory),
        skipped=inventory.skipped,
    )


def pack(inventory: Inventory, path: Path) -> None:
    """Write the archive to a path; leave none if that fails."""
    try:
        with (
            path.open("wb") as raw,
            gzip.GzipFile(filename="", mode="wb", compresslevel=COMPRESSION_LEVEL, fileobj=raw, mtime=0) as stream,
            tarfile.open(
                fileobj=stream, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape"
            ) as tar,
        ):
            for entry in inventory.entries:
                _add(tar, inventory.root, entry)
    except OSError as exc:
        path.unlink(missing_ok=True)
        raise WorkspaceError(
            f"The workspace cannot be packed into {shown(path)} ({exc.strerror or exc}): "
            "make room there, or set TMPDIR to a directory with room."
        ) from exc
    except WorkspaceError:
        path.unlink(missing_ok=True)
        raise


def _add(tar: tarfile.TarFile, root: Path, entry: Entry) -> None:
    member = tarfile.TarInfo(entry.path)
    member.type = _TYPES[entry.kind]
    member.mode = 0o755 if entry.executable or entry.kind is Kind.DIRECTORY else 0o644
    member.linkname = entry.target
    if entry.kind is not Kind.FILE:
        tar.addfile(member)
        return
    member.size = entry.size
    with _open(root, entry) as file:
        tar.addfile(member, Exactly(file, entry.size, root / entry.path))  # type: ignore[arg-type]
        if file.read(1):
            raise _changed(root / entry.path)


def _open(root: Path, entry: Entry) -> BinaryIO:
    """Open a file that was a regular one of this size when it was scanned, and refuse it if it no longer is."""
    path = root / entry.path
    try:
        # Not blocking: a pipe that has taken the file's place would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _changed(path) from None
    except OSError as exc:
        raise _unreadable(path, exc) from exc
    file = os.fdopen(descriptor, "rb")
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_size == entry.size:
        return file
    file.close()
    raise _changed(path)


class Exactly:
    """A reader of so many bytes: tarfile would end a file that shrinks with an error that does not name it."""

    def __init__(self, file: BinaryIO, size: int, path: Path) -> None:
        self._file = file
        self._left = size
        self._path = path

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes; raises `WorkspaceError` if the file ends too early or cannot be read."""
        try:
            data = self._file.read(size)
        except OSError as exc:
            raise _unreadable(self._path, exc) from exc
        self._left -= len(data)
        if len(data) < size and self._left > 0:
            raise _changed(self._path)
        return data


def _changed(path: Path) -> WorkspaceError:
    return WorkspaceError(
        f"{shown(path)} changed while it was packed: submit again when nothing writes to it, "
        "or name it in .studioignore."
    )


def _unreadable(path: Path, exc: OSError) -> WorkspaceError:
    return WorkspaceError(
        f"{shown(path)} cannot be read ({exc.strerror}): give yourself permission to read it, "
        "or name it in .studioignore."
    )


def _largest(inventory: Inventory) -> tuple[tuple[str, int], ...]:
    ordered = sorted(inventory.files, key=lambda entry: (-entry.size, entry.path))
    return tuple((shown(entry.path), entry.size) for entry in ordered[:LARGEST])


def _too_big(inventory: Inventory, total: int, limit_bytes: int) -> str:
    biggest = ", ".join(f"{path} ({format_bytes(size)})" for path, size in _largest(inventory))
    return (
        f"The workspace {shown(inventory.root)} has {format_bytes(total)}, more than the limit of "
        f"{format_bytes(limit_bytes)}; its biggest files are {biggest}. Name what the script does not need in "
        ".studioignore, choose a smaller directory with --workspace, or raise STUDIO_WORKSPACE_LIMIT."
    )
