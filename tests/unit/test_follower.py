"""Following an experiment of which nobody else takes care, over a client."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from studio import quick_settings

from studio_celery.client import Client
from studio_celery.experiment import Experiment, Status, new_id, utc_now
from studio_celery.journal import Kind
from studio_celery.store import Store
from studio_celery.world import World


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def _client(store: Store, folder: Path, heartbeat_seconds: float) -> Client:
    settings = quick_settings(folder / "home", heartbeat_seconds=heartbeat_seconds)
    return Client(None, settings, World("memory://", store.url, "a test"), store)


def _waiting(store: Store, lifetime_seconds: float) -> str:
    experiment = Experiment(
        id=new_id(),
        queue="q",
        script="a.py",
        workspace="0" * 64,
        submitted_at=utc_now(),
        lifetime_seconds=lifetime_seconds,
    )
    store.submit(experiment, "alice").decide(Kind.QUEUED, "alice")
    return experiment.id


def test_a_lifetime_that_runs_out_meanwhile_ends_the_wait_without_any_worker(store: Store, tmp_path: Path) -> None:
    one = _waiting(store, lifetime_seconds=2)
    assert list(_client(store, tmp_path, 0.5).follow(one, lambda text: None).pieces()) == []
    journal = store.journal(one)
    assert journal.refresh().status is Status.EXPIRED


@pytest.mark.parametrize(("heartbeat_seconds", "looked"), [(600.0, False), (0.01, True)])
def test_it_is_looked_for_an_end_once_per_heartbeat(
    store: Store, tmp_path: Path, heartbeat_seconds: float, looked: bool
) -> None:
    """The store's clock, which costs a request that writes, is read no more often."""
    one = _waiting(store, lifetime_seconds=3600)
    follower = _client(store, tmp_path, heartbeat_seconds).follow(one, lambda text: None)
    follower._read()
    checked = Path(store.url) / "check"
    os.utime(checked, (1.0, 1.0))
    time.sleep(0.02)
    follower._read()
    assert (checked.stat().st_mtime > 1.0) is looked
