"""Installs requirements in a container of its own: the experiment's image, and the worker's index settings."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from studio_celery.errors import IndexUnavailable
from studio_celery.runtimes import installer
from studio_celery.runtimes.contract import Cancellation, Cancelled
from studio_celery.runtimes.docker.container import ENVIRONMENT, Base, install_arguments, install_name, mount
from studio_celery.runtimes.docker.engine import Engine
from studio_celery.runtimes.docker.options import DockerOptions
from studio_celery.runtimes.environments import Environments

#: How often it is asked whether the requirements are still wanted, in seconds.
LOOK_SECONDS = 0.5

#: Places inside.
CACHE = "/opt/studio/cache"
CERTIFICATES = "/opt/studio/certificates.pem"
WHEELS = "/opt/studio/wheels"


class ContainerInstall:
    """Fills an empty directory of the host with an environment that fits one image and user."""

    def __init__(self, engine: Engine, options: DockerOptions, environments: Environments, base: Base) -> None:
        self._engine, self._options, self._environments, self._base = engine, options, environments, base

    def __call__(self, target: Path, requirements: Path, cancelled: Cancelled) -> installer.Outcome:
        """Install, and return how it went; the container is gone afterwards. `Cancellation` leaves nothing."""
        with ExitStack() as held:
            cache = held.enter_context(self._environments.packages(f"containers-{self._base.uid}", cancelled))
            binary = installer.container_uv(self._environments.cache, self._options.variables, cancelled, held)
            return self._install(target, requirements, cancelled, cache, binary)

    def _install(
        self, target: Path, requirements: Path, cancelled: Cancelled, cache: Path, binary: Path
    ) -> installer.Outcome:
        _give(self._base, target, cache)
        mounts = [
            mount(target, ENVIRONMENT, read_only=False),
            mount(requirements, "/opt/studio/requirements.txt", read_only=True),
            mount(binary, "/opt/studio/uv", read_only=True),
            mount(cache, CACHE, read_only=False),
        ]
        key = target.parent.name.partition(".")[0]
        self._engine.remove(install_name(self._options, key))  # of a worker that was killed: we hold the lock
        variables = self._settings(mounts)
        container = self._engine.create(**install_arguments(self._options, self._base, key, mounts, variables))
        try:
            self._engine.start(container)
            self._wait(container, cancelled)
            state = (self._engine.inspect(container) or {}).get("State", {})
            return installer.Outcome(state.get("ExitCode", 1), self._engine.output(container))
        finally:
            self._engine.remove(container)

    def _settings(self, mounts: list[dict[str, Any]]) -> dict[str, str]:
        """The worker's settings for `uv`; files that they name are mounted."""
        variables = {
            "UV_LINK_MODE": "copy",
            **installer.index_variables(self._options.variables),
            "UV_CACHE_DIR": CACHE,
        }
        trusted = installer.certificates(self._options.variables)
        if trusted is not None:
            mounts.append(mount(trusted, CERTIFICATES, read_only=True))
            variables.update(SSL_CERT_FILE=CERTIFICATES, REQUESTS_CA_BUNDLE=CERTIFICATES)
        places = []
        for number, wheels in enumerate(installer.wheel_directories(self._options.variables)):
            places.append(f"{WHEELS}/{number}")
            mounts.append(mount(wheels, places[-1], read_only=True))
        return {**variables, "UV_FIND_LINKS": ",".join(places)} if places else variables

    def _wait(self, container: str, cancelled: Cancelled) -> None:
        limit = self._options.install_limit_seconds
        deadline = time.monotonic() + limit
        while not self._engine.wait(container, LOOK_SECONDS):
            if cancelled():
                raise Cancellation
            if time.monotonic() > deadline:
                raise IndexUnavailable(f"Installing the requirements took longer than {limit:.0f} s.")


def _give(base: Base, *directories: Path) -> None:
    """Make directories writable for the user inside, where we are not that user."""
    if os.getuid() == 0:
        for path in directories:
            os.chown(path, base.uid, base.gid)
