"""Group commit without an engine: a database, its writer, and what lies on disk, for tests."""

from __future__ import annotations

import threading
from pathlib import Path

from transports.local.storage.commits import Commits
from transports.local.storage.database import Database, StorageError
from transports.local.storage.writer import Writer


class CommitsBench:
    """Changes save a counter each, by which they are known."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path / "broker.db")
        self.writer = Writer(self.database)
        self.writer.start()
        self.commits = Commits(self.writer, self.database.redo)

    def on_disk(self) -> set[str]:
        return set(self.database.contents().counters)


class Failing:
    """What a change does that waits, and then fails so many times as a disk does."""

    def __init__(self, times: int) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self._failures = iter([True] * times)

    def __call__(self) -> None:
        self.begun.set()
        self.go_on.wait(30)
        if next(self._failures, False):
            raise StorageError("full")
