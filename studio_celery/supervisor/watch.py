"""The heartbeat of one attempt: tells the world that its owner lives, and the owner what the world decided."""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Any

from studio_celery.errors import StoreError
from studio_celery.experiment import utc_now
from studio_celery.journal import Standing, State, standing
from studio_celery.store import Store

logger = logging.getLogger(__name__)


class Watch:
    """A thread that writes the heartbeat and reads the journal, from the claim to the end.

    It reads with a journal of its own, so the owner's is never used by two threads.
    """

    def __init__(self, store: Store, experiment_id: str, *, attempt: int, epoch: int, interval_seconds: float) -> None:
        self.attempt = attempt
        self.epoch = epoch
        self._store = store
        self._journal = store.journal(experiment_id)
        self._interval = interval_seconds
        self._facts: dict[str, Any] = {"phase": "claimed"}
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat-{experiment_id}", daemon=True)
        #: Login name of whoever asked for a stop.
        self.stop_requested_by: str | None = None
        #: Somebody else owns the experiment now, or it ended: nothing more may be written.
        self.superseded = False
        #: Somebody else owns this very attempt now: what runs is theirs.
        self.handed_over = False

    def __enter__(self) -> Watch:
        self.look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    @property
    def unwanted(self) -> bool:
        """Whether the attempt should come to an end: stopped, or no longer ours."""
        return self.superseded or self.stop_requested_by is not None

    def tell(self, phase: str) -> None:
        """Say what is being done; it is in the next heartbeat."""
        self._facts = {**self._facts, "phase": phase}

    def look(self) -> None:
        """Read the journal and write a heartbeat now. A store that does not answer is tried again at the next beat."""
        try:
            self.ask()
        except StoreError as exc:
            logger.warning("Heartbeat of %s: %s", self._journal.experiment_id, exc)

    def ask(self) -> None:
        """The same, for whom the answer matters: raises `StoreError`."""
        with self._lock:
            self._read(self._journal.refresh())
            if not self.superseded:
                self._store.heartbeat(
                    self._journal.experiment_id, self.attempt, {**self._facts, "epoch": self.epoch, "at": utc_now()}
                )

    def _read(self, state: State) -> None:
        now = standing(state, self.attempt, self.epoch)
        self.superseded = now in (Standing.SUPERSEDED, Standing.HANDED_OVER)
        self.handed_over = now is Standing.HANDED_OVER
        self.stop_requested_by = state.stop_requested_by

    def _beat(self) -> None:
        """Outermost loop of a thread: whatever goes wrong once must not end the heartbeats."""
        while not self._over.wait(self._interval):
            try:
                self.look()
            except Exception:
                logger.exception("Heartbeat of %s", self._journal.experiment_id)
