"""Everything that commands and pages do, as an API: submit, list, show, logs, artifacts, stop, remove, collect."""

from __future__ import annotations

import getpass
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from studio_celery.errors import UnknownExperiment, UsageError
from studio_celery.experiment import NewerSchema, Status
from studio_celery.garbage import Collected, Garbage
from studio_celery.journal import Kind, State
from studio_celery.overdue import settle
from studio_celery.record import to_record
from studio_celery.settings import Settings
from studio_celery.store import Item, Journal, Store
from studio_celery.submission import Request
from studio_celery.submitter import Broker, Submitted, Submitter
from studio_celery.world import World

logger = logging.getLogger(__name__)

#: Seconds between two looks at an output that is followed.
FOLLOW_SECONDS = 0.3

#: What can be an id; anything else is looked for among prefixes and names only.
_ID = re.compile(r"[0-9A-Za-z-]{8,64}")

#: Records that a list shows unless it is asked for more.
LIST_LIMIT = 50


@dataclass(frozen=True)
class LogPart:
    """A piece of an experiment's output."""

    data: bytes
    #: Attempt that it is from, and the byte after it: where to go on.
    attempt: int
    offset: int
    #: Nothing will follow: the experiment has ended and this is the end of its output.
    complete: bool


class Client:
    """One store and one broker, seen by a person or a program."""

    def __init__(self, app: Any, settings: Settings, world: World, store: Store) -> None:
        self._app = app
        self._settings = settings
        self.world = world
        self.store = store

    def submit(self, request: Request, **options: Any) -> Submitted:
        """Capture, upload, record, publish with confirmation; `options` go to Celery's `apply_async`."""
        return Submitter(self._app, self._settings, self.world, self.store, self._me).submit(request, options)

    def check_broker(self) -> None:
        """Raise `BrokerError` with a sentence unless the broker answers."""
        Broker(self._app, self.world.broker_url, self._settings.connect_seconds).check()

    @property
    def _me(self) -> str:
        return self._settings.owner or _login_name()

    # -- reading ---------------------------------------------------------------------------------------------------

    def resolve(self, reference: str) -> str:
        """The id that a full id, a unique prefix of one, or a name means."""
        return self._open(reference).experiment_id

    def _open(self, reference: str) -> Journal:
        """The journal that a reference means, read; `UnknownExperiment` if there is none, or more than one."""
        if _ID.fullmatch(reference):
            journal = self.store.journal(reference)
            if journal.refresh().removed:
                entry = journal.entries[-1]
                raise UnknownExperiment(f"{reference} was removed by {entry.by} at {entry.at}: nothing of it is left.")
            if journal.state.experiment is not None:
                return journal
        found = [i for i in self.store.recent() if i.startswith(reference)] if reference else []
        found = found or [r["id"] for r in self._records() if r["name"] == reference]
        if not found:
            raise UnknownExperiment(f"No experiment fits {reference!r} in {self.store.url}: `studio ls` shows them.")
        if len(found) > 1:
            raise UnknownExperiment(
                f"{len(found)} experiments fit {reference!r}, like {found[0]}: give more of the id."
            )
        journal = self.store.journal(found[0])
        journal.refresh()
        return journal

    def list(self, limit: int = LIST_LIMIT, statuses: frozenset[Status] = frozenset()) -> list[dict[str, Any]]:
        """Records, the latest first; those still `submitting` are hidden."""
        records = (r for r in self._records() if not statuses or Status(r["status"]) in statuses)
        return list(islice(records, limit))

    def _records(self) -> Iterator[dict[str, Any]]:
        notes = self._notes()
        for experiment_id in self.store.recent():
            try:
                state = self._look(self.store.journal(experiment_id))
            except NewerSchema as exc:
                logger.warning("Experiment %s is left out: %s", experiment_id, exc)
                continue
            if state.experiment is not None and state.status is not Status.SUBMITTING and not state.removed:
                yield self._record(state, notes)

    def show(self, reference: str) -> dict[str, Any]:
        """The record of one experiment."""
        return self._record(self._look(self._open(reference)), self._notes())

    def events(self, reference: str) -> Sequence[dict[str, Any]]:
        """The journal's entries, in order, as they are stored."""
        return [_without_values(entry.to_dict()) for entry in self._open(reference).entries]

    def _look(self, journal: Journal) -> State:
        """Read a journal, and record the end that is due if nobody looks after the experiment."""
        journal.refresh()
        return settle(journal, self.store.now, self._settings, self._me)

    def _record(self, state: State, notes: Mapping[str, str]) -> dict[str, Any]:
        assert state.experiment is not None
        beats = {}
        if state.live is not None:
            stored = self.store.heartbeat_modified(state.experiment.id, state.live.number)
            if stored:
                beats[state.live.number] = datetime.fromtimestamp(stored, UTC).isoformat(timespec="milliseconds")
        record = to_record(state, beats)
        if state.status is Status.WAITING and state.experiment.id in notes:
            record["reason"] = notes[state.experiment.id]
        return record

    def _notes(self) -> dict[str, str]:
        """Why workers could not take what waits."""
        return {key: why for worker in self.store.workers() for key, why in worker.get("cannot_take", {}).items()}

    # -- output ----------------------------------------------------------------------------------------------------

    def log(self, reference: str, offset: int = 0, attempt: int | None = None) -> LogPart:
        """Output from a byte on, of the given attempt or else the latest."""
        journal = self._open(reference)
        state = journal.state
        if not state.attempts:
            return LogPart(b"", 0, 0, state.status.terminal)
        number = attempt or len(state.attempts)
        if not 1 <= number <= len(state.attempts):
            raise UsageError(f"There is no attempt {number}: {reference} had {len(state.attempts)}.")
        chosen = state.attempts[number - 1]
        data = self.store.log_reader(journal.experiment_id, chosen).read(chosen, offset)
        over = chosen.over is not None if attempt else state.status.terminal
        return LogPart(data, number, offset + len(data), over and not data)

    def log_end(self, reference: str) -> tuple[int, int]:
        """(latest attempt, bytes of its output that are stored); (0, 0) before the first."""
        journal = self._open(reference)
        if not journal.state.attempts:
            return 0, 0
        latest = journal.state.attempts[-1]
        return latest.number, self.store.log_reader(journal.experiment_id, latest).stored(latest)

    def follow(
        self, reference: str, *, from_first: bool = False, interval_seconds: float = FOLLOW_SECONDS
    ) -> Iterator[bytes]:
        """The output as it is written, until the experiment has ended: of the latest attempt on, or of all of them."""
        experiment_id = self.resolve(reference)
        number, offset = 1 if from_first else max(1, self.log_end(experiment_id)[0]), 0
        while True:
            state = self._open(experiment_id).state
            begun = number <= len(state.attempts)
            part = self.log(experiment_id, offset, number) if begun else LogPart(b"", 0, 0, complete=True)
            if part.data:
                offset = part.offset
                yield part.data
            elif part.complete and number < len(state.attempts):
                number, offset = number + 1, 0
                yield f"\n--- attempt {number} ---\n".encode()
            elif part.complete and state.status.terminal:
                return
            else:
                time.sleep(interval_seconds)

    def artifacts(self, reference: str) -> Sequence[Item]:
        """Files that the attempt which counts left, `<tag>/<path>`."""
        journal = self._open(reference)
        state = journal.state
        return self.store.artifact_files(journal.experiment_id, len(state.attempts)) if state.attempts else []

    def artifact(self, reference: str, key: str) -> Iterator[bytes]:
        """One of those files in pieces; `KeyError` if there is none."""
        journal = self._open(reference)
        return self.store.artifact_stream(journal.experiment_id, len(journal.state.attempts), key)

    # -- changing --------------------------------------------------------------------------------------------------

    def stop(self, reference: str, by: str | None = None) -> dict[str, Any]:
        """Ask for a stop; without an attempt alive it is stopped at once. The record after that."""
        journal = self._open(reference)
        state = journal.state
        if state.status.terminal:
            raise UsageError(f"{journal.experiment_id} is {state.status} already: nothing to stop.")
        who = by or self._me
        journal.decide(Kind.STOP_REQUESTED, who)
        if journal.state.live is None and not journal.state.status.terminal:
            requester = journal.state.stop_requested_by or who
            journal.decide(Kind.STOPPED, who, reason=f"stopped by {requester}")
        return self._record(journal.state, {})

    def remove(self, reference: str) -> str:
        """Remove an experiment that has ended, with all that it left; its id. Its workspace goes by `collect`."""
        journal = self._open(reference)
        state = self._look(journal)
        if not journal.decide(Kind.REMOVED, self._me):
            state = journal.state
            if not state.removed:
                raise UsageError(
                    f"{journal.experiment_id} is {state.status}: only what has ended can be removed; "
                    "`studio stop` ends it."
                )
        assert state.experiment is not None
        self.store.clear(state.experiment)
        return journal.experiment_id

    def collect(self, *, dry_run: bool) -> Collected:
        """Remove workspaces that no experiment refers to, and what is left of experiments removed long ago."""
        return Garbage(self.store).collect(dry_run=dry_run)


def _login_name() -> str:
    """Who is at work here; a user without a name, as in many containers, is a number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _without_values(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry as others may see it: the values of the script's variables may be secrets."""
    experiment = entry.get("experiment")
    if not experiment:
        return entry
    return {**entry, "experiment": {**experiment, "environment": dict.fromkeys(experiment["environment"], "…")}}
