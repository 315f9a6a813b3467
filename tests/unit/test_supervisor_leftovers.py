"""Files that a script left, while it exchanges folders for links: nothing outside is ever opened."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from studio_celery.experiment import Capture
from studio_celery.store import Store
from studio_celery.supervisor.keepsakes import collect, keep
from studio_celery.supervisor.leftovers import Leftover

SECRET = b"of the host"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of the host with a secret."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "passwd").write_bytes(SECRET)
    return folder


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """Two folders; names that the host has, too."""
    folder = tmp_path / "artifacts"
    for name in ("a", "z"):
        (folder / name).mkdir(parents=True)
        (folder / name / "passwd").write_bytes(b"of the script")
    return folder


def kept(store: Store, found: Iterator[tuple[str, str, Leftover]]) -> tuple[dict[str, bytes], list[str]]:
    result = keep(store, "e", 1, found, until_stored=lambda write: write())
    items = [item.key for item in store.artifact_files("e", 1)]
    return {key: b"".join(store.artifact_stream("e", 1, key)) for key in items}, result.left_out


def exchange(folder: Path, target: Path) -> None:
    folder.rename(folder.with_name("away"))
    folder.symlink_to(target)


def test_a_folder_that_becomes_a_link_between_listing_and_reading_leads_nowhere(
    tmp_path: Path, artifacts: Path, outside: Path
) -> None:
    found = list(collect(artifacts, tmp_path, ()))
    assert [key for _, key, _ in found] == ["passwd", "passwd"]
    exchange(artifacts / "z", outside)
    files, left_out = kept(Store(str(tmp_path / "store")), iter(found))
    assert files == {"a/passwd": b"of the script"}
    assert left_out == ["z/passwd"]


def test_a_file_that_is_exchanged_while_it_is_stored_is_stored_as_it_was_opened(
    tmp_path: Path, artifacts: Path, outside: Path
) -> None:
    store = Store(str(tmp_path / "store"))
    put = store.put_artifact

    def exchanging(experiment: str, attempt: int, tag: str, path: str, source: Path) -> None:
        exchange(artifacts / tag, outside)
        put(experiment, attempt, tag, path, source)
        (artifacts / tag).unlink()
        (artifacts / "away").rename(artifacts / tag)

    store.put_artifact = exchanging  # type: ignore[method-assign]
    files, left_out = kept(store, collect(artifacts, tmp_path, ()))
    assert files == {"a/passwd": b"of the script", "z/passwd": b"of the script"}
    assert left_out == []


@pytest.mark.parametrize("named", ["out", "out/passwd", "inner/out", "loop"])
def test_what_is_captured_through_a_link_out_of_the_workspace_is_not_kept(
    tmp_path: Path, outside: Path, named: str
) -> None:
    workspace = tmp_path / "workspace"
    (workspace / "inner").mkdir(parents=True)
    (workspace / "out").symlink_to(outside)
    (workspace / "inner" / "out").symlink_to("../out")
    (workspace / "loop").symlink_to("loop")
    found = collect(tmp_path / "none", workspace, (Capture(path=named, tag="t"),))
    assert kept(Store(str(tmp_path / "store")), found)[0] == {}


def test_a_captured_folder_that_becomes_a_link_leads_nowhere(tmp_path: Path, artifacts: Path, outside: Path) -> None:
    """Also where it is a link to a folder of the workspace when it is named."""
    (artifacts / "named").symlink_to("z")
    found = list(collect(tmp_path / "none", artifacts, (Capture(path="named", tag="t"),)))
    assert kept(Store(str(tmp_path / "one")), iter(found))[0] == {"t/passwd": b"of the script"}
    exchange(artifacts / "z", outside)
    assert kept(Store(str(tmp_path / "two")), iter(found)) == ({}, ["t/passwd"])


def test_a_tree_of_any_depth_is_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deeper than functions can call each other; below the longest path nothing is looked at, which ends the walk."""
    monkeypatch.setattr("studio_celery.supervisor.leftovers.PATH_BYTES_MAX", 2 * sys.getrecursionlimit() + 20)
    root = tmp_path / "deep"
    root.mkdir()
    folder = os.open(root, os.O_RDONLY)
    for _ in range(sys.getrecursionlimit() + 20):
        os.mkdir("d", dir_fd=folder)
        below = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(os.open("too deep", os.O_CREAT, dir_fd=folder))
    os.close(folder)
    try:
        (found,) = Leftover(root).files()
        assert len(found.parts) == sys.getrecursionlimit() + 11
        with pytest.raises(OSError, match="not a plain file"):
            found.open()
    finally:
        subprocess.run(["rm", "-r", str(root)], check=True)  # shutil.rmtree cannot


def test_a_pipe_is_no_file_and_holds_nothing_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a plain file"):
        Leftover(tmp_path, ("pipe",)).open()
    assert list(Leftover(tmp_path).files()) == []


def test_a_script_that_made_its_artifacts_a_link_has_none(tmp_path: Path, artifacts: Path, outside: Path) -> None:
    exchange(artifacts, outside)
    assert kept(Store(str(tmp_path / "store")), collect(artifacts, tmp_path, ()))[0] == {}
    artifacts.unlink()
    assert list(collect(artifacts, tmp_path, ())) == []
