"""Where somebody stands towards an attempt: its owner, a former owner, or a worker that finds it on its host. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile

from studio_celery.experiment import Attempt
from studio_celery.journal.decide import Adopt, Observation
from studio_celery.journal.entries import LEAVING, UNANSWERED
from studio_celery.journal.fold import State


class Standing(StrEnum):
    """What an owner is to do, having read the journal."""

    #: Go on.
    OWNER = "owner"
    #: Still the owner, and somebody asked for a stop.
    STOP = "stop"
    #: The attempt is over: stop what runs, write nothing more.
    SUPERSEDED = "superseded"
    #: Another worker adopted the attempt: leave it running, and everything of it in its place.
    HANDED_OVER = "handed over"


def standing(state: State, number: int, epoch: int) -> Standing:
    """How the one who became owner of attempt `number` by entry `epoch` stands now."""
    attempt = state.attempts[number - 1]
    if attempt.epoch != epoch:
        return Standing.HANDED_OVER
    if attempt.over is not None:
        return Standing.SUPERSEDED
    return Standing.STOP if state.stop_requested_by else Standing.OWNER


def leaves_to_others(state: State, worker: str) -> bool:
    """Whether this worker released the latest attempt because it could not run it: another should have the next."""
    last = state.attempts[-1] if state.attempts else None
    return last is not None and last.worker == worker and _could_not(last) and not state.status.terminal


def releases_by(state: State, worker: str) -> tuple[int, float]:
    """(how often this worker released it since anybody last ran it, when it last did so on the store's clock)."""
    releases = [a for a in takewhile(_was_released, reversed(state.attempts)) if a.worker == worker and _could_not(a)]
    return len(releases), releases[0].released_stored_at if releases else 0.0


def _was_released(attempt: Attempt) -> bool:
    return attempt.over == "released"


def _could_not(attempt: Attempt) -> bool:
    """Whether its owner released it because it could not run it."""
    return _was_released(attempt) and attempt.release_class not in (LEAVING, UNANSWERED)


@dataclass(frozen=True)
class PutDown:
    """Stop and remove it: nobody wants it."""


@dataclass(frozen=True)
class Leave:
    """It is somebody else's."""


def decide_found(state: State, number: int, seen: Observation) -> Adopt | PutDown | Leave:
    """What a worker does with attempt `number` that it finds on its host, without a message.

    `seen.owner_gone` and `seen.mine` tell of the attempt's latest owner.
    """
    if state.experiment is None or seen.ours:
        return Leave()
    nobodys = seen.owner_gone or seen.mine
    if state.live is not None and state.live.number == number:
        return Adopt(number) if nobodys else Leave()
    # An owner that lives clears away what is over, unless it is cut off and does not know.
    return PutDown() if nobodys or seen.lingers else Leave()
