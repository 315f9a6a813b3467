"""Archives that mean harm, or are damaged: refused, and nothing outside the destination is touched."""

import errno
import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from studio_celery.errors import WorkspaceError
from studio_celery.workspace import capture, restore


def file(name: str, content: bytes = b"evil") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    return member, content


def special(name: str, type: bytes, linkname: str = "") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type = type
    member.linkname = linkname
    return member, b""


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return special(name, tarfile.SYMTYPE, target)


def directory(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return special(name, tarfile.DIRTYPE)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def archived(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w:gz", encoding="utf-8", errors="surrogateescape") as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    return path


def everything(path: Path) -> dict[str, bytes | str | None]:
    return {
        str(found): str(found.readlink()) if found.is_symlink() else found.read_bytes() if found.is_file() else None
        for found in path.rglob("*")
    }


MALICIOUS = {
    "absolute name": [file("/tmp/studio-evil")],
    "name with ..": [file("../evil")],
    "name with .. inside": [file("a/../../evil")],
    "name with .. that stays inside": [file("a/../b")],
    "directory with ..": [directory("../evil")],
    "empty name": [directory(".")],
    "link to an absolute path": [link("a", "/etc/passwd")],
    "link outside": [link("a", "../outside")],
    "link to outside through a directory": [directory("d"), link("d/a", "../../outside")],
    "link without target": [link("a", "")],
    "link at the end of an absolute name": [link("/tmp/studio-evil", "x")],
    "file through a link": [link("a", "../outside"), file("a/evil")],
    "file through a link that is named later": [file("a/evil"), link("a", "../outside")],
    "link through a link": [link("a", "../outside"), link("a/evil", "x")],
    "link through a link that is named later": [link("a/evil", "x"), link("a", "../outside")],
    "directory through a link": [link("a", "../outside"), directory("a/evil")],
    "file over a link": [link("a", "../outside/victim"), file("a")],
    "link over a file": [file("a"), link("a", "../outside/victim")],
    "chain of links that each look harmless": [
        directory("b/c"),
        link("b/c/up", "../.."),
        link("evil", "b/c/up/.."),
    ],
    "hard link outside": [special("a", tarfile.LNKTYPE, "../outside/victim")],
    "hard link inside": [file("a"), special("b", tarfile.LNKTYPE, "a")],
    "pipe": [special("a", tarfile.FIFOTYPE)],
    "character device": [special("a", tarfile.CHRTYPE)],
    "block device": [special("a", tarfile.BLKTYPE)],
    "unknown type": [special("a", b"Z")],
    "the same file twice": [file("a", b"1"), file("a", b"2")],
    "file as a directory": [file("a"), file("a/b")],
    "name that is too deep": [file("a/" * 202 + "b")],
    "name too long for the file system": [file("a" * 300)],
}


@pytest.mark.parametrize("members", MALICIOUS.values(), ids=MALICIOUS.keys())
def test_a_malicious_archive_is_refused_and_touches_nothing(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/victim").write_text("untouched")
    archive = archived(tmp_path / "archive", [file("good.py", b"1"), *members])
    before = everything(tmp_path)
    destination = tmp_path / "there"
    with pytest.raises(WorkspaceError) as caught:
        restore(archive, destination, sha256=digest(archive))
    assert str(caught.value).endswith(".")
    assert everything(tmp_path) == {**before, str(destination): None}
    assert not Path("/tmp/studio-evil").exists()


def test_setuid_and_writable_for_all_are_not_taken_over(tmp_path: Path) -> None:
    member, content = file("a")
    member.mode = 0o6777
    archive = archived(tmp_path / "archive", [(member, content)])
    restore(archive, tmp_path / "there", sha256=digest(archive))
    assert (tmp_path / "there/a").stat().st_mode & 0o7777 == 0o755


def test_an_archive_with_another_digest_is_refused(tmp_path: Path) -> None:
    archive = archived(tmp_path / "archive", [file("a")])
    with pytest.raises(WorkspaceError, match=r"is damaged \(SHA-256 .*, expected 0000"):
        restore(archive, tmp_path / "there", sha256="0" * 64)
    assert not (tmp_path / "there").exists()


def test_a_destination_that_is_not_empty_is_refused_and_kept(tmp_path: Path) -> None:
    archive = archived(tmp_path / "archive", [file("a")])
    (tmp_path / "there").mkdir()
    (tmp_path / "there/mine").write_text("kept")
    with pytest.raises(WorkspaceError, match="is not empty"):
        restore(archive, tmp_path / "there", sha256=digest(archive))
    assert (tmp_path / "there/mine").read_text() == "kept"


def test_a_refused_archive_leaves_room_for_another_try(tmp_path: Path) -> None:
    bad = archived(tmp_path / "bad", [file("d/a"), link("d/b", "a"), file("../evil")])
    good = archived(tmp_path / "good", [file("d/a", b"1")])
    with pytest.raises(WorkspaceError):
        restore(bad, tmp_path / "there", sha256=digest(bad))
    restore(good, tmp_path / "there", sha256=digest(good))
    assert (tmp_path / "there/d/a").read_bytes() == b"1"


def test_a_destination_that_cannot_be_made_is_passed_on_as_such(tmp_path: Path) -> None:
    archive = archived(tmp_path / "archive", [file("a")])
    with pytest.raises(FileExistsError) as caught:
        restore(archive, archive, sha256=digest(archive))
    assert caught.value.errno == errno.EEXIST


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize("damage", [cut, lambda data: b"", lambda data: b"no archive"])
def test_a_damaged_archive_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    archive = archived(tmp_path / "archive", [file("a", os.urandom(20_000))])
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(WorkspaceError, match="is damaged"):
        restore(archive, tmp_path / "there", sha256=digest(archive))
    assert list((tmp_path / "there").iterdir()) == []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=5))
def test_changed_bytes_of_the_tar_do_no_harm(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    base = tmp_path_factory.mktemp("fuzz")
    (base / "root/d").mkdir(parents=True)
    (base / "root/train.py").write_text("print('hello')\n")
    (base / "root/d/link").symlink_to("../train.py")
    made = capture(base / "root", script="train.py", limit_bytes=2**20, destination=base)
    data = bytearray(gzip.decompress(made.path.read_bytes()))
    for place, value in changes:
        data[place % len(data)] = value
    made.path.write_bytes(gzip.compress(data))
    before = everything(base)
    try:
        restore(made.path, base / "there", sha256=digest(made.path))
    except WorkspaceError:
        assert list((base / "there").iterdir()) == []
    outside = {path: found for path, found in everything(base).items() if not path.startswith(f"{base}/there")}
    assert outside == before
