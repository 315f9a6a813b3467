"""A file that a script left behind, opened such that no link on the way is followed: one could lead anywhere.

Only the folder of `root` is looked up by its path; from there on each component is opened from the one before.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

#: A longer path below the root is not walked into, bytes: more than any system takes at once.
PATH_BYTES_MAX = 4096

_PLAIN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class Leftover:
    """What lies at `parts` below `root`; it may have been replaced by the time that it is opened."""

    root: Path
    parts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Path below the root, with slashes."""
        return "/".join(self.parts)

    def open(self) -> BinaryIO:
        """To be read; `OSError` if it is no plain file, or a link is on the way."""
        descriptor = self._descriptor()
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(0, "not a plain file", self.name)
        return os.fdopen(descriptor, "rb")

    def files(self) -> Iterator[Leftover]:
        """All plain files below this folder, those of a folder before those in folders of it; none if it is no folder.

        A folder that cannot be listed is among them, so that whoever opens it finds out why.
        """
        waiting = [self]
        while waiting:
            folder = waiting.pop()
            try:
                files, folders = folder._entries()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                yield folder
                continue
            for name in files:
                yield Leftover(self.root, (*folder.parts, name))
            waiting += [Leftover(self.root, (*folder.parts, name)) for name in reversed(folders)]

    def is_folder(self) -> bool:
        """Whether it is a folder that no link leads to; `OSError` if it cannot be looked at."""
        descriptor = self._descriptor()
        try:
            return stat.S_ISDIR(os.fstat(descriptor).st_mode)
        finally:
            os.close(descriptor)

    def _entries(self) -> tuple[list[str], list[str]]:
        """Names of plain files and of folders in it, sorted; links and whatever else there may be are left out."""
        if len(os.fsencode(self.name)) > PATH_BYTES_MAX:
            raise OSError(0, "its path is too long", self.name)
        descriptor = self._descriptor()
        try:
            with os.scandir(descriptor) as entries:
                found = [(e.name, e.is_dir(follow_symlinks=False), e.is_file(follow_symlinks=False)) for e in entries]
        finally:
            os.close(descriptor)
        files = sorted(name for name, _, is_file in found if is_file)
        return files, sorted(name for name, is_folder, _ in found if is_folder)

    def _descriptor(self) -> int:
        """Of a file or folder; each component is opened in the one before."""
        descriptor = os.open(self.root, os.O_DIRECTORY | _PLAIN)
        for number, part in enumerate(self.parts, 1):
            flags = _PLAIN | (os.O_DIRECTORY if number < len(self.parts) else 0)
            folder = descriptor
            try:
                descriptor = os.open(part, flags, dir_fd=folder)
            finally:
                os.close(folder)
        return descriptor
