"""What belongs to a workspace: ignore files, links, and what is always left out."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from studio_celery.errors import WorkspaceError
from studio_celery.workspace.names import MAX_DEPTH
from studio_celery.workspace.scan import Kind, scan


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"train.py": "", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def files(root: Path, script: str = "train.py") -> list[str]:
    """Files that are captured, without the ignore files and the script."""
    names = [entry.path for entry in scan(root, script=script).files]
    return [name for name in names if name != script and not name.endswith("ignore")]


@pytest.mark.parametrize(
    ("ignore_files", "kept", "left_out"),
    [
        ({".gitignore": "*.pt\n"}, ["a.py"], ["b.pt", "d/c.pt"]),
        ({".gitignore": "/b.pt\n"}, ["d/b.pt"], ["b.pt"]),
        ({".gitignore": "*.pt\n!keep.pt\n"}, ["d/keep.pt"], ["d/c.pt"]),
        ({".gitignore": "data/\n!data/keep.csv\n"}, ["a.py"], ["data/keep.csv"]),
        ({".gitignore": "data/*\n!data/keep.csv\n"}, ["data/keep.csv"], ["data/b.csv"]),
        ({".gitignore": "*.pt\n", "d/.gitignore": "!*.pt\n"}, ["d/b.pt"], ["b.pt", "e/b.pt"]),
        ({"d/.gitignore": "/x\n"}, ["x", "d/e/x"], ["d/x"]),
        ({".gitignore": "# no\n\n\\#yes\n"}, ["no"], ["#yes"]),
        ({".gitignore": "\ufeffa.txt\r\nb.txt\r\n"}, ["c.txt"], ["a.txt", "b.txt"]),
        ({".gitignore": "data/**\n!data/keep.csv\n"}, ["data/keep.csv"], ["data/b.csv"]),
        ({".gitignore": "**/logs/**\n"}, ["log"], ["logs/a", "x/logs/b"]),
        ({".studioignore": "data/\n"}, ["a.py"], ["data/b"]),
        ({".gitignore": "*.pt\n", ".studioignore": "!best.pt\n"}, ["best.pt", "d/best.pt"], ["b.pt"]),
        ({".gitignore": "data/\n", ".studioignore": "!data/\n"}, ["data/b", "data/c/d"], []),
        ({".gitignore": "data/\n", ".studioignore": "!data/keep.csv\n"}, ["data/keep.csv"], ["data/b.csv"]),
        ({".gitignore": "data/\n", ".studioignore": "!data/x/\n"}, ["data/x/b"], ["data/b", "data/y/b"]),
        ({".studioignore": "data/\n!data/keep.csv\n"}, [], ["data/keep.csv"]),
        ({".studioignore": "*.csv\n", "data/.gitignore": "!*.csv\n"}, [], ["data/keep.csv"]),
        ({".gitignore": "[z-a\n!\n//\n\\\n*.pt\n"}, ["a.py"], ["b.pt"]),
    ],
)
def test_ignore_files_say_what_stays_out(
    tmp_path: Path, ignore_files: dict[str, str], kept: list[str], left_out: list[str]
) -> None:
    tree(tmp_path, {**ignore_files, **dict.fromkeys([*kept, *left_out], "x")})
    assert files(tmp_path) == sorted(kept)


def test_the_script_is_kept_whatever_the_ignore_files_say(tmp_path: Path) -> None:
    tree(tmp_path, {".gitignore": "*\n", "jobs/train.py": "", "jobs/other.py": ""})
    assert files(tmp_path, "jobs/train.py") == []
    assert "jobs/train.py" in [entry.path for entry in scan(tmp_path, script="jobs/train.py").entries]


def test_a_linked_script_brings_what_it_links_to(tmp_path: Path) -> None:
    tree(tmp_path, {".gitignore": "models/\nlatest.py\n", "models/v2.py": ""})
    (tmp_path / "latest.py").symlink_to("models/v2.py")
    entries = {entry.path: entry.kind for entry in scan(tmp_path, script="latest.py").entries}
    assert entries["latest.py"] is Kind.LINK
    assert entries["models/v2.py"] is Kind.FILE


@pytest.mark.parametrize("script", ["gone.py", "../other.py", "/etc/passwd", "src"])
def test_a_script_that_is_not_a_file_of_the_workspace_is_refused(tmp_path: Path, script: str) -> None:
    root = tree(tmp_path / "root", {"src/a.py": ""})
    (tmp_path / "other.py").write_text("")
    with pytest.raises(WorkspaceError, match="script"):
        scan(root, script=script)


@pytest.mark.parametrize(
    "name",
    [".git/config", ".hg/a", ".svn/a", "d/__pycache__/a.pyc", ".mypy_cache/a", ".pytest_cache/a", ".ruff_cache/a",
     ".ipynb_checkpoints/a", ".venv/pyvenv.cfg", "d/venv/pyvenv.cfg", "d/.git"],
)  # fmt: skip
def test_histories_caches_and_virtual_environments_are_always_left_out(tmp_path: Path, name: str) -> None:
    tree(tmp_path, {name: "x", ".studioignore": "!*\n"})
    assert files(tmp_path) == []


def test_a_directory_called_venv_that_is_none_is_kept(tmp_path: Path) -> None:
    tree(tmp_path, {"venv/model.py": ""})
    assert files(tmp_path) == ["venv/model.py"]


def test_empty_directories_are_kept_and_ignored_ones_are_not(tmp_path: Path) -> None:
    tree(tmp_path, {".gitignore": "cache/\n"})
    (tmp_path / "outputs/today").mkdir(parents=True)
    (tmp_path / "cache").mkdir()
    directories = [entry.path for entry in scan(tmp_path, script="train.py").entries if entry.kind is Kind.DIRECTORY]
    assert directories == ["outputs", "outputs/today"]


def test_pipes_and_sockets_are_skipped_and_listed(tmp_path: Path) -> None:
    tree(tmp_path, {})
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "sock"))
        inventory = scan(tmp_path, script="train.py")
    assert inventory.skipped == ("pipe", "sock")
    assert [entry.path for entry in inventory.entries] == ["train.py"]


@pytest.mark.parametrize(
    ("link", "target", "expected"),
    [
        ("link", "data/a", "data/a"),
        ("data/up", "../train.py", "../train.py"),
        ("link", "nowhere", "nowhere"),
        ("link", ".", "."),
        ("link", "link", "link"),
        ("link", "{root}/data/a", "data/a"),
        ("data/link", "{root}/train.py", "../train.py"),
        ("link", "../root/data/a", "data/a"),
    ],
)
def test_links_inside_the_workspace_stay_links_that_hold_elsewhere(
    tmp_path: Path, link: str, target: str, expected: str
) -> None:
    root = tree(tmp_path / "root", {"data/a": ""})
    (root / link).symlink_to(target.format(root=root))
    links = {entry.path: entry.target for entry in scan(root, script="train.py").entries if entry.kind is Kind.LINK}
    assert links == {link: expected}


@pytest.mark.parametrize("target", ["/etc/passwd", "../other", "..", "/nowhere/at/all"])
def test_links_that_lead_outside_are_refused_with_their_name(tmp_path: Path, target: str) -> None:
    root = tree(tmp_path / "root", {})
    (root / "data").symlink_to(target)
    with pytest.raises(WorkspaceError, match=rf"{root}/data points outside the workspace, to {target}: .*studioignore"):
        scan(root, script="train.py")


def test_an_ignored_link_may_lead_outside(tmp_path: Path) -> None:
    tree(tmp_path, {".studioignore": "data\n"})
    (tmp_path / "data").symlink_to("/mnt/data")
    assert files(tmp_path) == []


def test_patterns_fit_names_that_are_not_utf8(tmp_path: Path) -> None:
    tree(tmp_path, {os.fsdecode(b"caf\xe9.pt"): "", os.fsdecode(b"th\xe9.py"): ""})
    (tmp_path / ".gitignore").write_bytes(b"caf\xe9.*\n")
    assert files(tmp_path) == [os.fsdecode(b"th\xe9.py")]


def test_a_tree_may_be_deep_but_not_bottomless(tmp_path: Path) -> None:
    deepest = tmp_path.joinpath(*["d"] * MAX_DEPTH)
    tree(tmp_path, {f"{deepest.relative_to(tmp_path)}/a.py": ""})
    assert len(files(tmp_path)) == 1
    (deepest / "e").mkdir()
    with pytest.raises(WorkspaceError, match=rf"d/e/? is more than {MAX_DEPTH} levels deep: .*\.studioignore"):
        scan(tmp_path, script="train.py")


NAMES = st.sampled_from(["a", "b", "data", "x.pt", "y.py"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
PATTERNS = st.builds(
    lambda bang, slash, path, end: bang + slash + path + end,
    st.sampled_from(["", "", "!"]),
    st.sampled_from(["", "/", "**/"]),
    st.one_of(PATHS, st.sampled_from(["*.pt", "*", "data/*", "a/**", "*/b", "?"])),
    st.sampled_from(["", "/"]),
)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed: nothing to compare with")
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    paths=st.sets(PATHS, min_size=1, max_size=12),
    outer=st.lists(PATTERNS, max_size=4),
    inner=st.dictionaries(
        st.sampled_from(["a", "data", "a/b"]), st.lists(PATTERNS, min_size=1, max_size=3), max_size=2
    ),
)
def test_gitignore_means_what_it_means_to_git(
    tmp_path_factory: pytest.TempPathFactory, paths: set[str], outer: list[str], inner: dict[str, list[str]]
) -> None:
    root = tree(tmp_path_factory.mktemp("root"), {".gitignore": "\n".join(outer)})
    for path in sorted(paths, key=len, reverse=True):
        if not (root / path).exists() and not any(parent.is_file() for parent in (root / path).parents):
            tree(root, {path: ""})
    for directory, patterns in inner.items():
        if (root / directory).is_dir():
            tree(root, {f"{directory}/.gitignore": "\n".join(patterns)})
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    subprocess.run(["git", "init", "--quiet", root], check=True, env=environment)
    command = ["git", "-C", str(root), "ls-files", "-z", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=True, env=environment, capture_output=True).stdout.decode().split("\0")
    ours = {entry.path for entry in scan(root, script="train.py").files}
    assert ours - {"train.py"} == set(filter(None, listed)) - {"train.py"}


def test_a_directory_that_is_left_out_is_not_looked_into(tmp_path: Path) -> None:
    tree(tmp_path, {"home/store/big": "x" * 10, "kept/home": ""})
    found = scan(tmp_path, script="train.py", leave_out=(tmp_path / "home",))
    assert [entry.path for entry in found.entries] == ["kept", "kept/home", "train.py"]
