"""Applications whose results are in a store, and a worker for them in this process, for tests of the result backend."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from celery import Celery
from celery.app.task import Context
from celery.contrib.testing.worker import start_worker

BACKEND = "studio_celery.backend:StoreBackend"

#: Seconds for what must happen.
LIMIT = 90.0


def application(store_url: str, **settings: Any) -> Celery:
    """An application of somebody who uses nothing else of studio_celery; its broker is in memory."""
    url = store_url if "://" in store_url else f"file://{store_url}"
    app = Celery("plain", broker="memory://", backend=f"{BACKEND}+{url}", set_as_current=False)
    app.conf.update(
        {
            "broker_transport_options": {"polling_interval": 0.01},
            "task_default_queue": uuid.uuid4().hex,
            "worker_hijack_root_logger": False,
            **settings,
        }
    )
    return app


@contextmanager
def worker(app: Celery) -> Iterator[None]:
    """A worker with four threads; the level of logging, which it sets for the whole process, is put back."""
    root = logging.getLogger()
    level = root.level
    try:
        how = {"pool": "threads", "concurrency": 4, "perform_ping_check": False, "loglevel": "ERROR"}
        with start_worker(app, shutdown_timeout=LIMIT, **how):
            yield
    finally:
        root.setLevel(level)


def request(task_id: str, *, children: Sequence[Any] = (), **fields: Any) -> Context:
    """What a worker knows about the task that it runs."""
    context = Context({"id": task_id, "task": "plain", "delivery_info": {}, **fields})
    context.children.extend(children)
    return context
