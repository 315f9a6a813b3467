"""A process that only makes things durable, see `calls`: as often as this disk can, nobody confirms more often."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from calls import serve
from client import MESSAGE_BYTES

_BLOCK = b"x" * 4096
#: Most bytes in a row, about as in a bundle of the broker.
_ROW_BYTES = 128 * 1024


class Disk:
    """A database as the broker's and a plain file, in the folder of the broker's data."""

    def __init__(self, folder: Path) -> None:
        self._database = sqlite3.connect(folder / "floor.db", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("CREATE TABLE bundles (id INTEGER PRIMARY KEY, payload BLOB NOT NULL)")
        self._file = os.open(folder / "floor", os.O_WRONLY | os.O_CREAT)

    def commits(self, seconds: float, size: int) -> float:
        """Commit transactions of so many messages; return messages per second."""
        left, rows = size * MESSAGE_BYTES, []
        while left > 0:
            rows.append((b"x" * min(left, _ROW_BYTES),))
            left -= _ROW_BYTES

        def commit() -> None:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany("INSERT INTO bundles (payload) VALUES (?)", rows)
            self._database.execute("COMMIT")

        return size * _per_second(seconds, commit)

    def syncs(self, seconds: float) -> float:
        """Write a block after the last one and have it synced; return how often per second."""

        def sync() -> None:
            os.write(self._file, _BLOCK)
            os.fdatasync(self._file)

        return _per_second(seconds, sync)

    def close(self) -> None:
        self._database.close()
        os.close(self._file)


def _per_second(seconds: float, action: Callable[[], None]) -> float:
    count, began = 0, time.monotonic()
    while (now := time.monotonic()) < began + seconds:
        action()
        count += 1
    return count / (now - began)


def main() -> None:
    disk = Disk(Path(os.environ["BENCH_DISK"]))
    try:
        serve({"commits": disk.commits, "syncs": disk.syncs})
    finally:
        disk.close()


if __name__ == "__main__":
    main()
