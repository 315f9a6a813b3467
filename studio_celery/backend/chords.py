"""One chord in the store: who has returned, who was added, and who publishes the body. Counted by listing.

    celery/chords/<group>/header       the header's results as they were frozen, in order
    celery/chords/<group>/size         how many parts there are
    celery/chords/<group>/part/<id>    * one returned, with its state and value
    celery/chords/<group>/more/<id>    * one was added while the chord ran
    celery/chords/<group>/claim        * the part that publishes the body; stays
    celery/chords/<group>/done         the body was published, or the chord has failed; stays

What has a `*` is created only if absent, so a message that is delivered twice counts once. `done` is written before the
rest is removed, and a listing is no snapshot: what is missing from one means something only if there is no `done`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from studio_celery.backend.keys import component
from studio_celery.store import Item, Objects


@dataclass(frozen=True)
class Census:
    """What a listing of a chord shows."""

    #: Keys of the parts that have returned.
    parts: frozenset[str]
    #: Keys of what was added, oldest first.
    more: tuple[str, ...]
    has_header: bool
    has_size: bool
    done: bool


class Chord:
    """The objects of one chord below `folder`."""

    def __init__(self, objects: Objects, folder: str) -> None:
        self._objects = objects
        self._folder = folder

    def begin(self, header: bytes) -> None:
        """Keep the header before anything of it is published. A frozen chord that runs again begins anew."""
        self.clear()
        self._objects.put(f"{self._folder}/header", header)

    def set_size(self, size: int) -> None:
        """Keep how many parts there are, before the last of them is published."""
        self._objects.put(f"{self._folder}/size", str(size).encode())

    def add(self, task_id: str) -> None:
        """Count one more; its adder, a part itself, has not returned yet."""
        self._objects.create(self.more_key(task_id), task_id.encode("utf-8", "surrogatepass"))

    def return_part(self, task_id: str, body: bytes) -> None:
        """Keep what a part returned; the first time counts."""
        self._objects.create(self.part_key(task_id), body)

    def part_key(self, task_id: str) -> str:
        """Where a part's return is kept."""
        return f"{self._folder}/part/{component(task_id)}"

    def more_key(self, task_id: str) -> str:
        """Where it is noted that a part was added."""
        return f"{self._folder}/more/{component(task_id)}"

    def census(self) -> Census:
        """Count now."""
        items = {item.key.removeprefix(f"{self._folder}/"): item for item in self._objects.listing(self._folder)}
        return Census(
            parts=frozenset(item.key for name, item in items.items() if name.startswith("part/")),
            more=tuple(
                item.key for item in sorted((i for n, i in items.items() if n.startswith("more/")), key=_by_age)
            ),
            has_header="header" in items,
            has_size="size" in items,
            done="done" in items,
        )

    def complete(self, census: Census) -> Census | None:
        """The final count if `census` shows all parts, else None.

        Whoever adds a part does so before it returns itself, but one listing may show the second without the first:
        what was added is counted again after the parts.
        """
        size = self._size() if census.has_size and not census.done else None
        if size is None or len(census.parts) < size:
            return None
        again = self.census()
        if again.done or len(census.parts) < size + len(again.more):
            return None
        return dataclasses.replace(again, parts=again.parts | census.parts)

    def _size(self) -> int | None:
        with suppress(KeyError):
            return int(self._objects.get(f"{self._folder}/size"))
        return None

    @property
    def is_done(self) -> bool:
        """Whether its end was recorded; unlike a listing's word this is certain."""
        return self._objects.exists(f"{self._folder}/done")

    def claim(self, task_id: str) -> bool:
        """Whether this part publishes the body; True again for the part that claimed it and was delivered again."""
        key, mine = f"{self._folder}/claim", json.dumps({"part": task_id}).encode()
        if self._objects.create(key, mine):
            return True
        with suppress(KeyError):
            return self._objects.get(key) == mine and not self.is_done
        return False

    def header(self) -> bytes | None:
        """The header as it was kept, if it was."""
        with suppress(KeyError):
            return self._objects.get(f"{self._folder}/header")
        return None

    def finish(self) -> None:
        """Remember that the body was published, and drop the rest."""
        self._objects.put(f"{self._folder}/done", b"")
        self.clear(keep=(f"{self._folder}/claim", f"{self._folder}/done"))

    def clear(self, keep: tuple[str, ...] = ()) -> None:
        """Remove what there is."""
        self._objects.delete_all(item.key for item in self._objects.listing(self._folder) if item.key not in keep)


def _by_age(item: Item) -> tuple[float, str]:
    return item.modified, item.key


def part_index(part: Mapping[str, object]) -> float:
    """Place of a part among the others, by the index that it had in its group; last without one."""
    index = part.get("index")
    return float(index) if isinstance(index, int | float) else float("inf")
