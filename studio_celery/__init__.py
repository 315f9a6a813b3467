"""Hand a training script to a Celery queue; a worker elsewhere runs it in a fresh container.

    from studio_celery import run_experiment

    result = run_experiment.delay("train.py", ["--lr", "0.1"], queue="gpu", gpus=1)
    record = result.get()

Importing this package reads no environment, opens no connection, and loads Celery only when one of these is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studio_celery.celery import app
    from studio_celery.errors import ExperimentFailed, StudioError
    from studio_celery.tasks import run_experiment

__all__ = ["ExperimentFailed", "StudioError", "app", "run_experiment"]

_HOMES = {
    "ExperimentFailed": "studio_celery.errors",
    "StudioError": "studio_celery.errors",
    "app": "studio_celery.celery",
    "run_experiment": "studio_celery.tasks",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
