"""The Celery application that every contender runs: same tasks, same settings, another broker."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import notes
from celery import Celery
from celery.signals import worker_ready

import transports  # noqa: F401  registers the scheme

app = Celery("application", broker=os.environ["BENCH_BROKER"])
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    broker_transport_options=json.loads(os.environ["BENCH_OPTIONS"]),
)


@app.task(name="noop")
def noop(number: int) -> None:
    """Do nothing but say so."""
    notes.write(str(number))


@app.task(name="hold")
def hold(name: str, seconds: float) -> None:
    """Keep a slot of the worker for so long."""
    notes.write(f"begin-{name}")
    time.sleep(seconds)
    notes.write(f"end-{name}")


@worker_ready.connect
def ready(**_: Any) -> None:
    notes.write(os.environ["BENCH_READY"])
