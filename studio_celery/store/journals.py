"""The journal of one experiment: read, fold, append the next number, or learn that somebody was first."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping
from typing import Any

from studio_celery.errors import StoreError, Unreadable
from studio_celery.experiment import utc_now
from studio_celery.journal import Entry, Kind, NotAllowed, State, fold
from studio_celery.store.objects import Objects

logger = logging.getLogger(__name__)


class Journal:
    """Reads forward from what it has seen; entries never change, so nothing is read twice."""

    def __init__(self, objects: Objects, experiment_id: str) -> None:
        self.experiment_id = experiment_id
        self._objects = objects
        self._prefix = f"experiments/{experiment_id}/journal"
        self.state = State()
        self.entries: list[Entry] = []

    def refresh(self) -> State:
        """Read and fold the entries that were added; the state after them.

        `Unreadable` if the store holds what is no entry or cannot follow; `NewerSchema` if a newer version wrote it.
        """
        while (entry := self._read(self.state.seq + 1)) is not None:
            try:
                self.state = fold(self.state, entry)
            except (NotAllowed, KeyError, TypeError, ValueError, AttributeError) as exc:
                raise _unreadable(self._key(self.state.seq + 1), exc) from exc
            self.entries.append(entry)
        return self.state

    @property
    def is_there(self) -> bool:
        """Whether the store has any of it now; nothing is read."""
        return self._objects.exists(self._key(1))

    def append(self, kind: Kind, by: str, **data: Any) -> State | None:
        """Write the next entry; None if somebody else's came first: read on and decide again.

        `NotAllowed` if the entry cannot follow the state as it was last read; nothing is written then.
        """
        entry = Entry(kind=kind, by=by, at=utc_now(), data=data, nonce=uuid.uuid4().hex)
        number = self.state.seq + 1
        fold(self.state, entry)
        body = json.dumps(entry.to_dict(), ensure_ascii=True, indent=1).encode()
        if not self._objects.create(self._key(number), body) and not self._is_mine(number, entry):
            self.refresh()
            return None
        self.refresh()
        if self.state.seq < number:
            raise StoreError(f"The store {self._objects.url} does not show entry {number} that was just written.")
        return self.state

    def decide(self, kind: Kind, by: str, **data: Any) -> bool:
        """Append, again after each lost race, until it is written or no longer allowed; whether it was written."""
        while True:
            try:
                if self.append(kind, by, **data) is not None:
                    return True
            except NotAllowed:
                before = self.state.seq
                if self.refresh().seq == before:
                    return False

    def _is_mine(self, number: int, entry: Entry) -> bool:
        """Whether a create that found the number taken was our own, its first answer having been lost."""
        found = self._read(number)
        return found is not None and found.nonce == entry.nonce

    def _key(self, number: int) -> str:
        return f"{self._prefix}/{number:06d}.json"

    def _read(self, number: int) -> Entry | None:
        key = self._key(number)
        try:
            body, modified = self._objects.get_dated(key)
        except KeyError:
            return None
        try:
            return Entry.from_dict(_parse(body), stored_at=modified)
        except (ValueError, KeyError, TypeError) as exc:
            raise _unreadable(key, exc) from exc


def _parse(body: bytes) -> Mapping[str, Any]:
    data = json.loads(body)
    if not isinstance(data, dict):
        raise TypeError("it is not a journal entry")
    return data


def _unreadable(key: str, exc: Exception) -> Unreadable:
    reason = f"{exc} is missing" if isinstance(exc, KeyError) else str(exc).rstrip(".")
    return Unreadable(f"The store holds {key}, which is not readable: {reason}. Restore it from a backup.")
