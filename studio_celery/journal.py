"""The journal's meaning: how entries fold into a state, which are allowed, and what a worker does about a state.

Everything here is pure. `fold` is the only place that knows what an entry does; `decide` the only one that knows
when to claim, adopt, defer or end. What a worker sees outside the journal comes in as data, in `Observation`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from studio_celery.experiment import Attempt, Experiment, Status
from studio_celery.units import format_duration


class Kind(StrEnum):
    """What an entry decides."""

    SUBMITTED = "submitted"
    QUEUED = "queued"
    CLAIMED = "claimed"
    ADOPTED = "adopted"
    STARTED = "started"
    #: Ownership given up: not the script's fault (a release class), or a retry of the script's own failure.
    RELEASED = "released"
    LOST = "lost"
    STOP_REQUESTED = "stop requested"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"
    EXPIRED = "expired"
    REMOVED = "removed"


#: Release class of an attempt whose script failed and may be tried again.
RETRY = "retry"


class NotAllowed(Exception):
    """An entry cannot follow the state; it is never written."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One object of a journal."""

    kind: Kind
    #: Who wrote it: a worker id, or a person's login name.
    by: str
    #: The writer's clock, for people.
    at: str
    #: What the kind needs: see the functions below.
    data: Mapping[str, Any] = field(default_factory=dict)
    #: Distinguishes one's own retried create from somebody else's.
    nonce: str = ""
    #: Last-modified time of the object on the store's clock, seconds since 1970; 0 before it was written.
    stored_at: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """What is stored."""
        return {"schema": 1, "kind": self.kind.value, "by": self.by, "at": self.at, "nonce": self.nonce, **self.data}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], stored_at: float = 0.0) -> Entry:
        """Rebuild from what is stored."""
        rest = {k: v for k, v in data.items() if k not in ("schema", "kind", "by", "at", "nonce")}
        return cls(
            kind=Kind(data["kind"]),
            by=data["by"],
            at=data["at"],
            nonce=data.get("nonce", ""),
            data=rest,
            stored_at=stored_at,
        )


@dataclass(frozen=True, kw_only=True)
class State:
    """What a journal amounts to after entry number `seq`."""

    seq: int = 0
    experiment: Experiment | None = None
    status: Status = Status.SUBMITTING
    reason: str = ""
    attempts: tuple[Attempt, ...] = ()
    stop_requested_by: str | None = None
    exit_code: int | None = None
    started_at: str | None = None
    finished_at: str | None = None
    artifacts: tuple[Mapping[str, Any], ...] = ()
    removed: bool = False
    submitted_stored_at: float = 0.0
    #: (worker, stored_at) of releases that came before the script had started.
    early_releases: tuple[tuple[str, float], ...] = ()

    @property
    def live(self) -> Attempt | None:
        """The attempt that somebody owns, if any."""
        return self.attempts[-1] if self.attempts and self.attempts[-1].over is None else None

    @property
    def owner_epoch(self) -> int | None:
        """The fencing token: number of the entry that made the present owner owner."""
        return self.live.epoch if self.live else None

    @property
    def interrupted(self) -> int:
        """Attempts that ended for no fault of the script's after it may have had effects."""
        return sum(a.over == "lost" or (a.over == "released" and a.started_at is not None) for a in self.attempts)

    @property
    def script_failures(self) -> int:
        """Attempts whose script failed and that were followed, or may be, by another."""
        return sum(a.over == RETRY for a in self.attempts)


def fold_all(entries: Iterable[Entry], state: State | None = None) -> State:
    """Fold entries in order onto a state."""
    state = state or State()
    for entry in entries:
        state = fold(state, entry)
    return state


def fold(state: State, entry: Entry) -> State:
    """The state after `entry`; `NotAllowed` if it cannot follow."""
    if state.removed:
        raise NotAllowed("the experiment was removed")
    if state.status.terminal and entry.kind is not Kind.REMOVED:
        raise NotAllowed(f"the experiment is {state.status}")
    if (state.experiment is None) != (entry.kind is Kind.SUBMITTED):
        raise NotAllowed("the first entry, and only the first, is `submitted`")
    return dataclasses.replace(_FOLDS[entry.kind](state, entry), seq=state.seq + 1)


