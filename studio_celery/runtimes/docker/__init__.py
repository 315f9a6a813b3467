"""Attempts as containers: one fresh container each, which does not need its worker."""

from studio_celery.runtimes.docker.options import DockerOptions
from studio_celery.runtimes.docker.runtime import DockerRuntime

__all__ = ["DockerOptions", "DockerRuntime"]
