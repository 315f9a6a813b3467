"""The only Celery application. `celery -A studio_celery worker -Q q` finds it; nothing happens on import.

Its configuration is read when it is first needed: settings, broker and store as in `settings` and `world`, Celery's own
names from `celeryconfig.py` where that file applies, and on top what the protocol of an attempt cannot do without.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from celery.loaders.base import BaseLoader
from celery.utils.functional import maybe_list

import transports  # noqa: F401  (makes `pubsub://` known to kombu)
from studio_celery import settings as settings_module
from studio_celery.services import Services
from studio_celery.settings import Settings
from studio_celery.world import resolve
from transports.pubsub.dead.letter import DeadLetter

#: What a configuration file cannot change: one message is taken for each free place, and a lost connection
#: stops nothing.
ENFORCED: Mapping[str, Any] = {
    "worker_prefetch_multiplier": 1,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "task_serializer": "json",
    "result_serializer": "json",
    "task_create_missing_queues": True,
    # A message that is no task is set aside in the store, and not dropped.
    "worker_consumer": "studio_celery.worker.consumer:StudioConsumer",
    # The journal has an experiment's end before its chord and its chain are told of it.
    "worker_deduplicate_successful_tasks": False,
    "task_time_limit": None,
    "task_soft_time_limit": None,
}

#: Modules that are imported besides those that a configuration file names.
IMPORTS = ("studio_celery.tasks", "studio_celery.worker.steps", "studio_celery.worker.panel")

DEFAULTS: Mapping[str, Any] = {
    "result_backend": "studio_celery.backend:StoreBackend",
    "worker_pool": "threads",
    "accept_content": ["json"],
    "broker_connection_retry_on_startup": True,
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
}


class StudioLoader(BaseLoader):
    """Reads the configuration when Celery first asks for it, and not before."""

    def read_configuration(self, env: str = "") -> dict[str, Any]:
        """Celery's configuration: defaults, then the file, then what is enforced."""
        settings = settings_module.load()
        module = settings_module.config_module(os.environ)
        own = {name: value for name, value in module.items() if not name.startswith(("_", "studio_"))}
        plain = {name: value for name, value in own.items() if name.islower() and not callable(value)}
        for url in ("broker_read_url", "broker_write_url"):
            plain.pop(url, None)
        broker_url = resolve(settings).broker_url
        options = {**_transport_options(broker_url, settings), **plain.pop("broker_transport_options", {})}
        return {
            **DEFAULTS,
            "task_default_queue": settings.queue,
            **plain,
            **ENFORCED,
            "imports": (*IMPORTS, *(maybe_list(plain.get("imports")) or ())),
            "accept_content": sorted({"json", *plain.get("accept_content", ())}),
            "broker_url": broker_url,
            "broker_transport_options": options,
        }


def _transport_options(broker_url: str, settings: Settings) -> dict[str, Any]:
    """Return what the broker's transport has to know."""
    scheme = urlsplit(broker_url).scheme
    if scheme == "pubsub":
        return {
            "lease_floor_seconds": settings.lease_floor_seconds,
            "connect_timeout_seconds": settings.connect_seconds,
            "on_dead_letter": keep_rejected,
        }
    return {"confirm_publish": True} if scheme.endswith(("amqp", "amqps")) else {}


class StudioCelery(Celery):
    """Celery with what this process needs beside it: settings, store, client, supervisor."""

    #: `revoke` is `studio stop`.
    control_cls = "studio_celery.control:StudioControl"

    _services: Services | None = None

    @property
    def services(self) -> Services:
        """Made for each process when first needed: store and engine must not cross a fork."""
        if self._services is None or self._services.pid != os.getpid():
            self._services = Services(self)
        return self._services

    def connection_for_read(self, url: str | None = None, **kwargs: Any) -> Any:
        """A connection to the broker that `world` found, whatever Celery's own environment variables say."""
        return super().connection_for_read(url or self.services.world.broker_url, **kwargs)

    def connection_for_write(self, url: str | None = None, **kwargs: Any) -> Any:
        """The same for publishing."""
        return super().connection_for_write(url or self.services.world.broker_url, **kwargs)


app = StudioCelery("studio", loader=StudioLoader, set_as_current=True)


def keep_rejected(letter: DeadLetter) -> None:
    """Record under `rejected/` what the transport could not deliver; it acknowledges the message after that."""
    from studio_celery.worker.rejected import set_aside

    facts = {
        "reason": letter.reason,
        "published_at": datetime.fromtimestamp(letter.published_at, UTC).isoformat(),
        "message": letter.data.decode("utf-8", "backslashreplace"),
    }
    set_aside(app.services.store, letter.queue, letter.message_id, facts)
