"""Looking at many tasks at once without asking for each of them each time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
U = TypeVar("U")

#: Objects that are asked for at a time, and number from which that is worth threads.
FETCHERS, FETCH_TOGETHER = 16, 8

#: Tasks that are looked at in one round: enough to be quick at the end, few enough to be cheap while nothing happens.
#: While there are more, one listing of all results tells which of them are worth a look as well.
ROUND = 64

#: A listing gives about this many results for the price of one request.
PAGE = 1000


class Gathering:
    """One wait for many results. A round that finds nothing is followed by a pause, one that does by the next round."""

    def __init__(
        self, backend: Any, task_ids: Sequence[str], ready_states: Collection[str], at_a_time: int = ROUND
    ) -> None:
        self._backend = backend
        self._ready_states = ready_states
        self._at_a_time = at_a_time
        self._queue = deque(dict.fromkeys(task_ids))
        self._waiting = set(self._queue)
        self._listed: int | None = None
        self._seen: dict[str, tuple[float, int]] = {}

    @property
    def pending(self) -> bool:
        """Whether some are not ready."""
        return bool(self._waiting)

    def round(self) -> list[tuple[str, dict[str, Any]]]:
        """(id, meta) of those found ready, each once."""
        asked = dict.fromkeys([*self._changed(), *self._next()])
        metas = together(self._look, list(asked))
        found = [(i, meta) for i, meta in zip(asked, metas, strict=True) if meta is not None]
        for task_id, _ in found:
            self._waiting.discard(task_id)
        return found

    def _look(self, task_id: str) -> dict[str, Any] | None:
        if self._backend.still_runs(task_id):
            return None
        meta: dict[str, Any] = self._backend.get_task_meta(task_id)
        return meta if meta["status"] in self._ready_states else None

    def _next(self) -> list[str]:
        """The next few in turn, so that each is looked at again and again whatever a listing says."""
        chosen: list[str] = []
        for _ in range(len(self._queue)):
            task_id = self._queue.popleft()
            if task_id in self._waiting:
                chosen.append(task_id)
                self._queue.append(task_id)
            if len(chosen) == self._at_a_time:
                break
        return chosen

    def _changed(self) -> list[str]:
        """Those whose kept result a listing shows as new; empty where a listing costs more than it saves."""
        waiting = len(self._waiting)
        if waiting <= self._at_a_time or (self._listed or 0) > waiting * PAGE // 4:
            return []
        items = self._backend.list_results()
        self._listed = len(items)
        changed = []
        for task_id in self._waiting:
            item = items.get(self._backend.result_path(task_id))
            if item is not None and self._seen.get(task_id) != (item.modified, item.size):
                self._seen[task_id] = (item.modified, item.size)
                changed.append(task_id)
        return changed


def together(call: Callable[[T], U], items: Sequence[T]) -> list[U]:
    """`call` for each, at the same time if they are many; results in order."""
    if len(items) < FETCH_TOGETHER:
        return [call(item) for item in items]
    with ThreadPoolExecutor(FETCHERS, thread_name_prefix="results") as pool:
        return list(pool.map(call, items))
