"""Unpacking a workspace, so that nothing outside the destination is touched whatever the archive holds.

Not `tarfile`'s own extraction: its `data` filter is missing from the Python of Debian 12 (3.11.2), and it writes
through links that it made before. Here links are made last, when nothing more is written, and they are removed with
everything else if one of them leads outside.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from studio_celery.errors import WorkspaceError
from studio_celery.workspace.names import MAX_DEPTH, shown

#: The only members that `capture` writes: files, directories, symbolic links.
_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE)

#: What the file system says to a name that an archive should not hold: one thing twice, below a file, too long.
_BAD_NAME = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)


def restore(archive: Path, destination: Path, *, sha256: str) -> None:
    """Unpack an archive into a directory that is new or empty; leave it empty if that fails.

    Raises `WorkspaceError` if the archive is not the one with this digest, is damaged, or holds what does not belong
    into a workspace. An `OSError` of the destination (no room, no permission) is passed on.
    """
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise WorkspaceError(
            f"The archive {shown(archive)} is damaged (SHA-256 {found}, expected {sha256}): fetch it again."
        )
    destination.mkdir(parents=True, exist_ok=True)
    root = destination.resolve()
    if any(root.iterdir()):
        raise WorkspaceError(f"The directory {shown(destination)} is not empty: restore into an empty one.")
    try:
        _unpack(archive, root)
    except BaseException:
        _empty(root)
        raise


def _unpack(archive: Path, root: Path) -> None:
    links: dict[Path, str] = {}
    try:
        with tarfile.open(archive, "r|gz", encoding="utf-8", errors="surrogateescape") as tar:
            for member in tar:
                path = root / _check(member)
                if member.issym():
                    links[path] = member.linkname
                else:
                    _write(tar, member, path)
        _link(links, root)
    except (tarfile.TarError, EOFError, zlib.error, ValueError) as exc:
        raise WorkspaceError(f"The archive {shown(archive)} is damaged ({exc}): submit the experiment again.") from exc
    except OSError as exc:
        if exc.errno not in _BAD_NAME:
            raise
        raise WorkspaceError(
            f"{shown(exc.filename)} cannot be restored ({exc.strerror}): submit a workspace without it."
        ) from exc


def _check(member: tarfile.TarInfo) -> PurePosixPath:
    """The member's path, relative and without "..", or a `WorkspaceError`."""
    name = PurePosixPath(member.name)
    if member.type not in _TYPES or member.issparse():
        raise _refused(member, "is neither file, directory nor symbolic link")
    if name.is_absolute() or ".." in name.parts or not name.parts or "\0" in member.name:
        raise _refused(member, "has a name that leaves the workspace")
    if len(name.parts) > MAX_DEPTH + 1:
        raise _refused(member, f"is more than {MAX_DEPTH} levels deep")
    if member.issym() and (member.linkname.startswith("/") or "\0" in member.linkname or not member.linkname):
        raise _refused(member, "is a symbolic link that leaves the workspace")
    return name


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    content = tar.extractfile(member)
    assert content is not None, "a regular file has content"
    with content, path.open("xb") as file:
        shutil.copyfileobj(content, file)
    path.chmod(0o755 if member.mode & 0o100 else 0o644)


def _link(links: dict[Path, str], root: Path) -> None:
    for path in links:
        # All of them before the first link: a link that is another's parent then stands in the way of its directory.
        path.parent.mkdir(parents=True, exist_ok=True)
    for path, target in links.items():
        path.symlink_to(target)
    for path in links:
        # Only now, since a link may go through others.
        if not Path(os.path.realpath(path)).is_relative_to(root):
            raise WorkspaceError(f"The symbolic link {shown(path)} leads outside the workspace: submit without it.")


def _empty(root: Path) -> None:
    for path in root.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _refused(member: tarfile.TarInfo, why: str) -> WorkspaceError:
    return WorkspaceError(f"The archive's member {shown(member.name)} {why}: submit a workspace without it.")
