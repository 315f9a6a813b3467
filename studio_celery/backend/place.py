"""What of a backend belongs to one process."""

from __future__ import annotations

import os

from studio_celery.backend.experiments import Experiments
from studio_celery.settings import Settings
from studio_celery.store import Store


class Place:
    """The store and what was read from it: neither must cross a fork."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.pid = os.getpid()
        self.store = store
        self.experiments = Experiments(store, settings)
