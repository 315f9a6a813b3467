"""What is dropped when, after `result_expires`: kept results, saved groups and the objects of chords.

All ages are differences between last-modified times of the store. A chord, and a saved group, that waits for an
experiment is kept with all that it needs, however long that runs. Nothing outside `celery/` is touched.

One more message of an experiment may come long after its end. So what it has called is known for as long as its journal
is there, and that its chord is done for `late_message_seconds` after that was noted.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

from celery.result import GroupResult, result_from_tuple

from studio_celery.backend.gathering import together
from studio_celery.backend.keys import ROOT
from studio_celery.store import Item

logger = logging.getLogger(__name__)

#: For how long a chord is remembered after its end, seconds: as long as Pub/Sub may keep one more message of a part.
LATE_MESSAGE_SECONDS = 31 * 86400.0


class Cleaner:
    """One walk through what a backend keeps."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._objects = backend.store.objects
        self._now = backend.store.now()

    def clean(self) -> int:
        """Drop what has expired; how many objects that were."""
        results_seconds = self._backend.expires or 0
        if not results_seconds:
            return 0
        # As Celery has it: what a chord needs is never kept for less than other results; 0 is for ever.
        chord_seconds = max(self._backend.chord_expires or 0, results_seconds)
        doomed = [*self._chords(chord_seconds), *self._groups(results_seconds), *self._results(results_seconds)]
        self._objects.delete_all(doomed)
        logger.info("%d objects of expired results were removed from %s.", len(doomed), self._backend.as_uri())
        return len(doomed)

    def _items(self, prefix: Any) -> list[Item]:
        name = prefix.decode() if isinstance(prefix, bytes) else prefix
        items: list[Item] = self._objects.listing(f"{ROOT}/{name.rstrip('/')}")
        return items

    def _old(self, items: Iterable[Item], seconds: float) -> bool:
        return self._now - max(item.modified for item in items) > seconds

    def _results(self, seconds: float) -> list[str]:
        old = [item.key for item in self._items(self._backend.task_keyprefix) if self._old([item], seconds)]
        recorded = set(self._objects.folders("experiments")) if old else set()
        asked = [key for key in old if key.rsplit("/", 1)[-1] in recorded]
        # In a directory the folder of a journal that has gone may still be there.
        answers = together(self._has_journal, asked)
        kept = {key for key, has_journal in zip(asked, answers, strict=True) if has_journal}
        return [key for key in old if key not in kept]

    def _has_journal(self, key: str) -> bool:
        return bool(self._backend.store.journal(key.rsplit("/", 1)[-1]).is_there)

    def _groups(self, seconds: float) -> list[str]:
        old = [item.key for item in self._items(self._backend.group_keyprefix) if self._old([item], seconds)]
        return [key for key in old if not self._awaited(self._members(key), seconds)]

    def _chords(self, seconds: float) -> list[str]:
        chords: dict[str, list[Item]] = defaultdict(list)
        for item in self._items(self._backend.chord_keyprefix):
            chords["/".join(item.key.split("/", 3)[:3])].append(item)
        doomed: list[str] = []
        late = max(seconds, late_message_seconds(self._backend))
        for folder, items in chords.items():
            is_done = any(item.key == f"{folder}/done" for item in items)
            if self._old(items, late if is_done else seconds):
                parts = {unquote(item.key.rsplit("/", 1)[-1]) for item in items if "/part/" in item.key}
                if is_done or not self._awaited(parts | self._members(f"{folder}/header"), late):
                    doomed += [item.key for item in items]
        return doomed

    def _members(self, key: str) -> set[str]:
        """Ids of the tasks of a group that is kept under this key; none if there is no such group."""
        body = self._backend.fetch([key])[key]
        kept = self._backend.decode(body) if body else None
        return _ids(result_from_tuple(kept["result"], self._backend.app)) if kept and kept["result"] else set()

    def _awaited(self, task_ids: Iterable[str], seconds: float) -> bool:
        """Whether one of these is an experiment that runs, or has ended less than `seconds` ago."""
        return any(self._now - self._backend.settled_at(task_id) <= seconds for task_id in task_ids)


def late_message_seconds(backend: Any) -> float:
    """For how long after its end one more message of an experiment may come."""
    return float(backend.options.get("late_message_seconds", LATE_MESSAGE_SECONDS))


def _ids(group: GroupResult) -> set[str]:
    """Ids of all tasks of a group, those of groups in it as well."""
    found: set[str] = set()
    for result in group.results or []:
        found |= _ids(result) if isinstance(result, GroupResult) else {result.id}
    return found
