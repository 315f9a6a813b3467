"""Celery's own workers, as real processes, for tests: they run `celery_application`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from celery import Celery
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from studio import wait_for

import transports  # noqa: F401  registers the scheme

#: Seconds for what must happen; workers take seconds to start on a busy machine.
LIMIT = 90.0
#: Seconds a worker that has nothing to do may take to stop: 2, ten times over for a busy machine.
STOP_SECONDS = 20.0

#: The servers, as names of fixtures; the second is slower and repeats what matters most.
PLACES = ["local_broker_address", pytest.param("emulator_address", marks=pytest.mark.emulator)]

_TESTS = Path(__file__).parent
_CELERY = [sys.executable, "-m", "celery", "-A", "celery_application"]


@dataclass
class Worker:
    """A worker process, its name as Celery knows it, and what it says."""

    process: subprocess.Popen[bytes]
    name: str
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def is_ready(self) -> bool:
        said = self.said
        assert self.process.poll() is None, said
        return re.search(r"\w ready\.$", said, re.MULTILINE) is not None

    def wait_until_said(self, pattern: str) -> re.Match[str]:
        """Wait for a line that matches; fail at once if it has ended without one."""

        def line() -> re.Match[str] | None:
            ended = self.process.poll() is not None
            found = re.search(pattern, self.said)
            assert found or not ended, self.said
            return found

        return wait_for(f"a line like {pattern!r}", line, LIMIT)

    def kill(self) -> None:
        """End it and its children as a power failure would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(LIMIT)

    def stop(self, seconds: float = LIMIT) -> float:
        """Ask it to end, and return how long it took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(seconds) == 0, self.said
        return time.monotonic() - began


class WorkerBench:
    """Workers on a project of their own on one server, their notes and results."""

    def __init__(self, folder: Path, address: str, *, results: str = "", **settings: Any) -> None:
        """Take the server's ``host:port`` and Celery settings for workers and client."""
        self.folder = folder
        self.address = address
        self.project = f"test-{uuid.uuid4().hex[:12]}"
        self.notes_file = folder / "notes"
        self.notes_file.touch()
        (folder / "results").mkdir()
        self.environ = {
            **os.environ,
            "RESULTS": results or f"celery_results:WholeFiles+file://{folder}/results",
            "NOTES": str(self.notes_file),
            "SETTINGS": json.dumps(settings),
            "PYTHONPATH": os.pathsep.join([str(_TESTS), str(_TESTS.parent)]),
            "BROKER": self.broker_at(address),
            # Else a worker that accepts pickle does not start for root.
            "C_FORCE_ROOT": "true",
        }
        self.app = self.client()

    def broker_at(self, address: str) -> str:
        """Return the URL of this bench's project at another address, such as a proxy's."""
        return f"pubsub://{address}/{self.project}"

    def client(self, broker: str = "", **settings: Any) -> Celery:
        """Return an application like the workers', with no tasks of its own."""
        app = Celery(broker=broker or self.environ["BROKER"], backend=self.environ["RESULTS"], set_as_current=False)
        # Nothing is left behind, however long a busy machine takes for that.
        options = {"shutdown_timeout_seconds": 30.0}
        app.conf.update(accept_content=["json", "pickle"], broker_transport_options=options)
        app.conf.update({**json.loads(self.environ["SETTINGS"]), **settings})
        return app

    @property
    def notes(self) -> list[str]:
        return self.notes_file.read_text().splitlines()

    def noted(self, line: str) -> None:
        wait_for(f"the note {line!r}", lambda: line in self.notes, LIMIT)

    def release(self, name: str) -> None:
        """Let a task `hold` of this name end."""
        self.notes_file.with_name(f"release-{name}").touch()

    def send(self, name: str, *args: Any, **options: Any) -> Any:
        return self.app.send_task(name, args, **options)

    def run(self, name: str, *args: Any) -> Any:
        return self.send(name, *args).get(timeout=LIMIT)

    def resources(self) -> list[str]:
        """Return the topics and subscriptions that there are, as Google's client lists them."""
        with grpc.insecure_channel(self.address) as channel:
            publisher = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
            subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
            project = f"projects/{self.project}"
            pages = [publisher.list_topics(project=project), subscriber.list_subscriptions(project=project)]
            return sorted(each.name.removeprefix(f"{project}/") for page in pages for each in page)

    def command(self, *argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a ``celery`` command to its end."""
        return self._run([*_CELERY, *argv], variables)

    def python(self, source: str, *argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program to its end; it may import `celery_application`."""
        return self._run([sys.executable, "-c", source, *argv], variables)

    def _run(self, argv: list[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
        environ = {**self.environ, **variables}
        return subprocess.run(
            argv, cwd=self.folder, env=environ, capture_output=True, text=True, timeout=LIMIT, check=False
        )

    @contextmanager
    def worker(
        self, pool: str, *options: str, concurrency: int = 1, name: str = "", **variables: str
    ) -> Iterator[Worker]:
        """A worker that is ready; killed with its children if it still runs at the end."""
        with self.starting(pool, *options, concurrency=concurrency, name=name, **variables) as worker:
            wait_for("a worker that is ready", lambda: worker.is_ready, LIMIT)
            yield worker

    @contextmanager
    def starting(
        self, pool: str, *options: str, concurrency: int = 1, name: str = "", **variables: str
    ) -> Iterator[Worker]:
        """The same, without waiting for it to be ready."""
        name = name or f"w{uuid.uuid4().hex[:8]}@test"
        log = self.folder / f"{uuid.uuid4().hex}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*_CELERY, "worker", "-P", pool, "-c", str(concurrency), "-n", name, "-l", "INFO", *options],
                cwd=self.folder,
                env={**self.environ, **variables},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        worker = Worker(process, name, log)
        try:
            yield worker
        finally:
            if process.poll() is None:
                worker.kill()
            print(worker.said)
