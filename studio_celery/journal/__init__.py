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
    Enqueue,
    GiveBack,
    Observation,
    Return,
    Rules,
    decide,
    end_without_attempt,
    sign_of_life,
)
from studio_celery.journal.entries import RETRY, Entry, Kind
from studio_celery.journal.fold import NotAllowed, State, fold, fold_all
from studio_celery.journal.standing import Leave, PutDown, Standing, decide_found, leaves_to_others, standing

__all__ = [
    "RETRY",
    "Action",
    "Adopt",
    "Claim",
    "DeclareLost",
    "Defer",
    "End",
    "Enqueue",
    "Entry",
    "GiveBack",
    "Kind",
    "Leave",
    "NotAllowed",
    "Observation",
    "PutDown",
    "Return",
    "Rules",
    "Standing",
    "State",
    "decide",
    "decide_found",
    "end_without_attempt",
    "fold",
    "fold_all",
    "leaves_to_others",
    "sign_of_life",
    "standing",
]
