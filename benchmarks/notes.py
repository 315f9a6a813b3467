"""What workers write down while they work: one line with a name and the monotonic time, which all processes share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

#: Seconds between two looks at the file; the times in it do not depend on that.
_LOOK_SECONDS = 0.01


class Note(NamedTuple):
    name: str
    at: float


class Missing(Exception):
    """What was waited for did not come."""


class Notes:
    """The reader's side of a file of notes; `write` is the writer's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self._found: list[Note] = []
        self._offset = 0

    def read(self) -> Sequence[Note]:
        """Return all notes so far."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.decode().splitlines():
            name, at = line.rsplit(" ", 1)
            self._found.append(Note(name, float(at)))
        return self._found

    def wait(self, what: str, done: Callable[[Sequence[Note]], bool], limit_seconds: float) -> Sequence[Note]:
        """Wait until the notes fulfil a condition; raise `Missing` after so many seconds without any new note."""
        seen, ends_at = -1, 0.0
        while not done(notes := self.read()):
            if len(notes) != seen:
                seen, ends_at = len(notes), time.monotonic() + limit_seconds
            if time.monotonic() > ends_at:
                raise Missing(f"{what}: nothing in {limit_seconds:g} s; {len(notes)} notes, see {self.path.parent}")
            time.sleep(_LOOK_SECONDS)
        return notes

    def time_of(self, name: str, limit_seconds: float, *, nth: int = 1) -> float:
        """Wait for the nth note of this name and return its time."""
        notes = self.wait(name, lambda found: sum(n.name == name for n in found) >= nth, limit_seconds)
        return [note.at for note in notes if note.name == name][nth - 1]


def write(name: str) -> None:
    """Note something now; a single write to the end of the file, so that processes do not mix."""
    path = os.environ["BENCH_NOTES"]
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, f"{name} {time.monotonic():.6f}\n".encode())
    finally:
        os.close(descriptor)
