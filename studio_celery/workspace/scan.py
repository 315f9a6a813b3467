"""What is in a workspace, found without reading any file but the ignore files."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from studio_celery.errors import WorkspaceError
from studio_celery.workspace.ignore import ALWAYS_IGNORED, VENV_MARK, Rules
from studio_celery.workspace.names import MAX_DEPTH, shown


class Kind(Enum):
    """What an entry is."""

    #: A regular file.
    FILE = "file"
    #: A directory, empty or not.
    DIRECTORY = "directory"
    #: A symbolic link to something inside the workspace.
    LINK = "link"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing that will be packed; `path` is relative to the root, POSIX form."""

    path: str
    kind: Kind
    #: Bytes, of a file.
    size: int = 0
    executable: bool = False
    #: Where a link points, relative to the link's directory.
    target: str = ""


@dataclass(frozen=True)
class Inventory:
    """Everything that will be packed, sorted by path, and what cannot be (sockets, pipes, devices)."""

    root: Path
    entries: tuple[Entry, ...]
    skipped: tuple[str, ...]

    @property
    def files(self) -> tuple[Entry, ...]:
        """The regular files."""
        return tuple(entry for entry in self.entries if entry.kind is Kind.FILE)


@dataclass(frozen=True)
class _Directory:
    """A directory still to be looked into: "" or ending in "/"."""

    path: str
    rules: Rules
    #: False in what `.gitignore` ignores: only what `.studioignore` takes back is kept.
    kept: bool = True


@dataclass
class _Walk:
    root: Path
    #: Directories that are left out whatever the ignore files say.
    left_out: frozenset[Path] = frozenset()
    entries: dict[str, Entry] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    pending: list[_Directory] = field(default_factory=list)

    def visit(self, directory: _Directory) -> None:
        """Record a directory and what it holds; put its subdirectories on the list."""
        found = self._list(directory)
        names = {entry.name for entry in found}
        if directory.path and VENV_MARK in names:
            return
        if directory.path and directory.kept:
            self.entries[directory.path] = Entry(path=directory.path.rstrip("/"), kind=Kind.DIRECTORY)
        rules = directory.rules.entered(self.root, directory.path, names) if directory.kept else directory.rules
        for entry in found:
            if entry.name not in ALWAYS_IGNORED:
                self._sort_in(directory.path + entry.name, entry, _Directory(directory.path, rules, directory.kept))

    def _list(self, directory: _Directory) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.root / directory.path) as listing:
                return list(listing)
        except OSError as exc:
            if not directory.kept:
                return []
            raise WorkspaceError(
                f"The directory {shown(self.root / directory.path)} cannot be read ({exc.strerror}): "
                "give yourself permission to read it, or name it in .studioignore."
            ) from exc

    def _sort_in(self, path: str, entry: os.DirEntry[str], parent: _Directory) -> None:
        if entry.is_dir(follow_symlinks=False):
            self._enter(path + "/", parent)
        elif _stays(path, parent) and (made := self.describe(path)):
            self.entries[path] = made

    def _enter(self, path: str, parent: _Directory) -> None:
        if self.root / path in self.left_out:
            return
        if _stays(path, parent):
            if path.count("/") > MAX_DEPTH:
                raise WorkspaceError(
                    f"The directory {shown(self.root / path)} is more than {MAX_DEPTH} levels deep: "
                    "name one of those above it in .studioignore."
                )
            self.pending.append(_Directory(path, parent.rules))
        elif parent.rules.studio_verdict(path) is None and parent.rules.may_take_back():
            self.pending.append(_Directory(path, parent.rules, kept=False))

    def describe(self, path: str) -> Entry | None:
        """The entry for a file or link, or None if it has vanished or cannot be packed."""
        try:
            found = (self.root / path).lstat()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise WorkspaceError(f"{shown(self.root / path)} cannot be read ({exc.strerror}).") from exc
        if stat.S_ISLNK(found.st_mode):
            return Entry(path=path, kind=Kind.LINK, target=_link_target(self.root, path))
        if stat.S_ISREG(found.st_mode):
            executable = bool(found.st_mode & stat.S_IXUSR)
            return Entry(path=path, kind=Kind.FILE, size=found.st_size, executable=executable)
        self.skipped.append(shown(path))
        return None


def scan(root: Path, *, script: str, leave_out: tuple[Path, ...] = ()) -> Inventory:
    """List what belongs to the workspace; the script always does. Raises `WorkspaceError`."""
    walk = _Walk(root.resolve(), frozenset(path.resolve() for path in leave_out))
    walk.pending.append(_Directory("", Rules()))
    while walk.pending:
        walk.visit(walk.pending.pop())
    _add_script(walk, script)
    entries = sorted(walk.entries.values(), key=lambda entry: entry.path)
    return Inventory(walk.root, tuple(entries), tuple(sorted(walk.skipped)))


def _stays(path: str, parent: _Directory) -> bool:
    if parent.kept:
        return not parent.rules.ignores(path)
    return parent.rules.studio_verdict(path) is False


def _add_script(walk: _Walk, script: str) -> None:
    """Add the script, and what it links to, even if they are ignored."""
    if script.startswith("/") or ".." in script.split("/"):
        raise WorkspaceError(f"The script {shown(script)} is not inside the workspace {shown(walk.root)}.")
    real = Path(os.path.realpath(walk.root / script))
    paths = {script, real.relative_to(walk.root).as_posix()} if real.is_relative_to(walk.root) else {script}
    for path in sorted(paths - walk.entries.keys()):
        entry = walk.describe(path)
        if entry is None:
            raise WorkspaceError(f"The script {shown(walk.root / path)} is not a file: name one that exists.")
        walk.entries[path] = entry


def _link_target(root: Path, path: str) -> str:
    """Where a link points, so that it holds in any place the workspace is restored to."""
    link = root / path
    try:
        target = str(link.readlink())
    except OSError as exc:
        raise WorkspaceError(f"The symbolic link {shown(link)} cannot be read ({exc.strerror}).") from exc
    real = Path(os.path.realpath(link))
    if not real.is_relative_to(root):
        raise WorkspaceError(
            f"The symbolic link {shown(link)} points outside the workspace, to {shown(target)}: put a copy in its "
            "place, name it in .studioignore, or choose a directory that contains both with --workspace."
        )
    directory = os.path.dirname(path)  # noqa: PTH120 - a string without "." for the root
    lexical = os.path.normpath(os.path.join(directory, target))  # noqa: PTH118 - a Path would not fold ".."
    if target.startswith("/") or lexical == ".." or lexical.startswith("../"):
        return os.path.relpath(real, os.path.realpath(link.parent))
    return target
