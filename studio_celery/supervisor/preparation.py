"""What has to be there before an attempt can start: its directory, the workspace in it, image and environment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from studio_celery import workspace
from studio_celery.errors import WorkspaceError
from studio_celery.experiment import Attempt, Experiment
from studio_celery.runtimes.contract import Cancelled, Launch, Progress, Runtime
from studio_celery.store import Store


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Makes one attempt ready to start."""

    store: Store
    runtime: Runtime
    experiment: Experiment
    attempt: Attempt
    directory: Path
    cards: tuple[str, ...]

    def run(self, tell: Progress, cancelled: Cancelled) -> Launch:
        """Restore and install; raises what the store, `workspace.restore` and `Runtime.prepare` raise."""
        launch = self._launch()
        tell("restoring workspace")
        for directory in (launch.workspace, launch.artifacts, launch.io):
            directory.mkdir(parents=True, exist_ok=True)
        archive = self.directory / "workspace.tar.gz"
        try:
            self.store.get_blob(self.experiment.workspace, archive)
        except KeyError as exc:
            raise WorkspaceError(f"workspace missing from the store: {exc}") from exc
        workspace.restore(archive, launch.workspace, sha256=self.experiment.workspace)
        archive.unlink()
        self.runtime.prepare(launch, tell, cancelled)
        return launch

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
        )
