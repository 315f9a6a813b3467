"""The end of an experiment is told to a store that is away again and again, but not by a worker that is to stop."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker import state as worker_state

from studio_celery.backend import joining
from studio_celery.errors import StoreError
from studio_celery.submission.request import EXPERIMENT_TASK


class Away:
    """A store that never answers; what happens while its caller pauses for the second time is `then`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, then: Any) -> None:
        self.pauses: list[float] = []
        self._then = then
        monkeypatch.setattr(joining, "time", SimpleNamespace(sleep=self._sleep))

    def __call__(self) -> None:
        raise StoreError("The store is away.")

    def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        assert len(self.pauses) < 10, "it goes on for ever"
        if len(self.pauses) == 2:
            self._then()


@pytest.mark.parametrize("exit_code", [0, 1, True])
def test_who_is_to_stop_leaves_it_to_the_next_delivery(monkeypatch: pytest.MonkeyPatch, exit_code: int) -> None:
    monkeypatch.setattr(worker_state, "should_stop", None)
    away = Away(monkeypatch, lambda: monkeypatch.setattr(worker_state, "should_stop", exit_code))
    with pytest.raises(StoreError):
        joining.insist(SimpleNamespace(task=EXPERIMENT_TASK, id="one"), away)
    assert away.pauses == [1.0, 2.0]


@pytest.mark.parametrize("nothing", [None, False])
def test_who_goes_on_insists(monkeypatch: pytest.MonkeyPatch, nothing: bool | None) -> None:
    monkeypatch.setattr(worker_state, "should_stop", nothing)

    def answer() -> None:
        monkeypatch.setattr(Away, "__call__", lambda self: "told")

    away = Away(monkeypatch, answer)
    assert joining.insist(SimpleNamespace(task=EXPERIMENT_TASK, id="one"), away) == "told"


def test_an_ordinary_task_is_not_insisted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    away = Away(monkeypatch, lambda: None)
    with pytest.raises(StoreError):
        joining.insist(SimpleNamespace(task="ordinary", id="one"), away)
    assert not away.pauses
