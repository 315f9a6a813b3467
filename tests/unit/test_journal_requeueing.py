"""Whether an experiment's message goes to the queue again, and when: for every state."""

from __future__ import annotations

import pytest
from journals import CLAIMED, EPOCH, JOURNALS, QUEUED, STARTED, entry, state, submitted

from studio_celery.experiment import Status
from studio_celery.journal import Entry, Kind, State, fold, fold_all, refuses_requeue, requeue_due_at

K, S = Kind, Status

#: What the refusal says; None where a message goes out again. Whatever has not ended may have lost its message.
REFUSALS: dict[str, str | None] = {
    "nothing": "submitting",
    "submitting": "submitting",
    "submitting, stop requested": "submitting",
    "waiting": None,
    "waiting, stop requested": None,
    "preparing": None,
    "preparing, stop requested": None,
    "preparing, adopted": None,
    "running": None,
    "running, stop requested": None,
    "running, adopted": None,
    "lost": None,
    "lost, stop requested": None,
    "released before the start": None,
    "released after the start": None,
    "to be tried again": None,
    "finished": "finished",
    "failed": "failed",
    "failed without an attempt": "failed",
    "stopped": "stopped",
    "expired": "expired",
    "removed": "failed",
}


@pytest.mark.parametrize("journal", list(JOURNALS))
def test_who_is_queued_again(journal: str) -> None:
    now = fold_all(JOURNALS[journal])
    refusal = refuses_requeue(now)
    if REFUSALS[journal] is None:
        assert refusal is None
        assert requeue_due_at(now, 100.0) == now.queued_stored_at + 50.0
    else:
        assert refusal is not None
        assert str(REFUSALS[journal]) in refusal
        assert requeue_due_at(now, 100.0) is None


def again(stored_at: float) -> Entry:
    return entry(K.QUEUED, by="w9", stored_at=stored_at, again=True, reason="requeued")


@pytest.mark.parametrize("journal", [name for name, refusal in REFUSALS.items() if refusal is None])
def test_one_more_message_changes_nothing_but_when_the_next_is_due(journal: str) -> None:
    before = fold_all(JOURNALS[journal])
    after = fold(before, again(1000.0))
    assert (after.queued_seq, after.queued_stored_at) == (before.seq + 1, 1000.0)
    assert requeue_due_at(after, 100.0) == 1050.0
    same = ("status", "reason", "attempts", "live", "owner_epoch", "stop_requested_by", "interrupted", "early_releases")
    assert [getattr(after, name) for name in same] == [getattr(before, name) for name in same]


def test_the_owner_goes_on_after_it() -> None:
    now = state(CLAIMED, STARTED, again(5.0))
    assert fold(now, entry(K.FINISHED, epoch=EPOCH, exit_code=0)).status is S.FINISHED


def test_time_counts_from_the_latest_message_and_not_from_a_claim() -> None:
    first = fold_all([submitted(), entry(K.QUEUED, stored_at=10.0)])
    claimed = fold(first, entry(K.CLAIMED, stored_at=90.0, attempt=1, host="h"))
    for one in (first, claimed):
        assert requeue_due_at(one, 100.0) == 60.0
    assert requeue_due_at(fold(claimed, again(70.0)), 100.0) == 120.0


def test_every_state_has_a_row() -> None:
    assert REFUSALS.keys() == JOURNALS.keys()
    assert State().queued_seq == 0
    assert fold_all([submitted(), QUEUED]).queued_seq == 2
