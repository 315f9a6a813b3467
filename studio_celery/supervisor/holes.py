"""Giving the beginning of a file back to the disk: what is left of it keeps its place, and is read as before."""

from __future__ import annotations

import ctypes
import errno
import os
import tempfile
from functools import cache
from pathlib import Path

#: Of fallocate(2), Linux: make a hole, and leave the size as it is.
_KEEP_SIZE, _PUNCH_HOLE = 0x01, 0x02


def punch(descriptor: int, end: int) -> None:
    """Free the blocks of a file before byte `end`; `OSError` where the file system cannot."""
    result = _fallocate()(descriptor, _KEEP_SIZE | _PUNCH_HOLE, ctypes.c_longlong(0), ctypes.c_longlong(end))
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@cache
def possible(directory: Path) -> bool:
    """Whether files in this directory can be freed in part."""
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(b"x" * 65536)
        file.flush()
        try:
            punch(file.fileno(), 65536)
        except OSError:
            return False
    return True


@cache
def _fallocate() -> ctypes._NamedFuncPointer:
    try:
        return ctypes.CDLL(None, use_errno=True).fallocate
    except AttributeError as exc:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP)) from exc
