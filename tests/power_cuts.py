"""A database of which a test knows what a power cut would leave: what was synced, and nothing else."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transports.local.storage.database import Database
from transports.local.storage.tables import Tables

_NAMES = ("broker.db", "broker.db-wal")


class SyncedDatabase(Database):
    """Keeps a copy of its files as they were after the latest transaction that was synced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # After a kill, what was synced is less than what is there.
        self._copies = next(folder.glob("synced-*"), None)
        super().__init__(folder / "broker.db")

    @contextmanager
    def transaction(self, *, synced: bool = True) -> Iterator[Tables]:
        wal = self._folder / _NAMES[1]
        before = wal.read_bytes()
        with super().transaction(synced=synced) as tables:
            yield tables
        # SQLite syncs nothing if there is nothing to write.
        if synced and wal.read_bytes() != before:
            self._keep()

    def leave_after_a_power_cut(self, folder: Path) -> None:
        """Put into an empty folder what would be there if the power had been cut, while nobody writes."""
        assert self._copies is not None
        for each in self._copies.iterdir():
            shutil.copy(each, folder)
        self._leave_segments(folder)

    def leave_after_a_kill(self, folder: Path) -> None:
        """Put into an empty folder what there is, while nobody writes."""
        for name in _NAMES:
            shutil.copy(self._folder / name, folder)
        assert self._copies is not None
        shutil.copytree(self._copies, folder / self._copies.name)
        self._leave_segments(folder)

    def _leave_segments(self, folder: Path) -> None:
        # The redo log is synced whenever it is written to.
        for number in self.segments.numbers:
            shutil.copy(self.segments.path(number), folder)

    def _keep(self) -> None:
        """Replace the copy by a newer one, at once: the thread of the writer does it, too."""
        before, copies = self._copies, Path(tempfile.mkdtemp(prefix="synced-", dir=self._folder))
        for name in _NAMES:
            if (self._folder / name).exists():
                shutil.copy(self._folder / name, copies)
        self._copies = copies
        if before is not None:
            shutil.rmtree(before)
