"""An attempt's directory: who makes what in it, and how its end is read.

    workspace/ artifacts/ home/    the script's
    io/                            the shim's: see `shim.py`

What lies in `io` was written by somebody with the script's rights: it is never followed through a symbolic link.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio_celery.runtimes.contract import Exit, Launch

#: Variables that decide which cards are visible; neither image nor submitter sets them.
CARD_VARIABLES = ("NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")

#: Folders that the script may write to.
WRITABLE = ("workspace", "artifacts", "home", "io")

#: A folder may be removed under its child's creation so many times: clean-up does it once for each former attempt.
MAKE_TRIES = 9

#: File with the name of the site: out of reach of a script in a container.
SITE = "site"

#: More than any JSON in `io` has, less than would hurt.
JSON_BYTES_MAX = 64 * 1024


@dataclass(frozen=True)
class Ending:
    """What the shim wrote when the script had ended."""

    exit: Exit
    #: Somebody sent SIGTERM to the shim, or SIGTERM or SIGKILL to the script: it may have been the host that went down.
    interrupted: bool


def make(directory: Path, site: str) -> None:
    """Create what is missing of an attempt's folders, the empty log, and the name of the site where it will live."""
    for name in WRITABLE:
        _make_folder(directory / name)
    if not os.path.lexists(directory / "io" / "log"):
        (directory / "io" / "log").touch()
    (directory / SITE).write_text(site)


def _make_folder(path: Path) -> None:
    """Create it with its parents, also while the clean-up of a former attempt removes the one that they share."""
    for _ in range(MAKE_TRIES):
        with contextlib.suppress(FileNotFoundError):
            path.mkdir(parents=True, exist_ok=True)
            return
    path.mkdir(parents=True, exist_ok=True)


def all_with(home: Path, name: str) -> list[Path]:
    """A file of this name in every attempt's directory that has it, in order.

    Not by `Path.glob`, which fails if a directory goes while it looks: other attempts end meanwhile.
    """
    found = glob.iglob(f"{glob.escape(str(home))}/run/*/*/{name}")  # noqa: PTH207
    return [Path(path) for path in sorted(found)]


def site_of(directory: Path) -> str | None:
    """The site of an attempt; None if its runtime was never asked to prepare it, so that nothing of it can live."""
    try:
        return (directory / SITE).read_text()
    except FileNotFoundError:
        return None


def remove(directory: Path) -> None:
    """Remove a directory with all that is in it, also what its script made unwritable for its own user.

    What is gone already is no error. Nothing of the attempt may live any more.
    """
    if not directory.is_dir():
        return
    with contextlib.suppress(RecursionError):
        _make_writable(directory)
    try:
        shutil.rmtree(directory, onerror=_unless_gone)
    except (OSError, RecursionError) as exc:  # folders in folders, more of them than Python goes down
        done = subprocess.run(["rm", "-rf", "--", directory], capture_output=True, text=True, env={"LC_ALL": "C"})
        if done.returncode:
            raise OSError(errno.ENOTEMPTY, done.stderr.strip().rpartition("\n")[2]) from exc


def _make_writable(directory: Path) -> None:
    for folder, names, _ in os.walk(directory, onerror=None):
        for path in (f"{folder}/{name}" for name in names):
            with contextlib.suppress(OSError):
                mode = os.lstat(path).st_mode
                if stat.S_ISDIR(mode) and mode & 0o700 != 0o700:
                    Path(path).chmod(0o700)


def _unless_gone(function: object, path: str, error: tuple[type[BaseException], BaseException, object]) -> None:
    """Two that remove the same are no error for either."""
    if not isinstance(error[1], FileNotFoundError):
        raise error[1]


def hand_over(directory: Path, uid: int, gid: int) -> None:
    """Give everything that the script may write to its user; links are not followed."""
    for name in WRITABLE:
        for parent, folders, files in os.walk(directory / name):
            for path in (parent, *(f"{parent}/{child}" for child in (*folders, *files))):
                status = os.lstat(path)
                if (status.st_uid, status.st_gid) != (uid, gid):
                    os.chown(path, uid, gid, follow_symlinks=False)


def write_command(launch: Launch, interpreter: str) -> None:
    """Write what the shim is to start: exact bytes, whatever the locale inside is."""
    script, *arguments = launch.argv
    if script.startswith("-"):
        script = f"./{script}"
    parts = [part.encode("utf-8", "surrogateescape") for part in (interpreter, script, *arguments)]
    (launch.io / "argv.new").write_bytes(b"\0".join(parts))
    (launch.io / "argv.new").replace(launch.io / "argv")


def shim_options(launch: Launch) -> list[str]:
    """What the shim is told beside the directory."""
    if launch.spool_bytes is None:
        return []
    return [f"--spool={launch.spool_bytes}", f"--hold={launch.hold_seconds}"]


def script_variables(launch: Launch, artifacts: str, home: str, defaults: Mapping[str, str]) -> dict[str, str]:
    """The script's environment: defaults, then what the submitter wants, then what only the runtime may say."""
    wanted = {name: value for name, value in launch.environment.items() if name not in CARD_VARIABLES}
    return {
        "XDG_CACHE_HOME": f"{home}/.cache",
        **defaults,
        **wanted,
        "HOME": home,
        "PYTHONUNBUFFERED": "1",
        "STUDIO_EXPERIMENT": launch.experiment_id,
        "STUDIO_ATTEMPT": str(launch.attempt),
        "STUDIO_ARTIFACTS": artifacts,
    }


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file, or None while there is none that makes sense."""
    with contextlib.suppress(OSError, ValueError, RecursionError):  # the last: it is nested too deeply
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            data = json.loads(file.read(JSON_BYTES_MAX))
            return data if isinstance(data, dict) else None
    return None


def append_once(path: Path, text: bytes) -> None:
    """Add a text to the end of a file, unless it ends with it already; a link is refused."""
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(fd, "r+b", buffering=0) as file:
        size = os.fstat(fd).st_size
        if os.pread(fd, len(text), max(size - len(text), 0)) != text:
            file.write(text)


def forget_ending(directory: Path) -> None:
    """Remove what an earlier start in the same directory left, so that it is not taken for the end of this one."""
    (directory / "io" / "exit.json").unlink(missing_ok=True)


def read_ending(directory: Path) -> Ending | None:
    """How the script ended, or None while the shim has not written it."""
    record = read_json(directory / "io" / "exit.json")
    if record is None:
        return None
    exit_code, number = _integer(record.get("exit_code")), _integer(record.get("signal"))
    if (exit_code is None) == (number is None):
        return None
    out_of_memory = bool(_integer(record.get("oom_kills"))) and exit_code != 0
    killed = number in (signal.SIGKILL, signal.SIGTERM) and not out_of_memory
    return Ending(Exit(exit_code, number, out_of_memory), interrupted=killed or record.get("terminated") is True)


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
