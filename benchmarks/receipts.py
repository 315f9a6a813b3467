"""Loaded into a worker that is measured: notes when a message was received, on SIGUSR2 how often the store was used."""

from __future__ import annotations

import functools
import itertools
import signal
from collections.abc import Callable
from typing import Any

import notes
from celery.signals import task_received, worker_ready

from studio_celery.store import Objects

_STORE = ("create", "put", "get_dated", "get_range", "stream", "head", "listing", "folders", "delete")
#: Counts by being drawn from: one step is safe in any thread.
_calls = itertools.count()


def _counted(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        next(_calls)
        return method(*args, **kwargs)

    return call


for _name in _STORE:
    setattr(Objects, _name, _counted(getattr(Objects, _name)))


@task_received.connect(weak=False)
def received(request: Any = None, **_: Any) -> None:
    notes.write(f"received-{request.id}")


@worker_ready.connect(weak=False)
def ready(**_: Any) -> None:
    signal.signal(signal.SIGUSR2, lambda *_: notes.write(f"store-{next(_calls)}"))
