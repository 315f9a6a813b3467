"""What a workspace says of files that may not be read. Root may read all, so these tests step down to nobody."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from studio_celery.errors import WorkspaceError
from studio_celery.workspace import capture, locate

#: User and group id of `nobody`.
NOBODY = 65534

#: Large enough for every test here.
LIMIT_BYTES = 2**20


@contextmanager
def as_nobody() -> Iterator[None]:
    """Run as somebody without rights; a plain user, who has none over a file of mode 0, stays who he is."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def root() -> Iterator[Path]:
    """A workspace that nobody can reach, unlike what is below pytest's private temporary directory."""
    path = Path(tempfile.mkdtemp(prefix="studio-test-", dir="/tmp"))
    path.chmod(0o755)
    (path / "train.py").write_text("print('hello')\n")
    yield path
    for found in path.rglob("*"):
        if found.is_dir():
            found.chmod(0o755)
    shutil.rmtree(path)


@pytest.fixture
def destination() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="studio-test-", dir="/tmp") as path:
        Path(path).chmod(0o777)
        yield Path(path)


def test_a_script_without_permission_is_refused(root: Path) -> None:
    (root / "train.py").chmod(0)
    with as_nobody(), pytest.raises(WorkspaceError, match=r"train\.py cannot be read \(permission denied\)"):
        locate("train.py", None, root)


def test_an_unreadable_file_is_named_and_no_archive_is_left(root: Path, destination: Path) -> None:
    (root / "secret.key").write_text("x")
    (root / "secret.key").chmod(0)
    with as_nobody(), pytest.raises(WorkspaceError, match=r"secret\.key cannot be read .*\.studioignore"):
        capture(root, script="train.py", limit_bytes=LIMIT_BYTES, destination=destination)
    assert list(destination.iterdir()) == []


def test_an_unreadable_directory_is_named(root: Path, destination: Path) -> None:
    (root / "private").mkdir(mode=0)
    with as_nobody(), pytest.raises(WorkspaceError, match=r"private/? cannot be read"):
        capture(root, script="train.py", limit_bytes=LIMIT_BYTES, destination=destination)


def test_an_unreadable_ignore_file_is_named(root: Path, destination: Path) -> None:
    (root / ".gitignore").write_text("*.pt\n")
    (root / ".gitignore").chmod(0)
    with as_nobody(), pytest.raises(WorkspaceError, match=r"\.gitignore cannot be read"):
        capture(root, script="train.py", limit_bytes=LIMIT_BYTES, destination=destination)


def test_what_is_ignored_may_be_unreadable(root: Path, destination: Path) -> None:
    (root / ".gitignore").write_text("secret.key\nprivate/\n")
    (root / ".studioignore").write_text("!keep.csv\n")
    (root / "secret.key").write_text("x")
    (root / "secret.key").chmod(0)
    (root / "private").mkdir(mode=0)
    with as_nobody():
        archive = capture(root, script="train.py", limit_bytes=LIMIT_BYTES, destination=destination)
    assert archive.files == 3


def test_a_destination_that_cannot_be_written_is_said(root: Path, destination: Path) -> None:
    destination.chmod(0o555)
    with as_nobody(), pytest.raises(WorkspaceError, match=r"cannot be packed into .*TMPDIR"):
        capture(root, script="train.py", limit_bytes=LIMIT_BYTES, destination=destination)
