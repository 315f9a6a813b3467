"""What a worker that holds the message does: return the record, claim, adopt, give up, end, or defer. Pure.

What a worker sees outside the journal comes in as data, in `Observation`, and never as a call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from studio_celery.experiment import Attempt, Status
from studio_celery.journal.entries import RETRY, Kind
from studio_celery.journal.fold import State
from studio_celery.units import format_duration

if TYPE_CHECKING:
    from studio_celery.settings import Settings


#: The first pause of a released experiment that comes back to who released it is so small a part of the whole rest.
REST_PARTS = 32


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The numbers that `decide` goes by; all from settings."""

    patience_floor_seconds: float = 60.0
    patience_ceiling_seconds: float = 600.0
    patience_fraction: float = 0.1
    #: How long a worker leaves to others what it has released; doubled each time, up to the ceiling.
    rest_seconds: float = 30.0
    rest_ceiling_seconds: float = 300.0
    #: Pause between a script's failure and its next attempt; doubled each time, up to the ceiling.
    retry_seconds: float = 10.0
    retry_ceiling_seconds: float = 300.0
    release_limit: int = 10
    #: Hosts that must have had a share in as many releases, unless they took longer than the window.
    release_hosts: int = 3
    release_window_seconds: float = 3600.0

    @classmethod
    def from_settings(cls, settings: Settings) -> Rules:
        """The numbers as they are set."""
        return cls(
            patience_floor_seconds=settings.patience_floor_seconds,
            patience_ceiling_seconds=settings.patience_ceiling_seconds,
            patience_fraction=settings.patience_fraction,
            rest_seconds=settings.defer_seconds,
            rest_ceiling_seconds=settings.defer_ceiling_seconds,
            retry_seconds=settings.retry_seconds,
            retry_ceiling_seconds=settings.defer_ceiling_seconds,
            release_limit=settings.release_limit,
            release_window_seconds=settings.release_window_seconds,
        )

    def patience(self, run_seconds: float) -> float:
        """How long the owner of an attempt may be silent: the more would be lost, the longer."""
        return min(
            self.patience_ceiling_seconds, max(self.patience_floor_seconds, run_seconds * self.patience_fraction)
        )

    def rest(self, releases: int) -> float:
        """How long a worker leaves an experiment to others after so many releases."""
        return _doubled(self.rest_seconds, releases, self.rest_ceiling_seconds)

    def pause(self, failures: int) -> float:
        """How long after so many failures of its script an experiment's next attempt begins."""
        return _doubled(self.retry_seconds, failures, self.retry_ceiling_seconds)


def _doubled(first: float, times: int, ceiling: float) -> float:
    return min(ceiling, first * 2.0 ** min(times - 1, 30)) if times else 0.0


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a worker sees besides the journal. All times are differences on the store's clock."""

    #: Seconds since the live attempt's owner last gave a sign of life.
    heartbeat_age_seconds: float = 0.0
    #: Seconds between its claim and that sign.
    run_seconds: float = 0.0
    #: Seconds since `submitted`.
    age_seconds: float = 0.0
    #: How often this very worker released it since anybody last ran it.
    releases_here: int = 0
    #: Seconds since the latest of them.
    since_release_seconds: float = 0.0
    #: Seconds since the script of the latest attempt failed, if it is to be tried again.
    since_failure_seconds: float = 0.0
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
    why: str = "another worker looks after it"


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
    return (
        end_without_attempt(state, seen, rules)
        or _leave(seen, rules)
        or _pause(state, seen, rules)
        or Claim(len(state.attempts) + 1)
    )


def _leave(seen: Observation, rules: Rules) -> Defer | None:
    """Not here, for a while: it is offered to all again and again, often at first, so that another may begin soon."""
    whole = rules.rest(seen.releases_here)
    left = whole - seen.since_release_seconds
    if left <= 0:
        return None
    return Defer(min(left, max(whole / REST_PARTS, seen.since_release_seconds)), "this worker has just released it")


def _pause(state: State, seen: Observation, rules: Rules) -> Defer | None:
    """Not yet: what made the script fail may need a while to pass."""
    if not state.attempts or state.attempts[-1].over != RETRY:
        return None
    left = rules.pause(state.script_failures) - seen.since_failure_seconds
    return Defer(left, "its script failed a moment ago") if left > 0 else None


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


def decide_onlooker(state: State, seen: Observation, rules: Rules) -> DeclareLost | End | None:
    """What anybody who looks may record, with or without a message; None if nothing is due.

    An experiment that somebody wants stopped does not wait for its message when its owner is silent: what may still run
    on that owner's host is put down there, by the owner or by who finds it.
    """
    if state.live is None:
        return _end_by_record(state, seen)
    silent = seen.heartbeat_age_seconds
    if state.stop_requested_by and silent > rules.patience(seen.run_seconds):
        return DeclareLost(state.live.number, f"worker lost: no heartbeat for {format_duration(silent)}")
    return None


def end_without_attempt(state: State, seen: Observation, rules: Rules) -> End | None:
    """The end that is due although nobody owns the experiment, if any; a worker with the message records it."""
    if state.live or state.status.terminal:
        return None
    if end := _end_by_record(state, seen):
        return end
    if _released_too_often(state, rules):
        return End(Kind.FAILED, f"{state.reason} (given up after {len(state.early_releases)} releases)")
    return None


def _end_by_record(state: State, seen: Observation) -> End | None:
    """The same as far as it follows from what was submitted, and from no setting of a worker's."""
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
    return None


def _released_too_often(state: State, rules: Rules) -> bool:
    releases = state.early_releases
    if len(releases) < rules.release_limit:
        return False
    hosts = len({host for host, _ in releases})
    return hosts >= rules.release_hosts or releases[-1][1] - releases[0][1] > rules.release_window_seconds


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
