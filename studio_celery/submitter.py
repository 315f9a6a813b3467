"""Submitting: capture the directory, store it, record the experiment, publish its message with confirmation.

The order is the guarantee: nothing is recorded when the broker does not answer, and once `submit` returns the submitter
may be killed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kombu.exceptions import OperationalError
from kombu.utils.url import maybe_sanitize_url

from studio_celery import workspace
from studio_celery.errors import BrokerError, UsageError
from studio_celery.experiment import Experiment, utc_now
from studio_celery.garbage import outlast
from studio_celery.journal import Kind
from studio_celery.settings import Settings
from studio_celery.store import Store
from studio_celery.submission import EXPERIMENT_TASK, Request
from studio_celery.workspace import Archive
from studio_celery.world import World
from transports.errors import TransportError


@dataclass(frozen=True)
class Submitted:
    """A submission that the broker has confirmed."""

    experiment: Experiment
    archive: Archive
    #: Whether the workspace had to be uploaded; False if the store had it.
    uploaded: bool


class Broker:
    """The broker as a submitter sees it: it answers and takes messages, or says in a sentence why not."""

    def __init__(self, app: Any, url: str, connect_seconds: float) -> None:
        self._app = app
        self._url = url
        self._connect_seconds = connect_seconds

    def check(self) -> None:
        """Raise `BrokerError` unless the broker answers."""
        errors = self._errors()
        try:
            with self._app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, interval_start=0, timeout=self._connect_seconds)
        except errors as exc:
            raise self._error(exc) from exc

    def publish(self, message: Mapping[str, str], **options: Any) -> None:
        """Put an experiment's message on its queue; returns when the broker has confirmed it."""
        try:
            self._app.send_task(EXPERIMENT_TASK, kwargs=dict(message), task_id=message["id"], **options)
        except self._errors() as exc:
            raise self._error(exc) from exc

    def _errors(self) -> tuple[type[BaseException], ...]:
        """What this kind of broker raises when it cannot be used."""
        try:
            connection = self._app.connection_for_write()
            return (OperationalError, TransportError, *connection.connection_errors, *connection.channel_errors)
        except (AttributeError, ImportError, KeyError, ValueError) as exc:
            # Without its client library kombu's redis transport stumbles over a missing attribute.
            scheme = self._url.partition(":")[0]
            raise BrokerError(
                f"The broker {maybe_sanitize_url(self._url)} cannot be used ({exc}): "
                f"install what Celery needs for {scheme}, as in pip install 'celery[{scheme}]', or check the URL."
            ) from exc

    def _error(self, exc: BaseException) -> BrokerError:
        hint = "Start it with `studio up` or `studio broker`, or set STUDIO_BROKER_URL."
        text = str(exc).strip().split("\n")[0].rstrip(".") or type(exc).__name__
        return BrokerError(f"The broker {maybe_sanitize_url(self._url)} cannot be used: {text}. {hint}")


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
            self._broker.check()
            self._store.check()
            uploaded = self._store.put_blob(archive.sha256, archive.path)
            journal = self._store.submit(experiment, self._owner)
            outlast(self._store, archive.sha256, archive.path)
        message = {"id": experiment.id, "store": self._store.url, "digest": experiment.digest()}
        self._broker.publish(message, queue=experiment.queue, **options)
        journal.decide(Kind.QUEUED, self._owner)
        return Submitted(experiment, archive, uploaded)

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
