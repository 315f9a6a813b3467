"""What has to be there before an attempt can start: its directory, the workspace in it, image and environment."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from studio_celery import workspace
from studio_celery.archives import Archives
from studio_celery.errors import WorkspaceError
from studio_celery.experiment import Attempt, Experiment
from studio_celery.runtimes.contract import Cancelled, Launch, Progress, Runtime
from studio_celery.store import Store
from studio_celery.supervisor import holes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Makes one attempt ready to start."""

    store: Store
    runtime: Runtime
    experiment: Experiment
    attempt: Attempt
    #: `STUDIO_HOME`: its cache keeps the archive for the next attempt with the same workspace.
    home: Path
    directory: Path
    cards: tuple[str, ...]
    spool_bytes: int
    hold_seconds: float

    def run(self, tell: Progress, cancelled: Cancelled) -> Launch:
        """Restore and install; raises what the store, `workspace.restore` and `Runtime.prepare` raise."""
        launch = self._launch()
        tell("restoring workspace")
        for directory in (launch.workspace, launch.artifacts, launch.io):
            directory.mkdir(parents=True, exist_ok=True)
        self._restore(launch, cancelled)
        self.runtime.prepare(launch, tell, cancelled)
        return launch

    def _restore(self, launch: Launch, cancelled: Cancelled) -> None:
        digest = self.experiment.workspace
        with ExitStack() as held:
            try:
                archive = held.enter_context(Archives(self.store, self.home).hold(digest, cancelled))
            except KeyError as exc:
                raise WorkspaceError(f"workspace missing from the store: {exc}") from exc
            workspace.restore(archive, launch.workspace, sha256=digest)

    def _spool_bytes(self) -> int | None:
        if holes.possible(self.home / "run"):
            return self.spool_bytes
        logger.warning("%s cannot free parts of a file: output stays there until its attempt has ended.", self.home)
        return None

    def _launch(self) -> Launch:
        experiment = self.experiment
        return Launch(
            experiment_id=experiment.id,
            attempt=self.attempt.number,
            epoch=self.attempt.epoch,
            worker=self.attempt.worker,
            argv=(experiment.script, *experiment.args),
            directory=self.directory,
            environment=experiment.environment,
            image=experiment.image,
            python=experiment.python,
            requirements=experiment.requirements,
            resources=experiment.resources,
            cards=self.cards,
            spool_bytes=self._spool_bytes(),
            hold_seconds=self.hold_seconds,
        )
