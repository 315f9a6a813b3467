"""The commands. They parse, call `client`, and print; errors become one sentence and an exit code in `edge`."""

from studio_celery.cli.runner import runner
from studio_celery.cli.studio import studio
from studio_celery.cli.worker import worker

__all__ = ["runner", "studio", "worker"]
