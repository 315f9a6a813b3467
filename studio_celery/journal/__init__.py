"""The journal's meaning: how entries fold into a state, which are allowed, and what a worker does about a state.

Everything here is pure, so that tables of tests, and a search through all schedules, can walk it.
"""

from studio_celery.journal.decide import (
    Action,
    Adopt,
    Claim,
    DeclareLost,
    Defer,
    End,
    Observation,
    Return,
    Rules,
    decide,
    end_without_attempt,
)
from studio_celery.journal.entries import RETRY, Entry, Kind
from studio_celery.journal.fold import NotAllowed, State, fold, fold_all

__all__ = [
    "RETRY",
    "Action",
    "Adopt",
    "Claim",
    "DeclareLost",
    "Defer",
    "End",
    "Entry",
    "Kind",
    "NotAllowed",
    "Observation",
    "Return",
    "Rules",
    "State",
    "decide",
    "end_without_attempt",
    "fold",
    "fold_all",
]
