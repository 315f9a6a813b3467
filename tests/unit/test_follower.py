"""Following an experiment of which nobody else takes care, over a client."""

from __future__ import annotations

import dataclasses
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


@pytest.fixture
def client(store: Store, tmp_path: Path) -> Client:
    settings = dataclasses.replace(quick_settings(tmp_path / "home"), heartbeat_seconds=0.5)
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


def test_a_lifetime_that_runs_out_meanwhile_ends_the_wait_without_any_worker(store: Store, client: Client) -> None:
    one = _waiting(store, lifetime_seconds=2)
    assert list(client.follow(one, lambda text: None).pieces()) == []
    journal = store.journal(one)
    assert journal.refresh().status is Status.EXPIRED


def test_it_is_looked_for_an_end_once_per_heartbeat(store: Store, client: Client) -> None:
    """The store's clock, which costs a request that writes, is read no more often."""
    one = _waiting(store, lifetime_seconds=3600)
    follower = client.follow(one, lambda text: None)
    follower._read()
    checked = Path(store.url) / "check"
    os.utime(checked, (1.0, 1.0))
    follower._read()
    assert checked.stat().st_mtime == 1.0
    time.sleep(client._settings.heartbeat_seconds)
    follower._read()
    assert checked.stat().st_mtime > 1.0
