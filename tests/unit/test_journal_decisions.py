"""The decisions as tables: what a worker does about a state, with a message, without one, and as an owner."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest
from journals import (
    ADOPTED,
    CLAIMED,
    EPOCH,
    JOURNALS,
    LOST,
    STARTED,
    STOP_REQUESTED,
    entry,
    failed_often,
    released,
    released_early,
    state,
    submitted,
)

from studio_celery.experiment import Status
from studio_celery.journal import (
    LEAVING,
    UNANSWERED,
    Action,
    Adopt,
    Claim,
    DeclareLost,
    Defer,
    End,
    Enqueue,
    GiveBack,
    Kind,
    Leave,
    Observation,
    PutDown,
    Return,
    Rules,
    Standing,
    State,
    decide,
    decide_found,
    decide_onlooker,
    fold_all,
    leaves_to_others,
    releases_by,
    sign_of_life,
    standing,
)

K = Kind
RULES = Rules()
GIVEN_UP = End(K.FAILED, "engine: gone (given up after 10 releases)")
JUST_RELEASED = "this worker has just released it"
JUST_FAILED = "its script failed a moment ago"
LATE = "waited longer than --lifetime 1m"


def seen(**changes: object) -> Observation:
    return Observation(**changes)  # type: ignore[arg-type]


def row(name: str) -> State:
    return fold_all(JOURNALS[name])


#: (state, what else is seen, what a worker that holds the message does)
DECISIONS: list[tuple[State, Observation, Action]] = [
    # It has ended: whatever else is seen.
    *((row(name), seen(), Return()) for name in ("finished", "failed", "stopped", "expired", "removed")),
    (row("finished"), seen(ours=True), Return()),
    (row("failed without an attempt"), seen(age_seconds=10**6), Return()),
    # Nobody saw the submitter confirm it.
    (row("submitting"), seen(), Enqueue()),
    (row("submitting, stop requested"), seen(), Enqueue()),
    (row("submitting"), seen(ours=True), Defer(60)),
    # Nobody owns it.
    (row("waiting"), seen(), Claim(1)),
    (row("waiting"), seen(ours=True), Defer(60)),
    (row("waiting, stop requested"), seen(), End(K.STOPPED, "stopped by alice")),
    (row("lost"), seen(), Claim(2)),
    (row("lost, stop requested"), seen(), End(K.STOPPED, "stopped by alice")),
    (row("released before the start"), seen(), Claim(2)),
    (row("released after the start"), seen(), Claim(2)),
    # A script that failed is tried again after a pause that doubles.
    (row("to be tried again"), seen(), Defer(10, JUST_FAILED)),
    (row("to be tried again"), seen(since_failure_seconds=9), Defer(1, JUST_FAILED)),
    (row("to be tried again"), seen(since_failure_seconds=10), Claim(2)),
    (row("to be tried again"), seen(ours=True), Defer(60)),
    (failed_often(2), seen(since_failure_seconds=10), Defer(10, JUST_FAILED)),
    (failed_often(2), seen(since_failure_seconds=20), Claim(3)),
    (failed_often(60), seen(since_failure_seconds=299), Defer(1, JUST_FAILED)),
    (failed_often(60), seen(since_failure_seconds=300), Claim(61)),
    # The lifetime ends with the first claim.
    (state(lifetime_seconds=60), seen(age_seconds=60), Claim(1)),
    (state(lifetime_seconds=60), seen(age_seconds=61), End(K.EXPIRED, LATE)),
    (state(STOP_REQUESTED, lifetime_seconds=60), seen(age_seconds=61), End(K.STOPPED, "stopped by alice")),
    (state(CLAIMED, released(), lifetime_seconds=60), seen(age_seconds=61), Claim(2)),
    (state(CLAIMED, STARTED, LOST, lifetime_seconds=60), seen(age_seconds=61), Claim(2)),
    # Attempts at most.
    (state(CLAIMED, STARTED, LOST, max_attempts=1), seen(), End(K.FAILED, "r, 1 attempt")),
    (state(CLAIMED, LOST, max_attempts=1), seen(), End(K.FAILED, "r, 1 attempt")),
    (state(CLAIMED, STARTED, released(), max_attempts=1), seen(), End(K.FAILED, "r, 1 attempt")),
    (state(CLAIMED, released(began=True), max_attempts=1), seen(), End(K.FAILED, "r, 1 attempt")),
    (state(CLAIMED, released(), max_attempts=1), seen(), Claim(2)),
    (state(CLAIMED, STARTED, LOST, max_attempts=2), seen(), Claim(2)),
    (state(CLAIMED, STARTED, released("retry"), max_attempts=1), seen(since_failure_seconds=10), Claim(2)),
    # Who released it leaves it to others: offered at once, then ever less often, for a time that doubles.
    (row("released before the start"), seen(releases_here=1), Defer(30 / 32, JUST_RELEASED)),
    (row("released before the start"), seen(releases_here=1, since_release_seconds=4), Defer(4, JUST_RELEASED)),
    (row("released before the start"), seen(releases_here=1, since_release_seconds=20), Defer(10, JUST_RELEASED)),
    (row("released before the start"), seen(releases_here=1, since_release_seconds=30), Claim(2)),
    (row("released before the start"), seen(releases_here=2, since_release_seconds=30), Defer(30, JUST_RELEASED)),
    (row("released before the start"), seen(releases_here=9, since_release_seconds=299), Defer(1, JUST_RELEASED)),
    (row("released before the start"), seen(releases_here=9, since_release_seconds=300), Claim(2)),
    (state(CLAIMED, released(), STOP_REQUESTED), seen(releases_here=1), End(K.STOPPED, "stopped by alice")),
    # Releases before the start: ten, on three hosts or over an hour.
    (released_early(9, 3), seen(), Claim(10)),
    (released_early(10, 2), seen(), Claim(11)),
    (released_early(10, 3), seen(), GIVEN_UP),
    (released_early(10, 1, 400), seen(), Claim(11)),
    (released_early(10, 1, 401), seen(), GIVEN_UP),
    # Somebody owns it and lives.
    (row("preparing"), seen(heartbeat_age_seconds=5), Defer(56)),
    (row("preparing"), seen(heartbeat_age_seconds=60), Defer(1)),
    (row("running"), seen(heartbeat_age_seconds=5, here=True), Defer(56)),
    (row("running, stop requested"), seen(heartbeat_age_seconds=5), Defer(56)),
    (row("running"), seen(heartbeat_age_seconds=61, run_seconds=1000), Defer(40)),
    (row("running"), seen(heartbeat_age_seconds=0, run_seconds=10**6), Defer(601)),
    # This process has it in hand already: never a second time.
    (row("running"), seen(heartbeat_age_seconds=900, ours=True, here=True), Defer(60)),
    (row("running"), seen(ours=True, owner_gone=True), Defer(60)),
    (row("running"), seen(ours=True, run_seconds=1000), Defer(100)),
    # Its owner is certainly dead.
    (row("running"), seen(owner_gone=True, here=True), Adopt(1)),
    (row("running, stop requested"), seen(owner_gone=True, here=True), Adopt(1)),
    (row("preparing"), seen(owner_gone=True, here=True), Adopt(1)),
    (row("preparing"), seen(owner_gone=True), DeclareLost(1, "worker lost: its worker ended")),
    # Its owner has been silent for longer than the patience.
    (row("running"), seen(heartbeat_age_seconds=61, here=True), Adopt(1)),
    (row("running, adopted"), seen(heartbeat_age_seconds=61, here=True), Adopt(1)),
    (row("preparing"), seen(heartbeat_age_seconds=61), DeclareLost(1, "worker lost: no heartbeat for 1m 1s")),
    (
        row("running, stop requested"),
        seen(heartbeat_age_seconds=601, run_seconds=10**6),
        DeclareLost(1, "worker lost: no heartbeat for 10m 1s"),
    ),
    # The answer to this worker's own claim or adoption was lost.
    (row("preparing"), seen(mine=True), GiveBack(1, "the store did not answer the claim")),
    (row("preparing"), seen(mine=True, here=True), Adopt(1)),
    (row("running, adopted"), seen(mine=True, here=True), Adopt(1)),
    (row("running"), seen(mine=True), DeclareLost(1, "worker lost: what ran is not there any more")),
]


@pytest.mark.parametrize(("given", "observed", "expected"), DECISIONS)
def test_what_a_worker_with_the_message_does(given: State, observed: Observation, expected: Action) -> None:
    assert decide(given, observed, RULES) == expected


def test_every_action_status_and_observation_has_a_row() -> None:
    assert {type(action) for _, _, action in DECISIONS} == set(get_args(Action))
    assert {given.status for given, _, _ in DECISIONS} == set(Status)
    for field in dataclasses.fields(Observation):
        rows = [observed for _, observed, _ in DECISIONS] + [observed for _, _, observed, _ in FOUND]
        assert any(getattr(observed, field.name) != field.default for observed in rows), field.name
    assert {action.kind for _, _, action in DECISIONS if isinstance(action, End)} == {K.STOPPED, K.EXPIRED, K.FAILED}


@pytest.mark.parametrize("name", [name for name in JOURNALS if name != "nothing"])
@pytest.mark.parametrize("owner", [{}, {"owner_gone": True}, {"mine": True}, {"heartbeat_age_seconds": 10**6}])
@pytest.mark.parametrize("here", [False, True])
def test_what_is_decided_is_allowed(name: str, owner: dict[str, object], here: bool) -> None:
    """Whatever entry the decision stands for, the fold takes it: nobody decides the same thing for ever."""
    given = row(name)
    action = decide(given, seen(here=here, **owner), RULES)
    following = {
        Enqueue: lambda: entry(K.QUEUED),
        Claim: lambda: entry(K.CLAIMED, attempt=action.number, host="h"),  # type: ignore[union-attr]
        Adopt: lambda: entry(K.ADOPTED, attempt=action.number, host="h", log_offset=0),  # type: ignore[union-attr]
        DeclareLost: lambda: entry(K.LOST, attempt=action.number, reason="r"),  # type: ignore[union-attr]
        GiveBack: lambda: released(epoch=given.owner_epoch),
        End: lambda: entry(action.kind, reason="r"),  # type: ignore[union-attr]
    }.get(type(action))
    if following is None:
        assert isinstance(action, Return | Defer)
    else:
        assert fold_all([following()], given).seq == given.seq + 1


#: (state, how long its owner was silent, what anybody who looks records)
ONLOOKERS: list[tuple[State, Observation, Action | None]] = [
    *((row(name), seen(), None) for name in ("submitting", "waiting", "lost", "to be tried again", "finished")),
    (row("submitting, stop requested"), seen(), End(K.STOPPED, "stopped by alice")),
    (row("waiting, stop requested"), seen(), End(K.STOPPED, "stopped by alice")),
    (row("lost, stop requested"), seen(), End(K.STOPPED, "stopped by alice")),
    (state(lifetime_seconds=60), seen(age_seconds=61), End(K.EXPIRED, LATE)),
    (state(CLAIMED, STARTED, LOST, max_attempts=1), seen(), End(K.FAILED, "r, 1 attempt")),
    # How many releases are too many is a setting of workers.
    (released_early(10, 3), seen(), None),
    # Without a wish to stop it, only a worker with the message declares an attempt lost.
    (row("running"), seen(heartbeat_age_seconds=10**6), None),
    (row("preparing"), seen(heartbeat_age_seconds=10**6), None),
    (row("running, stop requested"), seen(heartbeat_age_seconds=60), None),
    (row("running, stop requested"), seen(heartbeat_age_seconds=61, run_seconds=1000), None),
    (
        row("running, stop requested"),
        seen(heartbeat_age_seconds=61),
        DeclareLost(1, "worker lost: no heartbeat for 1m 1s"),
    ),
    (
        row("preparing, stop requested"),
        seen(heartbeat_age_seconds=61),
        DeclareLost(1, "worker lost: no heartbeat for 1m 1s"),
    ),
]


@pytest.mark.parametrize(("given", "observed", "expected"), ONLOOKERS)
def test_what_anybody_who_looks_records(given: State, observed: Observation, expected: Action | None) -> None:
    assert decide_onlooker(given, observed, RULES) == expected


@pytest.mark.parametrize("name", [name for name in JOURNALS if name != "nothing"])
@pytest.mark.parametrize("silent", [0.0, 10.0**6])
def test_what_an_onlooker_records_is_allowed_and_leads_to_an_end(name: str, silent: float) -> None:
    """Else `studio ls` would decide the same thing for ever."""
    given, steps = row(name), 0
    while action := decide_onlooker(given, seen(heartbeat_age_seconds=silent), RULES):
        lost = isinstance(action, DeclareLost)
        following = entry(K.LOST, attempt=action.number, reason="r") if lost else entry(action.kind, reason="r")
        given, steps = fold_all([following], given), steps + 1
    assert steps <= 2
    if given.stop_requested_by and not given.live:
        assert given.status.terminal


#: (state, attempt that is found on this host, what is seen of its latest owner, what is done)
FOUND = [
    (State(), 1, seen(owner_gone=True), Leave()),
    (row("running"), 1, seen(), Leave()),
    (row("running"), 1, seen(ours=True, owner_gone=True), Leave()),
    (row("running"), 1, seen(owner_gone=True), Adopt(1)),
    (row("running"), 1, seen(mine=True), Adopt(1)),
    (row("preparing"), 1, seen(owner_gone=True), Adopt(1)),
    (row("running, stop requested"), 1, seen(owner_gone=True), Adopt(1)),
    (row("lost"), 1, seen(), Leave()),
    (row("lost"), 1, seen(owner_gone=True), PutDown()),
    (row("lost"), 1, seen(lingers=True), PutDown()),
    (row("lost"), 1, seen(lingers=True, ours=True), Leave()),
    (row("running"), 1, seen(lingers=True), Leave()),
    (row("released before the start"), 1, seen(mine=True), PutDown()),
    (row("finished"), 1, seen(owner_gone=True), PutDown()),
    (row("removed"), 1, seen(owner_gone=True), PutDown()),
    (row("waiting"), 1, seen(owner_gone=True), PutDown()),
    (state(CLAIMED, LOST, entry(K.CLAIMED, attempt=2, host="h")), 1, seen(owner_gone=True), PutDown()),
]


@pytest.mark.parametrize(("given", "number", "observed", "expected"), FOUND)
def test_what_a_worker_does_with_what_it_finds(
    given: State, number: int, observed: Observation, expected: object
) -> None:
    assert decide_found(given, number, observed) == expected


#: (state, how one who became owner of attempt 1 by the entry `EPOCH` stands)
STANDINGS = {
    "preparing": Standing.OWNER,
    "running": Standing.OWNER,
    "preparing, stop requested": Standing.STOP,
    "running, stop requested": Standing.STOP,
    "preparing, adopted": Standing.HANDED_OVER,
    "running, adopted": Standing.HANDED_OVER,
    "lost": Standing.SUPERSEDED,
    "lost, stop requested": Standing.SUPERSEDED,
    "released after the start": Standing.SUPERSEDED,
    "to be tried again": Standing.SUPERSEDED,
    "finished": Standing.SUPERSEDED,
    "failed": Standing.SUPERSEDED,
}


@pytest.mark.parametrize("name", list(STANDINGS))
def test_how_an_owner_stands(name: str) -> None:
    assert standing(row(name), 1, EPOCH) is STANDINGS[name]


def test_every_standing_has_a_row() -> None:
    assert set(STANDINGS.values()) == set(Standing)


def test_an_attempt_that_was_adopted_and_then_ended_is_its_adopters() -> None:
    ended = fold_all([*JOURNALS["running, adopted"], entry(K.FINISHED, by="w2", epoch=5, exit_code=0)])
    assert standing(ended, 1, EPOCH) is Standing.HANDED_OVER
    assert standing(ended, 1, 5) is Standing.SUPERSEDED


def test_who_released_an_attempt_leaves_the_next_to_others() -> None:
    assert leaves_to_others(row("released before the start"), "w1")
    assert not leaves_to_others(row("released before the start"), "w2")
    assert not leaves_to_others(row("to be tried again"), "w1")
    assert not leaves_to_others(row("lost"), "w1")
    assert not leaves_to_others(row("waiting"), "w1")
    for release_class in (UNANSWERED, LEAVING):  # it could have run there
        assert not leaves_to_others(state(CLAIMED, released(release_class)), "w1")


def test_releases_are_counted_for_each_worker_since_somebody_last_ran_it() -> None:
    def history(*owners: str, release_class: str = "engine", ran: int = 0) -> State:
        now = state()
        for n, owner in enumerate(owners, 1):
            now = fold_all([entry(K.CLAIMED, by=owner, attempt=n, host="h")], now)
            how = LOST if n == ran else released(release_class, epoch=now.owner_epoch)
            now = fold_all([dataclasses.replace(how, stored_at=10.0 * n, data={**how.data, "attempt": n})], now)
        return now

    assert releases_by(history(), "w1") == (0, 0.0)
    assert releases_by(history("w1", "w1"), "w1") == (2, 20.0)
    # Else two workers that both cannot would hand it to each other without a pause.
    assert releases_by(history("w1", "w2", "w1", "w2"), "w1") == (2, 30.0)
    assert releases_by(history("w1", "w2", "w1", ran=2), "w1") == (1, 30.0)
    assert releases_by(history("w1", "w2", ran=2), "w1") == (0, 0.0)
    assert releases_by(history("w1", release_class=LEAVING), "w1") == (0, 0.0)


def test_becoming_owner_is_a_sign_of_life() -> None:
    """Else an adopted attempt would look dead until its new owner's first heartbeat, and be declared lost."""
    claimed = dataclasses.replace(CLAIMED, stored_at=100.0)
    adopted = dataclasses.replace(ADOPTED, stored_at=900.0)
    first = fold_all([submitted(), entry(K.QUEUED), claimed]).live
    second = fold_all([submitted(), entry(K.QUEUED), claimed, adopted]).live
    assert first is not None
    assert second is not None
    assert [sign_of_life(first, beat) for beat in (None, 50.0, 500.0)] == [100.0, 100.0, 500.0]
    assert [sign_of_life(second, beat) for beat in (None, 500.0, 950.0)] == [900.0, 900.0, 950.0]
    assert second.claimed_stored_at == 100.0
