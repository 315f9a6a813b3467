"""Whether an experiment's message goes to the queue again, and when. Pure.

One message too many does no harm: whoever receives it defers it or returns the record. So what is running has one sent
again, too: if its own was lost with the broker's data, nobody else would begin the next attempt should its host die.
"""

from __future__ import annotations

from studio_celery.experiment import Status
from studio_celery.journal.fold import State

#: Part of the retention of a queue after which a message goes there again: there is time for another try.
REQUEUE_FRACTION = 0.5


def refuses_requeue(state: State) -> str | None:
    """Why it is not to be queued again, in words that follow its id; None if it is."""
    if state.status.terminal:
        return f"is {state.status}, so there is nothing to queue: `studio rerun` submits it as a new experiment"
    if state.experiment is None or state.status is Status.SUBMITTING:
        return (
            "is still submitting: its submitter has yet to publish it, "
            "and it fails by itself if that does not happen; submit it again then"
        )
    return None


def requeue_due_at(state: State, retention_seconds: float) -> float | None:
    """When its message has waited for half the retention, on the store's clock; None if it needs none again."""
    if refuses_requeue(state):
        return None
    return state.queued_stored_at + retention_seconds * REQUEUE_FRACTION
