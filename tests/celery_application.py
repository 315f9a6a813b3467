"""The Celery application that test workers run; `celery_worker_bench` sets its environment.

BROKER, RESULTS: URLs. NOTES: a file to which tasks write what they do. SETTINGS: more settings, as JSON. QUEUES: one of
those named below. HELLO_SECONDS: how long a worker that starts waits for the answers of others, instead of one second.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.exceptions import Ignore, Reject
from kombu import Queue
from kombu.common import Broadcast

import transports  # noqa: F401  registers the scheme
from transports.defer import defer

NOTES = Path(os.environ["NOTES"])

app = Celery("application", broker=os.environ["BROKER"], backend=os.environ["RESULTS"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    # Else a child that takes more than four seconds to start is killed, as is the one after it.
    worker_proc_alive_timeout=90,
    # Short leases that outlive a worker to which a busy machine gives no time for seconds; and no haste where a busy
    # machine is slow: to say which priority comes first, and to leave nothing behind at the end.
    broker_transport_options={
        "lease_floor_seconds": 5.0,
        "renew_fraction": 0.1,
        "ack_deadline_seconds": 10,
        "priority_settle_seconds": 1.5,
        "shutdown_timeout_seconds": 30.0,
    },
    accept_content=["json", "pickle"],
)
app.conf.update(json.loads(os.environ.get("SETTINGS", "{}")))


#: Queues that a worker declares in another way than by their names, by what QUEUES says.
QUEUES = {
    "ranked": [Queue("ranked", queue_arguments={"x-max-priority": 9})],
    "broadcast": [Queue("celery"), Broadcast("everybody")],
}
app.conf.task_queues = QUEUES.get(os.environ.get("QUEUES", ""))

if hello := os.environ.get("HELLO_SECONDS"):
    ask = app.control.inspect
    app.control.inspect = lambda timeout, **how: ask(timeout=float(hello), **how)


class Patient(Task):
    """A task that can be put off."""

    Request = "transports.defer:DeferrableRequest"


def note(line: str) -> None:
    with NOTES.open("a") as notes:
        notes.write(f"{line}\n")


def times_noted(line: str) -> int:
    return NOTES.read_text().splitlines().count(line)


@app.task(name="add")
def add(x: int, y: int) -> int:
    return x + y


@app.task(name="total")
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task(name="echo")
def echo(given: Any) -> Any:
    return given


@app.task(name="fail")
def fail(text: str) -> None:
    raise ValueError(text)


@app.task(name="again", bind=True)
def again(self: Any) -> int:
    if self.request.retries < 2:
        raise self.retry(countdown=1)
    return int(self.request.retries)


@app.task(name="parent")
def parent() -> str:
    return str(add.delay(2, 3).id)


@app.task(name="multiply", ignore_result=True)
def multiply(number: int) -> None:
    note(f"first {number}")
    second.delay(number)


@app.task(name="second", ignore_result=True)
def second(number: int) -> None:
    note(f"second {number}")


@app.task(name="work")
def work(name: str, seconds: float) -> None:
    note(f"begin {name}")
    time.sleep(seconds)
    note(f"end {name}")


@app.task(name="hold")
def hold(name: str) -> None:
    """Run until the test lets go."""
    note(f"begin {name}")
    while not NOTES.with_name(f"release-{name}").exists():
        time.sleep(0.05)
    note(f"end {name}")


@app.task(name="clock")
def clock() -> float:
    return time.time()


@app.task(name="wait_twice", bind=True, base=Patient)
def wait_twice(self: Any, name: str) -> int:
    note(f"try {name}")
    if times_noted(f"try {name}") < 3:
        defer(self, 1)
    return int(self.request.retries)


@app.task(name="reject")
def reject(name: str, requeue: bool, times: int = 1) -> str:
    note(f"try {name}")
    if times_noted(f"try {name}") <= times:
        raise Reject("the test wants it so", requeue=requeue)
    return name


@app.task(name="ignore")
def ignore(name: str) -> None:
    note(f"try {name}")
    raise Ignore


@app.task(name="die_once")
def die_once(name: str) -> str:
    note(f"try {name}")
    if times_noted(f"try {name}") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return name


@app.task(name="process")
def process() -> int:
    return os.getpid()


@app.task(name="colleagues")
def colleagues(count: int) -> list[str]:
    answers = app.control.ping(timeout=30, limit=count)
    return sorted(name for answer in answers for name in answer)
