"""What one process needs: settings, store, client, and on a worker its supervisor; each made when first asked for."""

from __future__ import annotations

import os
import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any

from studio_celery import settings as settings_module
from studio_celery.settings import Settings
from studio_celery.world import World, resolve

if TYPE_CHECKING:
    from studio_celery.client import Client
    from studio_celery.janitor import Janitor
    from studio_celery.store import Store
    from studio_celery.supervisor import Supervisor


class Services:
    """Made per process by the application; never used on both sides of a fork."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._supervisor: Supervisor | None = None

    @cached_property
    def settings(self) -> Settings:
        """The settings of this process."""
        return settings_module.load()

    @cached_property
    def world(self) -> World:
        """Broker and store."""
        return resolve(self.settings)

    @cached_property
    def store(self) -> Store:
        """The store that experiments are recorded in."""
        from studio_celery.store import Store

        return Store(self.world.store_url)

    @cached_property
    def client(self) -> Client:
        """What commands and pages use."""
        from studio_celery.client import Client

        return Client(self.app, self.settings, self.world, self.store)

    @property
    def has_supervisor(self) -> bool:
        """Whether this process looks after experiments."""
        return self._supervisor is not None

    @property
    def supervisor(self) -> Supervisor:
        """The supervisor of this worker process."""
        from studio_celery.runtimes import make_runtime
        from studio_celery.supervisor import Supervisor

        with self._lock:
            if self._supervisor is None:
                self._supervisor = Supervisor(self.store, make_runtime(self.settings), self.settings)
            return self._supervisor

    @cached_property
    def janitor(self) -> Janitor:
        """The janitor of this worker process, beside its supervisor; not started yet."""
        from studio_celery.janitor import Janitor
        from studio_celery.submission.broker import Broker

        return Janitor(self.supervisor, Broker(self.app, self.world.broker_url, self.settings.connect_seconds))
