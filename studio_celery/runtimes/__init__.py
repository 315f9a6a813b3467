"""How an attempt is run: `docker` or `process`, behind one contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

from studio_celery.runtimes.contract import Cancellation, Exit, Handle, Launch, Runtime

if TYPE_CHECKING:
    from studio_celery.settings import Settings

__all__ = ["Cancellation", "Exit", "Handle", "Launch", "Runtime", "make_runtime"]


def make_runtime(settings: Settings) -> Runtime:
    """Make the runtime that this worker's settings ask for; nothing is started or connected yet."""
    if settings.runtime == "process":
        from studio_celery.runtimes.process import ProcessRuntime

        return ProcessRuntime.from_settings(settings)
    from studio_celery.runtimes.docker import DockerRuntime

    return DockerRuntime.from_settings(settings)
