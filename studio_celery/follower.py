"""An experiment's output as it is written: no byte twice and none left out.

Neither cuts of the store, nor adoptions, nor further attempts end it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from studio_celery.errors import StoreError
from studio_celery.journal import State
from studio_celery.store import Journal, Store

T = TypeVar("T")

#: Seconds between two looks at an output that is followed.
LOOK_SECONDS = 0.3

#: Longest pause between two tries of a store that does not answer, seconds.
RETRY_SECONDS = 5.0

#: Tells a person something that is no output.
Tell = Callable[[str], None]


class Follower:
    """From the beginning of one attempt until the experiment has ended."""

    def __init__(
        self,
        store: Store,
        journal: Journal,
        tell: Tell,
        look: Callable[[Journal], State],
        *,
        settle_seconds: float,
        attempt: int = 1,
    ) -> None:
        """`journal` was read; `attempt` may be one that has not begun.

        `look` reads the journal and records the end that is due, if one is: who follows may be the only one who looks.
        It is called every `settle_seconds`.
        """
        self._store = store
        self._journal = journal
        self._tell = tell
        self._look = look
        self._settle_seconds = settle_seconds
        self._settles_at = 0.0  # of `time.monotonic`
        self._number = attempt
        self._offset = 0

    def pieces(self) -> Iterator[bytes]:
        """The output; returns at the end of the experiment. Blocks between two pieces."""
        while True:
            state, data = self.persist(self._read)
            if data:
                self._offset += len(data)
                yield data
            elif self._number < len(state.attempts) and state.attempts[self._number - 1].over is not None:
                self._number, self._offset = self._number + 1, 0
                former = state.attempts[self._number - 2]
                self._tell(f"Attempt {former.number} is over: {former.reason}. Attempt {self._number} begins.")
            elif state.status.terminal:
                return
            else:
                time.sleep(LOOK_SECONDS)

    def persist(self, ask: Callable[[], T]) -> T:
        """Ask the store until it answers, and say so once: what is followed runs on meanwhile."""
        pause, told = LOOK_SECONDS, False
        while True:
            try:
                answer = ask()
            except StoreError as exc:
                if not told:
                    self._tell(f"{exc} It is asked again; what runs is not touched by that.")
                told = True
                time.sleep(pause)
                pause = min(RETRY_SECONDS, 2 * pause)
                continue
            if told:
                self._tell("The store answers again.")
            return answer

    def _read(self) -> tuple[State, bytes]:
        # The journal first: all output of an attempt is stored before the journal has its end.
        state = self._state()
        if self._number > len(state.attempts):
            return state, b""
        attempt = state.attempts[self._number - 1]
        return state, self._store.log_reader(self._journal.experiment_id, attempt).read(attempt, self._offset)

    def _state(self) -> State:
        if time.monotonic() < self._settles_at:
            return self._journal.refresh()
        state = self._look(self._journal)
        self._settles_at = time.monotonic() + self._settle_seconds
        return state