def _submitted(state: State, entry: Entry) -> State:
    return dataclasses.replace(
        state, experiment=Experiment.from_dict(entry.data["experiment"]), submitted_stored_at=entry.stored_at
    )


def _queued(state: State, entry: Entry) -> State:
    if state.live:
        raise NotAllowed("an attempt is alive")
    return dataclasses.replace(state, status=Status.WAITING)


def _claimed(state: State, entry: Entry) -> State:
    if state.status is not Status.WAITING:
        raise NotAllowed(f"it is {state.status}, not waiting")
    if state.stop_requested_by:
        raise NotAllowed("its stop was requested")
    number = len(state.attempts) + 1
    if entry.data["attempt"] != number:
        raise NotAllowed(f"the next attempt is {number}")
    epoch = state.seq + 1
    attempt = Attempt(
        number=number,
        epoch=epoch,
        claimed_seq=epoch,
        worker=entry.by,
        host=entry.data["host"],
        gpus=tuple(entry.data.get("gpus", ())),
        claimed_at=entry.at,
        log_epochs=((epoch, 0),),
        claimed_stored_at=entry.stored_at,
    )
    return dataclasses.replace(state, status=Status.PREPARING, reason="", attempts=(*state.attempts, attempt))


def _owned(state: State, entry: Entry) -> Attempt:
    """The live attempt, if the entry was written under its present epoch."""
    if state.live is None:
        raise NotAllowed("no attempt is alive")
    if entry.data.get("epoch") != state.live.epoch:
        raise NotAllowed(f"epoch {entry.data.get('epoch')} is not the owner's, {state.live.epoch}")
    return state.live


def _with_live(state: State, attempt: Attempt, **changes: Any) -> State:
    return dataclasses.replace(state, attempts=(*state.attempts[:-1], attempt), **changes)


def _adopted(state: State, entry: Entry) -> State:
    live = state.live
    if live is None or entry.data["attempt"] != live.number:
        raise NotAllowed("that attempt is not alive")
    epoch = state.seq + 1
    adopted = dataclasses.replace(
        live,
        epoch=epoch,
        worker=entry.by,
        host=entry.data["host"],
        log_epochs=(*live.log_epochs, (epoch, entry.data["log_offset"])),
    )
    return _with_live(state, adopted)


def _started(state: State, entry: Entry) -> State:
    live = _owned(state, entry)
    if state.status is not Status.PREPARING:
        raise NotAllowed(f"it is {state.status}, not preparing")
    running = dataclasses.replace(live, status=Status.RUNNING, started_at=entry.at)
    return _with_live(state, running, status=Status.RUNNING, started_at=state.started_at or entry.at)


def _released(state: State, entry: Entry) -> State:
    live = _owned(state, entry)
    release_class, reason = entry.data["class"], entry.data["reason"]
    over = dataclasses.replace(
        live,
        status=Status.FAILED if release_class == RETRY else Status.WAITING,
        over=RETRY if release_class == RETRY else "released",
        release_class=release_class,
        reason=reason,
        exit_code=entry.data.get("exit_code"),
        finished_at=entry.at,
    )
    early = () if live.started_at else ((entry.by, entry.stored_at),)
    return _with_live(state, over, status=Status.WAITING, reason=reason, early_releases=(*state.early_releases, *early))


def _lost(state: State, entry: Entry) -> State:
    live = state.live
    if live is None or entry.data["attempt"] != live.number:
        raise NotAllowed("that attempt is not alive")
    reason = entry.data["reason"]
    over = dataclasses.replace(live, status=Status.FAILED, over="lost", reason=reason, finished_at=entry.at)
    return _with_live(state, over, status=Status.WAITING, reason=reason)


def _stop_requested(state: State, entry: Entry) -> State:
    if state.stop_requested_by:
        raise NotAllowed("its stop was requested already")
    return dataclasses.replace(state, stop_requested_by=entry.by)


