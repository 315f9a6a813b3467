"""What an owner writes about its attempt: again until the store has it, and never once it is no longer the owner."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from studio_celery.errors import StoreError, StoreRefusal
from studio_celery.experiment import Attempt
from studio_celery.journal import Kind, Standing, State, standing
from studio_celery.store import Journal
from studio_celery.supervisor.verdict import Verdict

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Detached(Exception):
    """The worker is stopping: the attempt, if it was started, runs on without it."""


class Ledger:
    """Of one attempt, under the epoch of its owner."""

    def __init__(
        self, journal: Journal, attempt: Attempt, *, worker_id: str, detaching: threading.Event, interval_seconds: float
    ) -> None:
        self._journal = journal
        self._attempt = attempt
        self._worker_id = worker_id
        self._detaching = detaching
        self._interval_seconds = interval_seconds

    @property
    def state(self) -> State:
        """The journal as it was last read."""
        return self._journal.state

    @property
    def handed_over(self) -> bool:
        """Whether the journal, as it was last read, names another owner of the same attempt."""
        return standing(self.state, self._attempt.number, self._attempt.epoch) is Standing.HANDED_OVER

    def read_as_owner(self) -> bool:
        """Whether the attempt is still ours by the journal as it is now."""
        return self.until_stored(self._journal.refresh).owner_epoch == self._attempt.epoch

    def note_start(self) -> None:
        """Record that the script runs; nothing if that is known, or the attempt is no longer ours."""
        self._write(Kind.STARTED)

    def append(self, verdict: Verdict) -> None:
        """Write the entry, unless the experiment has gone to somebody else or has ended."""
        if self._write(verdict.kind, **verdict.data):
            reason = verdict.data.get("reason")
            logger.info(
                "Experiment %s: attempt %d is %s%s.",
                self._journal.experiment_id,
                self._attempt.number,
                verdict.kind.value,
                f": {reason}" if reason else "",
            )

    def _write(self, kind: Kind, **data: object) -> bool:
        epoch = self._attempt.epoch
        return self.until_stored(lambda: self._journal.decide(kind, self._worker_id, epoch=epoch, **data))

    def until_stored(self, write: Callable[[], T]) -> T:
        """Do it again until the store takes it: an end that was not written has not happened.

        `StoreRefusal` if it never will.
        """
        while True:
            try:
                return write()
            except StoreRefusal:
                raise
            except StoreError as exc:
                logger.warning("Experiment %s: %s It is tried again.", self._journal.experiment_id, exc)
            if self._detaching.wait(self._interval_seconds):
                raise Detached
