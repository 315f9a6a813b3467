"""What the fold makes of entries, besides which may follow which: see `test_journal_table`."""

from __future__ import annotations

import dataclasses

import pytest
from journals import (
    ADOPTED,
    CLAIMED,
    EPOCH,
    JOURNALS,
    LOST,
    QUEUED,
    STARTED,
    entry,
    released,
    released_early,
    state,
    submitted,
)

from studio_celery.experiment import Experiment, NewerSchema, digest_of
from studio_celery.journal import RETRY, Entry, Kind, NotAllowed, fold, fold_all

K = Kind


@pytest.mark.parametrize("kind", [K.STARTED, K.RELEASED, K.LOST, K.FINISHED, K.FAILED, K.STOPPED])
def test_a_former_owner_is_refused(kind: Kind) -> None:
    adopted = fold_all(JOURNALS["preparing, adopted" if kind is K.STARTED else "running, adopted"])
    data = {"attempt": 1, "reason": "r", "class": "engine", "exit_code": 0}
    with pytest.raises(NotAllowed, match="epoch"):
        fold(adopted, entry(kind, epoch=EPOCH, **data))
    fold(adopted, entry(kind, epoch=adopted.owner_epoch, **data))


def test_an_adoption_makes_a_new_epoch_and_says_where_the_log_goes_on() -> None:
    adopted = fold(fold_all(JOURNALS["running"]), ADOPTED)
    assert adopted.live is not None
    assert adopted.live.worker == "w2"
    assert adopted.live.log_epochs == ((3, 0), (5, 7))
    assert adopted.owner_epoch == 5


def test_a_second_claim_must_carry_the_next_number() -> None:
    lost = fold_all(JOURNALS["lost"])
    with pytest.raises(NotAllowed):
        fold(lost, CLAIMED)
    assert len(fold(lost, entry(K.CLAIMED, attempt=2, host="h")).attempts) == 2


def test_releases_before_the_start_cost_no_attempt() -> None:
    assert released_early(5, 1).interrupted == 0
    assert len(released_early(5, 1).early_releases) == 5


def test_a_release_that_found_something_of_the_script_costs_one() -> None:
    """Its start was not seen to succeed, and did: with --max-attempts 1 it must not happen again."""
    after = state(CLAIMED, released(began=True))
    assert (after.interrupted, after.early_releases) == (1, ())


def test_a_retry_of_the_script_is_counted_apart_from_lost_workers() -> None:
    after = state(CLAIMED, STARTED, released(RETRY, exit_code=1))
    assert (after.script_failures, after.interrupted) == (1, 0)
    assert after.attempts[0].exit_code == 1


def test_an_entry_survives_json() -> None:
    for one in (QUEUED, CLAIMED, STARTED, LOST, ADOPTED, dataclasses.replace(released(), nonce="n")):
        assert Entry.from_dict(one.to_dict()) == one


def test_an_entry_of_a_newer_version_is_not_guessed_at() -> None:
    newer = {**QUEUED.to_dict(), "schema": 2, "kind": "something new"}
    with pytest.raises(NewerSchema, match="journal entry was written with schema 2, this version reads up to 1"):
        Entry.from_dict(newer)


def test_the_digest_is_that_of_the_record_as_it_was_written() -> None:
    """A newer version may have put more into it than this one knows; the message carries the same digest."""
    written = submitted()
    experiment = written.data["experiment"]
    assert fold_all([written]).digest == Experiment.from_dict(experiment).digest()
    more = dataclasses.replace(written, data={"experiment": {**experiment, "later": 1}})
    assert fold_all([more]).digest == digest_of({**experiment, "later": 1})
    assert fold_all([more]).digest != fold_all([written]).digest


def test_early_releases_are_counted_by_host_and_not_by_process() -> None:
    assert {host for host, _ in released_early(6, 2).early_releases} == {"h0", "h1"}
