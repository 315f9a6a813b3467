"""Where a backlog in memory reads what it left on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from transports.local.catalog import Attached
from transports.local.errors import UnavailableError
from transports.local.model import Pending
from transports.local.storage.database import Database, StorageError

T = TypeVar("T")


class DiskSource:
    """One subscription's rows; a disk that refuses is reported as ``UnavailableError``."""

    attached: Attached

    def __init__(self, database: Database, number: int) -> None:
        self._database = database
        self._number = number

    def page(self, *, after: int, until: int, at_most: int) -> list[Pending]:
        return _reported(lambda: self._database.page(self._number, after=after, until=until, at_most=at_most))

    def page_of_key(self, key: str, *, since: int, until: int, at_most: int) -> list[Pending]:
        return _reported(
            lambda: self._database.page_of_key(self._number, key, since=since, until=until, at_most=at_most)
        )

    def oldest_published_us(self) -> int | None:
        return _reported(lambda: self._database.oldest_waiting_us(self._number, self.attached.floor))


def _reported(read: Callable[[], T]) -> T:
    try:
        return read()
    except StorageError as exc:
        raise UnavailableError(str(exc)) from exc
