"""The journals of the model: the real fold over real entries, and what must hold of every one."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from journals import submitted

from studio_celery.experiment import Status
from studio_celery.journal import Entry, Kind, NotAllowed, State
from studio_celery.store import Item, LogReader
from studio_celery.store.logs import chunk_key

Fold = Callable[[State, Entry], State]

#: What each script of the model writes, all at once, when it starts.
OUTPUT = b"x"


class Violation(AssertionError):
    """Something that must never be."""


class Book:
    """All journals that were met; `None` stands for an entry that is refused."""

    def __init__(self, fold: Fold, max_attempts: int) -> None:
        self.states: list[State] = []
        self.kinds: set[Kind] = set()
        self._fold = fold
        self._numbers: dict[Hashable, int] = {}
        self._after: dict[Hashable, int | None] = {}
        self.first = self._number(fold(State(), submitted(max_attempts=max_attempts)))

    def append(self, journal: int, kind: Kind, by: str, **data: Any) -> int | None:
        """The journal after an entry."""
        key = (journal, kind, by, tuple(sorted(data.items())))
        if key not in self._after:
            before = self.states[journal]
            try:
                after = self._number(self._fold(before, Entry(kind=kind, by=by, at="t", data=data)))
            except NotAllowed:
                self._after[key] = None
            else:
                _check(before, self.states[after], kind, by)
                self._after[key] = after
                self.kinds.add(kind)
        return self._after[key]

    def _number(self, state: State) -> int:
        attempts = tuple((a.epoch, a.worker, a.over, a.started_at, a.log_epochs) for a in state.attempts)
        key = (state.seq, state.status, state.stop_requested_by, len(state.early_releases), attempts)
        if key not in self._numbers:
            self._numbers[key] = len(self.states)
            self.states.append(state)
        return self._numbers[key]


def _check(before: State, after: State, kind: Kind, by: str) -> None:
    """What no fold may allow, whatever its rules."""
    if before.status.terminal:
        raise Violation(f"{kind} follows {before.status}")
    if after.seq != before.seq + 1:
        raise Violation(f"{kind} has no number of its own")
    if any(a.over is None for a in after.attempts[:-1]):
        raise Violation(f"two attempts are alive after {kind}")
    if kind in (Kind.STARTED, Kind.RELEASED, Kind.FINISHED) and (before.live is None or before.live.worker != by):
        raise Violation(f"{by} writes {kind} and is not the owner")
    if after.status is Status.STOPPED and not after.stop_requested_by:
        raise Violation("stopped, and nobody asked for it")
    assert after.experiment is not None
    if after.status is Status.FAILED and after.interrupted < after.experiment.max_attempts:
        raise Violation(f"failed after {after.interrupted} interrupted attempts")


class Chunks:
    """The stored output as the real `LogReader` reads it."""

    def __init__(self, attempt: int, chunks: frozenset[tuple[int, int]]) -> None:
        self._keys = {chunk_key("log", epoch, 0) for number, epoch in chunks if number == attempt}

    def head(self, key: str) -> Item:
        if key not in self._keys:
            raise KeyError(key)
        return Item(key, len(OUTPUT), 0.0)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return OUTPUT[start : start + length]

    def listing(self, prefix: str) -> list[Item]:
        return [self.head(key) for key in sorted(self._keys)]


def reader(attempt: int, chunks: frozenset[tuple[int, int]]) -> LogReader:
    """Reads what is stored of an attempt's output."""
    return LogReader(Chunks(attempt, chunks), "log")  # type: ignore[arg-type]


def shown(state: State, chunks: frozenset[tuple[int, int]]) -> bytes:
    """All that a reader of the result is shown."""
    latest = state.attempts[-1]
    data = b""
    while piece := reader(latest.number, chunks).read(latest, len(data)):
        data += piece
    return data
