"""Ends that are due although nobody owns the experiment; whoever looks records them: list, page, worker, janitor."""

from __future__ import annotations

from collections.abc import Callable

from studio_celery.experiment import Status
from studio_celery.journal import Kind, Observation, Rules, State, end_without_attempt
from studio_celery.settings import Settings
from studio_celery.store import Journal


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


def settle(journal: Journal, now: Callable[[], float], settings: Settings, by: str) -> State:
    """Record the end that is due in a journal that was read, if one is; `now` is the store's clock."""
    state = journal.state
    due = due_at(state, settings)
    if due is None or (now_seconds := now()) <= due:
        return state
    age = now_seconds - state.submitted_stored_at
    if state.status is Status.SUBMITTING and age > settings.submission_limit_seconds:
        journal.decide(Kind.FAILED, by, reason="submission did not complete")
    elif end := end_without_attempt(state, Observation(age_seconds=age), Rules.from_settings(settings)):
        journal.decide(end.kind, by, reason=end.reason)
    return journal.state
