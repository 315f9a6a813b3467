"""One process of the soak: publishes numbers, or consumes them, and writes down what it did, line by line.

python soak_member.py publish|consume URL FILE
"""

from __future__ import annotations

import os
import sys
import time
from itertools import count
from pathlib import Path

from kombu import Connection, Queue
from kombu.exceptions import OperationalError

import transports  # noqa: F401  registers the scheme

QUEUE = Queue("soak")
#: What a message is worked on, in seconds, by its number: most are short, one in fifty outlives a lease of this test.
WORK_SECONDS = (*([0.0, 0.01, 0.0, 0.02, 0.05, 0.0, 0.01] * 7), 3.0)
#: Seconds between two messages of one publisher: consumers have to keep up with two of them.
PAUSE_SECONDS = 0.2
OPTIONS = {"lease_floor_seconds": 2.25, "ack_deadline_seconds": 10, "publish_timeout_seconds": 5.0}


def publish(url: str, notes: int) -> None:
    """Publish numbers; one that was confirmed is noted, one that was not is not."""
    for number in count():
        body = f"{os.getpid()}-{number}"
        try:
            with Connection(url, transport_options=OPTIONS) as connection:
                connection.Producer().publish(body, routing_key="soak", declare=[QUEUE])
        except (OperationalError, *Connection(url).connection_errors):
            continue
        os.write(notes, f"{body}\n".encode())
        time.sleep(PAUSE_SECONDS)


def consume(url: str, notes: int) -> None:
    """Note what comes, work on it, acknowledge it; connect again whenever that is needed."""

    def work(body: str, message: object) -> None:
        time.sleep(WORK_SECONDS[int(body.rpartition("-")[2]) % len(WORK_SECONDS)])
        os.write(notes, f"{body}\n".encode())
        message.ack()  # type: ignore[attr-defined]

    while True:
        connection = Connection(url, transport_options=OPTIONS)
        try:
            with connection.Consumer(QUEUE, callbacks=[work], prefetch_count=2):
                while True:
                    connection.drain_events(timeout=None)
        except (OSError, OperationalError, *connection.connection_errors):
            connection.release()
            time.sleep(0.5)


if __name__ == "__main__":
    role, url, path = sys.argv[1:]
    {"publish": publish, "consume": consume}[role](url, os.open(Path(path), os.O_APPEND | os.O_CREAT | os.O_WRONLY))
