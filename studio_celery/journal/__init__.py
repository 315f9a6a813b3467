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
    decide_onlooker,
    end_without_attempt,
    sign_of_life,
)
from studio_celery.journal.entries import LEAVING, RETRY, UNANSWERED, Entry, Kind
from studio_celery.journal.fold import NotAllowed, State, fold, fold_all
from studio_celery.journal.requeueing import REQUEUE_FRACTION, refuses_requeue, requeue_due_at
from studio_celery.journal.standing import (
    Leave,
    PutDown,
    Standing,
    decide_found,
    leaves_to_others,
    releases_by,
    standing,
)

__all__ = [
    "LEAVING",
    "REQUEUE_FRACTION",
    "RETRY",
    "UNANSWERED",
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
    "decide_onlooker",
    "end_without_attempt",
    "fold",
    "fold_all",
    "leaves_to_others",
    "refuses_requeue",
    "releases_by",
    "requeue_due_at",
    "sign_of_life",
    "standing",
]
