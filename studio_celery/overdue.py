"""Ends that are due although nobody owns the experiment; whoever looks records them: list, page, worker, janitor.

A stop that was requested is among them when the owner has been silent for longer than the patience, so that
`studio stop` needs neither broker nor worker.
"""

from __future__ import annotations

from collections.abc import Callable

from studio_celery.experiment import Attempt, Status
from studio_celery.journal import DeclareLost, End, Kind, Observation, Rules, State, decide_onlooker, sign_of_life
from studio_celery.settings import Settings
from studio_celery.store import Journal, Store


def due_at(state: State, settings: Settings) -> float | None:
    """When an end may be due if nothing happens before, on the store's clock; None if waiting changes nothing."""
    if state.experiment is None or state.status.terminal or state.live:
        return None
    times = []
    if state.status is Status.SUBMITTING:
        times.append(settings.submission_limit_seconds)
    if state.experiment.lifetime_seconds is not None and not state.attempts:
        times.append(state.experiment.lifetime_seconds)
    return state.submitted_stored_at + min(times) if times else None


def settle(
    journal: Journal, store: Store, settings: Settings, by: str, now: Callable[[], float] | None = None
) -> State:
    """Record the end that is due in a journal that was read, if one is; the state after that.

    The store's clock is read, unless `now` gives it, only where it matters.
    """
    clock = now or store.now
    rules = Rules.from_settings(settings)
    while journal.state.experiment is not None and not journal.state.status.terminal:
        seen = _look(journal.state, store, settings, clock)
        if _is_stranded(journal.state, seen, settings):
            due: DeclareLost | End | None = End(Kind.FAILED, "submission did not complete")
        else:
            due = decide_onlooker(journal.state, seen, rules)
        if due is None:
            break
        # Once: if somebody decided something first, what was seen may not hold any more.
        if isinstance(due, DeclareLost):
            journal.append(Kind.LOST, by, attempt=due.number, reason=due.reason)
        else:
            journal.append(due.kind, by, reason=due.reason)
    return journal.state


def _is_stranded(state: State, seen: Observation, settings: Settings) -> bool:
    """Whether its submitter was never heard of again."""
    waits = state.status is Status.SUBMITTING and not state.stop_requested_by
    return waits and seen.age_seconds > settings.submission_limit_seconds


def _look(state: State, store: Store, settings: Settings, clock: Callable[[], float]) -> Observation:
    """What an end may depend on; no request to the store where none does."""
    if state.live and state.stop_requested_by and state.experiment:
        return _look_at_owner(state.live, clock(), store.heartbeat_modified(state.experiment.id, state.live.number))
    if due_at(state, settings) is None:
        return Observation()
    return Observation(age_seconds=clock() - state.submitted_stored_at)


def _look_at_owner(live: Attempt, now: float, heartbeat: float | None) -> Observation:
    """How long its owner has been silent. The clock is read first, so that it seems shorter rather than longer."""
    sign = sign_of_life(live, heartbeat)
    return Observation(heartbeat_age_seconds=max(0.0, now - sign), run_seconds=max(0.0, sign - live.claimed_stored_at))
