"""Which directory goes with a script, and which are refused."""

import os
from pathlib import Path

import pytest

from studio_celery.errors import UsageError, WorkspaceError
from studio_celery.workspace import locate


def write(path: Path, text: str = "print('hello')\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_working_directory_is_the_workspace_of_a_script_below_it(tmp_path: Path) -> None:
    write(tmp_path / "src/train.py")
    assert locate("src/train.py", None, tmp_path) == (tmp_path, "src/train.py")
    assert locate(str(tmp_path / "src/train.py"), None, tmp_path) == (tmp_path, "src/train.py")
    assert locate("../src/train.py", None, tmp_path / "src") == (tmp_path / "src", "train.py")


def test_a_script_elsewhere_brings_its_own_directory(tmp_path: Path) -> None:
    write(tmp_path / "there/train.py")
    here = tmp_path / "here"
    here.mkdir()
    assert locate("../there/train.py", None, here) == (tmp_path / "there", "train.py")


def test_a_named_workspace_is_taken(tmp_path: Path) -> None:
    write(tmp_path / "project/src/train.py")
    root, script = locate("src/train.py", "..", tmp_path / "project")
    assert (root, script) == (tmp_path, "project/src/train.py")


def test_a_working_directory_reached_through_a_link_is_resolved(tmp_path: Path) -> None:
    write(tmp_path / "real/train.py")
    (tmp_path / "link").symlink_to("real")
    assert locate("train.py", None, tmp_path / "link") == (tmp_path / "real", "train.py")


def test_a_linked_script_keeps_the_name_that_was_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "models/v2.py")
    (tmp_path / "train.py").symlink_to("models/v2.py")
    assert locate("train.py", None, tmp_path) == (tmp_path, "train.py")


@pytest.mark.parametrize(
    ("script", "workspace", "said"),
    [
        ("missing.py", None, "does not exist"),
        ("train.py/below", None, "does not exist"),
        ("src", None, "is a directory"),
        ("pipe", None, "is not a regular file"),
        ("bad\0name", None, "cannot be read"),
        ("x" * 300, None, "cannot be read"),
        ("loop", None, "cannot be read"),
        ("outside.py", None, "points outside"),
        ("train.py", "src", "is not inside the workspace"),
        ("train.py", "nowhere", "does not exist"),
        ("train.py", "train.py", "is not a directory"),
        ("train.py", "bad\0name", "cannot be read"),
        ("train.py", "~nobody-of-this-name", "cannot be read"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_sentence(
    tmp_path: Path, script: str, workspace: str | None, said: str
) -> None:
    root = tmp_path / "project"
    write(root / "train.py")
    write(tmp_path / "elsewhere.py")
    (root / "src").mkdir()
    (root / "outside.py").symlink_to("../elsewhere.py")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "pipe")
    with pytest.raises(WorkspaceError, match=said) as caught:
        locate(script, workspace, root)
    assert isinstance(caught.value, UsageError)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
    assert ": " in str(caught.value), "no next step"


@pytest.mark.parametrize("workspace", [None, "/", "~", "~/.."])
def test_home_and_what_is_above_it_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workspace: str | None
) -> None:
    home = tmp_path / "homes/ada"
    write(home / "project/train.py")
    monkeypatch.setenv("HOME", str(home))
    with pytest.raises(WorkspaceError, match=f"--workspace {home}/project"):
        locate("project/train.py", workspace, home)


def test_a_script_right_in_the_home_directory_needs_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "train.py")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(WorkspaceError, match="a directory of its own"):
        locate("train.py", None, tmp_path)


def test_a_directory_in_the_home_directory_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "project/train.py")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("train.py", None, tmp_path / "project") == (tmp_path / "project", "train.py")
