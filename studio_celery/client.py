"""Everything that commands and pages do, as an API: submit, list, show, logs, stop, artifacts."""

from __future__ import annotations

import getpass
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from kombu.exceptions import OperationalError

from studio_celery import workspace
from studio_celery.errors import BrokerError, UnknownExperiment, UsageError
from studio_celery.experiment import Experiment, Status, utc_now
from studio_celery.journal import Kind, Observation, Rules, State, end_without_attempt
from studio_celery.record import to_record
from studio_celery.settings import Settings
from studio_celery.store import Item, Journal, Store
from studio_celery.submission import Request
from studio_celery.tasks import run_experiment
from studio_celery.workspace import Archive
from studio_celery.world import World
from transports.errors import TransportError

#: Records that a list shows unless it is asked for more.
LIST_LIMIT = 50


@dataclass(frozen=True)
class Submitted:
    """A submission that the broker has confirmed."""

    experiment: Experiment
    archive: Archive
    #: Whether the workspace had to be uploaded; False if the store had it.
    uploaded: bool


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

    # -- submitting ------------------------------------------------------------------------------------------------

    def submit(self, request: Request, **options: Any) -> Submitted:
        """Capture, upload, record, publish with confirmation. Nothing is recorded when the broker does not answer."""
        root, script = workspace.locate(request.script, request.workspace, Path.cwd())
        with tempfile.TemporaryDirectory(prefix="studio-") as folder:
            archive = workspace.capture(
                root, limit_bytes=self._settings.workspace_limit, destination=Path(folder), script=script
            )
            experiment = self._experiment(request, root, script, archive)
            self.check_broker()
            self.store.check()
            uploaded = self.store.put_blob(archive.sha256, archive.path)
        journal = self.store.submit(experiment, self._me())
        self._publish(experiment, options)
        journal.decide(Kind.QUEUED, self._me())
        return Submitted(experiment, archive, uploaded)

    def _experiment(self, request: Request, root: Path, script: str, archive: Archive) -> Experiment:
        return Experiment(
            id=request.id,
            queue=request.queue,
            script=script,
            args=request.args,
            workspace=archive.sha256,
            workspace_bytes=archive.archive_bytes,
            name=request.name,
            owner=self._me(),
            project=request.project or self._settings.project,
            group=request.group,
            image=request.image,
            python=f"{sys.version_info.major}.{sys.version_info.minor}",
            requirements=_requirements(request.requirements, root, script),
            environment=request.environment,
            resources=request.resources,
            captures=request.captures,
            max_attempts=request.max_attempts,
            retries=request.retries,
            max_duration_seconds=request.max_duration_seconds,
            lifetime_seconds=request.lifetime_seconds,
            submitted_at=utc_now(),
        )

    def check_broker(self) -> None:
        """Raise `BrokerError` with a sentence unless the broker answers."""
        try:
            with self._app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, interval_start=0, timeout=self._settings.connect_seconds)
        except self._broker_errors() as exc:
            raise self._broker_error(exc) from exc

    def _broker_errors(self) -> tuple[type[BaseException], ...]:
        """What this kind of broker raises when it cannot be used, or cannot be understood."""
        try:
            connection = self._app.connection_for_write()
            return (OperationalError, TransportError, *connection.connection_errors, *connection.channel_errors)
        except (ImportError, KeyError, ValueError) as exc:
            raise self._broker_error(exc) from exc

    def _broker_error(self, exc: BaseException) -> BrokerError:
        hint = "Start it with `studio up` or `studio broker`, or set STUDIO_BROKER_URL."
        text = str(exc).strip().split("\n")[0].rstrip(".") or type(exc).__name__
        return BrokerError(f"The broker {_without_password(self.world.broker_url)} cannot be used: {text}. {hint}")

    def _publish(self, experiment: Experiment, options: Mapping[str, Any]) -> None:
        message = {"id": experiment.id, "store": self.store.url, "digest": experiment.digest()}
        try:
            run_experiment.publish(message, queue=experiment.queue, **options)
        except self._broker_errors() as exc:
            raise self._broker_error(exc) from exc

    def _me(self) -> str:
        return self._settings.owner or getpass.getuser()

    # -- reading ---------------------------------------------------------------------------------------------------

    def resolve(self, reference: str) -> str:
        """The id that a full id, a unique prefix of one, or a name means."""
        if self.store.journal(reference).refresh().experiment is not None:
            return reference
        found = [i for i in self.store.recent() if i.startswith(reference)] if reference else []
        found = found or [r["id"] for r in self._records() if r["name"] == reference]
        if len(found) == 1:
            return found[0]
        if not found:
            raise UnknownExperiment(f"No experiment fits {reference!r} in {self.store.url}: `studio ls` shows them.")
        raise UnknownExperiment(f"{len(found)} experiments fit {reference!r}, such as {found[0]}: give more of the id.")

    def list(self, limit: int = LIST_LIMIT, statuses: frozenset[Status] = frozenset()) -> list[dict[str, Any]]:
        """Records, the latest first; those still `submitting` are hidden."""
        records = (r for r in self._records() if not statuses or Status(r["status"]) in statuses)
        return list(islice(records, limit))

    def _records(self) -> Iterator[dict[str, Any]]:
        notes = self._notes()
        for experiment_id in self.store.recent():
            state = self._look(self.store.journal(experiment_id))
            if state.experiment is not None and state.status is not Status.SUBMITTING and not state.removed:
                yield self._record(state, notes)

    def show(self, reference: str) -> dict[str, Any]:
        """The record of one experiment."""
        journal = self.store.journal(self.resolve(reference))
        return self._record(self._look(journal), self._notes())

    def events(self, reference: str) -> Sequence[dict[str, Any]]:
        """The journal's entries, in order, as they are stored."""
        journal = self.store.journal(self.resolve(reference))
        journal.refresh()
        return [entry.to_dict() for entry in journal.entries]

    def _look(self, journal: Journal) -> State:
        """Read a journal, and record the end that is due if nobody looks after the experiment."""
        state = journal.refresh()
        if state.experiment is None or state.status.terminal or state.live:
            return state
        if state.status is not Status.SUBMITTING and state.experiment.lifetime_seconds is None:
            return state
        age = self.store.now() - state.submitted_stored_at
        if state.status is Status.SUBMITTING and age > self._settings.submission_limit_seconds:
            journal.decide(Kind.FAILED, self._me(), reason="submission did not complete")
        elif end := end_without_attempt(state, Observation(age_seconds=age), Rules()):
            journal.decide(end.kind, self._me(), reason=end.reason)
        return journal.state

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
        journal = self.store.journal(self.resolve(reference))
        state = journal.refresh()
        if not state.attempts:
            return LogPart(b"", 0, 0, state.status.terminal)
        number = attempt or len(state.attempts)
        if not 1 <= number <= len(state.attempts):
            raise UsageError(f"There is no attempt {number}: {reference} had {len(state.attempts)}.")
        chosen = state.attempts[number - 1]
        data = self.store.log_reader(journal.experiment_id, chosen).read(chosen, offset)
        over = chosen.over is not None if attempt else state.status.terminal
        return LogPart(data, number, offset + len(data), over and not data)

    def follow(self, reference: str, interval_seconds: float = 0.3) -> Iterator[bytes]:
        """The output as it is written, until the experiment has ended; a new attempt starts anew."""
        experiment_id = self.resolve(reference)
        attempt, offset = 0, 0
        while True:
            part = self.log(experiment_id, offset)
            if part.attempt != attempt:
                attempt, offset, fresh = part.attempt, 0, attempt == 0
                if not fresh:
                    yield f"\n--- attempt {attempt} ---\n".encode()
                part = self.log(experiment_id, 0)
            if part.data:
                offset = part.offset
                yield part.data
            elif part.complete:
                return
            else:
                time.sleep(interval_seconds)

    def artifacts(self, reference: str) -> Sequence[Item]:
        """Files that the attempt which counts left, `<tag>/<path>`."""
        journal = self.store.journal(self.resolve(reference))
        state = journal.refresh()
        return self.store.artifact_files(journal.experiment_id, len(state.attempts)) if state.attempts else []

    def artifact(self, reference: str, key: str) -> Iterator[bytes]:
        """One of those files in pieces; `KeyError` if there is none."""
        journal = self.store.journal(self.resolve(reference))
        return self.store.artifact_stream(journal.experiment_id, len(journal.refresh().attempts), key)

    # -- changing --------------------------------------------------------------------------------------------------

    def stop(self, reference: str, by: str | None = None) -> dict[str, Any]:
        """Ask for a stop; without an attempt alive it is stopped at once. The record after that."""
        journal = self.store.journal(self.resolve(reference))
        state = journal.refresh()
        if state.status.terminal:
            raise UsageError(f"{journal.experiment_id} is {state.status} already: nothing to stop.")
        who = by or self._me()
        journal.decide(Kind.STOP_REQUESTED, who)
        if journal.state.live is None and not journal.state.status.terminal:
            requester = journal.state.stop_requested_by or who
            journal.decide(Kind.STOPPED, who, reason=f"stopped by {requester}")
        return self._record(journal.state, {})


def _requirements(named: str | None, root: Path, script: str) -> str | None:
    """Text of the requirements: the named file, else `requirements.txt` beside the script, else at the root."""
    if named is not None:
        return _read(Path(named))
    for candidate in (root.joinpath(script).parent / "requirements.txt", root / "requirements.txt"):
        if candidate.is_file():
            return _read(candidate)
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise UsageError(f"The requirements {path} cannot be read: {reason}.") from exc


def _without_password(url: str) -> str:
    from kombu.utils.url import maybe_sanitize_url

    return str(maybe_sanitize_url(url))
