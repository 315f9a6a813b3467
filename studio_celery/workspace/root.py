"""Which directory goes with a script."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from studio_celery.errors import WorkspaceError
from studio_celery.workspace.names import shown


def locate(script: str, workspace: str | None, cwd: Path) -> tuple[Path, str]:
    """Find the workspace of a script: its root, resolved, and the script's path in it in POSIX form.

    The root is `workspace` if given, else `cwd` if the script is below it, else the script's own directory. Relative
    paths count from `cwd`. Raises `WorkspaceError` if the script cannot be run from there.
    """
    path = _check_script(cwd / script, script)
    root = _choose_root(path, workspace, cwd)
    _refuse_too_wide(root, path)
    if not path.is_relative_to(root):
        raise WorkspaceError(
            f"The script {shown(path)} is not inside the workspace {shown(root)}: "
            "name a directory that contains it with --workspace."
        )
    if not path.resolve().is_relative_to(root):
        raise WorkspaceError(
            f"The script {shown(path)} is a symbolic link that points outside the workspace {shown(root)}: "
            "name the file itself, or a directory that contains both with --workspace."
        )
    return root, path.relative_to(root).as_posix()


def _check_script(path: Path, named: str) -> Path:
    """The script with its directory resolved, but not itself: a link keeps the name that was asked for."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise WorkspaceError(f"{shown(named)} is a directory: name the script in it that is to be run.")
        if not stat.S_ISREG(mode):
            raise WorkspaceError(f"{shown(named)} is not a regular file: name a Python script.")
        with path.open("rb"):
            return path.parent.resolve() / path.name
    except (FileNotFoundError, NotADirectoryError):
        raise WorkspaceError(f"The script {shown(named)} does not exist: check the path and its spelling.") from None
    except PermissionError as exc:
        raise WorkspaceError(
            f"The script {shown(named)} cannot be read (permission denied): give yourself permission to read it."
        ) from exc
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise WorkspaceError(f"The script {shown(named)} cannot be read ({reason}): check the path.") from exc


def _choose_root(script: Path, workspace: str | None, cwd: Path) -> Path:
    if workspace is None:
        here = cwd.resolve()
        return here if script.is_relative_to(here) else script.parent
    try:
        root = (cwd / Path(workspace).expanduser()).resolve()
        is_directory = root.is_dir()
    except (OSError, ValueError, RuntimeError) as exc:
        raise WorkspaceError(f"The workspace {shown(workspace)} cannot be read ({exc}): check the path.") from exc
    if not is_directory:
        problem = "is not a directory" if root.exists() else "does not exist"
        raise WorkspaceError(f"The workspace {shown(workspace)} {problem}: name a directory with --workspace.")
    return root


def _refuse_too_wide(root: Path, script: Path) -> None:
    """Refuse `/`, the home directory and what is above it: nobody means to upload all that."""
    home = Path(os.path.expanduser("~")).resolve()  # noqa: PTH111 - Path.home() raises where there is no home
    if root != Path(root.anchor) and root != home and root not in home.parents:
        return
    what = (
        "the home directory" if root == home else "the whole file system" if root == Path(root.anchor) else "all homes"
    )
    if script.parent != root and script.parent != home and script.is_relative_to(root):
        step = f"name the script's own with --workspace {shown(script.parent)}"
    else:
        step = "put the script into a directory of its own and name it with --workspace"
    raise WorkspaceError(f"The workspace would be {what}, {shown(root)}: {step}.")
