"""Packing and unpacking again: nothing is lost, and the same content gives the same bytes."""

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from studio_celery.errors import WorkspaceError
from studio_celery.workspace import Archive, capture, restore
from studio_celery.workspace.archive import Exactly, pack
from studio_celery.workspace.scan import scan

#: Large enough for every test that is not about the limit.
LIMIT_BYTES = 100 * 2**20


def tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in {"train.py": b"print('hello')\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def captured(root: Path, destination: Path, *, limit_bytes: int = LIMIT_BYTES) -> Archive:
    destination.mkdir(parents=True, exist_ok=True)
    return capture(root, script="train.py", limit_bytes=limit_bytes, destination=destination)


def content(root: Path) -> dict[str, object]:
    """Everything below a directory: bytes and executable bit of files, targets of links, None for directories."""
    found: dict[str, object] = {}
    for directory, directories, files in os.walk(root):
        for path in (Path(directory) / name for name in (*directories, *files)):
            name = str(path.relative_to(root))
            if path.is_symlink():
                found[name] = str(path.readlink())
            else:
                found[name] = None if path.is_dir() else (path.read_bytes(), bool(path.stat().st_mode & 0o100))
    return found


def test_what_is_captured_is_restored(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", {"src/model.py": b"x = 1\n", "data/a.bin": bytes(range(256)) * 999, "empty": b""})
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o700)
    (root / "latest").symlink_to("data/a.bin")
    (root / "outputs").mkdir()
    archive = captured(root, tmp_path / "packed")
    restore(archive.path, tmp_path / "there", sha256=archive.sha256)
    assert content(tmp_path / "there") == content(root)


def test_the_archive_says_what_is_in_it(tmp_path: Path) -> None:
    sizes = {f"data/{index}.bin": bytes(1000 + index) for index in range(7)}
    archive = captured(tree(tmp_path / "root", sizes), tmp_path / "packed")
    assert archive.files == 8
    assert archive.bytes == 7021 + 15
    assert archive.largest == tuple((f"data/{index}.bin", 1000 + index) for index in (6, 5, 4, 3, 2))
    assert archive.archive_bytes == archive.path.stat().st_size
    assert archive.sha256 == hashlib.sha256(archive.path.read_bytes()).hexdigest()
    assert archive.skipped == ()


def test_the_same_content_gives_the_same_archive(tmp_path: Path) -> None:
    first = tree(tmp_path / "first", {"b": b"1", "a/c": b"2", "a-b": b"3"})
    second = tree(tmp_path / "second", {"a-b": b"3", "a/c": b"2", "b": b"1"})
    os.utime(second / "b", (0, 0))
    (second / "b").chmod(0o600)
    (first / "link").symlink_to(first / "b")
    (second / "link").symlink_to(second / "b")
    digests = {captured(first, tmp_path / "x").sha256, captured(second, tmp_path / "y").sha256}
    assert len(digests) == 1


@pytest.mark.parametrize("change", ["content", "name", "executable bit"])
def test_other_content_gives_another_archive(tmp_path: Path, change: str) -> None:
    root = tree(tmp_path / "root", {"a": b"1"})
    before = captured(root, tmp_path / "x").sha256
    if change == "content":
        (root / "a").write_bytes(b"2")
    elif change == "name":
        (root / "a").rename(root / "b")
    else:
        (root / "a").chmod(0o755)
    assert captured(root, tmp_path / "y").sha256 != before


def test_a_workspace_over_the_limit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", {"data/small.csv": bytes(2048)})
    with (root / "data/big.bin").open("wb") as file:
        file.truncate(5 * 10**9)
    with pytest.raises(WorkspaceError) as caught:
        captured(root, tmp_path / "packed", limit_bytes=500 * 2**20)
    said = str(caught.value)
    assert f"{root} has 4.7 GiB, more than the limit of 500 MiB" in said
    assert "data/big.bin (4.7 GiB), data/small.csv (2 KiB)" in said
    assert ".studioignore" in said
    assert "--workspace" in said
    assert "STUDIO_WORKSPACE_LIMIT" in said
    assert list((tmp_path / "packed").iterdir()) == []


def test_the_limit_itself_is_allowed(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", {"a": bytes(85)})
    assert captured(root, tmp_path / "x", limit_bytes=100).bytes == 100
    with pytest.raises(WorkspaceError, match="more than the limit"):
        captured(root, tmp_path / "y", limit_bytes=99)


def test_a_name_cannot_write_control_characters_to_a_terminal(tmp_path: Path) -> None:
    root = tree(tmp_path / "root", {"\x1b[31mred\n" + os.fsdecode(b"\xff"): b"1" * 99})
    assert captured(root, tmp_path / "x").largest[0] == ("\\x1b[31mred\\n\\udcff", 99)


@pytest.mark.parametrize("what", ["grown", "shrunk", "gone", "now a pipe"])
def test_a_file_that_changes_between_scan_and_reading_is_named(tmp_path: Path, what: str) -> None:
    root = tree(tmp_path / "root", {"log": b"12345"})
    inventory = scan(root, script="train.py")
    (root / "log").unlink()
    if what == "now a pipe":
        os.mkfifo(root / "log")
    elif what != "gone":
        (root / "log").write_bytes(b"1234567" if what == "grown" else b"1")
    with pytest.raises(WorkspaceError, match=r"log changed while it was packed: .*\.studioignore"):
        pack(inventory, tmp_path / "archive")
    assert not (tmp_path / "archive").exists()


def test_a_file_that_shrinks_while_it_is_read_is_named() -> None:
    reader = Exactly(io.BytesIO(b"123456"), 10, Path("log"))
    assert reader.read(4) == b"1234"
    with pytest.raises(WorkspaceError, match="log changed while it was packed"):
        reader.read(6)


#: Anything a Linux file may be called, so also names that are not UTF-8; at most 60 bytes, to leave room for depth.
RAW_NAMES = st.one_of(
    st.binary(min_size=1, max_size=60),
    st.text(min_size=1, max_size=15).map(lambda text: text.encode("utf-8", "replace")),
)
NAMES = (
    RAW_NAMES.map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_"))
    .filter(lambda name: not name.startswith(b".") and name not in (b"__pycache__", b"pyvenv.cfg"))
    .map(os.fsdecode)
)
FILES = st.dictionaries(st.lists(NAMES, min_size=1, max_size=4).map("/".join), st.binary(max_size=300), max_size=8)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(files=FILES, executable=st.booleans())
def test_any_tree_survives_the_way(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], executable: bool
) -> None:
    base = tmp_path_factory.mktemp("any")
    root = tree(base / "root", {})
    for name, data in files.items():
        if not (root / name).exists() and not any(parent.is_file() for parent in (root / name).parents):
            tree(root, {name: data})
            (root / name).chmod(0o755 if executable else 0o644)
    archive = captured(root, base / "packed")
    restore(archive.path, base / "there", sha256=archive.sha256)
    assert content(base / "there") == content(root)
    assert captured(base / "there", base / "again").sha256 == archive.sha256


def test_the_archive_is_a_plain_tar_that_others_can_read(tmp_path: Path) -> None:
    archive = captured(tree(tmp_path / "root", {"d/a": b"1"}), tmp_path / "packed")
    with tarfile.open(archive.path) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == ["d", "d/a", "train.py"]
    assert {(member.uid, member.gid, member.uname, member.gname, member.mtime) for member in members} == {
        (0, 0, "", "", 0)
    }
