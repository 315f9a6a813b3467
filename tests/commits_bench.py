"""Group commit without an engine: a database, its writer, and what lies on disk, for tests."""

from __future__ import annotations

import threading
from collections.abc import Callable
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


def failing(times: int, go_on: threading.Event) -> Callable[[], None]:
    """Return what waits, and then fails so many times as a disk does."""
    failures = iter([True] * times)

    def fail() -> None:
        go_on.wait(30)
        if next(failures, False):
            raise StorageError("full")

    return fail
