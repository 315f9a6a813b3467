"""A database of which a test knows what a power cut would leave: what was synced, and nothing else."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from transports.local.storage.database import Database
from transports.local.storage.entries import Parts
from transports.local.storage.segments import Place
from transports.local.storage.tables import Tables

_NAMES = ("broker.db", "broker.db-wal")


class SyncedDatabase(Database):
    """Keeps a copy of its files as they were after the latest transaction that was synced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # After a kill, what was synced is less than what is there.
        self._copies = next(folder.glob("synced-*"), None)
        super().__init__(folder / "broker.db")
        #: By segment, where in it lies what is written and not yet synced.
        self._unsynced: list[tuple[int, int, int]] = []
        self._append, self._begin_anew, self._sync = self.redo.append, self.redo.begin_anew, self.redo.sync
        for name in ("append", "begin_anew", "sync"):
            setattr(self.redo, name, getattr(self, f"_watched_{name}"))

    def _watched_append(self, entries: Sequence[Parts], *, synced: bool = True) -> list[Place] | None:
        start = self.redo._end
        places = self._append(entries, synced=synced)
        self._unsynced.append((self.segments.numbers[-1], start, self.redo._end))
        self._forget_what_is_synced()
        return places

    def _watched_sync(self) -> bool:
        is_synced = self._sync()
        self._forget_what_is_synced()
        return is_synced

    def _watched_begin_anew(self, number: int) -> None:
        self._begin_anew(number)
        self._forget_what_is_synced()

    def _forget_what_is_synced(self) -> None:
        if not self.redo.unsynced:
            self._unsynced.clear()

    @contextmanager
    def transaction(self, *, synced: bool = True) -> Iterator[Tables]:
        wal = self._folder / _NAMES[1]
        before = wal.read_bytes()
        with super().transaction(synced=synced) as tables:
            yield tables
        # SQLite syncs nothing if there is nothing to write.
        if synced and wal.read_bytes() != before:
            self._keep()

    def leave_after_a_power_cut(self, folder: Path, *, in_part: bool = False) -> None:
        """Put into an empty folder what would be there if the power had been cut, while nobody writes.

        ``in_part``: of what was written and not synced, all but the first entry was written by chance.
        """
        assert self._copies is not None
        for each in self._copies.iterdir():
            shutil.copy(each, folder)
        self._leave_segments(folder)
        for number, start, end in self._unsynced[:1] if in_part else self._unsynced:
            with (folder / self.segments.path(number).name).open("r+b") as file:
                file.seek(start)
                file.write(bytes(end - start))

    def leave_after_a_kill(self, folder: Path) -> None:
        """Put into an empty folder what there is, while nobody writes."""
        for name in _NAMES:
            shutil.copy(self._folder / name, folder)
        assert self._copies is not None
        shutil.copytree(self._copies, folder / self._copies.name)
        self._leave_segments(folder)

    def _leave_segments(self, folder: Path) -> None:
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
