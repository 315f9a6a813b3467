"""Everything that commands and pages do, as an API: submit, list, show, logs, artifacts, stop, requeue, remove."""

from __future__ import annotations

import getpass
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from studio_celery.catalog import Catalog, heartbeats
from studio_celery.errors import UnknownExperiment, UsageError
from studio_celery.experiment import Attempt, Experiment, Status
from studio_celery.follower import Follower, Tell
from studio_celery.garbage import Collected, Garbage
from studio_celery.index import Index
from studio_celery.journal import Kind, State
from studio_celery.overdue import settle
from studio_celery.record import to_record
from studio_celery.settings import Settings
from studio_celery.store import Item, Journal, Store
from studio_celery.submission.broker import Broker
from studio_celery.submission.request import Request
from studio_celery.submission.requeuer import Requeued, Requeuer
from studio_celery.submission.submitter import Submitted, Submitter
from studio_celery.world import World

logger = logging.getLogger(__name__)

#: Bytes of output that are given at a time.
LOG_BYTES = 2**20

#: What can be an id; anything else is looked for among prefixes and names only.
_ID = re.compile(r"[0-9A-Za-z-]{8,64}")

#: What can be the id of a task that is an experiment: programs may choose their own.
_TASK_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")

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
        self._index = Index(settings.home, store.url)

    def submit(self, request: Request, **options: Any) -> Submitted:
        """Capture, upload, record, publish with confirmation; `options` go to Celery's `apply_async`."""
        return Submitter(self._app, self._settings, self.world, self.store, self._me).submit(request, options)

    def check_broker(self) -> None:
        """Raise `BrokerError` with a sentence unless the broker answers."""
        self._broker.check()

    @property
    def _broker(self) -> Broker:
        return Broker(self._app, self.world.broker_url, self._settings.connect_seconds)

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
        return list(islice((r for r in self._records() if not statuses or Status(r["status"]) in statuses), limit))

    def _records(self) -> Iterator[dict[str, Any]]:
        notes = self._notes()
        for found in self._catalog.all():
            yield _with_note(found.record, notes)

    @property
    def _catalog(self) -> Catalog:
        return Catalog(self.store, self._index, self._look)

    def show(self, reference: str) -> dict[str, Any]:
        """The record of one experiment."""
        return self._record(self._look(self._open(reference)), self._notes())

    def events(self, reference: str) -> Sequence[dict[str, Any]]:
        """The journal's entries, in order, as they are stored."""
        return [_without_values(entry.to_dict()) for entry in self._open(reference).entries]

    def _look(self, journal: Journal) -> State:
        """Read a journal, and record the end that is due if nobody looks after the experiment."""
        journal.refresh()
        return settle(journal, self.store, self._settings, self._me)

    def _record(self, state: State, notes: Mapping[str, str]) -> dict[str, Any]:
        return _with_note(to_record(state, heartbeats(self.store, state)), notes)

    def _notes(self) -> dict[str, str]:
        """Why workers could not take what waits."""
        return {key: why for worker in self.store.workers() for key, why in worker.get("cannot_take", {}).items()}

    # -- output ----------------------------------------------------------------------------------------------------

    def log(self, reference: str, offset: int = 0, attempt: int | None = None, limit: int = LOG_BYTES) -> LogPart:
        """Output from a byte on, of the given attempt or else the latest; up to `limit` bytes."""
        journal = self._open(reference)
        chosen, state = _chosen(journal, attempt), journal.state
        if chosen is None:
            return LogPart(b"", 0, 0, state.status.terminal)
        data = self.store.log_reader(journal.experiment_id, chosen).read(chosen, offset, limit)
        over = chosen.over is not None if attempt else state.status.terminal
        return LogPart(data, chosen.number, offset + len(data), over and not data)

    def log_end(self, reference: str) -> tuple[int, int]:
        """(latest attempt, bytes of its output that are stored); (0, 0) before the first."""
        journal = self._open(reference)
        if not journal.state.attempts:
            return 0, 0
        latest = journal.state.attempts[-1]
        return latest.number, self.store.log_reader(journal.experiment_id, latest).stored(latest)

    def output(self, reference: str, attempt: int | None = None) -> Iterator[bytes]:
        """All output that is stored by now, in pieces; of the given attempt or else the latest.

        What is wrong with the reference is raised at once.
        """
        journal = self._open(reference)
        chosen = _chosen(journal, attempt)
        return self._pieces(journal.experiment_id, chosen) if chosen else iter(())

    def _pieces(self, experiment_id: str, attempt: Attempt) -> Iterator[bytes]:
        reader, offset = self.store.log_reader(experiment_id, attempt), 0
        while data := reader.read(attempt, offset):
            offset += len(data)
            yield data

    def follow(self, reference: str, tell: Tell, *, attempt: int | None = None) -> Follower:
        """Follow the output until the experiment has ended, from the given attempt on or else the latest.

        `tell` is given what is no output: that another attempt begins, that the store is away.
        """
        journal = self._open(reference)
        chosen = _chosen(journal, attempt) if attempt and journal.state.attempts else None
        number = chosen.number if chosen else attempt or max(1, len(journal.state.attempts))
        seconds = self._settings.heartbeat_seconds
        return Follower(self.store, journal, tell, self._look, settle_seconds=seconds, attempt=number)

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
        """Ask for a stop. Without an attempt alive, or with an owner that is long silent, it is stopped at once.

        The record after that; whoever asks twice finds out whether the owner has fallen silent meanwhile.
        """
        return self._stop(self._open(reference), by or self._me)

    def stop_task(self, task_id: str, by: str) -> bool:
        """The same for what Celery calls a task; False if that is no experiment, or has ended."""
        if not _TASK_ID.fullmatch(task_id):
            return False
        journal = self.store.journal(task_id)
        state = journal.refresh()
        if state.experiment is None or state.status.terminal or state.removed:
            return False
        self._stop(journal, by)
        return True

    def _stop(self, journal: Journal, who: str) -> dict[str, Any]:
        if journal.state.status.terminal:
            raise UsageError(f"{journal.experiment_id} is {journal.state.status} already: nothing to stop.")
        journal.decide(Kind.STOP_REQUESTED, who)
        return self._record(settle(journal, self.store, self._settings, who), {})

    def requeue(self, reference: str) -> str:
        """Send an experiment's message to its queue again; its id. `CannotRequeue` if it has ended."""
        journal = self._open(reference)
        self._look(journal)
        self._requeuer.requeue(journal, f"requeued by {self._me}")
        return journal.experiment_id

    def requeue_all(self, queue: str | None = None) -> Iterator[Requeued]:
        """The same for all that has not ended, in every queue or in one; each once the broker has confirmed it."""
        yield from self._requeuer.requeue_all(self._catalog, f"requeued by {self._me}", queue)

    @property
    def _requeuer(self) -> Requeuer:
        return Requeuer(self._broker, self.store, self._me)

    def rerun(self, reference: str) -> Experiment:
        """Submit an experiment once more as a new one, which is returned."""
        former = self._open(reference).state.experiment
        assert former is not None
        return Submitter(self._app, self._settings, self.world, self.store, self._me).submit_again(former)

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
        self._index.forget(journal.experiment_id)
        return journal.experiment_id

    def collect(self, *, dry_run: bool) -> Collected:
        """Remove workspaces that no experiment refers to, and what is left of experiments removed long ago."""
        return Garbage(self.store).collect(dry_run=dry_run)


def _chosen(journal: Journal, attempt: int | None) -> Attempt | None:
    """The attempt of that number, else the latest; None before the first."""
    attempts = journal.state.attempts
    if not attempts:
        return None
    number = attempt or len(attempts)
    if not 1 <= number <= len(attempts):
        raise UsageError(f"There is no attempt {number}: {journal.experiment_id} had {len(attempts)}.")
    return attempts[number - 1]


def _login_name() -> str:
    """Who is at work here; a user without a name, as in many containers, is a number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _with_note(record: dict[str, Any], notes: Mapping[str, str]) -> dict[str, Any]:
    """The record of what waits says why workers could not take it."""
    waits = record["status"] == Status.WAITING and record["id"] in notes
    return {**record, "reason": notes[record["id"]]} if waits else record


def _without_values(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry as others may see it: the values of the script's variables may be secrets."""
    experiment = entry.get("experiment")
    if not experiment:
        return entry
    return {**entry, "experiment": {**experiment, "environment": dict.fromkeys(experiment["environment"], "…")}}
