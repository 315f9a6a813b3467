"""The fold and the decisions, as tables."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from studio_celery.experiment import Experiment, Status
from studio_celery.journal import (
    RETRY,
    Adopt,
    Claim,
    DeclareLost,
    Defer,
    End,
    Entry,
    Kind,
    NotAllowed,
    Observation,
    Return,
    Rules,
    State,
    decide,
    fold,
    fold_all,
)

EXPERIMENT = Experiment(id="e", queue="q", script="a.py", workspace="0" * 64)
RULES = Rules()


def entry(kind: Kind, by: str = "w1", stored_at: float = 0.0, **data: Any) -> Entry:
    return Entry(kind=kind, by=by, at="2026-01-01T00:00:00.000Z", data=data, stored_at=stored_at)


def submitted(**changes: Any) -> Entry:
    return entry(Kind.SUBMITTED, experiment=dataclasses.replace(EXPERIMENT, **changes).to_dict())


QUEUED = entry(Kind.QUEUED)
CLAIMED = entry(Kind.CLAIMED, attempt=1, host="h")
STARTED = entry(Kind.STARTED, epoch=3)

#: A journal for each state, by the name of the state.
JOURNALS = {
    "nothing": [],
    "submitting": [submitted()],
    "waiting": [submitted(), QUEUED],
    "preparing": [submitted(), QUEUED, CLAIMED],
    "running": [submitted(), QUEUED, CLAIMED, STARTED],
    "stop requested, waiting": [submitted(), QUEUED, entry(Kind.STOP_REQUESTED, by="alice")],
    "stop requested, running": [submitted(), QUEUED, CLAIMED, STARTED, entry(Kind.STOP_REQUESTED, by="alice")],
    "finished": [submitted(), QUEUED, CLAIMED, STARTED, entry(Kind.FINISHED, epoch=3, exit_code=0)],
    "removed": [submitted(), QUEUED, entry(Kind.FAILED, reason="x"), entry(Kind.REMOVED)],
}

#: Every kind, written by the owner of the journals above where there is one.
ENTRIES = {
    Kind.SUBMITTED: submitted(),
    Kind.QUEUED: QUEUED,
    Kind.CLAIMED: CLAIMED,
    Kind.ADOPTED: entry(Kind.ADOPTED, attempt=1, host="h", log_offset=5),
    Kind.STARTED: STARTED,
    Kind.RELEASED: entry(Kind.RELEASED, epoch=3, reason="r", **{"class": "engine"}),
    Kind.LOST: entry(Kind.LOST, attempt=1, reason="r"),
    Kind.STOP_REQUESTED: entry(Kind.STOP_REQUESTED, by="bob"),
    Kind.FINISHED: entry(Kind.FINISHED, epoch=3, exit_code=0),
    Kind.FAILED: entry(Kind.FAILED, epoch=3, reason="r"),
    Kind.STOPPED: entry(Kind.STOPPED, epoch=3, reason="r"),
    Kind.EXPIRED: entry(Kind.EXPIRED, reason="r"),
    Kind.REMOVED: entry(Kind.REMOVED),
}

K = Kind
#: What may follow each journal, and the status after it. Whatever is not here is refused.
ALLOWED: dict[str, dict[Kind, Status]] = {
    "nothing": {K.SUBMITTED: Status.SUBMITTING},
    "submitting": {
        K.QUEUED: Status.WAITING,
        K.STOP_REQUESTED: Status.SUBMITTING,
        K.FAILED: Status.FAILED,
        K.STOPPED: Status.STOPPED,
        K.EXPIRED: Status.EXPIRED,
    },
    "waiting": {
        K.QUEUED: Status.WAITING,
        K.CLAIMED: Status.PREPARING,
        K.STOP_REQUESTED: Status.WAITING,
        K.FAILED: Status.FAILED,
        K.STOPPED: Status.STOPPED,
        K.EXPIRED: Status.EXPIRED,
    },
    "preparing": {
        K.ADOPTED: Status.PREPARING,
        K.STARTED: Status.RUNNING,
        K.RELEASED: Status.WAITING,
        K.LOST: Status.WAITING,
        K.STOP_REQUESTED: Status.PREPARING,
        K.FAILED: Status.FAILED,
        K.STOPPED: Status.STOPPED,
    },
    "running": {
        K.ADOPTED: Status.RUNNING,
        K.RELEASED: Status.WAITING,
        K.LOST: Status.WAITING,
        K.STOP_REQUESTED: Status.RUNNING,
        K.FINISHED: Status.FINISHED,
        K.FAILED: Status.FAILED,
        K.STOPPED: Status.STOPPED,
    },
    "stop requested, waiting": {
        K.QUEUED: Status.WAITING,
        K.FAILED: Status.FAILED,
        K.STOPPED: Status.STOPPED,
        K.EXPIRED: Status.EXPIRED,
    },
    "stop requested, running": {
        K.ADOPTED: Status.RUNNING,
        K.RELEASED: Status.WAITING,
        K.LOST: Status.WAITING,
        K.FINISHED: Status.FINISHED,
        K.FAILED: Status.FAILED,
        K.STOPPED: Status.STOPPED,
    },
    "finished": {K.REMOVED: Status.FINISHED},
    "removed": {},
}


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("journal", list(JOURNALS))
def test_every_entry_after_every_state(journal: str, kind: Kind) -> None:
    state = fold_all(JOURNALS[journal])
    expected = ALLOWED[journal].get(kind)
    if expected is None:
        with pytest.raises(NotAllowed):
            fold(state, ENTRIES[kind])
    else:
        after = fold(state, ENTRIES[kind])
        assert after.status is expected
        assert after.seq == state.seq + 1


@pytest.mark.parametrize("kind", [K.STARTED, K.RELEASED, K.FINISHED, K.FAILED, K.STOPPED])
def test_a_former_owner_is_refused(kind: Kind) -> None:
    journal = "preparing" if kind is K.STARTED else "running"
    adopted = fold(fold_all(JOURNALS[journal]), entry(K.ADOPTED, by="w2", attempt=1, host="h", log_offset=7))
    with pytest.raises(NotAllowed, match="epoch"):
        fold(adopted, ENTRIES[kind])


def test_an_adoption_makes_a_new_epoch_and_says_where_the_log_goes_on() -> None:
    adopted = fold(fold_all(JOURNALS["running"]), entry(K.ADOPTED, by="w2", attempt=1, host="h", log_offset=7))
    assert adopted.live is not None
    assert adopted.live.worker == "w2"
    assert adopted.live.log_epochs == ((3, 0), (5, 7))
    assert adopted.owner_epoch == 5


def test_a_second_claim_must_carry_the_next_number() -> None:
    lost = fold(fold_all(JOURNALS["running"]), ENTRIES[K.LOST])
    with pytest.raises(NotAllowed):
        fold(lost, CLAIMED)
    assert len(fold(lost, entry(K.CLAIMED, attempt=2, host="h")).attempts) == 2


def state(*entries: Entry, **changes: Any) -> State:
    return fold_all([submitted(**changes), QUEUED, *entries])


def seen(**changes: Any) -> Observation:
    return Observation(**changes)


LOST = ENTRIES[K.LOST]


def released_early(times: int, workers: int, seconds_apart: float = 1.0) -> State:
    now = state()
    for n in range(times):
        worker = f"w{n % workers}"
        now = fold(now, entry(K.CLAIMED, by=worker, attempt=n + 1, host="h"))
        release = entry(
            K.RELEASED,
            by=worker,
            epoch=now.owner_epoch,
            reason="engine: gone",
            stored_at=n * seconds_apart,
            **{"class": "engine"},
        )
        now = fold(now, release)
    return now


@pytest.mark.parametrize(
    ("given", "observed", "expected"),
    [
        (fold_all(JOURNALS["finished"]), seen(), Return()),
        (fold_all(JOURNALS["removed"]), seen(), Return()),
        (state(), seen(), Claim(1)),
        (state(CLAIMED, STARTED, LOST), seen(), Claim(2)),
        (state(entry(K.STOP_REQUESTED, by="alice")), seen(), End(K.STOPPED, "stopped by alice")),
        (state(lifetime_seconds=60), seen(age_seconds=59), Claim(1)),
        (state(lifetime_seconds=60), seen(age_seconds=61), End(K.EXPIRED, "waited longer than --lifetime 1m")),
        (state(CLAIMED, STARTED, LOST, lifetime_seconds=60), seen(age_seconds=61), Claim(2)),
        (state(CLAIMED, STARTED, LOST, max_attempts=1), seen(), End(K.FAILED, "r, 1 attempt")),
        (state(CLAIMED), seen(heartbeat_age_seconds=5), Defer(56)),
        (state(CLAIMED), seen(heartbeat_age_seconds=5, ours=True), Defer(60)),
        (state(CLAIMED), seen(heartbeat_age_seconds=900, ours=True), Defer(60)),
        (state(CLAIMED), seen(owner_gone=True, here=True), Adopt(1)),
        (state(CLAIMED), seen(owner_gone=True), DeclareLost(1, "worker lost: its worker ended")),
        (state(CLAIMED), seen(heartbeat_age_seconds=61, here=True), Adopt(1)),
        (state(CLAIMED), seen(heartbeat_age_seconds=61), DeclareLost(1, "worker lost: no heartbeat for 1m 1s")),
        (state(CLAIMED), seen(heartbeat_age_seconds=61, run_seconds=1000), Defer(40)),
        (
            state(CLAIMED),
            seen(heartbeat_age_seconds=601, run_seconds=10**6),
            DeclareLost(1, "worker lost: no heartbeat for 10m 1s"),
        ),
        (released_early(9, 3), seen(), Claim(10)),
        (released_early(10, 2), seen(), Claim(11)),
        (released_early(10, 3), seen(), End(K.FAILED, "engine: gone (given up after 10 releases)")),
        (released_early(10, 1, 500), seen(), End(K.FAILED, "engine: gone (given up after 10 releases)")),
    ],
)  # fmt: skip
def test_what_a_worker_does(given: State, observed: Observation, expected: object) -> None:
    assert decide(given, observed, RULES) == expected


def test_releases_before_the_start_cost_no_attempt() -> None:
    assert released_early(5, 1).interrupted == 0


def test_a_retry_of_the_script_is_counted_apart_from_lost_workers() -> None:
    failed = entry(K.RELEASED, epoch=3, reason="exit code 1", exit_code=1, **{"class": RETRY})
    after = state(CLAIMED, STARTED, failed)
    assert (after.script_failures, after.interrupted) == (1, 0)
    assert after.attempts[0].exit_code == 1


def test_an_entry_survives_json() -> None:
    for one in ENTRIES.values():
        assert Entry.from_dict(one.to_dict()) == one
