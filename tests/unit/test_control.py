"""Revoking experiments: recorded by who revokes, whether or not a broker answers."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from kombu.exceptions import OperationalError
from studio import quick_settings, submit, wait_for

from studio_celery.client import Client
from studio_celery.control import REVOKE
from studio_celery.experiment import Status
from studio_celery.store import Store
from studio_celery.world import World


class Application(Celery):
    """An application with a store, and with a broker that does not answer."""

    control_cls = "studio_celery.control:StudioControl"

    def __init__(self, folder: Path) -> None:
        super().__init__(broker="amqp://127.0.0.1:9//", set_as_current=False)
        self.conf.broker_transport_options = {"max_retries": 0, "interval_start": 0}
        self.store = Store(str(folder / "store"))
        settings = quick_settings(folder / "home", owner="alice")
        client = Client(self, settings, World("amqp://", self.store.url, "a test"), self.store)
        self.services = SimpleNamespace(client=client)

    def status(self, experiment_id: str) -> tuple[Status, str]:
        state = self.store.journal(experiment_id).refresh()
        return state.status, state.reason


@pytest.fixture
def app(tmp_path: Path) -> Application:
    return Application(tmp_path)


@pytest.mark.parametrize("terminate", [False, True])
def test_what_is_revoked_is_stopped_without_a_broker(app: Application, tmp_path: Path, terminate: bool) -> None:
    first, second = (submit(app.store, tmp_path, "print(1)") for _ in range(2))
    assert app.control.revoke([first, second], terminate=terminate) is None
    assert {app.status(one) for one in (first, second)} == {(Status.STOPPED, f"stopped by {REVOKE}")}


def test_an_ordinary_task_cannot_be_revoked_without_a_broker(app: Application, tmp_path: Path) -> None:
    one = submit(app.store, tmp_path, "print(1)")
    with pytest.raises(OperationalError):
        app.control.revoke([one, "ordinary"])
    assert app.status(one)[0] is Status.STOPPED


def test_names_and_prefixes_of_experiments_are_no_tasks(app: Application, tmp_path: Path) -> None:
    one = submit(app.store, tmp_path, "print(1)", name="mine")
    for reference in (one[:20], "mine", "../x", ""):
        with pytest.raises(OperationalError):
            app.control.revoke(reference)
    assert app.status(one)[0] is Status.WAITING


class AwayClient:
    """A client whose store does not answer until `back` is set."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.back = threading.Event()
        self.asked: list[str] = []

    def stop_task(self, task_id: str, **facts: Any) -> bool:
        assert self.back.wait(60)
        self.asked.append(task_id)
        if task_id == "defect":
            raise ZeroDivisionError
        return self._client.stop_task(task_id, **facts)


def revoking() -> int:
    return [thread.name for thread in threading.enumerate()].count("revoke")


def test_all_that_a_worker_is_told_to_revoke_waits_in_one_thread(app: Application, tmp_path: Path) -> None:
    wait_for("the end of threads of other tests", lambda: not revoking())
    one = submit(app.store, tmp_path, "print(1)")
    client = app.services.client = AwayClient(app.services.client)
    ids = [str(number) for number in range(500)]
    for each in ("defect", *ids, one, *ids):
        app.control.stop_soon([each])
    assert revoking() == 1
    client.back.set()
    wait_for("the stop", lambda: app.status(one)[0] is Status.STOPPED)
    wait_for("the end of its thread", lambda: not revoking())
    assert client.asked == ["defect", *ids, one]


def test_a_worker_that_has_stopped_all_stops_what_comes_later(app: Application, tmp_path: Path) -> None:
    for _ in range(3):
        one = submit(app.store, tmp_path, "print(1)")
        app.control.stop_soon([one])
        wait_for("the stop", lambda one=one: app.status(one)[0] is Status.STOPPED)
