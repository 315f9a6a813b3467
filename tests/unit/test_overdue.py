"""Ends that are due although nobody did anything, recorded by whoever looks; the janitor looks, too."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from studio import quick_settings

from studio_celery.experiment import Experiment, Status, new_id, utc_now
from studio_celery.janitor.ends import Ends
from studio_celery.journal import Kind
from studio_celery.overdue import due_at
from studio_celery.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def ends(store: Store, tmp_path: Path) -> Ends:
    return Ends(store, quick_settings(tmp_path / "home", submission_limit_seconds=3600.0), "w1")


def record(store: Store, age_seconds: float, *kinds: Kind, **fields: float) -> str:
    """An experiment that was submitted so long ago, by the store's clock; its id."""
    experiment = Experiment(
        id=new_id(),
        queue="q",
        script="a.py",
        workspace="0" * 64,
        submitted_at=utc_now(),
        **fields,  # type: ignore[arg-type]
    )
    journal = store.submit(experiment, "alice")
    for kind in kinds:
        assert journal.decide(kind, "w2", **({"attempt": 1, "host": "h"} if kind is Kind.CLAIMED else {}))
    submitted = Path(store.url) / "experiments" / experiment.id / "journal" / "000001.json"
    os.utime(submitted, (time.time() - age_seconds, time.time() - age_seconds))
    return experiment.id


def status(store: Store, experiment_id: str) -> tuple[Status, str]:
    state = store.journal(experiment_id).refresh()
    return state.status, state.reason


def test_a_submission_that_did_not_complete_fails_after_an_hour(store: Store, ends: Ends) -> None:
    old, young = record(store, 3700), record(store, 3500)
    ends.record()
    assert status(store, old) == (Status.FAILED, "submission did not complete")
    assert status(store, young)[0] is Status.SUBMITTING


def test_it_fails_too_if_it_was_young_when_it_was_first_seen(store: Store, ends: Ends) -> None:
    one = record(store, 0)
    ends.record()
    assert status(store, one)[0] is Status.SUBMITTING
    submitted = Path(store.url) / "experiments" / one / "journal" / "000001.json"
    os.utime(submitted, (time.time() - 3700, time.time() - 3700))
    ends._due[one] -= 3700
    ends.record()
    assert status(store, one)[0] is Status.FAILED


def test_a_lifetime_that_ran_out_expires_what_waits(store: Store, ends: Ends) -> None:
    waiting = record(store, 3700, Kind.QUEUED, lifetime_seconds=3600)
    early = record(store, 3500, Kind.QUEUED, lifetime_seconds=3600)
    claimed = record(store, 3700, Kind.QUEUED, Kind.CLAIMED, lifetime_seconds=3600)
    ends.record()
    assert status(store, waiting) == (Status.EXPIRED, "waited longer than --lifetime 1h")
    assert status(store, early)[0] is Status.WAITING
    assert status(store, claimed)[0] is Status.PREPARING


def test_what_waits_without_a_lifetime_is_read_once(store: Store, ends: Ends) -> None:
    one = record(store, 10**6, Kind.QUEUED)
    ends.record()
    assert status(store, one)[0] is Status.WAITING
    assert ends._due == {}


def test_two_janitors_at_once_record_one_end(store: Store, ends: Ends, tmp_path: Path) -> None:
    one = record(store, 3700)
    other = Ends(Store(store.url), quick_settings(tmp_path / "home", submission_limit_seconds=3600.0), "w2")
    ends.record()
    other.record()
    journal = store.journal(one)
    journal.refresh()
    assert [entry.kind for entry in journal.entries] == [Kind.SUBMITTED, Kind.FAILED]


def test_an_unreadable_journal_costs_none_of_the_others(store: Store, ends: Ends) -> None:
    broken, old = record(store, 3700), record(store, 3700)
    (Path(store.url) / "experiments" / broken / "journal" / "000002.json").write_text("{tor")
    ends.record()
    assert status(store, old)[0] is Status.FAILED
    assert broken in ends._due


def test_nothing_is_due_where_waiting_changes_nothing(store: Store, tmp_path: Path) -> None:
    settings = quick_settings(tmp_path / "home")
    for kinds in ((Kind.QUEUED,), (Kind.QUEUED, Kind.CLAIMED), (Kind.FAILED,)):
        journal = store.journal(record(store, 10**6, *kinds))
        assert due_at(journal.refresh(), settings) is None
