"""The directory of an attempt, beside others of its experiment, and with whatever its script left in it."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from studio_celery.runtimes import directory


def test_it_is_made_while_the_clean_up_of_a_former_attempt_removes_the_folder_that_they_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, make, removed = tmp_path / "experiment", os.mkdir, []

    def make_and_lose(path: Path, *options: Any) -> None:
        make(path, *options)
        if path == shared and not removed:
            removed.append(path)
            shared.rmdir()

    monkeypatch.setattr(os, "mkdir", make_and_lose)
    directory.make(shared / "2", "here")
    assert removed
    assert directory.site_of(shared / "2") == "here"


def test_a_tree_deeper_than_python_goes_is_removed(tmp_path: Path) -> None:
    attempt = tmp_path / "1"
    directory.make(attempt, "here")
    folder = os.open(attempt / "workspace", os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=folder)
        below = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    directory.remove(attempt)
    assert not attempt.exists()


def test_what_is_there_is_found_while_others_go(tmp_path: Path) -> None:
    def come_and_go() -> None:
        while not over.is_set():
            for number in range(20):
                (tmp_path / "run" / f"other{number}" / "1").mkdir(parents=True)
            for number in range(20):
                directory.remove(tmp_path / "run" / f"other{number}")

    over = threading.Event()
    stays = tmp_path / "run" / "this" / "1" / "process.json"
    stays.parent.mkdir(parents=True)
    stays.touch()
    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        assert all(directory.all_with(tmp_path, "process.json") == [stays] for _ in range(500))
    finally:
        over.set()
        thread.join()
