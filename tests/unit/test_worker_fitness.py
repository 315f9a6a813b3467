"""Whether a worker can run anything now, and what it says to whoever takes messages."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
from studio import quick_settings, wait_for

from studio_celery.errors import EngineUnavailable
from studio_celery.experiment import Experiment, Resources
from studio_celery.gpus import Cards
from studio_celery.runtimes import make_runtime
from studio_celery.supervisor.fitness import Fitness

EXPERIMENT = Experiment(id="e", queue="q", script="a.py", workspace="0" * 64)


def fitness(home: Path, **changes: Any) -> Fitness:
    home.mkdir(exist_ok=True)
    settings = quick_settings(home, **{"defer_seconds": 0.05, **changes})
    return Fitness(make_runtime(settings), Cards(settings.gpus, home), settings)


def test_a_usual_host_is_fit(tmp_path: Path) -> None:
    assert fitness(tmp_path / "home").check() is None


def test_a_full_disk_is_said_with_what_to_do(tmp_path: Path) -> None:
    why = fitness(tmp_path / "home", disk_reserve_bytes=2**60).check()
    assert why is not None
    assert "less than STUDIO_DISK_RESERVE_BYTES" in why
    assert why.endswith("make room.")


def test_a_home_that_is_gone_is_said(tmp_path: Path) -> None:
    one = fitness(tmp_path / "home")
    shutil.rmtree(tmp_path / "home")
    assert "No such file or directory" in (one.check() or "")


def test_a_host_that_goes_down_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studio_celery.runtimes.host.closes", lambda: True)
    assert (fitness(tmp_path / "home").check() or "").startswith("this host is going down")


def test_what_never_fits_is_told_apart(tmp_path: Path) -> None:
    asked = dataclasses.replace(EXPERIMENT, resources=Resources(gpus=8))
    assert "cards" in (fitness(tmp_path / "home").refuses(asked) or "")
    assert fitness(tmp_path / "home").refuses(EXPERIMENT) is None


def test_it_takes_nothing_until_it_is_fit_again(tmp_path: Path) -> None:
    one, told = fitness(tmp_path / "home"), []
    away = [True]

    def check() -> None:
        if away:
            raise EngineUnavailable("The engine is away.")

    one._runtime.check = check  # type: ignore[method-assign]
    one.on_change = told.append
    assert one.look() == ("The engine is away.", True)
    assert one.look() == ("The engine is away.", False)
    assert told == ["The engine is away."]
    away.clear()
    wait_for("its recovery", lambda: None in told)
    assert one.why is None
    assert told == ["The engine is away.", None]
    assert one.look() == (None, False)
    one.close()


def test_who_cannot_stop_taking_defers_each_message(tmp_path: Path) -> None:
    one = fitness(tmp_path / "home", disk_reserve_bytes=2**60)
    assert [one.look()[1] for _ in range(2)] == [False, False]
