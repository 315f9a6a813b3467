"""Workers of one host, each with a store that can be cut off: for tests of the supervisor where it is narrow."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from studio import quick_settings, submit, wait_for

from studio_celery.client import Client
from studio_celery.errors import StoreError
from studio_celery.experiment import Status
from studio_celery.runtimes import make_runtime
from studio_celery.store import Store
from studio_celery.supervisor import Detached, Supervisor
from studio_celery.world import World


class Cuttable(Store):
    """A store that refuses what a test says: ("create" | "put" | "get", key, data)."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.refuses: Callable[[str, str, bytes], bool] = lambda what, key, data: False
        for what in ("create", "put", "get_dated"):
            setattr(self.objects, what, self._guarded(what, getattr(self.objects, what)))

    def _guarded(self, what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(key: str, data: Any = b"") -> Any:
            if self.refuses(what, key, data if isinstance(data, bytes) else b""):
                raise StoreError("The store does not answer.")
            return call(key, data) if data else call(key)

        return guarded

    def cut(self) -> None:
        """Answer nothing any more."""
        self.refuses = lambda what, key, data: True

    def heal(self) -> None:
        """Answer again."""
        self.refuses = lambda what, key, data: False


class Bench:
    """Workers of one host, each with a store that can be cut off, and a thread for each delivery."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(str(folder / "store"))
        self.workers: list[Supervisor] = []
        self.threads: list[threading.Thread] = []
        self.results: list[object] = []

    def worker(self, **changes: Any) -> Supervisor:
        settings = quick_settings(self.folder / "home", **changes)
        self.workers.append(Supervisor(Cuttable(self.store.url), make_runtime(settings), settings))
        return self.workers[-1]

    def submit(self, source: str, **fields: Any) -> str:
        return submit(self.store, self.folder, source, **fields)

    def deliver(self, worker: Supervisor, experiment_id: str) -> threading.Thread:
        def handle() -> None:
            try:
                self.results.append(worker.handle(experiment_id))
            except Detached as exc:
                self.results.append(exc)

        self.threads.append(threading.Thread(target=handle))
        self.threads[-1].start()
        return self.threads[-1]

    def client(self, **changes: Any) -> Client:
        """What commands use, for a person called alice."""
        settings = quick_settings(self.folder / "elsewhere", owner="alice", **changes)
        return Client(None, settings, World("memory://", self.store.url, "a test"), Store(self.store.url))

    def state(self, experiment_id: str) -> Any:
        return self.store.journal(experiment_id).refresh()

    def kinds(self, experiment_id: str) -> list[str]:
        journal = self.store.journal(experiment_id)
        journal.refresh()
        return [entry.kind.value for entry in journal.entries]

    def running(self, experiment_id: str) -> None:
        wait_for("the start", lambda: self.state(experiment_id).status is Status.RUNNING)

    def close(self) -> None:
        for worker in self.workers:
            store_of(worker).heal()
            worker.detach()
        for thread in self.threads:
            thread.join(60)
        runtime = self.workers[0].runtime
        for handle in runtime.find():
            runtime.stop(handle, 0)
            runtime.remove(handle)
        for worker in self.workers:
            worker.close()


def store_of(worker: Supervisor) -> Cuttable:
    assert isinstance(worker.store, Cuttable)
    return worker.store


def gated(gate: Path) -> str:
    return (
        "import os, time\nprint('first', flush=True)\n"
        f"while not os.path.exists({str(gate)!r}): time.sleep(0.02)\nprint('last')\n"
    )
