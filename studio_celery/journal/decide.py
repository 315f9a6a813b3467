"""What a worker that holds the message does: return the record, claim, adopt, give up, end, or defer. Pure.

What a worker sees outside the journal comes in as data, in `Observation`, and never as a call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from studio_celery.experiment import Attempt, Status
from studio_celery.journal.entries import Kind
from studio_celery.journal.fold import State
from studio_celery.units import format_duration

if TYPE_CHECKING:
    from studio_celery.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The numbers that `decide` goes by; all from settings."""

    patience_floor_seconds: float = 60.0
    patience_ceiling_seconds: float = 600.0
    patience_fraction: float = 0.1
    release_limit: int = 10
    release_workers: int = 3
    release_window_seconds: float = 3600.0

    @classmethod
    def from_settings(cls, settings: Settings) -> Rules:
        """The numbers as they are set."""
        return cls(
            patience_floor_seconds=settings.patience_floor_seconds,
            patience_ceiling_seconds=settings.patience_ceiling_seconds,
            patience_fraction=settings.patience_fraction,
            release_limit=settings.release_limit,
            release_window_seconds=settings.release_window_seconds,
        )

    def patience(self, run_seconds: float) -> float:
        """How long the owner of an attempt may be silent: the more would be lost, the longer."""
        return min(
            self.patience_ceiling_seconds, max(self.patience_floor_seconds, run_seconds * self.patience_fraction)
        )


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a worker sees besides the journal. All times are differences on the store's clock."""

    #: Seconds since the live attempt's owner last gave a sign of life.
    heartbeat_age_seconds: float = 0.0
    #: Seconds between its claim and that sign.
    run_seconds: float = 0.0
    #: Seconds since `submitted`.
    age_seconds: float = 0.0
    #: Another thread of this very process has the experiment in hand.
    ours: bool = False
    #: Its owner is this very process, which has it not in hand: the answer to its claim was lost.
    mine: bool = False
    #: Its owner was on this host and its lock is free: it is certainly dead.
    owner_gone: bool = False
    #: Its container or process, alive or ended, is on this host.
    here: bool = False
    #: It is over, and still there since the last look around on this host.
    lingers: bool = False


def sign_of_life(live: Attempt, heartbeat: float | None) -> float:
    """When its owner last showed itself: by a heartbeat, or by having become owner since. Store's clock."""
    return max(heartbeat or 0.0, live.owned_stored_at)


@dataclass(frozen=True)
class Return:
    """It has ended: acknowledge, and return the record."""


@dataclass(frozen=True)
class Enqueue:
    """Record that the message came: its submitter was not seen to do so."""


@dataclass(frozen=True)
class Claim:
    """Begin attempt `number`."""

    number: int


@dataclass(frozen=True)
class Adopt:
    """Take over attempt `number`, which runs or ran on this host."""

    number: int


@dataclass(frozen=True)
class DeclareLost:
    """Record that attempt `number` is dead, then decide again."""

    number: int
    reason: str


@dataclass(frozen=True)
class GiveBack:
    """Record that this worker, its owner, releases attempt `number`, which it never began; then decide again."""

    number: int
    reason: str


@dataclass(frozen=True)
class End:
    """Record an end that needs no attempt, then decide again."""

    kind: Kind
    reason: str


@dataclass(frozen=True)
class Defer:
    """Somebody else looks after it: come back in so many seconds."""

    seconds: float


Action = Return | Enqueue | Claim | Adopt | DeclareLost | GiveBack | End | Defer


def decide(state: State, seen: Observation, rules: Rules) -> Action:
    """What a worker that holds the message does."""
    if state.status.terminal or state.removed:
        return Return()
    if seen.ours:
        return Defer(rules.patience(seen.run_seconds))
    if state.status is Status.SUBMITTING:
        return Enqueue()
    if state.live:
        return _decide_live(state.live, seen, rules)
    return end_without_attempt(state, seen, rules) or Claim(len(state.attempts) + 1)


def _decide_live(live: Attempt, seen: Observation, rules: Rules) -> Action:
    patience = rules.patience(seen.run_seconds)
    silent = seen.heartbeat_age_seconds
    if not (seen.owner_gone or seen.mine or silent > patience):
        return Defer(patience - silent + 1)
    if seen.here:
        return Adopt(live.number)
    if seen.mine and live.started_at is None:
        return GiveBack(live.number, "the store did not answer the claim")
    gone = f"no heartbeat for {format_duration(silent)}"
    if seen.owner_gone or seen.mine:
        gone = "its worker ended" if seen.owner_gone else "what ran is not there any more"
    return DeclareLost(live.number, f"worker lost: {gone}")


def end_without_attempt(state: State, seen: Observation, rules: Rules) -> End | None:
    """The end that is due although nobody owns the experiment, if any; whoever looks may record it."""
    experiment = state.experiment
    if experiment is None or state.live or state.status.terminal:
        return None
    if state.stop_requested_by:
        return End(Kind.STOPPED, f"stopped by {state.stop_requested_by}")
    lifetime = experiment.lifetime_seconds
    if lifetime is not None and not state.attempts and seen.age_seconds > lifetime:
        return End(Kind.EXPIRED, f"waited longer than --lifetime {format_duration(lifetime)}")
    if state.interrupted >= experiment.max_attempts:
        return End(Kind.FAILED, f"{state.attempts[-1].reason}, {_count(state.interrupted, 'attempt')}")
    if _released_too_often(state, rules):
        return End(Kind.FAILED, f"{state.reason} (given up after {len(state.early_releases)} releases)")
    return None


def _released_too_often(state: State, rules: Rules) -> bool:
    releases = state.early_releases
    if len(releases) < rules.release_limit:
        return False
    workers = len({worker for worker, _ in releases})
    return workers >= rules.release_workers or releases[-1][1] - releases[0][1] > rules.release_window_seconds


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