def _ended(status: Status) -> Callable[[State, Entry], State]:
    def apply(state: State, entry: Entry) -> State:
        reason, exit_code = entry.data.get("reason", ""), entry.data.get("exit_code")
        changes: dict[str, Any] = {
            "status": status,
            "reason": reason,
            "exit_code": exit_code,
            "finished_at": entry.at,
            "artifacts": tuple(entry.data.get("artifacts", ())),
        }
        if state.live is None:
            return dataclasses.replace(state, **changes)
        over = dataclasses.replace(
            _owned(state, entry), status=status, over="ended", reason=reason, exit_code=exit_code, finished_at=entry.at
        )
        return _with_live(state, over, **changes)

    return apply


def _finished(state: State, entry: Entry) -> State:
    if state.status is not Status.RUNNING:
        raise NotAllowed(f"it is {state.status}, not running")
    return _ended(Status.FINISHED)(state, entry)


def _expired(state: State, entry: Entry) -> State:
    if state.attempts or state.live:
        raise NotAllowed("it was claimed before its lifetime ended")
    return _ended(Status.EXPIRED)(state, entry)


def _removed(state: State, entry: Entry) -> State:
    if not state.status.terminal:
        raise NotAllowed(f"it is {state.status}: only what has ended can be removed")
    return dataclasses.replace(state, removed=True)


_FOLDS: Mapping[Kind, Callable[[State, Entry], State]] = {
    Kind.SUBMITTED: _submitted,
    Kind.QUEUED: _queued,
    Kind.CLAIMED: _claimed,
    Kind.ADOPTED: _adopted,
    Kind.STARTED: _started,
    Kind.RELEASED: _released,
    Kind.LOST: _lost,
    Kind.STOP_REQUESTED: _stop_requested,
    Kind.FINISHED: _finished,
    Kind.FAILED: _ended(Status.FAILED),
    Kind.STOPPED: _ended(Status.STOPPED),
    Kind.EXPIRED: _expired,
    Kind.REMOVED: _removed,
}


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The numbers that `decide` goes by; all from settings."""

    patience_floor_seconds: float = 60.0
    patience_ceiling_seconds: float = 600.0
    patience_fraction: float = 0.1
    release_limit: int = 10
    release_workers: int = 3
    release_window_seconds: float = 3600.0

    def patience(self, run_seconds: float) -> float:
        """How long the owner of an attempt may be silent: the more would be lost, the longer."""
        return min(
            self.patience_ceiling_seconds, max(self.patience_floor_seconds, run_seconds * self.patience_fraction)
        )


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a worker sees besides the journal. All times are differences on the store's clock."""

    #: Seconds since the live attempt's last heartbeat, or since its claim if there was none yet.
    heartbeat_age_seconds: float = 0.0
    #: Seconds between its claim and that heartbeat.
    run_seconds: float = 0.0
    #: Seconds since `submitted`.
    age_seconds: float = 0.0
    #: This very process looks after it already.
    ours: bool = False
    #: Its owner was on this host and its lock is free: it is certainly dead.
    owner_gone: bool = False
    #: Its container or process, alive or ended, is on this host.
    here: bool = False


@dataclass(frozen=True)
class Return:
    """It has ended: acknowledge, and return the record."""


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
class End:
    """Record an end that needs no attempt, then decide again."""

    kind: Kind
    reason: str


@dataclass(frozen=True)
class Defer:
    """Somebody else looks after it: come back in so many seconds."""

    seconds: float


Action = Return | Claim | Adopt | DeclareLost | End | Defer


def decide(state: State, seen: Observation, rules: Rules) -> Action:
    """What a worker that holds the message does."""
    if state.status.terminal or state.removed:
        return Return()
    if state.live:
        return _decide_live(state.live, seen, rules)
    return end_without_attempt(state, seen, rules) or Claim(len(state.attempts) + 1)


def _decide_live(live: Attempt, seen: Observation, rules: Rules) -> Action:
    patience = rules.patience(seen.run_seconds)
    silent = seen.heartbeat_age_seconds
    if seen.ours:
        return Defer(patience)
    if seen.owner_gone or silent > patience:
        if seen.here:
            return Adopt(live.number)
        gone = "its worker ended" if seen.owner_gone else f"no heartbeat for {format_duration(silent)}"
        return DeclareLost(live.number, f"worker lost: {gone}")
    return Defer(patience - silent + 1)


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
