"""The experiments of a store in bulk, the latest first: by their hour markers, many journals at a time.

What has ended is read from the store once on this host, see `index`; what has not, each time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from studio_celery.errors import Unreadable
from studio_celery.experiment import NewerSchema, Status
from studio_celery.index import TOGETHER, Index
from studio_celery.journal import NotAllowed, State, fold_all
from studio_celery.record import to_record
from studio_celery.store import Item, Journal, Store

logger = logging.getLogger(__name__)

#: Journals that are read at a time: a store far away answers each after tens of milliseconds.
READERS = 16

#: Markers that are looked up first; each further portion is twice the former one. A short list is complete with it.
FIRST = 4 * READERS


@dataclass(frozen=True)
class Found:
    """One experiment that is shown in lists."""

    id: str
    state: State
    record: dict[str, Any]
    #: Where it goes on; None for what has ended.
    journal: Journal | None = None


class Catalog:
    """Of one store; `look` reads a journal, and may record an end that is due."""

    def __init__(self, store: Store, index: Index, look: Callable[[Journal], State]) -> None:
        #: Sentences, by the ids of experiments that were left out because this version cannot read their journals.
        self.problems: dict[str, str] = {}
        self._store = store
        self._index = index
        self._look = look

    def all(self, markers: Iterable[Item] | None = None) -> Iterator[Found]:
        """Every experiment, or those of the markers, in their order; without those that are `submitting` or removed.

        Only as much is read as is taken from here, a portion at a time. A journal that cannot be read costs none of the
        others: it is left out, and named in `problems`.
        """
        rest = iter(self._store.markers() if markers is None else markers)
        size = FIRST
        while portion := list(islice(rest, size)):
            yield from (found for found in self._portion(portion) if found is not None)
            size = min(2 * size, TOGETHER)

    def _portion(self, markers: list[Item]) -> list[Found | None]:
        known = {key: self._told(key, entries) for key, entries in self._index.find(markers).items()}
        unknown = [marker for marker in markers if known.get(marker.key) is None]
        if unknown:
            with ThreadPoolExecutor(READERS, thread_name_prefix="catalog") as readers:
                journals = [self._store.journal(marker.key) for marker in unknown]
                known |= zip((marker.key for marker in unknown), readers.map(self._read, journals), strict=True)
            read = [pair for pair in zip(unknown, journals, strict=True) if known[pair[0].key] is not None]
            self._index.keep((marker, j.entries) for marker, j in read if j.state.status.terminal)
        return [known[marker.key] for marker in markers]

    def _told(self, experiment_id: str, entries: Any) -> Found | None:
        """What the copy of a journal says; None if this version does not understand it."""
        try:
            state = fold_all(entries)
        except (NotAllowed, NewerSchema) as exc:
            logger.warning("The copied journal of %s is not used: %s.", experiment_id, exc)
            return None
        return Found(experiment_id, state, to_record(state)) if state.status.terminal else None

    def _read(self, journal: Journal) -> Found | None:
        try:
            state = self._look(journal)
        except (NewerSchema, Unreadable) as exc:
            logger.warning("Experiment %s is left out: %s", journal.experiment_id, exc)
            self.problems[journal.experiment_id] = str(exc)
            return None
        if state.experiment is None or state.status is Status.SUBMITTING or state.removed:
            return None
        return Found(journal.experiment_id, state, to_record(state, heartbeats(self._store, state)), journal)


def heartbeats(store: Store, state: State) -> dict[int, str]:
    """When the attempt that is alive last gave a sign of life, by its number; empty if none is."""
    if state.experiment is None or state.live is None:
        return {}
    stored = store.heartbeat_modified(state.experiment.id, state.live.number)
    if not stored:
        return {}
    return {state.live.number: datetime.fromtimestamp(stored, UTC).isoformat(timespec="milliseconds")}
