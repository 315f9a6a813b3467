"""Submitting: capture the directory, store it, record the experiment, publish its message with confirmation.

The order is the guarantee: nothing is recorded when the broker does not answer, and once `submit` returns the submitter
may be killed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio_celery import workspace
from studio_celery.errors import StoreError, UsageError
from studio_celery.experiment import Experiment, Status, new_id, utc_now
from studio_celery.garbage import outlast
from studio_celery.journal import Kind
from studio_celery.settings import Settings
from studio_celery.store import Journal, Store
from studio_celery.submission.broker import Broker
from studio_celery.submission.request import Request
from studio_celery.workspace import Archive
from studio_celery.world import World

#: Pauses between tries to record what the broker has confirmed, seconds: that cannot be taken back any more.
RECORD_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class Submitted:
    """A submission that the broker has confirmed."""

    experiment: Experiment
    archive: Archive
    #: Whether the workspace had to be uploaded; False if the store had it.
    uploaded: bool


class Submitter:
    """Turns requests into experiments that wait in a queue."""

    def __init__(self, app: Any, settings: Settings, world: World, store: Store, owner: str) -> None:
        self._settings = settings
        self._store = store
        self._owner = owner
        self._broker = Broker(app, world.broker_url, settings.connect_seconds)

    def submit(self, request: Request, options: Mapping[str, Any]) -> Submitted:
        """Submit; `options` go to Celery's `apply_async`."""
        root, script = workspace.locate(request.script, request.workspace, Path.cwd())
        requirements = read_requirements(request.requirements, root, script)
        with tempfile.TemporaryDirectory(prefix="studio-") as folder:
            archive = workspace.capture(
                root,
                script=script,
                limit_bytes=self._settings.workspace_limit,
                destination=Path(folder),
                leave_out=(self._settings.home, Path(folder)),
            )
            experiment = self._experiment(request, script, requirements, archive)
            uploaded = self._put_in_queue(experiment, archive.path, options)
        return Submitted(experiment, archive, uploaded)

    def submit_again(self, former: Experiment) -> Experiment:
        """Submit the same as a new experiment, which is returned: script, arguments, workspace, and all it asks for."""
        experiment = dataclasses.replace(former, id=new_id(), owner=self._owner, submitted_at=utc_now())
        with tempfile.TemporaryDirectory(prefix="studio-") as folder:
            archive = Path(folder) / former.workspace
            self._fetch(former, archive)
            self._put_in_queue(experiment, archive, {})
        return experiment

    def _fetch(self, former: Experiment, archive: Path) -> None:
        missing = f"The workspace of {former.id} is not whole in {self._store.url}: submit its directory again."
        try:
            self._store.get_blob(former.workspace, archive)
        except KeyError as exc:
            raise StoreError(missing) from exc
        with archive.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != former.workspace:
                raise StoreError(missing)

    def _put_in_queue(self, experiment: Experiment, archive: Path, options: Mapping[str, Any]) -> bool:
        """Upload, record, publish; whether the store had to be given the workspace.

        An experiment of the same id that is in a queue already, as when a chain went on twice, stays what it is.
        """
        self._broker.check()
        self._store.check()
        uploaded = self._store.put_blob(experiment.workspace, archive)
        journal = self._store.submit(experiment, self._owner)
        if journal.state.status is not Status.SUBMITTING:
            return uploaded
        recorded = journal.state.experiment
        if recorded is None or recorded.workspace == experiment.workspace:
            outlast(self._store, experiment.workspace, archive)
        facts = {"id": experiment.id, "store": self._store.url, "digest": journal.state.digest}
        self._broker.publish(
            facts,
            lambda message: self._store.put_message(experiment.id, message.to_json()),
            queue=experiment.queue,
            **options,
        )
        _record_queued(journal, self._owner)
        return uploaded

    def _experiment(self, request: Request, script: str, requirements: str | None, archive: Archive) -> Experiment:
        return Experiment(
            id=request.id,
            queue=request.queue,
            script=script,
            args=request.args,
            workspace=archive.sha256,
            workspace_bytes=archive.archive_bytes,
            name=request.name,
            owner=self._owner,
            project=request.project or self._settings.project,
            group=request.group,
            image=request.image,
            python=f"{sys.version_info.major}.{sys.version_info.minor}",
            requirements=requirements,
            environment=request.environment,
            resources=request.resources,
            captures=request.captures,
            max_attempts=request.max_attempts,
            retries=request.retries,
            max_duration_seconds=request.max_duration_seconds,
            lifetime_seconds=request.lifetime_seconds,
            submitted_at=utc_now(),
        )


def _record_queued(journal: Journal, owner: str) -> None:
    """Say in the journal that the message is confirmed; an outage of the store is waited for a little."""
    for pause in RECORD_PAUSES:
        try:
            journal.decide(Kind.QUEUED, owner)
            return
        except StoreError:
            time.sleep(pause)
    try:
        journal.decide(Kind.QUEUED, owner)
    except StoreError as exc:
        raise StoreError(
            f"{journal.experiment_id} is in its queue, but the store cannot be told so: {exc} "
            f"Once it answers, `studio requeue {journal.experiment_id}` makes sure of it."
        ) from exc


def read_requirements(named: str | None, root: Path, script: str) -> str | None:
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
